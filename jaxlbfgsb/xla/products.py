"""Products in the full precision of the dtype, on every backend; and counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.xla.fits import LARGEST_ARRAY
from jaxlbfgsb.xla.platform import by_platform

FEW_ROWS = 32
"""Of a matrix.  XLA multiplies by tiles, whose rests are loops of single numbers; on a CPU a sum
of so few rows takes about as long, and half as long where a rest is large."""


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a b`` for vectors and matrices."""
    if a.ndim == 1 and b.ndim == 2 and len(a) <= FEW_ROWS and b.size < LARGEST_ARRAY:
        return by_platform(a, b, cpu=_sum_of_rows, default=_of_library)
    return _of_library(a, b)


def _of_library(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def _sum_of_rows(v: jax.Array, A: jax.Array) -> jax.Array:
    return jnp.sum(v[:, None] * A, axis=0)


def counted(mask: jax.Array) -> jax.Array:
    """How many there are, for a comparison: float32, rounded from 2^24 on.

    Of integers XLA on CPU makes three programs; wider numbers take twice as long to pass over.
    """
    return jnp.sum(mask, dtype=jnp.float32)
