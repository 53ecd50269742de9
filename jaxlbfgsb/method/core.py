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

import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.method import decisions, memory
from jaxlbfgsb.method.box import (
    Box,
    are_same,
    infinity_norm,
    is_boxed,
    is_constrained,
    point_on_line,
    projected_gradient_norm,
)
from jaxlbfgsb.method.direction import Direction, new_direction, no_direction
from jaxlbfgsb.method.memory import Memory
from jaxlbfgsb.method.state import Event, Options, Phase, State, numbers_of, pick
from jaxlbfgsb.types import Boolean, Integer, Scalar, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.kernel import small_kernel, unless
from jaxlbfgsb.xla.products import dot


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
    value = where(done, jnp.nan, value)
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
    taken = _take(state, value, gradient, box, options, jnp.asarray(evaluations))
    moved = taken.moved
    constrained = is_constrained(box)  # outside of the branch, which XLA takes nothing out of
    direction = lax.cond(
        taken.turns,
        lambda: new_direction(
            *(moved.x, moved.gradient, box, moved.memory, moved.sums),
            constrained=constrained,
            is_new=taken.stored,
        ),
        lambda: no_direction(state.xhat, state.sums, taken.turns),
    )
    return _turn(taken, direction, box, constrained)


class _Taken(NamedTuple):
    """What an evaluation came to."""

    moved: State
    """At the new iterate, if there is one; its search is that of the next trial."""
    turns: Boolean
    """A new direction is wanted."""
    stored: Boolean
    """The pair of the last step was stored."""


def _take(
    state: State,
    value: Scalar,
    gradient: Vector,
    box: Box,
    options: Options,
    evaluations: Integer,
) -> _Taken:
    """Judge the trial, and where it is accepted move, test and remember."""
    shape, bounded = state.memory.pairs.shape, not box.is_everything
    d = state.xhat - state.x
    y = gradient - state.gradient
    seen = decisions.Seen(
        value=value,
        slope=dot(gradient, d),
        yy=dot(y, y),
        x_norm=infinity_norm(state.trial),
        pg_norm=projected_gradient_norm(state.trial, gradient, box),
    )
    numbers = numbers_of(state)
    looked = small_kernel(decisions.look, *shape, bounded=bounded)(numbers, seen, evaluations)

    # The search ends also where rounding leaves the next trial at this one, or at x: the
    # original evaluates that point again.
    def stays() -> Boolean:
        next_trial = point_on_line(state.x, state.xhat, looked.state.search.step, box)
        return are_same(next_trial, state.trial) | are_same(next_trial, state.x)

    ends = unless(looked.over, stays, many=state.sums is not None)
    judged = small_kernel(decisions.judge, *shape, bounded=bounded)(
        numbers, looked, ends, seen, options
    )

    pairs, step = state.memory, state.search.step
    pairs = memory.update(pairs, d, y, seen.yy, judged.sy, judged.stores, step)
    moved = judged.state._replace(
        x=where(judged.takes, state.trial, state.x),
        gradient=where(judged.takes, gradient, state.gradient),
        trial=state.trial,
        xhat=state.xhat,
        memory=_forget_where(judged.forgets, pairs),
        sums=state.sums,
    )
    return _Taken(moved, judged.turns, judged.stores)


def _turn(taken: _Taken, direction: Direction, box: Box, constrained: Boolean) -> State:
    """Search towards xhat where a new direction was wanted; the end of the call."""
    moved, turns, _ = taken
    xhat, forgets = direction.xhat, direction.forgets
    shape, bounded = moved.memory.pairs.shape, not box.is_everything
    numbers = numbers_of(moved)
    reach = decisions.Reach(
        slope=direction.slope,
        dd=direction.dd,
        largest=direction.largest,
        is_constrained=constrained,
        is_boxed=is_boxed(box),
    )
    searching = small_kernel(decisions.open_search, *shape, bounded=bounded)(numbers, turns, reach)
    trial = point_on_line(moved.x, xhat, searching.search.step, box)
    # The end of a line is not x, since there is a slope towards it.
    leaves_x = ~turns | (searching.search.step == 1)
    leaves_x = unless(leaves_x, lambda: ~are_same(trial, moved.x), many=moved.sums is not None)
    turned = small_kernel(decisions.settle, *shape, bounded=bounded)(
        searching, turns, forgets, ~leaves_x, reach.slope
    )
    return turned._replace(
        x=moved.x,
        gradient=moved.gradient,
        trial=trial,
        xhat=xhat,
        memory=_forget_where(forgets, moved.memory),
        sums=direction.sums,
    )


def _forget_where(condition: Boolean, pairs: Memory) -> Memory:
    return pick(condition, memory.forget(pairs), pairs)
