"""When to stop (BLNZ section 6), as pure predicates."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.types import Boolean, Scalar
from jaxlbfgsb.xla.choice import where

NOISE = 10
"""The rounding error of f is taken to be this many units in its last place."""
FOREIGN = 100
"""A change of f so many times the predicted one has nothing to do with it."""


def reduction_is_small(earlier: Scalar, value: Scalar, ftol: Scalar) -> Boolean:
    """``(f_k - f_{k+1}) / max(|f_k|, |f_{k+1}|, 1) <= ftol``.

    Divided rather than multiplied out: a scale that overflows then never passes.
    """
    scale = jnp.maximum(jnp.maximum(jnp.abs(earlier), jnp.abs(value)), 1)
    return (earlier - value) / scale <= ftol


def value_noise(value: Scalar) -> Scalar:
    """Rounding error of the function: ``10 eps |f|``."""
    return NOISE * np.finfo(value.dtype).eps * jnp.abs(value)


def observed_noise(earlier: Scalar, value: Scalar, predicted: Scalar) -> Scalar:
    """Rounding error of f near a point where a first-order change of `predicted` gave `value`.

    A change a hundred times the predicted one is noise: where terms cancel, it is more than
    the last places of the sum tell.  At most a hundred times as much, since a function that
    jumps changes like this too.
    """
    least = value_noise(earlier)
    change = jnp.abs(value - earlier)
    is_noise = change > FOREIGN * jnp.abs(predicted)
    return where(is_noise, jnp.clip(change, least, FOREIGN * least), least)


def gradient_noise(x_norm: Scalar, noise: Scalar, curvature: Scalar) -> Scalar:
    """The projected gradient that rounding alone can leave.

    With ``k`` the curvature last measured along a step and ``e`` the rounding error of
    f: a step that changes f by e has length ``sqrt(2 e / k)`` and changes the gradient
    by ``sqrt(2 e k)``; and x itself is known to ``10 eps max|x|`` only.
    """
    of_x = NOISE * np.finfo(x_norm.dtype).eps * x_norm
    return jnp.sqrt(2 * curvature * noise) + curvature * of_x
