"""Parts of an array at an index that is known at run time and never negative.

JAX lets an index count from the end: a comparison, a sum and a choice for each, in a function of
its own.  Nothing here does, and in two variables they were an eighth of the operations of a
program, all of which are traced, lowered and compiled in a first call.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

GROUP = 64
"""Neighbours of which a loop over many variables knows whether it need look at them."""


def at(A: jax.Array, i: jax.Array, axis: int = 0) -> jax.Array:
    """Entry i of a vector, row i of a matrix; without the axis."""
    return lax.squeeze(part(A, i, 1, axis), (axis,))


def put(A: jax.Array, values: jax.Array, i: jax.Array, axis: int = 0) -> jax.Array:
    """A with `values` where `at` reads."""
    values = lax.expand_dims(values, (axis,))
    return lax.dynamic_update_slice(A, values, _start(A, i, axis), allow_negative_indices=False)


def part(A: jax.Array, start: Any, size: int, axis: int = 0) -> jax.Array:
    """So many rows (entries, columns) from `start` on."""
    sizes = list(A.shape)
    sizes[axis] = size
    return lax.dynamic_slice(A, _start(A, start, axis), sizes, allow_negative_indices=False)


def entry(A: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
    """A number of a matrix."""
    number = lax.dynamic_slice(A, (i, j), (1, 1), allow_negative_indices=False)
    return lax.squeeze(number, (0, 1))


def put_entry(A: jax.Array, value: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
    """A with `value` where `entry` reads."""
    value = lax.expand_dims(value, (0, 1))
    return lax.dynamic_update_slice(A, value, (i, j), allow_negative_indices=False)


def taken(A: jax.Array, indices: jax.Array, axis: int = 0) -> jax.Array:
    """The entries (rows, columns) at all the indices; beyond the end, the last."""
    return jnp.take(A, indices, axis=axis, mode="clip")


def grouped(v: jax.Array) -> jax.Array:
    """Rows of `GROUP` neighbours of a vector; the last few that fill no row are in none."""
    return v[: len(v) // GROUP * GROUP].reshape(-1, GROUP)


def modulo(i: jax.Array, m: int) -> jax.Array:
    """The remainder of integers that may be as low as ``-m``, for a place in a ring of m."""
    return lax.rem(lax.add(i, np.asarray(m, i.dtype)), np.asarray(m, i.dtype))


def _start(A: jax.Array, i: Any, axis: int) -> list[Any]:
    start = [np.zeros((), jnp.result_type(i))] * A.ndim
    start[axis] = i
    return start
