"""The L-BFGS-B Algorithm (BLNZ section 6) by reverse communication.

    state = init(x0, box, m)
    while not done:  state = advance(state, f(state.trial), grad(state.trial), box, options)

`advance` takes one evaluation in and gives one request out.  It has a cheap half, one
step of the line search, and a heavy half, `new_direction`; one `lax.cond` joins them.
What a call did is in `state.event`:

=======  ===========================  ===========================================  =========
phase    the line search says         then                                         event
=======  ===========================  ===========================================  =========
START    (nothing yet)                test the projected gradient; direction       STARTED
SEARCH   continue                     next trial on the same line                  TRIAL
SEARCH   over                         ``x := trial``; tests; memory; direction     ACCEPTED
SEARCH   exhausted, pairs stored      forget them; direction from the same ``x``   RESTARTED
SEARCH   exhausted, a trial was good  go back to that trial and accept it          TRIAL
any      cannot go on                 DONE, `reason` says why                      STOPPED
DONE     (not asked)                  unchanged                                    STOPPED
=======  ===========================  ===========================================  =========

An accepted point at which a test holds is ACCEPTED and the phase DONE.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb import line_search, memory
from jaxlbfgsb.box import (
    LARGEST_STEP,
    Box,
    infinity_norm,
    is_boxed,
    is_constrained,
    is_nonempty,
    largest_feasible_step,
    point_on_line,
    project,
    projected_gradient,
)
from jaxlbfgsb.cauchy import CauchyPoint, generalized_cauchy_point
from jaxlbfgsb.line_search import LineSearch
from jaxlbfgsb.memory import Memory
from jaxlbfgsb.status import Reason, scipy_statuses
from jaxlbfgsb.stopping import gradient_noise, reduction_is_small, value_noise
from jaxlbfgsb.subspace import subspace_minimizer
from jaxlbfgsb.types import Boolean, Integer, PyTree, Scalar, Vector

CAPPED_LIMIT = 3
"""Accepted steps in a row at the cap of 1e10 that tell that f is unbounded below."""
STALLED_LIMIT = 8
"""Accepted steps in a row that change f by at most two units in its last place."""


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
    """End of the search line at step 1; the direction is ``xhat - x``."""
    memory: Memory
    search: LineSearch
    good_step: Scalar
    good_value: Scalar
    """Best finite trial of this search with sufficient decrease; no such: 0, infinity."""
    pg_norm: Scalar
    pg_norm_at_x0: Scalar
    curvature: Scalar
    """``theta`` of the last pair; survives a forgotten memory."""
    phase: Integer
    event: Integer
    reason: Integer
    pending: Integer
    """The reason to stop with once the trial asked for is accepted, or 0."""
    settling: Boolean
    """True while the trial asked for is `good_step`, to be accepted as it is."""
    nit: Integer
    nfev: Integer
    capped: Integer
    stalled: Integer


def _int(value: int) -> Integer:
    return jnp.asarray(value, jnp.int32)


def init(x0: Vector, box: Box, m: int) -> State:
    """A run that asks for the value at ``P(x0)``; m pairs will be kept."""
    x = project(x0, box)
    zero, infinity = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
    return State(
        x=x,
        value=infinity,
        gradient=jnp.zeros_like(x),
        trial=x,
        xhat=x,
        memory=memory.empty(x.shape[0], m, x.dtype),
        search=line_search.start(zero, zero, zero, zero),
        good_step=zero,
        good_value=infinity,
        pg_norm=infinity,
        pg_norm_at_x0=infinity,
        curvature=zero,
        phase=_int(Phase.START),
        event=_int(Event.STARTED),
        reason=_int(Reason.NOT_FINISHED),
        pending=_int(Reason.NOT_FINISHED),
        settling=jnp.asarray(False),
        nit=_int(0),
        nfev=_int(0),
        capped=_int(0),
        stalled=_int(0),
    )


def refuse_invalid(state: State, box: Box, options: Options) -> State:
    """DONE at once where bounds or options that were traced turn out to be invalid."""
    tolerances = jnp.stack([options.ftol, options.gtol, options.gtol_rel])
    options_ok = jnp.all(tolerances >= 0) & (options.maxls > 0)
    reason = jnp.where(
        is_nonempty(box),
        jnp.where(options_ok, Reason.NOT_FINISHED, Reason.INVALID_OPTIONS),
        Reason.INVALID_BOUNDS,
    ).astype(jnp.int32)
    bad = reason != Reason.NOT_FINISHED
    return state._replace(
        reason=reason,
        phase=jnp.where(bad, Phase.DONE, state.phase),
        event=jnp.where(bad, Event.STOPPED, state.event),
    )


def status_of(state: State, options: Options) -> Integer:
    """SciPy's status: 0 converged, else 1 at a limit, else 2."""
    of_reason = jnp.asarray(scipy_statuses(), jnp.int32)[state.reason]
    at_limit = (state.nfev > options.maxfun) | (state.nit >= options.maxiter)
    no_run = (state.reason == Reason.INVALID_BOUNDS) | (state.reason == Reason.INVALID_OPTIONS)
    return jnp.where((of_reason == 2) & at_limit & ~no_run, 1, of_reason)


def halt(state: State) -> State:
    """The run, ended on request at its current iterate; a limit reached there comes first."""
    at_limit = (state.reason == Reason.MAXITER) | (state.reason == Reason.MAXFUN)
    reason = jnp.where(at_limit, state.reason, Reason.CALLBACK).astype(jnp.int32)
    return state._replace(reason=reason, phase=_int(Phase.DONE))


def advance(
    state: State,
    value: Scalar,
    gradient: Vector,
    box: Box,
    options: Options,
    evaluations: Integer | int = 1,
) -> State:
    """One evaluation at `state.trial` in, the next request out.

    Parameters
    ----------
    value, gradient
        f and its gradient at `state.trial`, in the dtype of x; need not be finite.
    evaluations
        What they cost, to be counted in `nfev`: more than one with finite differences.
    """
    running = state.phase != Phase.DONE
    starts = state.phase == Phase.START
    nfev = state.nfev + evaluations

    # One step of the line search.  A gradient that is not finite shows in the slope.
    slope = memory.dot(gradient, state.xhat - state.x)
    finite = jnp.isfinite(value) & jnp.isfinite(slope)
    step = state.search.step
    search, over = line_search.advance(state.search, value, slope)
    search = _pick(finite, search, line_search.back_off(state.search))

    good = finite & line_search.decreases_enough(state.search, value) & (value < state.good_value)
    good_step = jnp.where(good, step, state.good_step)
    good_value = jnp.where(good, value, state.good_value)

    next_trial = point_on_line(state.x, state.xhat, search.step, box)
    nothing_left = jnp.all(next_trial == state.trial) | (search.step <= 0)
    accepts = finite & (
        starts | state.settling | over | (nothing_left & (value <= state.value) & (step > 0))
    )
    minus_infinity = value == -jnp.inf
    exhausted = ~accepts & (
        starts
        | state.settling
        | minus_infinity
        | nothing_left
        | (search.evaluations >= options.maxls)
    )
    pending = jnp.where(minus_infinity & ~starts, Reason.UNBOUNDED, state.pending).astype(jnp.int32)

    # What an exhausted search leads to.
    hopeless = starts | state.settling
    restarts = exhausted & ~hopeless & ~minus_infinity & (state.memory.count > 0)
    settles = exhausted & ~hopeless & ~restarts & (good_step > 0)
    settles_here = settles & (good_step == step)
    accepts = accepts | settles_here
    settles = settles & ~settles_here
    fails = exhausted & ~restarts & ~settles & ~settles_here
    failure = jnp.where(
        starts,
        Reason.NONFINITE_AT_X0,
        jnp.where(
            pending != Reason.NOT_FINISHED,
            pending,
            _why_search_failed(state, search, value, slope, finite),
        ),
    )

    # The accepted point, and the tests in SciPy's order.
    moves = accepts & ~starts
    nit = state.nit + moves
    x = jnp.where(accepts, state.trial, state.x)
    new_gradient = jnp.where(accepts | starts, gradient, state.gradient)
    new_value = jnp.where(accepts | starts, value, state.value)
    pg_norm = infinity_norm(projected_gradient(x, new_gradient, box))
    pg_norm_at_x0 = jnp.where(starts, pg_norm, state.pg_norm_at_x0)
    at_cap = step >= jnp.asarray(LARGEST_STEP, step.dtype)
    capped = jnp.where(moves, jnp.where(at_cap, state.capped + 1, 0), state.capped)
    last_place = np.finfo(value.dtype).eps * jnp.abs(value)
    stalls = state.value - value <= 2 * last_place
    stalled = jnp.where(moves, jnp.where(stalls, state.stalled + 1, 0), state.stalled)
    tests = (
        (moves & (pending != Reason.NOT_FINISHED), pending),
        (moves & (nit >= options.maxiter), Reason.MAXITER),
        (moves & (nfev > options.maxfun), Reason.MAXFUN),
        (
            accepts & (pg_norm <= jnp.maximum(options.gtol, options.gtol_rel * pg_norm_at_x0)),
            Reason.PROJECTED_GRADIENT,
        ),
        (
            moves & reduction_is_small(state.value, value, options.ftol),
            Reason.RELATIVE_REDUCTION,
        ),
        (moves & (capped >= CAPPED_LIMIT), Reason.UNBOUNDED),
        (
            moves & (stalled >= STALLED_LIMIT),
            _noise_reason(x, new_value, pg_norm, state.curvature),
        ),
        (fails, failure),
    )
    reason = _int(Reason.NOT_FINISHED)
    for holds, code in reversed(tests):
        reason = jnp.where(holds, code, reason)

    # The memory: the pair is skipped where the curvature is lost in rounding.
    sy = step * (slope - state.search.initial_slope)
    eps = np.finfo(value.dtype).eps
    stores = running & moves & (sy > eps * -(step * state.search.initial_slope))
    pairs = memory.update(
        state.memory, step * (state.xhat - state.x), gradient - state.gradient, sy, stores
    )
    pairs = _pick_counts(restarts, memory.forget(pairs), pairs)
    curvature = jnp.where(stores, pairs.theta, state.curvature)

    # A new direction, the same for a new point and for a fresh start from the old one.
    turns = running & (accepts | restarts) & (reason == Reason.NOT_FINISHED)
    xhat, forgets = lax.cond(
        turns,
        lambda: new_direction(x, new_gradient, box, pairs),
        lambda: (state.xhat, jnp.asarray(False)),
    )
    pairs = _pick_counts(forgets, memory.forget(pairs), pairs)
    opened = _open_search(x, new_value, new_gradient, xhat, nit, box)
    first_trial = point_on_line(x, xhat, opened.step, box)
    stuck = turns & (~(opened.initial_slope < 0) | jnp.all(first_trial == x))
    reason = jnp.where(stuck, _noise_reason(x, new_value, pg_norm, curvature), reason)

    search = search._replace(step=jnp.where(settles, good_step, search.step))
    settled_trial = point_on_line(state.x, state.xhat, search.step, box)
    stops = reason != Reason.NOT_FINISHED
    event = jnp.where(
        moves,
        Event.ACCEPTED,
        jnp.where(
            stops,
            Event.STOPPED,
            jnp.where(restarts, Event.RESTARTED, jnp.where(starts, Event.STARTED, Event.TRIAL)),
        ),
    )
    following = State(
        x=x,
        value=new_value,
        gradient=new_gradient,
        trial=jnp.where(turns, first_trial, settled_trial),
        xhat=xhat,
        memory=pairs,
        search=_pick(turns, opened, search),
        good_step=jnp.where(turns, 0, good_step),
        good_value=jnp.where(turns, jnp.inf, good_value),
        pg_norm=pg_norm,
        pg_norm_at_x0=pg_norm_at_x0,
        curvature=curvature,
        phase=jnp.where(stops, Phase.DONE, Phase.SEARCH).astype(jnp.int32),
        event=event.astype(jnp.int32),
        reason=reason.astype(jnp.int32),
        pending=pending,
        settling=settles,
        nit=nit,
        nfev=nfev,
        capped=capped,
        stalled=stalled,
    )
    # A finished run stored nothing: its rows are those of `pairs`, and pass no select.
    frozen = state._replace(
        memory=state.memory._replace(pairs=pairs.pairs), event=_int(Event.STOPPED)
    )
    return _pick(running, following, frozen)


def new_direction(x: Vector, g: Vector, box: Box, pairs: Memory) -> tuple[Vector, Boolean]:
    """``xhat``, the end of the new search line, and whether the memory is forgotten.

    With nothing stored ``B = I``, and the Cauchy point is ``P(x - g)``.  The same step
    stands in, in the same call, where the factorisations break down or the direction is
    no descent.  A gradient whose square overflows is scaled: its length means nothing.
    """
    size = jnp.where(jnp.isfinite(memory.dot(g, g)), 1, infinity_norm(g))
    steepest = project(x - g / size, box)

    B = memory.compact(pairs)
    if box.is_everything:
        free = jnp.ones(x.shape, bool)
        cauchy = CauchyPoint(xc=x, c=jnp.zeros_like(B.scale), free=free)
    else:
        cauchy = generalized_cauchy_point(x, g, box, B)
        # Traced bounds that are all infinite: the original starts from x, as above.
        constrained = is_constrained(box)
        cauchy = CauchyPoint(
            xc=jnp.where(constrained, cauchy.xc, x),
            c=jnp.where(constrained, cauchy.c, 0),
            free=cauchy.free | ~constrained,
        )
    xhat = subspace_minimizer(x, g, box, pairs, B, cauchy)
    xhat = jnp.where(jnp.any(cauchy.free), xhat, cauchy.xc)
    usable = (memory.dot(g, xhat - x) < 0) & jnp.all(jnp.isfinite(xhat)) & jnp.any(xhat != x)
    stored = pairs.count > 0
    return jnp.where(stored & usable, xhat, steepest), stored & ~usable


def _open_search(
    x: Vector, value: Scalar, gradient: Vector, xhat: Vector, nit: Integer, box: Box
) -> LineSearch:
    """The largest and the first step of a search (L-BFGS-B 3.0, lnsrlb)."""
    d = xhat - x
    norm = jnp.sqrt(memory.dot(d, d))
    first = nit == 0
    largest = largest_feasible_step(x, d, box)
    largest = jnp.where(first & is_constrained(box), 1, jnp.maximum(largest, 1))
    short = first & ~is_boxed(box)
    step = jnp.where(short, jnp.minimum(1 / jnp.where(norm > 0, norm, 1), largest), 1)
    slope = memory.dot(gradient, d)
    return line_search.start(value, slope, step.astype(x.dtype), largest.astype(x.dtype))


def _noise_reason(x: Vector, value: Scalar, pg_norm: Scalar, curvature: Scalar) -> Integer:
    return jnp.where(
        pg_norm <= gradient_noise(x, value, curvature),
        Reason.NOISE_FLOOR,
        Reason.NOISE_FLOOR_NOT_CONVERGED,
    )


def _why_search_failed(
    state: State, search: LineSearch, value: Scalar, slope: Scalar, finite: Boolean
) -> Integer:
    """The reason of a search with nothing stored that found no good trial."""
    s = state.search
    noise = value_noise(state.value)
    rises = finite & (value - state.value > noise) & (slope < 0)
    below_noise = s.step * -s.initial_slope <= noise
    at_floor = _noise_reason(state.x, state.value, state.pg_norm, state.curvature)
    reason = jnp.where(
        below_noise | (at_floor == Reason.NOISE_FLOOR), at_floor, Reason.LINE_SEARCH_FAILED
    )
    reason = jnp.where(rises & (reason != Reason.NOISE_FLOOR), Reason.INCONSISTENT_GRADIENT, reason)
    return jnp.where(search.nonfinite >= search.evaluations, Reason.NONFINITE_TRIALS, reason)


def _pick(condition: Boolean, a: PyTree, b: PyTree) -> PyTree:
    """`a` where the condition holds, else `b`, leaf by leaf; equal leaves are kept as they are."""
    return jax.tree.map(lambda i, j: i if i is j else jnp.where(condition, i, j), a, b)


def _pick_counts(condition: Boolean, a: Memory, b: Memory) -> Memory:
    """Like `_pick`, for two memories that hold the same rows."""
    return _pick(condition, a._replace(pairs=b.pairs), b)
