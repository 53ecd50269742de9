"""Products in the full precision of the dtype, on every backend; reductions; and counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.xla.fits import LARGEST_ARRAY
from jaxlbfgsb.xla.platform import by_platform

_Combine: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]

FEW_ROWS = 32
"""Of a matrix.  XLA multiplies by tiles, whose rests are loops of single numbers; on a CPU a sum
of so few rows takes about as long, and half as long where a rest is large."""

FEW_NUMBERS = 15
"""Of a vector.  They are put together half with half: for each reduction XLA sets up three buffers
at every call.  Of more, where that pays, `columns.py` does the same in kernels."""


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a b`` for vectors and matrices."""
    if a.ndim == 1 and b.ndim == 2 and len(a) <= FEW_ROWS and b.size < LARGEST_ARRAY:
        return by_platform(a, b, cpu=_sum_of_rows, default=_of_library)
    if a.ndim == b.ndim == 1 and len(a) <= FEW_NUMBERS:
        return total(a * b)
    return _of_library(a, b)


def _of_library(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def _sum_of_rows(v: jax.Array, A: jax.Array) -> jax.Array:
    return jnp.sum(v[:, None] * A, axis=0)


def total(v: jax.Array) -> jax.Array:
    """The sum of a vector, in its dtype."""
    return _reduced(v, lax.add, lax.reduce_sum)


def least(v: jax.Array) -> jax.Array:
    """The least number of a vector; NaN with one among them."""
    return _reduced(v, lax.min, lax.reduce_min)


def greatest(v: jax.Array) -> jax.Array:
    """The greatest number of a vector; NaN with one among them."""
    return _reduced(v, lax.max, lax.reduce_max)


def all_hold(mask: jax.Array) -> jax.Array:
    """True where a comparison holds for all numbers of a vector."""
    return _reduced(mask, lax.bitwise_and, lax.reduce_and)


def _reduced(
    v: jax.Array,
    combine: _Combine,
    reduce: Callable[[jax.Array, Sequence[int]], jax.Array],
) -> jax.Array:
    return halved(v, combine) if 0 < len(v) <= FEW_NUMBERS else reduce(v, (0,))


def halved(v: jax.Array, combine: _Combine) -> jax.Array:
    """Half with half, until one number is left and those that were over."""
    v, over = halves(v, combine, most=1)
    for number in over:
        v = combine(v, number)
    return lax.squeeze(v, (0,))


def halves(v: jax.Array, combine: _Combine, most: int) -> tuple[jax.Array, list[jax.Array]]:
    """Half with half along the first axis, until at most so many are left; those that were over."""
    over = []
    while len(v) > most:
        half, odd = divmod(len(v), 2)
        first, second, last = lax.split(v, (half, half, odd))
        if odd:
            over.append(last)
        v = combine(first, second)
    return v, over


def counted(mask: jax.Array) -> jax.Array:
    """How many there are, for a comparison: float32, rounded from 2^24 on.

    Of integers XLA on CPU makes three programs; wider numbers take twice as long to pass over.
    """
    return total(mask.astype(jnp.float32))
