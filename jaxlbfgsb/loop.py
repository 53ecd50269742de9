"""The compiled driver: the whole run is one `lax.while_loop`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.core import advance_running
from jaxlbfgsb.method.state import Event, Options, Run, State, is_running
from jaxlbfgsb.sight.recording import Trace, recorded
from jaxlbfgsb.types import Boolean, Scalar, Vector
from jaxlbfgsb.xla.kernel import one_kernel
from jaxlbfgsb.xla.packing import PackedTree

_Out = TypeVar("_Out")

Objective = Callable[[Vector], tuple[Scalar, Vector]]


Driver: TypeAlias = Callable[..., tuple[State, Trace | None]]
"""`run`, or what computes the same."""

Tell = Callable[[State, State, Box], State]
"""From the states before and after an evaluation to the one to go on with; tells the host."""


def run(
    value_and_grad: Objective,
    state: State,
    box: Box,
    options: Options,
    trace: Trace | None = None,
    tell: Tell | None = None,
    one_iteration: bool = False,
) -> tuple[State, Trace | None]:
    """Advance until the run is done or, on request, until the next accepted iterate."""

    def goes_on(carry: tuple[State, Trace | None]) -> jax.Array:
        return _goes_on(carry[0], one_iteration)

    def turn(carry: tuple[State, Trace | None]) -> tuple[State, Trace | None]:
        state, trace = carry
        value, gradient = value_and_grad(state.trial)
        moved = advance_running(state, value, gradient, box, options)
        trace = recorded(trace, state, moved, box)
        return moved if tell is None else tell(state, moved, box), trace

    return lax.while_loop(goes_on, turn, (_with_no_event(state), trace))


def run_by_kernels(
    value_and_grad: Objective,
    state: State,
    box: Box,
    options: Options,
    trace: Trace | None = None,
    one_iteration: bool = False,
) -> tuple[State, Trace | None]:
    """`run`; on CPU, what the solver does between two evaluations is one kernel."""

    @one_kernel
    def step(packed: PackedTree[Run], value: Scalar, gradient: Vector) -> PackedTree[Run]:
        state, box, options = packed.tree
        state = advance_running(state, value, gradient, box, options)
        return PackedTree.of(Run(state, box, options), scalars_only=False)

    def goes_on(carry: tuple[PackedTree[Run], Trace | None]) -> jax.Array:
        return _goes_on(carry[0].tree.state, one_iteration)

    def turn(
        carry: tuple[PackedTree[Run], Trace | None],
    ) -> tuple[PackedTree[Run], Trace | None]:
        packed, trace = carry
        before, box, _ = packed.tree
        packed = step(packed, *value_and_grad(before.trial))
        if trace is not None:
            trace = recorded(trace, before, packed.tree.state, box)
        return packed, trace

    first = PackedTree.of(Run(_with_no_event(state), box, options), scalars_only=False)
    packed, trace = lax.while_loop(goes_on, turn, (first, trace))
    return packed.tree.state, trace


def by_fastest(
    iteration: Callable[..., _Out], small: bool, fits_one_kernel: bool
) -> Callable[..., _Out]:
    """``iteration(driver, ...)`` without the driver, which is the fastest; not for lanes.

    Parameters
    ----------
    small
        Whether a step is one kernel.
    fits_one_kernel
        Whether all is that the driver is given: then it and all around it is one.
    """
    if small and fits_one_kernel:
        return one_kernel(functools.partial(iteration, run))
    return functools.partial(iteration, run_by_kernels if small else run)


def _goes_on(state: State, one_iteration: bool) -> Boolean:
    paused = one_iteration & (state.event == Event.ACCEPTED)
    return is_running(state) & ~paused


def _with_no_event(state: State) -> State:
    return state._replace(event=jnp.full_like(state.event, Event.TRIAL))
