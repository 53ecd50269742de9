"""The face for optax: the machine of `core` as a gradient transformation.

An optax loop is reverse communication: it evaluates at `params`, tells, and moves to
``params + update``.  The machine asks for points, so an update is what leads to the next one;
it cannot always be met to the bit, since ``params + update`` rounds.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlbfgsb.method.box import Box, project
from jaxlbfgsb.method.core import advance
from jaxlbfgsb.method.state import Options, Phase, State, is_small, pick
from jaxlbfgsb.options import checked_maxcor, checked_options, strict_options
from jaxlbfgsb.program.tracing import Data
from jaxlbfgsb.pytrees import (
    BoundLeaves,
    checked_bounds,
    checked_x0,
    dtype_of,
    raveled,
    raveled_box,
)
from jaxlbfgsb.solve import begin
from jaxlbfgsb.types import PyTree
from jaxlbfgsb.xla.lanes import lane_by_lane
from jaxlbfgsb.xla.packing import Packed, Packing

if TYPE_CHECKING:
    import optax


class LBFGSBOptaxState(NamedTuple):
    """The state of `lbfgsb`.

    Attributes
    ----------
    accepted
        The last accepted point, like the parameters; the parameters themselves are the
        point to evaluate next until `done`.  The value never rises from one to the next.
    value, pg_norm
        f and the largest entry of the projected gradient in absolute value, at `accepted`:
        scalars in the dtype of the variables; infinite before the first update.
    nit, nfev
        Iterations made, and updates until the end (int32).
    done
        True once the run has ended: the updates bring the parameters to `accepted` (bool).
    reason
        Why it ended, a `jaxlbfgsb.Reason` (int32); ``NOT_FINISHED`` while it has not.
    run
        What the next update goes on from, in few arrays.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import Reason, lbfgsb
    >>> state = lbfgsb(bounds=(0.0, 1.0)).init(jnp.array([-3.0, 0.5]))
    >>> state.accepted.tolist(), bool(state.done), Reason(int(state.reason)).name
    ([0.0, 0.5], False, 'NOT_FINISHED')
    """

    accepted: PyTree
    value: Any
    pg_norm: Any
    nit: Any
    nfev: Any
    done: Any
    reason: Any
    run: Packed


def lbfgsb(
    bounds: Any = None,
    *,
    maxcor: int = 10,
    ftol: Any = None,
    gtol: Any = None,
    gtol_rel: Any = 0.0,
    maxiter: Any = 15000,
    maxfun: Any = 15000,
    maxls: Any = 20,
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS-B as an optax transformation, for deterministic objectives only.

    Each update takes one value with its gradient and leads to the next trial point, of a
    line search or of a new direction: the points of `jaxlbfgsb.minimize`, to rounding.  A
    value that is not that of the parameters (another batch of data, dropout) breaks the line
    search.  With no loop of your own to keep, use `minimize`.

    Parameters
    ----------
    bounds
        As in `jaxlbfgsb.minimize`, with the structure of the parameters or its upper levels.
        ``params + update`` never leaves them.  Parameters that start outside are brought
        inside by the first update; what was evaluated there is not used.
    maxcor, ftol, gtol, gtol_rel, maxiter, maxfun, maxls
        As in `jaxlbfgsb.minimize`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(gradient, state, params, value=value)``.  The state, `LBFGSBOptaxState`, tells
        `done`, `reason` and the point `accepted`; once done, the updates bring the parameters
        there and are zero from then on.

    Raises
    ------
    TypeError, ValueError
        As `jaxlbfgsb.minimize`, from ``init`` and ``update``; and where ``update`` lacks
        `params` or `value`.

    Notes
    -----
    Use it alone, in ``optax.masked``, or in a chain with what changes neither gradients nor
    updates: a scaled gradient is not that of the value, a scaled update not the point asked
    for.  Works under `jit`, `scan` and `vmap`.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxlbfgsb import lbfgsb
    >>> def loss(w):
    ...     return jnp.sum((w - jnp.array([0.5, 3.0])) ** 2)
    >>> optimizer, params = lbfgsb(bounds=(0.0, 1.0)), jnp.zeros(2)
    >>> state = optimizer.init(params)
    >>> while not state.done:
    ...     value, gradient = jax.value_and_grad(loss)(params)
    ...     updates, state = optimizer.update(gradient, state, params, value=value)
    ...     params = optax.apply_updates(params, updates)
    >>> params.tolist(), state.accepted.tolist(), int(state.reason)
    ([0.5, 1.0], [0.5, 1.0], 1)
    """
    import optax  # here: it takes as long to import as all the rest

    m = checked_maxcor(maxcor)

    def checked(params: PyTree) -> tuple[PyTree, BoundLeaves, BoundLeaves, Options]:
        params = checked_x0(params)
        lower, upper = checked_bounds(bounds, params)
        dtype = dtype_of(params)
        options = checked_options(dtype, ftol, gtol, gtol_rel, maxiter, maxfun, maxls)
        return params, lower, upper, options

    def init(params: PyTree) -> LBFGSBOptaxState:
        return _init(m, *checked(params))

    def update(
        updates: PyTree,
        state: LBFGSBOptaxState,
        params: PyTree = None,
        *,
        value: Any = None,
        **_: Any,
    ) -> tuple[PyTree, LBFGSBOptaxState]:
        if params is None or value is None:
            raise ValueError(
                "lbfgsb needs the parameters and the value there: write "
                "optimizer.update(gradient, state, params, value=value)."
            )
        trees = [str(jax.tree.structure(tree)) for tree in (params, updates)]
        if trees[0] != trees[1]:
            raise ValueError(
                f"The gradient must have the structure of the parameters, {trees[0]}; it has "
                f"{trees[1]}."
            )
        return _update(m, _Told(updates, value, state.run, *checked(params)))

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, static_argnums=0)
def _init(
    m: int, params: PyTree, lower: BoundLeaves, upper: BoundLeaves, options: Options
) -> LBFGSBOptaxState:
    state, box, _ = begin(m, Data([], []), params, lower, upper, options)
    return _optax_state(state, _packing(state, box), params)


def _packing(state: State, box: Box) -> Packing[State]:
    """Of states like this one.

    It is no part of the optax state, which holds tuples and arrays alone: so what saves the
    states of other optimizers saves it.
    """
    return Packing(state, scalars_only=not is_small(state, box))


def _optax_state(state: State, packing: Packing[State], params: PyTree) -> LBFGSBOptaxState:
    return LBFGSBOptaxState(
        accepted=raveled(params)[1](state.x),
        value=state.value,
        pg_norm=state.pg_norm,
        nit=state.nit,
        nfev=state.nfev,
        done=state.phase == Phase.DONE,
        reason=state.reason,
        run=packing.pack(state),
    )


class _Told(NamedTuple):
    """What an update is given."""

    gradient: PyTree
    value: Any
    run: Packed
    params: PyTree
    lower: BoundLeaves
    upper: BoundLeaves
    options: Options


@functools.partial(jax.jit, static_argnums=0)
def _update(m: int, told: _Told) -> tuple[PyTree, LBFGSBOptaxState]:
    first = functools.partial(begin, m, Data([], []))
    state, box, _ = jax.eval_shape(first, told.params, told.lower, told.upper, told.options)
    packing = _packing(state, box)
    updated = functools.partial(_updated, packing)
    return (updated if packing.arrays else lane_by_lane(updated, updated, is_kernel=True))(told)


def _updated(packing: Packing[State], told: _Told) -> tuple[PyTree, LBFGSBOptaxState]:
    """Tell the machine, and lead to the point that it asks for."""
    gradient, value, run, params, lower, upper, options = told
    before, (x, unravel) = packing.unpack(run), raveled(params)
    leaves = jax.tree.leaves(params)
    box = raveled_box(lower, upper, leaves)
    inside = jnp.all(x == project(x, box))
    after = advance(
        before._replace(trial=x),
        jnp.where(inside, jnp.asarray(value).astype(x.dtype), jnp.nan),
        raveled(gradient)[0].astype(x.dtype),
        box,
        strict_options(options, x.dtype),
    )
    # Outside there is nothing to tell.  NaN was not stored: the rows are equal, and no select.
    rows = before.memory._replace(pairs=after.memory.pairs)
    untold = before._replace(memory=rows, nfev=before.nfev + 1)
    counts = inside | (before.phase == Phase.DONE)
    state = pick(counts, after, untold)
    target = unravel(jnp.where(state.phase == Phase.DONE, state.x, state.trial))
    sides = zip(leaves, jax.tree.leaves(target), lower, upper, strict=True)
    steps = [_step_to(*of_leaf) for of_leaf in sides]
    updates = jax.tree.unflatten(jax.tree.structure(params), steps)
    return updates, _optax_state(state, packing, params)


def _step_to(p: jax.Array, target: jax.Array, low: Any, high: Any) -> jax.Array:
    """The step from p with ``p + step`` nearest to the target of all that are inside.

    ``target - p`` is off by half a unit in its last place at most, so one of its neighbours
    leads to the same side of the target, or onto it.
    """

    def miss(step: jax.Array) -> jax.Array:
        point = p + step
        inside = jnp.asarray(True)
        if low is not None:
            inside &= point >= jnp.asarray(low).astype(p.dtype)
        if high is not None:
            inside &= point <= jnp.asarray(high).astype(p.dtype)
        return jnp.where(inside, jnp.abs(point - target), jnp.inf)

    best = target - p
    for other in (jnp.nextafter(best, -jnp.inf), jnp.nextafter(best, jnp.inf)):
        best = jnp.where(miss(other) < miss(best), other, best)
    return best
