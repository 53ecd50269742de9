"""The compiled driver: the whole run is one `lax.while_loop`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.box import Box
from jaxlbfgsb.core import advance_running
from jaxlbfgsb.kernel import one_kernel
from jaxlbfgsb.packing import Packed, Packing
from jaxlbfgsb.state import Event, Options, Phase, State
from jaxlbfgsb.types import Boolean, Scalar, Vector

Objective = Callable[[Vector], tuple[Scalar, Vector]]


def run(
    value_and_grad: Objective,
    state: State,
    box: Box,
    options: Options,
    one_iteration: Boolean | bool = False,
) -> State:
    """Advance until the run is done or, on request, until the next accepted iterate."""

    def goes_on(state: State) -> jax.Array:
        paused = jnp.asarray(one_iteration) & (state.event == Event.ACCEPTED)
        return (state.phase != Phase.DONE) & ~paused

    def turn(state: State) -> State:
        value, gradient = value_and_grad(state.trial)
        return advance_running(state, value, gradient, box, options)

    first = state._replace(event=jnp.full_like(state.event, Event.TRIAL))
    return lax.while_loop(goes_on, turn, first)


def run_by_kernels(value_and_grad: Objective, state: State, box: Box, options: Options) -> State:
    """`run` to the end; on CPU, what the solver does between two evaluations is one kernel."""
    packing = Packing((state, box, options))

    @one_kernel
    def step(packed: Packed, value: Scalar, gradient: Vector) -> Packed:
        state, box, options = packing.unpack(packed)
        state = advance_running(state, value, gradient, box, options)
        return packing.pack((state, box, options))

    def goes_on(packed: Packed) -> jax.Array:
        return packing.unpack(packed)[0].phase != Phase.DONE

    def turn(packed: Packed) -> Packed:
        return step(packed, *value_and_grad(packing.unpack(packed)[0].trial))

    return packing.unpack(lax.while_loop(goes_on, turn, packing.pack((state, box, options))))[0]
