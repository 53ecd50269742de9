"""The limited-memory matrix ``B = theta I - W M W'`` (BLNZ section 3).

Notation: ``s = x_new - x``, ``y = g_new - g``, a pair; ``S, Y`` the stacks of the pairs
kept; ``theta = y'y / s'y``; ``W = [Y, theta S]`` (3.3); ``D`` the diagonal of ``S'Y``
(3.6); ``L`` its part below the diagonal (3.5); ``M`` the middle matrix (3.4).

Order.  Pairs live in a ring: the new pair takes the place of the oldest.  ``L`` is
"below the diagonal" *by age*: ``L_ij = s_i' y_j`` where pair i is newer than pair j.
All else is indifferent to a permutation of the pairs, so nothing is ever moved or
sorted: `ages` states the order once, and everything stays in ring order.

Empty places are masked in ``W`` and hold an identity in ``M``, so that shapes never
change.
"""

from __future__ import annotations

import enum
import functools
from typing import Any, NamedTuple, TypeAlias

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
from jaxlbfgsb.xla.kernel import step_is_one_kernel
from jaxlbfgsb.xla.platform import by_platform

_Pair: TypeAlias = tuple[Vector, Scalar, Vector, Scalar]
"""d and the step that make s, then y and ``s'y``: s itself is made only where it is stored."""


class Memory(NamedTuple):
    """Up to ``m`` correction pairs, with all their inner products."""

    pairs: PairRows
    """``[Y; S]``: m rows of y, then m rows of s, both in ring order."""
    products: MiddleMatrix
    """``[Y; S] [Y; S]'``, with ``s'y`` of each pair as the line search measured it; or a part
    of it, see `Wanted`."""
    theta: Scalar
    count: Integer  # type: ignore[assignment]
    """Pairs in use, at most m."""
    place: Integer
    """Where the next pair goes: the oldest one's place once the ring is full."""


class Wanted(enum.Enum):
    """Which inner products a run needs."""

    ALL = enum.auto()
    WITH_Y = enum.auto()
    """Those of each y with what is as old or older: for the inverse of B in many variables."""
    OWN = enum.auto()
    """``s'y`` and ``y'y`` of each pair: for B itself, and its inverse, in few variables."""


def empty(n: int, m: int, dtype: jnp.dtype) -> Memory:
    """A memory for m pairs of n variables with nothing stored: ``B = I``."""
    return Memory(
        pairs=jnp.zeros((2 * m, n), dtype),
        products=jnp.zeros((2 * m, 2 * m), dtype),
        theta=jnp.ones((), dtype),
        count=jnp.asarray(0, jnp.int32),
        place=jnp.asarray(0, jnp.int32),
    )


def with_all_products(memory: Memory) -> Memory:
    """The memory of a run that did not need them all."""
    m = memory.pairs.shape[0] // 2
    products = dot(memory.pairs, memory.pairs.T)
    sy = jnp.diagonal(memory.products[m:, :m])
    index = jnp.arange(m)
    products = products.at[m + index, index].set(sy).at[index, m + index].set(sy)
    return memory._replace(products=products)


def forget(memory: Memory) -> Memory:
    """Back to ``B = I``; the rows stay where they are, unused."""
    return memory._replace(theta=jnp.ones_like(memory.theta), count=jnp.zeros_like(memory.count))


def one_by_one(memory: Memory) -> bool:
    """True where it is cheaper to take pair after pair than to multiply them with each other."""
    rows, n = memory.pairs.shape
    return n <= 2 * rows and step_is_one_kernel(rows, n)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product in the full precision of the dtype, on every backend."""
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def update(
    memory: Memory,
    d: Vector,
    y: Vector,
    sy: Scalar,
    store: Boolean,
    step: Scalar | float = 1.0,
    wanted: Wanted = Wanted.ALL,
) -> Memory:
    """Store the pair of ``s = step d`` and y with ``s'y = sy > 0`` where `store` is True.

    A pass over the history for the products with y, and one for those with s, where they
    are wanted.
    """
    rows, products = by_platform(
        memory,
        (d, jnp.asarray(step, d.dtype), y, sy),
        store,
        cpu=functools.partial(_written_if_stored, wanted=wanted),
        default=functools.partial(_written_either_way, wanted=wanted),
    )
    place = memory.place
    m = rows.shape[0] // 2
    yy = lax.dynamic_slice(products, (place, place), (1, 1))[0, 0]
    return Memory(
        pairs=rows,
        products=products,
        theta=jnp.where(store, yy / jnp.where(store, sy, 1), memory.theta),
        count=jnp.where(store, jnp.minimum(memory.count + 1, m), memory.count),
        place=jnp.where(store, (place + 1) % m, place),
    )


def _written_if_stored(
    memory: Memory, pair: _Pair, store: Boolean, wanted: Wanted
) -> tuple[PairRows, MiddleMatrix]:
    """A loop of at most one turn, which writes in place; a branch would copy the history."""

    def write(carry: tuple[Boolean, PairRows, MiddleMatrix]) -> tuple[Any, PairRows, MiddleMatrix]:
        store, pairs, products = carry
        written = _written(pairs, products, memory.place, pair, wanted)
        return jnp.zeros_like(store), *written

    start = (store, memory.pairs, memory.products)
    return lax.while_loop(lambda carry: carry[0], write, start)[1:]


def _written_either_way(
    memory: Memory, pair: _Pair, store: Boolean, wanted: Wanted
) -> tuple[PairRows, MiddleMatrix]:
    """The old rows again where nothing is stored: what costs least for many lanes in step."""
    old_s, old_y, _ = pair_at(memory, memory.place)
    d, step, y, sy = pair
    s, y = jnp.where(store, step * d, old_s), jnp.where(store, y, old_y)
    pair = s, jnp.ones_like(step), y, sy
    pairs, products = _written(memory.pairs, memory.products, memory.place, pair, wanted)
    return pairs, jnp.where(store, products, memory.products)


def _written(
    pairs: PairRows, products: MiddleMatrix, place: Integer, pair: _Pair, wanted: Wanted
) -> tuple[PairRows, MiddleMatrix]:
    m = pairs.shape[0] // 2
    d, step, y, sy = pair
    for row, index in ((y, place), (step * d, m + place)):
        pairs = lax.dynamic_update_index_in_dim(pairs, row, index, 0)
    if wanted is Wanted.OWN:
        own = jnp.stack([dot(y, y), sy])[:, None]
        for number, row in ((own[:1], place), (own[1:], m + place)):
            products = lax.dynamic_update_slice(products, number, (row, place))
        return pairs, products
    with_y = dot(pairs, y)
    with_s = jnp.zeros_like(with_y) if wanted is Wanted.WITH_Y else step * dot(pairs, d)
    with_y = lax.dynamic_update_index_in_dim(with_y, sy, m + place, 0)
    with_s = lax.dynamic_update_index_in_dim(with_s, sy, place, 0)
    for column, index in ((with_y, place), (with_s, m + place)):
        products = lax.dynamic_update_index_in_dim(products, column, index, 0)
        products = lax.dynamic_update_index_in_dim(products, column, index, 1)
    return pairs, products


def pair_at(memory: Memory, place: Integer) -> tuple[Vector, Vector, Scalar]:
    """``s``, ``y`` and ``s'y`` of the pair in one place of the ring."""
    m = memory.pairs.shape[0] // 2
    y = lax.dynamic_index_in_dim(memory.pairs, place, keepdims=False)
    s = lax.dynamic_index_in_dim(memory.pairs, m + place, keepdims=False)
    return s, y, lax.dynamic_slice(memory.products, (m + place, place), (1, 1))[0, 0]


def ages(place: Integer, m: int) -> Ages:
    """Of the pair in each place of the ring: 0 the newest, ``m - 1`` the oldest."""
    return (place - 1 - jnp.arange(m, dtype=jnp.int32)) % m
