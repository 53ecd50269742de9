"""The lanes of one block of a batch: one after the other on a CPU, in step elsewhere.

In step, lanes that are done cost as much as the others.  So when most are, the others go on
by themselves.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
"""Lanes go on by themselves when one in so many is left."""


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
    """A run under way, with what it needs beside its function; the same of many lanes."""

    state: State
    box: Box
    options: Options
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


def solve_in_step(
    problem: BatchProblem, consts: list[Any], leaves: list[Any], options: Options
) -> OptimizeResult:
    """The lanes of a block in step; when few are left, these by themselves."""
    run = _begin_lanes(problem, consts, leaves, options)
    running = np.arange(len(run.state.phase))
    size = len(running)
    while running.size:
        index = np.resize(running, size)  # the same lanes again, where there are too few
        part = [x[index] if m else x for x, m in zip(leaves, problem.mapped, strict=True)]
        few = jax.tree.map(lambda leaf, index=index: leaf[index], run)
        left = size // COMPACTED if size > COMPACTED else 0
        moved = _advance_lanes(problem, consts, part, few, left)
        run = jax.tree.map(lambda old, new, index=index: old.at[index].set(new), run, moved)
        running = running[np.asarray(run.state.phase[running]) != Phase.DONE]
        size = left
    return _finish_lanes(problem, consts, leaves, run)


@functools.partial(jax.jit, static_argnums=0)
def _begin_lanes(
    problem: BatchProblem, consts: list[Any], leaves: list[Any], options: Options
) -> _Run:
    def lane(data: Data, x0: PyTree, lower: Any, upper: Any) -> _Run:
        state, box, started = begin(problem.m, data, x0, lower, upper, options)
        return _Run(state, box, started, begun(problem.recording, state.x))

    return problem.over_lanes(lane)(consts, leaves)


@functools.partial(jax.jit, static_argnums=0)
def _advance_lanes(
    problem: BatchProblem, consts: list[Any], leaves: list[Any], run: _Run, left: int
) -> _Run:
    """Until at most `left` lanes are not done."""

    def lane(data: Data, x0: PyTree, _lower: Any, _upper: Any, run: _Run) -> _Run:
        state, box, options, trace = run
        value, gradient = objective(problem.program, data, x0)(state.trial)
        moved = advance(state, value, gradient, box, options)
        return run._replace(state=moved, trace=recorded(trace, state, moved, box))

    def goes_on(run: _Run) -> jax.Array:
        return jnp.sum(run.state.phase != Phase.DONE) > left

    step = problem.over_lanes(lane)
    return lax.while_loop(goes_on, lambda run: step(consts, leaves, run), run)


@functools.partial(jax.jit, static_argnums=0)
def _finish_lanes(
    problem: BatchProblem, consts: list[Any], leaves: list[Any], run: _Run
) -> OptimizeResult:
    def lane(data: Data, x0: PyTree, _lower: Any, _upper: Any, run: _Run) -> OptimizeResult:
        return dataclasses.replace(finish(problem.program, data, x0, *run), hess_inv=None)

    return problem.over_lanes(lane)(consts, leaves, run)
