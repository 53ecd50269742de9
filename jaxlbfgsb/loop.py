"""The compiled driver: the whole run is one `lax.while_loop`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.box import Box
from jaxlbfgsb.core import Event, Options, Phase, State, advance_running
from jaxlbfgsb.types import Boolean, Scalar, Vector


def run(
    value_and_grad: Callable[[Vector], tuple[Scalar, Vector]],
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
