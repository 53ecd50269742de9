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
    projected_gradient_norm,
)
from jaxlbfgsb.method.direction import Direction, new_direction
from jaxlbfgsb.method.ending import is_doubtful, noise_reason, why_search_failed, why_stop
from jaxlbfgsb.method.memory import Memory, Wanted
from jaxlbfgsb.method.state import Event, Options, Phase, State, numbers_of
from jaxlbfgsb.method.stopping import NOISE, value_noise
from jaxlbfgsb.status import Reason
from jaxlbfgsb.types import Boolean, Integer, PyTree, Scalar, Vector
from jaxlbfgsb.xla.kernel import FEW_VARIABLES, part_kernel, small_kernel, unless


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


class _Seen(NamedTuple):
    """What there is to know of a trial to judge it: all that takes a pass over its vectors."""

    value: Scalar
    slope: Scalar
    yy: Scalar
    """``y'y`` of the pair that it would make."""
    x_norm: Scalar
    pg_norm: Scalar


def _take(
    state: State,
    value: Scalar,
    gradient: Vector,
    box: Box,
    options: Options,
    evaluations: Integer,
) -> _Taken:
    """Judge the trial, and where it is accepted move, test and remember."""
    n = state.x.shape[0]
    d = state.xhat - state.x
    y = gradient - state.gradient
    seen = _Seen(
        value=value,
        slope=memory.dot(gradient, d),
        yy=memory.dot(y, y),
        x_norm=infinity_norm(state.trial),
        pg_norm=projected_gradient_norm(state.trial, gradient, box),
    )
    numbers = numbers_of(state)
    looked = small_kernel(_look, n)(numbers, seen, evaluations)

    # The search ends also where rounding leaves the next trial at this one, or at x: the
    # original evaluates that point again.
    def stays() -> Boolean:
        next_trial = point_on_line(state.x, state.xhat, looked.state.search.step, box)
        return are_same(next_trial, state.trial) | are_same(next_trial, state.x)

    ends = unless(looked.over, stays, n)
    judged = small_kernel(_judge, n)(numbers, looked, ends, seen, options)

    pairs, step = state.memory, state.search.step
    pairs = memory.update(pairs, d, y, judged.sy, judged.stores, step, _wanted(pairs, box))
    moved = judged.state._replace(
        x=jnp.where(judged.takes, state.trial, state.x),
        gradient=jnp.where(judged.takes, gradient, state.gradient),
        trial=state.trial,
        xhat=state.xhat,
        memory=_forget_where(judged.forgets, pairs),
        sides=state.sides,
    )
    return _Taken(moved, judged.turns)


def _turn(taken: _Taken, direction: Direction, box: Box) -> State:
    """Search towards xhat where a new direction was wanted; the end of the call."""
    moved, turns = taken
    xhat, forgets, sides = direction
    n = xhat.shape[0]
    d = xhat - moved.x
    numbers = numbers_of(moved)
    reach = _Reach(
        slope=memory.dot(moved.gradient, d),
        dd=memory.dot(d, d),
        largest=largest_feasible_step(moved.x, d, box),
        is_constrained=is_constrained(box),
        is_boxed=is_boxed(box),
    )
    searching = small_kernel(_open_search, n)(numbers, turns, reach)
    trial = point_on_line(moved.x, xhat, searching.search.step, box)
    at_x = are_same(trial, moved.x)
    turned = small_kernel(_settle, n)(searching, turns, forgets, at_x, reach.slope)
    return turned._replace(
        x=moved.x,
        gradient=moved.gradient,
        trial=trial,
        xhat=xhat,
        memory=_forget_where(forgets, moved.memory),
        sides=sides,
    )


# What follows decides on numbers alone: states are those of `numbers_of`.


class _Looked(NamedTuple):
    """One step of the line search: the cheap half."""

    state: State
    """With the search that goes on, if it does."""
    over: Boolean
    finite: Boolean


def _look(state: State, seen: _Seen, evaluations: Integer) -> _Looked:
    value, slope = seen.value, seen.slope
    finite = jnp.isfinite(value) & jnp.isfinite(slope)  # an infinite gradient shows in the slope
    advanced, over = line_search.advance(state.search, value, slope)
    search = pick(finite, advanced, line_search.back_off(state.search))

    good = finite & line_search.decreases_enough(state.search, value)
    good = good & (value < jnp.minimum(state.value, state.good_value))
    tells = finite & (jnp.abs(value - state.value) > value_noise(state.value))
    state = state._replace(
        search=search,
        good_step=jnp.where(good, state.search.step, state.good_step),
        good_value=jnp.where(good, value, state.good_value),
        rises=jnp.where(tells, (value > state.value) & (slope < 0), state.rises),
        nfev=state.nfev + evaluations.astype(jnp.int32),
    )
    return _Looked(state, over, finite)


class _Judged(NamedTuple):
    """What to do with a trial and the pair that it makes."""

    state: State
    takes: Boolean
    """``x := trial``.  The start is taken in any case: it is all there is to report if it is not
    finite."""
    stores: Boolean
    """False where the curvature is lost in rounding or overflows."""
    sy: Scalar
    forgets: Boolean
    turns: Boolean


def _judge(state: State, looked: _Looked, stays: Boolean, seen: _Seen, options: Options) -> _Judged:
    """Exactly one of: go on, accept, restart, settle for the best good trial, fail."""
    value, step = seen.value, state.search.step
    now, finite = looked.state, looked.finite
    starts = state.phase == Phase.START
    ends = looked.over | stays | (now.search.step <= 0)
    accepts = finite & (starts | state.settling | (ends & (value <= state.value)))
    minus_infinity = (value == -jnp.inf) & ~starts
    pending = jnp.where(minus_infinity, Reason.UNBOUNDED, state.pending).astype(jnp.int32)
    used_up = minus_infinity | ends | (now.search.evaluations >= options.maxls)
    exhausted = ~accepts & ~starts & ~state.settling & used_up

    restarts = exhausted & ~minus_infinity & (state.memory.count > 0)
    returns = exhausted & ~restarts & (now.good_step > 0)
    settles = returns & (now.good_step != step)
    search = now.search._replace(step=jnp.where(settles, now.good_step, now.search.step))
    why = why_search_failed(state, search, value, now.rises)
    why = jnp.where(pending != Reason.NOT_FINISHED, pending, why)
    why = jnp.where(starts, Reason.NONFINITE_AT_X0, why)
    fails = (exhausted & ~restarts & ~returns) | (~accepts & (starts | state.settling))
    failure = jnp.where(fails, why, Reason.NOT_FINISHED).astype(jnp.int32)

    accepts = accepts | (returns & ~settles)
    takes = accepts | starts
    moves = accepts & ~starts
    moved = _counted(now._replace(search=search, settling=settles, pending=pending), takes, seen)
    reason = why_stop(state, moved, accepts, failure, options)
    sy, stores, curvature = _pair(state, moves, seen)
    event = jnp.where(restarts, Event.RESTARTED, Event.TRIAL)
    event = jnp.where(starts, Event.STARTED, event)
    moved = moved._replace(
        curvature=curvature,
        event=jnp.where(moves, Event.ACCEPTED, event).astype(jnp.int32),
        reason=reason.astype(jnp.int32),
    )
    return _Judged(
        state=moved,
        takes=takes,
        stores=stores,
        sy=sy,
        forgets=restarts | is_doubtful(state, moved, moves, options),
        turns=(accepts | restarts) & (reason == Reason.NOT_FINISHED),
    )


def _counted(state: State, takes: Boolean, seen: _Seen) -> State:
    """All that is known and counted of an iterate, where the trial becomes one."""
    starts = state.phase == Phase.START
    moves = takes & ~starts
    at_cap = state.search.step >= jnp.asarray(LARGEST_STEP, seen.value.dtype)
    least = 2 * np.finfo(seen.value.dtype).eps * jnp.abs(seen.value)
    stalls = state.value - seen.value <= least
    return state._replace(
        value=jnp.where(takes, seen.value, state.value),
        x_norm=jnp.where(takes, seen.x_norm, state.x_norm),
        pg_norm=jnp.where(takes, seen.pg_norm, state.pg_norm),
        pg_norm_at_x0=jnp.where(starts, seen.pg_norm, state.pg_norm_at_x0),
        nit=state.nit + moves,
        capped=jnp.where(moves, jnp.where(at_cap, state.capped + 1, 0), state.capped),
        stalled=jnp.where(moves, jnp.where(stalls, state.stalled + 1, 0), state.stalled),
    )


def _pair(state: State, moves: Boolean, seen: _Seen) -> tuple[Scalar, Boolean, Scalar]:
    """``s'y``, whether the pair is stored, and the curvature last measured along a step."""
    step, initial_slope = state.search.step, state.search.initial_slope
    sy = step * (seen.slope - initial_slope)
    theta = seen.yy / jnp.where(sy > 0, sy, 1)
    curved = sy > np.finfo(sy.dtype).eps * (-step * initial_slope)
    stores = moves & curved & (theta > 0) & jnp.isfinite(theta)
    curvature = jnp.where(stores, sy / (step * state.d_norm) ** 2, state.curvature)
    return sy, stores, curvature


class _Reach(NamedTuple):
    """What the passes over a direction and the box find."""

    slope: Scalar
    dd: Scalar
    largest: Scalar
    is_constrained: Boolean
    is_boxed: Boolean


def _open_search(state: State, turns: Boolean, reach: _Reach) -> State:
    """A search along d, where one is wanted: its largest and first step (L-BFGS-B 3.0, lnsrlb).

    The very first step has length 1, or what rounding needs to move x at all.
    """
    dtype = reach.dd.dtype
    norm = jnp.sqrt(reach.dd)
    first = state.nit == 0
    largest = jnp.where(first & reach.is_constrained, 1, jnp.maximum(reach.largest, 1))
    length = jnp.maximum(1, NOISE * np.finfo(dtype).eps * state.x_norm)
    short = jnp.minimum(length / jnp.where(norm > 0, norm, 1), largest)
    step = jnp.where(first & ~reach.is_boxed, short, 1).astype(dtype)
    opened = line_search.start(state.value, reach.slope, step, largest.astype(dtype))
    return state._replace(search=pick(turns, opened, state.search), d_norm=norm)


def _settle(state: State, turns: Boolean, forgets: Boolean, at_x: Boolean, slope: Scalar) -> State:
    """The phase to go on in: the run ends where no search can begin."""
    stuck = turns & (~(slope < 0) | at_x)
    stuck_reason = jnp.where(
        state.capped > 0,
        Reason.UNBOUNDED,
        noise_reason(state, value_noise(state.value)),
    )
    reason = jnp.where(stuck, stuck_reason, state.reason).astype(jnp.int32)
    stops = reason != Reason.NOT_FINISHED
    stopped = stops & (state.event != Event.ACCEPTED)
    foretold = turns & (state.memory.count > 0) & ~forgets
    return state._replace(
        good_step=jnp.where(turns, 0, state.good_step),
        good_value=jnp.where(turns, jnp.inf, state.good_value),
        decrement=jnp.where(foretold, -slope, state.decrement),
        phase=jnp.where(stops, Phase.DONE, Phase.SEARCH).astype(jnp.int32),
        event=jnp.where(stopped, Event.STOPPED, state.event).astype(jnp.int32),
        reason=reason,
        rises=state.rises & ~turns,
    )


def _wanted(pairs: Memory, box: Box) -> Wanted:
    rows, n = pairs.pairs.shape
    if n <= rows:
        return Wanted.OWN
    return Wanted.WITH_Y if box.is_everything and n > FEW_VARIABLES else Wanted.ALL


def pick(condition: Boolean, a: PyTree, b: PyTree) -> PyTree:
    """`a` where the condition holds, else `b`, leaf by leaf; equal leaves are kept as they are."""
    return jax.tree.map(lambda i, j: i if i is j else jnp.where(condition, i, j), a, b)


def _forget_where(condition: Boolean, pairs: Memory) -> Memory:
    return pick(condition, memory.forget(pairs), pairs)
