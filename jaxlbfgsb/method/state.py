"""What there is to know of a run, and its tolerances and limits."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlbfgsb.method import line_search, memory
from jaxlbfgsb.method.box import Box, is_nonempty, project
from jaxlbfgsb.method.line_search import LineSearch
from jaxlbfgsb.method.memory import Memory
from jaxlbfgsb.method.sums import Sums, unknown_sums
from jaxlbfgsb.status import Reason
from jaxlbfgsb.types import Boolean, Integer, PyTree, Scalar, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.kernel import step_is_one_kernel
from jaxlbfgsb.xla.products import all_hold


class Phase(enum.IntEnum):
    START = 0
    SEARCH = 1
    DONE = 2


class Event(enum.IntEnum):
    STARTED = 0
    TRIAL = 1
    ACCEPTED = 2
    RESTARTED = 3
    STOPPED = 4


class Options(NamedTuple):
    """Tolerances and limits, all dynamic; the meanings of `jaxlbfgsb.minimize`."""

    ftol: Scalar
    gtol: Scalar
    gtol_rel: Scalar
    maxiter: Integer
    maxfun: Integer
    maxls: Integer


class State(NamedTuple):
    """All there is to know of a run: save it, and the run can go on elsewhere."""

    x: Vector
    value: Scalar
    gradient: Vector
    """The last accepted point."""
    trial: Vector
    """The point to evaluate next."""
    xhat: Vector
    """End of the search line at step 1; the direction is ``d = xhat - x``."""
    memory: Memory
    sums: Sums | None
    """Of the last direction, where the next one can carry them on."""
    search: LineSearch
    good_step: Scalar
    good_value: Scalar
    """Best finite trial of this search with sufficient decrease; no such: 0, infinity."""
    x_norm: Scalar
    """The largest ``|x_i|``."""
    d_norm: Scalar
    """The Euclidean length of ``d``."""
    pg_norm: Scalar
    pg_norm_at_x0: Scalar
    decrement: Scalar
    """What f falls by to first order in the last step with pairs stored; infinity before it."""
    curvature: Scalar
    """``s'y / s's`` of the last pair; survives a forgotten memory."""
    phase: Integer
    event: Integer
    reason: Integer
    pending: Integer
    """The reason to stop with once the trial asked for is accepted, or 0."""
    rises: Boolean
    """True if at the last trial that could tell f was higher than at x, by more than its
    noise, and its gradient said that it falls."""
    settling: Boolean
    """True while the trial asked for is `good_step`, to be accepted as it is."""
    nit: Integer
    nfev: Integer
    capped: Integer
    stalled: Integer


class Run(NamedTuple):
    """All that a run goes on with."""

    state: State
    box: Box
    options: Options


def is_small(state: State, box: Box) -> bool:
    """True where a whole step is one kernel on CPU."""
    return step_is_one_kernel(*state.memory.pairs.shape, bounded=not box.is_everything)


def numbers_of(state: State) -> State:
    """The state without its vectors and matrices, which are None."""
    nothing: Any = None
    return state._replace(
        x=nothing,
        gradient=nothing,
        trial=nothing,
        xhat=nothing,
        memory=state.memory._replace(pairs=nothing, products=nothing),
        sums=None,
    )


def pick(condition: Boolean, a: PyTree, b: PyTree) -> PyTree:
    """`a` where the condition holds, else `b`, leaf by leaf; equal leaves are kept as they are."""
    return jax.tree.map(lambda i, j: i if i is j else where(condition, i, j), a, b)


def _int(value: int) -> Integer:
    return jnp.asarray(value, jnp.int32)


def init(x0: Vector, box: Box, m: int) -> State:
    """A run that asks for the value at ``P(x0)``; m pairs will be kept."""
    x = project(x0, box)
    n = x.shape[0]
    zero, infinity = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
    return State(
        x=x,
        value=infinity,
        gradient=jnp.zeros_like(x),
        trial=x,
        xhat=x,
        memory=memory.empty(
            n, m, x.dtype, memory.wants_brief(2 * m, n, bounded=not box.is_everything)
        ),
        sums=_nothing_summed(2 * m, x, box),
        search=line_search.start(zero, zero, zero, zero),
        good_step=zero,
        good_value=infinity,
        x_norm=zero,
        d_norm=zero,
        pg_norm=infinity,
        pg_norm_at_x0=infinity,
        decrement=infinity,
        curvature=zero,
        phase=_int(Phase.START),
        event=_int(Event.STARTED),
        reason=_int(Reason.NOT_FINISHED),
        pending=_int(Reason.NOT_FINISHED),
        rises=jnp.asarray(False),
        settling=jnp.asarray(False),
        nit=_int(0),
        nfev=_int(0),
        capped=_int(0),
        stalled=_int(0),
    )


def start_again(state: State, x0: Vector, box: Box) -> State:
    """A run from ``P(x0)`` that goes on with the pairs and the counts of another."""
    state = suited_to(state, box)
    m = state.memory.pairs.shape[0] // 2
    kept = {name: getattr(state, name) for name in ("memory", "curvature", "nit", "nfev")}
    return init(x0, box, m)._replace(**kept)


def suited_to(state: State, box: Box) -> State:
    """The same run in a box that may have bounds where there were none before, or none now."""
    rows, n = state.memory.pairs.shape
    pairs = state.memory
    if memory.wants_brief(rows, n, bounded=not box.is_everything):
        pairs = pairs if memory.is_brief(pairs) else memory.brief(pairs)
    elif memory.is_brief(pairs):
        pairs = memory.with_all_products(pairs)
    sums = _nothing_summed(rows, state.x, box)
    are_alike = jax.tree.map(jnp.shape, sums) == jax.tree.map(jnp.shape, state.sums)
    return state._replace(memory=pairs, sums=state.sums if are_alike else sums)


def _nothing_summed(rows: int, x: Vector, box: Box) -> Sums | None:
    """What a run begins with; None where a step is one kernel, which sums all that it needs."""
    n, bounded = len(x), not box.is_everything
    if step_is_one_kernel(rows, n, bounded=bounded):
        return None
    return unknown_sums(n, rows // 2, x.dtype, bounded=bounded)


def is_running(state: State) -> Boolean:
    """True until the run is DONE: the condition of a loop over `core.advance_running`.

    The event says no more than the phase.  But where the condition of a loop reads one number
    only, XLA asks again and again whether that counts the turns, and each time clones all of the
    program that it comes from, which takes a tenth of the compilation.
    """
    return (state.phase != Phase.DONE) & (state.event != Event.STOPPED)


def refuse_invalid(state: State, box: Box, options: Options) -> State:
    """DONE at once where bounds or options that were traced turn out to be invalid."""
    tolerances = jnp.stack([options.ftol, options.gtol, options.gtol_rel])
    options_ok = all_hold(tolerances >= 0) & (options.maxls > 0)
    reason = where(
        is_nonempty(box),
        where(options_ok, Reason.NOT_FINISHED, Reason.INVALID_OPTIONS),
        Reason.INVALID_BOUNDS,
    ).astype(jnp.int32)
    bad = reason != Reason.NOT_FINISHED
    return state._replace(
        reason=reason,
        phase=where(bad, Phase.DONE, state.phase),
        event=where(bad, Event.STOPPED, state.event),
    )
