"""What an evaluation and a new direction come to, decided on numbers alone.

States here are those of `numbers_of`, without vectors: all that takes a pass over these was
measured before.  In many variables each function is one kernel (see `xla/kernel.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.method import line_search
from jaxlbfgsb.method.box import LARGEST_STEP
from jaxlbfgsb.method.ending import is_doubtful, noise_reason, why_search_failed, why_stop
from jaxlbfgsb.method.state import Event, Options, Phase, State, pick
from jaxlbfgsb.method.stopping import NOISE, reduction_is_small, value_noise
from jaxlbfgsb.status import Reason
from jaxlbfgsb.types import Boolean, Integer, Scalar
from jaxlbfgsb.xla.choice import where


class Seen(NamedTuple):
    """What there is to know of a trial to judge it: all that takes a pass over its vectors."""

    value: Scalar
    slope: Scalar
    yy: Scalar
    """``y'y`` of the pair that it would make."""
    x_norm: Scalar
    pg_norm: Scalar


class Looked(NamedTuple):
    """One step of the line search: the cheap half."""

    state: State
    """With the search that goes on, if it does."""
    over: Boolean
    finite: Boolean


def look(state: State, seen: Seen, evaluations: Integer) -> Looked:
    value, slope = seen.value, seen.slope
    finite = jnp.isfinite(value) & jnp.isfinite(slope)  # an infinite gradient shows in the slope
    advanced, over = line_search.advance(state.search, value, slope)
    search = pick(finite, advanced, line_search.back_off(state.search))

    good = finite & line_search.decreases_enough(state.search, value)
    good = good & (value < jnp.minimum(state.value, state.good_value))
    tells = finite & (jnp.abs(value - state.value) > value_noise(state.value))
    state = state._replace(
        search=search,
        good_step=where(good, state.search.step, state.good_step),
        good_value=where(good, value, state.good_value),
        rises=where(tells, (value > state.value) & (slope < 0), state.rises),
        nfev=state.nfev + evaluations.astype(jnp.int32),
    )
    return Looked(state, over, finite)


class Judged(NamedTuple):
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


def judge(state: State, looked: Looked, stays: Boolean, seen: Seen, options: Options) -> Judged:
    """Exactly one of: go on, accept, restart, settle for the best good trial, fail."""
    value, step = seen.value, state.search.step
    now, finite = looked.state, looked.finite
    starts = state.phase == Phase.START
    ends = looked.over | stays | (now.search.step <= 0)
    accepts = finite & (starts | state.settling | (ends & (value <= state.value)))
    minus_infinity = (value == -jnp.inf) & ~starts
    pending = where(minus_infinity, Reason.UNBOUNDED, state.pending).astype(jnp.int32)
    used_up = minus_infinity | ends | (now.search.evaluations >= options.maxls)
    exhausted = ~accepts & ~starts & ~state.settling & used_up

    restarts = exhausted & ~minus_infinity & (state.memory.count > 0)
    returns = exhausted & ~restarts & (now.good_step > 0)
    settles = returns & (now.good_step != step)
    search = now.search._replace(step=where(settles, now.good_step, now.search.step))
    why = why_search_failed(state, search, value, now.rises)
    why = where(pending != Reason.NOT_FINISHED, pending, why)
    why = where(starts, Reason.NONFINITE_AT_X0, why)
    fails = (exhausted & ~restarts & ~returns) | (~accepts & (starts | state.settling))
    failure = where(fails, why, Reason.NOT_FINISHED).astype(jnp.int32)

    accepts = accepts | (returns & ~settles)
    takes = accepts | starts
    moves = accepts & ~starts
    moved = _counted(now._replace(search=search, settling=settles, pending=pending), takes, seen)
    small = moves & reduction_is_small(state.value, moved.value, options.ftol)
    doubtful = is_doubtful(state)
    reason = why_stop(state, moved, accepts, small & ~doubtful, failure, options)
    sy, stores, curvature = _pair(state, moves, seen)
    event = where(restarts, Event.RESTARTED, Event.TRIAL)
    event = where(starts, Event.STARTED, event)
    moved = moved._replace(
        curvature=curvature,
        event=where(moves, Event.ACCEPTED, event).astype(jnp.int32),
        reason=reason.astype(jnp.int32),
    )
    return Judged(
        state=moved,
        takes=takes,
        stores=stores,
        sy=sy,
        forgets=restarts | (small & doubtful),
        turns=(accepts | restarts) & (reason == Reason.NOT_FINISHED),
    )


def _counted(state: State, takes: Boolean, seen: Seen) -> State:
    """All that is known and counted of an iterate, where the trial becomes one."""
    starts = state.phase == Phase.START
    moves = takes & ~starts
    at_cap = state.search.step >= jnp.asarray(LARGEST_STEP, seen.value.dtype)
    least = 2 * np.finfo(seen.value.dtype).eps * jnp.abs(seen.value)
    stalls = state.value - seen.value <= least
    return state._replace(
        value=where(takes, seen.value, state.value),
        x_norm=where(takes, seen.x_norm, state.x_norm),
        pg_norm=where(takes, seen.pg_norm, state.pg_norm),
        pg_norm_at_x0=where(starts, seen.pg_norm, state.pg_norm_at_x0),
        nit=state.nit + moves,
        capped=where(moves, where(at_cap, state.capped + 1, 0), state.capped),
        stalled=where(moves, where(stalls, state.stalled + 1, 0), state.stalled),
    )


def _pair(state: State, moves: Boolean, seen: Seen) -> tuple[Scalar, Boolean, Scalar]:
    """``s'y``, whether the pair is stored, and the curvature last measured along a step."""
    step, initial_slope = state.search.step, state.search.initial_slope
    sy = step * (seen.slope - initial_slope)
    theta = seen.yy / where(sy > 0, sy, 1)
    curved = sy > np.finfo(sy.dtype).eps * (-step * initial_slope)
    stores = moves & curved & (theta > 0) & jnp.isfinite(theta)
    curvature = where(stores, sy / (step * state.d_norm) ** 2, state.curvature)
    return sy, stores, curvature


class Reach(NamedTuple):
    """What the passes over a direction and the box find."""

    slope: Scalar
    dd: Scalar
    largest: Scalar
    is_constrained: Boolean
    is_boxed: Boolean


def open_search(state: State, turns: Boolean, reach: Reach) -> State:
    """A search along d, where one is wanted: its largest and first step (L-BFGS-B 3.0, lnsrlb).

    The very first step has length 1, or what rounding needs to move x at all.
    """
    dtype = reach.dd.dtype
    norm = jnp.sqrt(reach.dd)
    first = state.nit == 0
    largest = where(first & reach.is_constrained, 1, jnp.maximum(reach.largest, 1))
    length = jnp.maximum(1, NOISE * np.finfo(dtype).eps * state.x_norm)
    short = jnp.minimum(length / where(norm > 0, norm, 1), largest)
    step = where(first & ~reach.is_boxed, short, 1).astype(dtype)
    opened = line_search.start(state.value, reach.slope, step, largest.astype(dtype))
    return state._replace(
        search=pick(turns, opened, state.search), d_norm=where(turns, norm, state.d_norm)
    )


def settle(state: State, turns: Boolean, forgets: Boolean, at_x: Boolean, slope: Scalar) -> State:
    """The phase to go on in: the run ends where no search can begin."""
    stuck = turns & (~(slope < 0) | at_x)
    stuck_reason = where(
        state.capped > 0,
        Reason.UNBOUNDED,
        noise_reason(state, value_noise(state.value)),
    )
    reason = where(stuck, stuck_reason, state.reason).astype(jnp.int32)
    stops = reason != Reason.NOT_FINISHED
    stopped = stops & (state.event != Event.ACCEPTED)
    foretold = turns & (state.memory.count > 0) & ~forgets
    return state._replace(
        good_step=where(turns, 0, state.good_step),
        good_value=where(turns, jnp.inf, state.good_value),
        decrement=where(foretold, -slope, state.decrement),
        phase=where(stops, Phase.DONE, Phase.SEARCH).astype(jnp.int32),
        event=where(stopped, Event.STOPPED, state.event).astype(jnp.int32),
        reason=reason,
        rises=state.rises & ~turns,
    )
