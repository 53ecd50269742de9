"""The compiled driver: the whole run is one `lax.while_loop`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.core import advance_running
from jaxlbfgsb.method.state import Event, Options, State, is_running
from jaxlbfgsb.sight.recording import Trace, recorded
from jaxlbfgsb.types import Boolean, Scalar, Vector
from jaxlbfgsb.xla.kernel import one_kernel
from jaxlbfgsb.xla.packing import Packed, Packing

Objective = Callable[[Vector], tuple[Scalar, Vector]]


Tell = Callable[[State, State, Box], State]
"""From the states before and after an evaluation to the one to go on with; tells the host."""


def run(
    value_and_grad: Objective,
    state: State,
    box: Box,
    options: Options,
    trace: Trace | None = None,
    tell: Tell | None = None,
    one_iteration: Boolean | bool = False,
) -> tuple[State, Trace | None]:
    """Advance until the run is done or, on request, until the next accepted iterate."""

    def goes_on(carry: tuple[State, Trace | None]) -> jax.Array:
        state, _ = carry
        paused = jnp.asarray(one_iteration) & (state.event == Event.ACCEPTED)
        return is_running(state) & ~paused

    def turn(carry: tuple[State, Trace | None]) -> tuple[State, Trace | None]:
        state, trace = carry
        value, gradient = value_and_grad(state.trial)
        moved = advance_running(state, value, gradient, box, options)
        trace = recorded(trace, state, moved, box)
        return moved if tell is None else tell(state, moved, box), trace

    first = state._replace(event=jnp.full_like(state.event, Event.TRIAL))
    return lax.while_loop(goes_on, turn, (first, trace))


def run_by_kernels(
    value_and_grad: Objective,
    state: State,
    box: Box,
    options: Options,
    trace: Trace | None = None,
) -> tuple[State, Trace | None]:
    """`run` to the end; on CPU, what the solver does between two evaluations is one kernel."""
    packing = Packing((state, box, options))

    @one_kernel
    def step(packed: Packed, value: Scalar, gradient: Vector) -> Packed:
        state, box, options = packing.unpack(packed)
        state = advance_running(state, value, gradient, box, options)
        return packing.pack((state, box, options))

    def goes_on(carry: tuple[Packed, Trace | None]) -> jax.Array:
        return is_running(packing.unpack(carry[0])[0])

    def turn(carry: tuple[Packed, Trace | None]) -> tuple[Packed, Trace | None]:
        packed, trace = carry
        before, box, _ = packing.unpack(packed)
        packed = step(packed, *value_and_grad(before.trial))
        if trace is not None:
            trace = recorded(trace, before, packing.unpack(packed)[0], box)
        return packed, trace

    packed, trace = lax.while_loop(goes_on, turn, (packing.pack((state, box, options)), trace))
    return packing.unpack(packed)[0], trace
