"""The next few of many numbers in order, and running sums over them, with no sort of all.

Sorting and scanning are dear on every backend; a histogram is one pass, and a running sum
is products with small triangles of ones.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.types import Mask, Scalar, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import taken
from jaxlbfgsb.xla.products import dot

BUCKETS = 1024
"""Of the histogram."""
ROUNDS = 8
"""Histograms, each over the first bucket of the one before, until a bucket holds few enough."""
TILE = 16
"""Rows of the triangle of ones."""
WORD = 32
"""Bits of a word."""


def soonest(
    t: Vector, ahead: Mask, first: Scalar, horizon: Scalar, size: int
) -> tuple[jax.Array, Mask]:
    """The indices of the next few of `t`, at least one and at most `size`, and what is left.

    Nothing that is left comes before one that is returned; equal ones come by index.

    Parameters
    ----------
    t, ahead
        The numbers, and which of them are candidates.
    first
        The least candidate, finite.
    horizon
        What is beyond it is not needed; at least the first is returned.

    Returns
    -------
    tuple
        The indices, ascending, padded with n; and the candidates that are left.
    """
    n = t.shape[0]
    candidate = ahead & jnp.isfinite(t)
    near = candidate
    if n > size:
        within = candidate & ((t <= horizon) | (t == first))
        near = lax.cond(
            jnp.sum(within, dtype=jnp.int32) <= size,
            lambda: within,
            lambda: candidate & _at_most(t, candidate, first, horizon, size),
        )
    b = positions(near, size)
    return b, ahead & ~(near & (jnp.arange(n) <= b[-1]))


def _at_most(t: Vector, candidate: Mask, first: Scalar, horizon: Scalar, size: int) -> Mask:
    """The longest range of buckets from `first` on with at most `size` candidates.

    Where not even one bucket has so few, all that equal `first`.
    """

    def bucket(width: Scalar) -> jax.Array:
        """Monotone in t, whatever the rounding."""
        position = where(t > first, (t - first) * (BUCKETS / width), 0)
        return where(candidate, jnp.minimum(position, BUCKETS), BUCKETS).astype(jnp.uint32)

    def count(carry: tuple[Scalar, jax.Array, jax.Array]) -> tuple[Scalar, jax.Array, jax.Array]:
        width, _, rounds = carry
        counts = jnp.zeros(BUCKETS + 1, jnp.int32).at[bucket(width)].add(1, mode="drop")
        taken = jnp.sum(jnp.cumsum(counts[:BUCKETS]) <= size, dtype=jnp.int32)
        return where(taken > 0, width, width / BUCKETS), taken, rounds + 1

    def goes_on(carry: tuple[Scalar, jax.Array, jax.Array]) -> jax.Array:
        _, taken, rounds = carry
        return (taken == 0) & (rounds < ROUNDS)

    zero = jnp.zeros_like(first, jnp.int32)
    width, taken, _ = lax.while_loop(goes_on, count, (horizon - first, zero, zero))
    return where(taken > 0, bucket(width) < taken.astype(jnp.uint32), t == first)


def positions(mask: Mask, size: int) -> jax.Array:
    """The first `size` indices where it holds, padded with n.

    The k-th one lies in the word of bits where the count of bits passes k.
    """
    n = mask.shape[0]
    bits = jnp.pad(mask, (0, -n % WORD)).reshape(-1, WORD)
    powers = jnp.left_shift(np.uint32(1), lax.iota(np.uint32, WORD))
    words = jnp.sum(where(bits, powers, 0), axis=1, dtype=jnp.uint32)
    passed = jnp.cumsum(lax.population_count(words).astype(jnp.int32))
    k = jnp.arange(size, dtype=jnp.int32)
    at = jnp.searchsorted(passed, k, side="right").astype(jnp.int32)
    at = jnp.minimum(at, len(words) - 1)
    rank = k - where(at > 0, taken(passed, at - 1), 0)
    return where(k < passed[-1], WORD * at + _place_of_bit(taken(words, at), rank), n)


def _place_of_bit(word: jax.Array, rank: jax.Array) -> jax.Array:
    """Where the bit stands that has `rank` bits below it: halve the word until it is found."""
    place = jnp.zeros_like(rank)
    half = WORD // 2
    while half:
        below = lax.population_count(word & np.uint32(2**half - 1)).astype(jnp.int32)
        is_above = rank >= below
        rank = where(is_above, rank - below, rank)
        word = where(is_above, word >> half, word)
        place = where(is_above, place + half, place)
        half //= 2
    return place


def prefix_sums(A: jax.Array) -> jax.Array:
    """The running sums of each row."""
    rows, columns = A.shape
    if columns <= TILE:
        return dot(A, jnp.triu(jnp.ones((columns, columns), A.dtype)))
    padded = -columns % TILE
    tiles = jnp.pad(A, ((0, 0), (0, padded))).reshape(-1, TILE)
    within = dot(tiles, jnp.triu(jnp.ones((TILE, TILE), A.dtype))).reshape(rows, -1, TILE)
    totals = within[:, :, -1]
    before = prefix_sums(totals) - totals
    return (within + before[:, :, None]).reshape(rows, -1)[:, :columns]
