"""The limited-memory matrix ``B = theta I - W M W'`` (BLNZ section 3).

Notation: ``s = x_new - x``, ``y = g_new - g``, a pair; ``S, Y`` the stacks of the pairs
kept; ``theta = y'y / s'y``; ``W = [Y, theta S]`` (3.3); ``D`` the diagonal of ``S'Y``
(3.6); ``L`` its part below the diagonal (3.5); ``M`` the middle matrix (3.4).

Order.  Pairs live in a ring: the new pair takes the place of the oldest.  ``L`` is
"below the diagonal" *by age*: ``L_ij = s_i' y_j`` where pair i is newer than pair j.
All else is indifferent to a permutation of the pairs, so nothing is ever moved or
sorted: `is_newer` states the order once, and everything stays in ring order.

Empty places are masked in ``W`` and hold an identity in ``M``, so that shapes never
change.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.types import (
    Ages,
    Boolean,
    Integer,
    MiddleMatrix,
    PairRows,
    Scalar,
    Vector,
)


class Memory(NamedTuple):
    """Up to ``m`` correction pairs, with all their inner products."""

    pairs: PairRows
    """``[Y; S]``: m rows of y, then m rows of s, both in ring order."""
    products: MiddleMatrix
    """``[Y; S] [Y; S]'``, with ``s'y`` of each pair as the line search measured it."""
    theta: Scalar
    count: Integer  # type: ignore[assignment]
    """Pairs in use, at most m."""
    place: Integer
    """Where the next pair goes: the oldest one's place once the ring is full."""


def empty(n: int, m: int, dtype: jnp.dtype) -> Memory:
    """A memory for m pairs of n variables with nothing stored: ``B = I``."""
    return Memory(
        pairs=jnp.zeros((2 * m, n), dtype),
        products=jnp.zeros((2 * m, 2 * m), dtype),
        theta=jnp.ones((), dtype),
        count=jnp.asarray(0, jnp.int32),
        place=jnp.asarray(0, jnp.int32),
    )


def forget(memory: Memory) -> Memory:
    """Back to ``B = I``; the rows stay where they are, unused."""
    return memory._replace(theta=jnp.ones_like(memory.theta), count=jnp.zeros_like(memory.count))


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product in the full precision of the dtype, on every backend."""
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def update(memory: Memory, s: Vector, y: Vector, sy: Scalar, store: Boolean) -> Memory:
    """Store the pair ``(s, y)`` with ``s'y = sy > 0`` where `store` is True.

    The rows are written in any case, the old ones again where nothing is stored: a
    branch would make XLA copy the whole history.
    """
    m = memory.pairs.shape[0] // 2
    place = memory.place
    # Both rows in one write, or XLA keeps a copy of the history to read the old ones from.
    rings = memory.pairs.reshape(2, m, -1)
    old = lax.dynamic_index_in_dim(rings, place, axis=1)
    rows = jnp.where(store, jnp.stack([y, s])[:, None, :], old)
    rings = lax.dynamic_update_slice_in_dim(rings, rows, place, axis=1)
    pairs = rings.reshape(memory.pairs.shape)

    with_y, with_s = dot(pairs, y), dot(pairs, s)
    with_y = lax.dynamic_update_index_in_dim(with_y, sy, m + place, 0)
    with_s = lax.dynamic_update_index_in_dim(with_s, sy, place, 0)
    yy = lax.dynamic_index_in_dim(with_y, place, keepdims=False)
    products = memory.products
    for column, index in ((with_y, place), (with_s, m + place)):
        old = lax.dynamic_index_in_dim(products, index, keepdims=False)
        column = jnp.where(store, column, old)
        products = lax.dynamic_update_index_in_dim(products, column, index, 0)
        products = lax.dynamic_update_index_in_dim(products, column, index, 1)

    return Memory(
        pairs=pairs,
        products=products,
        theta=jnp.where(store, yy / jnp.where(store, sy, 1), memory.theta),
        count=jnp.where(store, jnp.minimum(memory.count + 1, m), memory.count),
        place=jnp.where(store, (place + 1) % m, place),
    )


def pair_at(memory: Memory, place: Integer) -> tuple[Vector, Vector, Scalar]:
    """``s``, ``y`` and ``s'y`` of the pair in one place of the ring."""
    m = memory.pairs.shape[0] // 2
    y = lax.dynamic_index_in_dim(memory.pairs, place, keepdims=False)
    s = lax.dynamic_index_in_dim(memory.pairs, m + place, keepdims=False)
    return s, y, lax.dynamic_slice(memory.products, (m + place, place), (1, 1))[0, 0]


def ages(place: Integer, m: int) -> Ages:
    """Of the pair in each place of the ring: 0 the newest, ``m - 1`` the oldest."""
    return (place - 1 - jnp.arange(m, dtype=jnp.int32)) % m
