"""The L-BFGS-B Algorithm (BLNZ section 6) by reverse communication.

    state = init(x0, box, m)
    while not done:  state = advance(state, f(state.trial), grad(state.trial), box, options)

`advance` takes one evaluation in and gives one request out.  It has a cheap half, one
step of the line search, and a heavy half, `direction.new_direction`; one `lax.cond` joins them.
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

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.method import line_search, memory
from jaxlbfgsb.method.box import (
    LARGEST_STEP,
    Box,
    are_same,
    infinity_norm,
    is_boxed,
    is_constrained,
    largest_feasible_step,
    point_on_line,
    projected_gradient,
)
from jaxlbfgsb.method.direction import Direction, new_direction
from jaxlbfgsb.method.ending import is_doubtful, noise_reason, why_search_failed, why_stop
from jaxlbfgsb.method.line_search import LineSearch
from jaxlbfgsb.method.memory import Memory
from jaxlbfgsb.method.state import Event, Options, Phase, State
from jaxlbfgsb.method.stopping import NOISE, value_noise
from jaxlbfgsb.status import Reason
from jaxlbfgsb.types import Boolean, Integer, PyTree, Scalar, Vector
from jaxlbfgsb.xla.kernel import FEW_VARIABLES, part_kernel, unless


def advance(
    state: State,
    value: Scalar,
    gradient: Vector,
    box: Box,
    options: Options,
    evaluations: Integer | int = 1,
) -> State:
    """One evaluation at `state.trial` in, the next request out; nothing once DONE.

    Parameters
    ----------
    value, gradient
        f and its gradient at `state.trial`, in the dtype of x; need not be finite.
    evaluations
        What they cost, to be counted in `nfev`: more than one with finite differences.
    """
    done = state.phase == Phase.DONE
    # NaN is never stored: the rows of a finished run are those that follow, and pass no select.
    value = jnp.where(done, jnp.nan, value)
    following = advance_running(state, value, gradient, box, options, evaluations)
    rows = state.memory._replace(pairs=following.memory.pairs)
    finished = state._replace(memory=rows, event=jnp.full_like(state.event, Event.STOPPED))
    return pick(done, finished, following)


def advance_running(
    state: State,
    value: Scalar,
    gradient: Vector,
    box: Box,
    options: Options,
    evaluations: Integer | int = 1,
) -> State:
    """`advance` for a run that is known not to be DONE, as in a loop that ends there."""
    shape = state.memory.pairs.shape
    taken = part_kernel(_take, *shape)(
        state, value, gradient, box, options, jnp.asarray(evaluations)
    )
    moved = taken.moved
    constrained = is_constrained(box)  # outside of the branch, which XLA takes nothing out of
    direction = lax.cond(
        taken.turns,
        lambda: new_direction(moved.x, moved.gradient, box, moved.memory, moved.sides, constrained),
        lambda: Direction(state.xhat, jnp.zeros_like(taken.turns), state.sides),
    )
    return part_kernel(_turn, *shape)(taken, direction, box)


class _Taken(NamedTuple):
    """What an evaluation came to."""

    moved: State
    """At the new iterate, if there is one; its search is that of the next trial."""
    turns: Boolean
    """A new direction is wanted."""


def _take(
    state: State,
    value: Scalar,
    gradient: Vector,
    box: Box,
    options: Options,
    evaluations: Integer,
) -> _Taken:
    """Judge the trial, and where it is accepted move, test and remember."""
    state = state._replace(nfev=state.nfev + evaluations.astype(jnp.int32))
    slope = memory.dot(gradient, state.xhat - state.x)
    verdict = _judge(state, value, slope, box, options)
    starts = state.phase == Phase.START
    moves = verdict.accepts & ~starts
    moved = _move(state, verdict, value, gradient, box)
    reason = why_stop(state, moved, verdict.accepts, verdict.failure, options)
    pairs, curvature = _remember(state, moves, value, gradient, slope, box)
    pairs = _forget_where(verdict.restarts | is_doubtful(state, moved, moves, options), pairs)

    event = jnp.where(verdict.restarts, Event.RESTARTED, Event.TRIAL)
    event = jnp.where(starts, Event.STARTED, event)
    moved = moved._replace(
        memory=pairs,
        search=verdict.search,
        good_step=verdict.good_step,
        good_value=verdict.good_value,
        curvature=curvature,
        event=jnp.where(moves, Event.ACCEPTED, event).astype(jnp.int32),
        reason=reason.astype(jnp.int32),
        rises=verdict.rises,
        settling=verdict.settles,
    )
    turns = (verdict.accepts | verdict.restarts) & (reason == Reason.NOT_FINISHED)
    return _Taken(moved, turns)


def _turn(taken: _Taken, direction: Direction, box: Box) -> State:
    """Search towards xhat where a new direction was wanted; the end of the call."""
    moved, turns = taken
    xhat, forgets, sides = direction
    d = xhat - moved.x
    d_norm = jnp.sqrt(memory.dot(d, d))
    opened = _open_search(moved, d, d_norm, box)
    search = pick(turns, opened, moved.search)
    trial = point_on_line(moved.x, xhat, search.step, box)
    stuck = turns & (~(opened.initial_slope < 0) | are_same(trial, moved.x))
    stuck_reason = jnp.where(
        moved.capped > 0,
        Reason.UNBOUNDED,
        noise_reason(moved, value_noise(moved.value)),
    )
    reason = jnp.where(stuck, stuck_reason, moved.reason).astype(jnp.int32)
    stops = reason != Reason.NOT_FINISHED
    stopped = stops & (moved.event != Event.ACCEPTED)
    foretold = turns & (moved.memory.count > 0) & ~forgets
    return moved._replace(
        trial=trial,
        xhat=xhat,
        d_norm=d_norm,
        sides=sides,
        memory=_forget_where(forgets, moved.memory),
        search=search,
        good_step=jnp.where(turns, 0, moved.good_step),
        good_value=jnp.where(turns, jnp.inf, moved.good_value),
        decrement=jnp.where(foretold, -opened.initial_slope, moved.decrement),
        phase=jnp.where(stops, Phase.DONE, Phase.SEARCH).astype(jnp.int32),
        event=jnp.where(stopped, Event.STOPPED, moved.event).astype(jnp.int32),
        reason=reason,
        rises=moved.rises & ~turns,
    )


class _Verdict(NamedTuple):
    """What the line search makes of a trial; exactly one of its four ways, or none: go on."""

    accepts: Boolean
    restarts: Boolean
    """Exhausted, with pairs to forget."""
    settles: Boolean
    """Exhausted, and goes back to the best good trial."""
    failure: Integer
    """The reason where it fails, else NOT_FINISHED."""
    pending: Integer
    search: LineSearch
    good_step: Scalar
    good_value: Scalar
    rises: Boolean


def _judge(state: State, value: Scalar, slope: Scalar, box: Box, options: Options) -> _Verdict:
    """One step of the line search: the cheap half."""
    starts = state.phase == Phase.START
    finite = jnp.isfinite(value) & jnp.isfinite(slope)  # an infinite gradient shows in the slope
    advanced, over = line_search.advance(state.search, value, slope)
    search = pick(finite, advanced, line_search.back_off(state.search))
    step = state.search.step

    good = finite & line_search.decreases_enough(state.search, value)
    good = good & (value < jnp.minimum(state.value, state.good_value))
    good_step = jnp.where(good, step, state.good_step)
    good_value = jnp.where(good, value, state.good_value)

    tells = finite & (jnp.abs(value - state.value) > value_noise(state.value))
    rises = jnp.where(tells, (value > state.value) & (slope < 0), state.rises)

    # The search ends also where rounding leaves the next trial at this one, or at x: the
    # original evaluates that point again.
    def stays() -> Boolean:
        next_trial = point_on_line(state.x, state.xhat, search.step, box)
        return are_same(next_trial, state.trial) | are_same(next_trial, state.x)

    ends = unless(over, stays, state.x.shape[0]) | (search.step <= 0)
    accepts = finite & (starts | state.settling | (ends & (value <= state.value)))
    minus_infinity = (value == -jnp.inf) & ~starts
    pending = jnp.where(minus_infinity, Reason.UNBOUNDED, state.pending).astype(jnp.int32)
    used_up = minus_infinity | ends | (search.evaluations >= options.maxls)
    exhausted = ~accepts & ~starts & ~state.settling & used_up

    restarts = exhausted & ~minus_infinity & (state.memory.count > 0)
    returns = exhausted & ~restarts & (good_step > 0)
    settles = returns & (good_step != step)
    search = search._replace(step=jnp.where(settles, good_step, search.step))
    why = why_search_failed(state, search, value, rises)
    why = jnp.where(pending != Reason.NOT_FINISHED, pending, why)
    why = jnp.where(starts, Reason.NONFINITE_AT_X0, why)
    fails = (exhausted & ~restarts & ~returns) | (~accepts & (starts | state.settling))
    return _Verdict(
        accepts=accepts | (returns & (good_step == step)),
        restarts=restarts,
        settles=settles,
        failure=jnp.where(fails, why, Reason.NOT_FINISHED).astype(jnp.int32),
        pending=pending,
        search=search,
        good_step=good_step,
        good_value=good_value,
        rises=rises,
    )


def _move(state: State, verdict: _Verdict, value: Scalar, gradient: Vector, box: Box) -> State:
    """The state with ``x := trial`` where that is accepted, and all that is counted there.

    The start is taken in any case: it is all there is to report if it is not finite.
    """
    starts = state.phase == Phase.START
    takes = verdict.accepts | starts
    moves = verdict.accepts & ~starts
    x = jnp.where(takes, state.trial, state.x)
    gradient = jnp.where(takes, gradient, state.gradient)
    pg_norm = infinity_norm(projected_gradient(x, gradient, box))
    at_cap = state.search.step >= jnp.asarray(LARGEST_STEP, x.dtype)
    stalls = state.value - value <= 2 * np.finfo(x.dtype).eps * jnp.abs(value)
    return state._replace(
        x=x,
        value=jnp.where(takes, value, state.value),
        gradient=gradient,
        x_norm=jnp.where(takes, infinity_norm(state.trial), state.x_norm),
        pg_norm=pg_norm,
        pg_norm_at_x0=jnp.where(starts, pg_norm, state.pg_norm_at_x0),
        pending=verdict.pending,
        nit=state.nit + moves,
        capped=jnp.where(moves, jnp.where(at_cap, state.capped + 1, 0), state.capped),
        stalled=jnp.where(moves, jnp.where(stalls, state.stalled + 1, 0), state.stalled),
    )


def _remember(
    state: State, moves: Boolean, value: Scalar, gradient: Vector, slope: Scalar, box: Box
) -> tuple[Memory, Scalar]:
    """The memory after the trial, and the curvature last measured along a step.

    The pair is skipped where its curvature is lost in rounding or overflows.
    """
    step = state.search.step
    d = state.xhat - state.x
    y = gradient - state.gradient
    descent = -step * state.search.initial_slope
    sy = step * (slope - state.search.initial_slope)
    theta = memory.dot(y, y) / jnp.where(sy > 0, sy, 1)
    curved = sy > np.finfo(value.dtype).eps * descent
    stores = moves & curved & (theta > 0) & jnp.isfinite(theta)
    for_inverse = box.is_everything and len(d) > FEW_VARIABLES
    pairs = memory.update(state.memory, d, y, sy, stores, step, for_inverse)
    curvature = jnp.where(stores, sy / (step * state.d_norm) ** 2, state.curvature)
    return pairs, curvature


def _open_search(state: State, d: Vector, norm: Scalar, box: Box) -> LineSearch:
    """A search along d: its largest and first step (L-BFGS-B 3.0, lnsrlb).

    The very first step has length 1, or what rounding needs to move x at all.
    """
    x = state.x
    first = state.nit == 0
    largest = largest_feasible_step(x, d, box)
    largest = jnp.where(first & is_constrained(box), 1, jnp.maximum(largest, 1))
    reach = jnp.maximum(1, NOISE * np.finfo(x.dtype).eps * state.x_norm)
    short = jnp.minimum(reach / jnp.where(norm > 0, norm, 1), largest)
    step = jnp.where(first & ~is_boxed(box), short, 1).astype(x.dtype)
    slope = memory.dot(state.gradient, d)
    return line_search.start(state.value, slope, step, largest.astype(x.dtype))


def pick(condition: Boolean, a: PyTree, b: PyTree) -> PyTree:
    """`a` where the condition holds, else `b`, leaf by leaf; equal leaves are kept as they are."""
    return jax.tree.map(lambda i, j: i if i is j else jnp.where(condition, i, j), a, b)


def _forget_where(condition: Boolean, pairs: Memory) -> Memory:
    return pick(condition, memory.forget(pairs), pairs)
