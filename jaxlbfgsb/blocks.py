"""The lanes of one block of a batch: one after the other on a CPU, in step elsewhere.

In step, lanes that are done cost as much as the others.  So when most of very many are, the
others go on by themselves.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.derivatives.implicit import Rule
from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.core import advance
from jaxlbfgsb.method.state import Options, Phase, State
from jaxlbfgsb.program.tracing import Data, Program
from jaxlbfgsb.pytrees import checked_bounds
from jaxlbfgsb.result import OptimizeResult
from jaxlbfgsb.sight.recording import Recording, Trace, begun, recorded
from jaxlbfgsb.sight.watching import Watch
from jaxlbfgsb.solve import begin, finish, objective, solve
from jaxlbfgsb.types import PyTree

COMPACTED = 4
"""Lanes go on by themselves when one in so many is left..."""
MANY_LANES = 1 << 15
"""... of at least so many: fewer fill no accelerator, and take no longer together."""


class BatchProblem(NamedTuple):
    """All that is static of a batch."""

    program: Program
    m: int
    tree: Any
    """The structure of ``(x0, args, bounds)`` of a lane."""
    mapped: tuple[bool, ...]
    """Which of its leaves differ from lane to lane."""
    recording: Recording | None

    def over_lanes(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function(data, x0, lower, upper, *more)`` of a lane, over the leaves of a block."""

        def lane(consts: list[Any], leaves: list[Any], *more: Any) -> Any:
            x0, args, bounds = jax.tree.unflatten(self.tree, leaves)
            lower, upper = checked_bounds(bounds, x0)
            return function(Data(consts, jax.tree.leaves(args)), x0, lower, upper, *more)

        def block(consts: list[Any], leaves: list[Any], *more: Any) -> Any:
            axes = (None, [0 if m else None for m in self.mapped], *(0 for _ in more))
            return jax.vmap(lane, in_axes=axes)(consts, leaves, *more)

        return block


class _Run(NamedTuple):
    """A run under way; the same of many lanes."""

    state: State
    trace: Trace | None


@functools.partial(jax.jit, static_argnums=0)
def solve_in_turn(
    problem: BatchProblem, consts: list[Any], leaves: list[Any], options: Options
) -> OptimizeResult:
    """The lanes of a block one after the other."""

    def lane(data: Data, x0: PyTree, lower: Any, upper: Any) -> OptimizeResult:
        watch = Watch(problem.recording)
        result = solve(problem.program, problem.m, Rule(), watch, data, x0, lower, upper, options)
        return dataclasses.replace(result, hess_inv=None)

    return problem.over_lanes(lane)(consts, leaves)


@functools.partial(jax.jit, static_argnums=0)
def solve_in_step(
    problem: BatchProblem, consts: list[Any], leaves: list[Any], options: Options
) -> OptimizeResult:
    """The lanes of a block in step; of many lanes the last ones by themselves."""

    # What is the same for all lanes, such as their bounds perhaps, is made anew from what was
    # given: in the run each lane would have its own, and `vmap` a branch no more.
    def start(data: Data, x0: PyTree, lower: Any, upper: Any) -> tuple[State, Box, Options]:
        return begin(problem.m, data, x0, lower, upper, options)

    def first(*given: Any) -> _Run:
        state, _, _ = start(*given)
        return _Run(state, begun(problem.recording, state.x))

    def turn(data: Data, x0: PyTree, lower: Any, upper: Any, run: _Run) -> _Run:
        _, box, strict = start(data, x0, lower, upper)
        value, gradient = objective(problem.program, data, x0)(run.state.trial)
        moved = advance(run.state, value, gradient, box, strict)
        return _Run(moved, recorded(run.trace, run.state, moved, box))

    def last(data: Data, x0: PyTree, lower: Any, upper: Any, run: _Run) -> OptimizeResult:
        _, box, strict = start(data, x0, lower, upper)
        result = finish(problem.program, data, x0, run.state, box, strict, run.trace)
        return dataclasses.replace(result, hess_inv=None)

    turn_of_all = problem.over_lanes(turn)

    def advanced(leaves: list[Any], run: _Run, left: int) -> _Run:
        """Until at most `left` lanes are not done."""

        def goes_on(run: _Run) -> jax.Array:
            return jnp.sum(run.state.phase != Phase.DONE) > left

        return lax.while_loop(goes_on, lambda run: turn_of_all(consts, leaves, run), run)

    run = problem.over_lanes(first)(consts, leaves)
    size = len(run.state.phase)
    few = size // COMPACTED if size >= MANY_LANES else 0
    run = advanced(leaves, run, left=few)
    if few:
        (index,) = jnp.nonzero(run.state.phase != Phase.DONE, size=few, fill_value=size)

        def running(of_all: Any) -> Any:  # beyond the end, the last lane again
            return jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip"), of_all)

        marked = zip(leaves, problem.mapped, strict=True)
        part = [running(jnp.asarray(leaf)) if mapped else leaf for leaf, mapped in marked]
        moved = advanced(part, running(run), left=0)
        run = jax.tree.map(lambda old, new: old.at[index].set(new, mode="drop"), run, moved)
    return problem.over_lanes(last)(consts, leaves, run)
