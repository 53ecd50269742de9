"""The states of jaxopt's class, and the compiled calls that lead from one to the next."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.derivatives.implicit import Rule
from jaxlbfgsb.loop import Driver, by_fastest
from jaxlbfgsb.method.box import Box, project
from jaxlbfgsb.method.core import advance
from jaxlbfgsb.method.ending import status_of
from jaxlbfgsb.method.inverse import InverseHessian
from jaxlbfgsb.method.state import (
    Options,
    Phase,
    State,
    is_small,
    pick,
    start_again,
    suited_to,
)
from jaxlbfgsb.options import strict_options
from jaxlbfgsb.program.tracing import Data, Program
from jaxlbfgsb.pytrees import BoundLeaves, is_bounded, raveled, raveled_box
from jaxlbfgsb.sight.watching import UNWATCHED
from jaxlbfgsb.solve import begin, objective, solve
from jaxlbfgsb.status import Reason
from jaxlbfgsb.types import PyTree, Vector
from jaxlbfgsb.xla.kernel import step_is_one_kernel
from jaxlbfgsb.xla.packing import PackedTree

NO_LIMIT = np.iinfo(np.int32).max


class LBFGSBState(NamedTuple):
    """The state of `LBFGSB`; the names that jaxopt has mean what they mean there.

    Attributes
    ----------
    iter_num
        Iterations made.
    value, grad
        f and its gradient at `params`.
    error
        The largest entry of ``P(params - grad) - params`` in absolute value, where P is the
        projection onto the bounds: what `tol` is compared with.
    aux
        What `fun` returned beside its value at `params`, with ``has_aux``; else None.
    num_fun_eval
        Evaluations of the function with its gradient.
    status
        SciPy's: 0 converged, 1 a limit was reached, 2 anything else.
    reason
        The fine code, a `jaxlbfgsb.Reason`; ``NOT_FINISHED`` while `update` can go on and
        `error` is above `tol`.
    run
        What `update` goes on from, in few arrays.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import LBFGSB
    >>> solver = LBFGSB(lambda x: jnp.sum((x - 1) ** 2), tol=1e-4)
    >>> _, state = solver.run(jnp.zeros(2))
    >>> int(state.num_fun_eval), bool(state.failed_linesearch), state.hess_inv.shape
    (3, False, (2, 2))
    """

    iter_num: Any
    value: Any
    grad: PyTree
    error: Any
    aux: PyTree
    num_fun_eval: Any
    status: Any
    reason: Any
    run: PackedTree[State]

    @property
    def num_grad_eval(self) -> Any:
        """As many as `num_fun_eval`."""
        return self.num_fun_eval

    @property
    def num_linesearch_iter(self) -> Any:
        """Evaluations in line searches: all but the first."""
        return self.num_fun_eval - 1

    @property
    def failed_linesearch(self) -> Any:
        """True if the run ended since no step could be accepted, at a point not converged."""
        failures = (
            Reason.NOISE_FLOOR_NOT_CONVERGED,
            Reason.LINE_SEARCH_FAILED,
            Reason.NONFINITE_TRIALS,
            Reason.INCONSISTENT_GRADIENT,
        )
        return functools.reduce(lambda a, b: a | b, (self.reason == code for code in failures))

    @property
    def hess_inv(self) -> InverseHessian:
        """The inverse of the Hessian that the pairs stored make up."""
        return _inverse_of(self.run)


@jax.jit
def _inverse_of(run: PackedTree[State]) -> InverseHessian:
    return InverseHessian.of(run.tree.memory)


class OptStep(NamedTuple):
    """What `LBFGSB.run` and `LBFGSB.update` return."""

    params: PyTree
    state: LBFGSBState


class Call(NamedTuple):
    """What a call computes with beside its program."""

    data: Data
    params: PyTree
    lower: BoundLeaves
    upper: BoundLeaves


def from_now_on(options: Options, earlier: LBFGSBState | None) -> Options:
    """The limit on iterations counts those to come."""
    if earlier is None:
        return options
    limit = jnp.asarray(options.maxiter, jnp.int32)
    return options._replace(maxiter=limit + jnp.minimum(earlier.iter_num, NO_LIMIT - limit))


def _machine_of(earlier: LBFGSBState | None) -> State | None:
    return None if earlier is None else earlier.run.tree


def _packed(machine: State, box: Box) -> PackedTree[State]:
    return PackedTree.of(machine, scalars_only=not is_small(machine, box))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def run_to_the_end(
    program: Program,
    m: int,
    rule: Rule,
    call: Call,
    options: Options,
    earlier: LBFGSBState | None,
) -> OptStep:
    options = from_now_on(options, earlier)
    result = solve(program, m, rule, UNWATCHED, *call, options, _machine_of(earlier))
    machine, box, _ = begin(m, *call._replace(params=result.x), options)
    machine = machine._replace(
        value=result.fun,
        gradient=raveled(result.jac)[0],
        memory=result.hess_inv.memory,
        pg_norm=result.pg_norm,
        phase=jnp.full_like(machine.phase, Phase.DONE),
        reason=result.reason,
        nit=result.nit,
        nfev=result.nfev,
    )
    state = LBFGSBState(
        iter_num=result.nit,
        value=result.fun,
        grad=result.jac,
        error=result.pg_norm,
        aux=result.aux,
        num_fun_eval=result.nfev,
        status=result.status,
        reason=result.reason,
        run=jax.lax.stop_gradient(_packed(machine, box)),
    )
    return OptStep(result.x, state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def start(
    program: Program,
    m: int,
    call: Call,
    limits: Options,
    tol: Any,
    earlier: LBFGSBState | None,
) -> OptStep:
    """The first evaluation, and the machine that `update` goes on with."""
    machine, box, limits = begin(m, *call, limits, _machine_of(earlier))
    value_and_grad = objective(program, call.data, call.params)
    machine = advance(machine, *value_and_grad(machine.trial), box, limits)
    return _step(program, call, machine, box, limits, tol)


@functools.partial(jax.jit, static_argnums=0)
def iterate(
    program: Program, call: Call, limits: Options, tol: Any, earlier: PackedTree[State]
) -> OptStep:
    """To the next accepted iterate, if there is one; as one kernel where that can be."""
    bounded = is_bounded(call.lower, call.upper)
    small = step_is_one_kernel(*earlier.shapes.memory.pairs.shape, bounded=bounded)
    iterated = functools.partial(_iterated, program)
    return by_fastest(iterated, small, program.fits_one_kernel)(call, limits, tol, earlier)


def _iterated(
    program: Program,
    driver: Driver,
    call: Call,
    limits: Options,
    tol: Any,
    earlier: PackedTree[State],
) -> OptStep:
    vector, _ = raveled(call.params)
    box = raveled_box(call.lower, call.upper, jax.tree.leaves(call.params))
    limits = strict_options(limits, vector.dtype)
    machine = _fitting(earlier.tree, vector, box)
    value_and_grad = objective(program, call.data, call.params)
    machine, _ = driver(value_and_grad, machine, box, limits, one_iteration=True)
    return _step(program, call, machine, box, limits, tol)


def _fitting(machine: State, x: Vector, box: Box) -> State:
    """The machine if it can go on from x, else one that starts there with the same pairs."""
    machine = suited_to(machine, box)
    x = project(x, box)
    belongs = jnp.all(x == machine.x)
    for point in (machine.trial, machine.xhat):
        belongs &= jnp.all(point == project(point, box))
    at_limit = machine.reason == Reason.MAXITER
    at_tol = (machine.reason == Reason.PROJECTED_GRADIENT) & (machine.pg_norm > 0)
    goes_on = belongs & ~at_limit & ~at_tol
    fresh = start_again(machine, x, box)
    return pick(goes_on, machine, fresh)


def _step(
    program: Program, call: Call, machine: State, box: Box, limits: Options, tol: Any
) -> OptStep:
    """What `update` returns at the machine's iterate."""
    _, unravel = raveled(call.params)
    x = unravel(machine.x)
    converged = (machine.reason == Reason.NOT_FINISHED) & (
        machine.pg_norm <= jnp.asarray(tol).astype(machine.x.dtype)
    )
    reason = jnp.where(converged, Reason.PROJECTED_GRADIENT, machine.reason).astype(jnp.int32)
    state = LBFGSBState(
        iter_num=machine.nit,
        value=machine.value,
        grad=unravel(machine.gradient),
        error=machine.pg_norm,
        aux=program(call.data, jax.tree.leaves(x))[2],
        num_fun_eval=machine.nfev,
        status=status_of(machine._replace(reason=reason), limits),
        reason=reason,
        run=_packed(machine, box),
    )
    return OptStep(x, state)
