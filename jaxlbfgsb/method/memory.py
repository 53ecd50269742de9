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

import functools
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.types import (
    Ages,
    AnyMatrix,
    Boolean,
    Integer,
    PairRows,
    Scalar,
    Vector,
)
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import at, entry, modulo, put
from jaxlbfgsb.xla.kernel import step_is_one_kernel
from jaxlbfgsb.xla.platform import by_platform
from jaxlbfgsb.xla.products import dot

_Pair: TypeAlias = tuple[Vector, Scalar, Vector, Scalar]
"""d and the step that make s, then y and ``s'y``: s itself is made only where it is stored."""


SMALL_MATRIX = 40
"""Rows of a B that stays in the fastest cache while it is updated and factorised."""


class Memory(NamedTuple):
    """Up to ``m`` correction pairs, with their inner products."""

    pairs: PairRows
    """``[Y; S]``: m rows of y, then m rows of s, both in ring order."""
    products: AnyMatrix
    """``[Y; S] [Y; S]'``, with ``s'y`` of each pair as the line search measured it; or, where
    `is_brief`, only the two rows of ``y'y`` and ``s'y`` of each pair."""
    theta: Scalar
    count: Integer  # type: ignore[assignment]
    """Pairs in use, at most m."""
    place: Integer
    """Where the next pair goes: the oldest one's place once the ring is full."""


def empty(n: int, m: int, dtype: jnp.dtype, brief: bool = False) -> Memory:
    """A memory for m pairs of n variables with nothing stored: ``B = I``."""
    return Memory(
        pairs=jnp.zeros((2 * m, n), dtype),
        products=jnp.zeros((2, m) if brief else (2 * m, 2 * m), dtype),
        theta=jnp.ones((), dtype),
        count=jnp.asarray(0, jnp.int32),
        place=jnp.asarray(0, jnp.int32),
    )


def is_brief(memory: Memory) -> bool:
    """True if the products are those of each pair with itself: for algorithms that take pair
    after pair."""
    return 2 * memory.products.shape[-1] == memory.pairs.shape[-2]


def wants_brief(rows: int, n: int, *, bounded: bool) -> bool:
    """True where it is cheaper to take pair after pair than to multiply them with each other.

    Without bounds that is ``H`` times a vector; with bounds it is B itself, in few variables.
    """
    is_small = n <= max(rows, min(2 * rows, SMALL_MATRIX))
    return step_is_one_kernel(rows, n, bounded=bounded) and (is_small or not bounded)


def brief(memory: Memory) -> Memory:
    """The same memory with the products of each pair with itself alone."""
    m = memory.pairs.shape[0] // 2
    yy, sy = jnp.diagonal(memory.products)[:m], jnp.diagonal(memory.products[m:, :m])
    return memory._replace(products=jnp.stack([yy, sy]))


def with_all_products(memory: Memory) -> Memory:
    """The memory of a run that did not need them all."""
    m = memory.pairs.shape[0] // 2
    products = dot(memory.pairs, memory.pairs.T)
    sy = memory.products[1] if is_brief(memory) else jnp.diagonal(memory.products[m:, :m])
    index = jnp.arange(m)
    products = products.at[m + index, index].set(sy).at[index, m + index].set(sy)
    return memory._replace(products=products)


def forget(memory: Memory) -> Memory:
    """Back to ``B = I``; the rows stay where they are, unused."""
    return memory._replace(theta=jnp.ones_like(memory.theta), count=jnp.zeros_like(memory.count))


def update(
    memory: Memory,
    d: Vector,
    y: Vector,
    sy: Scalar,
    store: Boolean,
    step: Scalar | float = 1.0,
    only_with_y: bool = False,
) -> Memory:
    """Store the pair of ``s = step d`` and y with ``s'y = sy > 0`` where `store` is True.

    Unless the memory is brief, that takes a pass over the history for the products with y, and
    one for those with s.  With `only_with_y` there are but those of each y with what is as old
    or older, which is all that ``H`` needs.
    """
    rows, products = by_platform(
        memory,
        (d, jnp.asarray(step, d.dtype), y, sy),
        store,
        cpu=functools.partial(_written_if_stored, only_with_y=only_with_y),
        default=functools.partial(_written_either_way, only_with_y=only_with_y),
    )
    place = memory.place
    m = rows.shape[0] // 2
    row = jnp.zeros_like(place) if is_brief(memory) else place
    yy = entry(products, row, place)
    return Memory(
        pairs=rows,
        products=products,
        theta=where(store, yy / where(store, sy, 1), memory.theta),
        count=where(store, jnp.minimum(memory.count + 1, m), memory.count),
        place=where(store, modulo(place + 1, m), place),
    )


def _written_if_stored(
    memory: Memory, pair: _Pair, store: Boolean, only_with_y: bool
) -> tuple[PairRows, AnyMatrix]:
    """A loop of at most one turn, which writes in place; a branch would copy the history."""

    def write(carry: tuple[Boolean, PairRows, AnyMatrix]) -> tuple[Any, PairRows, AnyMatrix]:
        store, pairs, products = carry
        now = memory._replace(pairs=pairs, products=products)
        return jnp.zeros_like(store), *_written(now, pair, only_with_y)

    start = (store, memory.pairs, memory.products)
    return lax.while_loop(lambda carry: carry[0], write, start)[1:]


def _written_either_way(
    memory: Memory, pair: _Pair, store: Boolean, only_with_y: bool
) -> tuple[PairRows, AnyMatrix]:
    """The old rows again where nothing is stored: what costs least for many lanes in step."""
    old_s, old_y, _ = pair_at(memory, memory.place)
    d, step, y, sy = pair
    s, y = where(store, step * d, old_s), where(store, y, old_y)
    pairs, products = _written(memory, (s, jnp.ones_like(step), y, sy), only_with_y)
    return pairs, where(store, products, memory.products)


def _written(memory: Memory, pair: _Pair, only_with_y: bool) -> tuple[PairRows, AnyMatrix]:
    pairs, products, place = memory.pairs, memory.products, memory.place
    m = pairs.shape[0] // 2
    d, step, y, sy = pair
    for row, index in ((y, place), (step * d, m + place)):
        pairs = put(pairs, row, index)
    if is_brief(memory):
        own = jnp.stack([dot(y, y), sy])
        return pairs, put(products, own, place, axis=1)
    with_y = dot(pairs, y)
    with_s = jnp.zeros_like(with_y) if only_with_y else step * dot(pairs, d)
    with_y = put(with_y, sy, m + place)
    with_s = put(with_s, sy, place)
    for column, index in ((with_y, place), (with_s, m + place)):
        products = put(put(products, column, index), column, index, axis=1)
    return pairs, products


def pair_at(memory: Memory, place: Integer) -> tuple[Vector, Vector, Scalar]:
    """``s``, ``y`` and ``s'y`` of the pair in one place of the ring."""
    m = memory.pairs.shape[0] // 2
    y = at(memory.pairs, place)
    s = at(memory.pairs, m + place)
    row = jnp.ones_like(place) if is_brief(memory) else m + place
    return s, y, entry(memory.products, row, place)


def ages(place: Integer, m: int) -> Ages:
    """Of the pair in each place of the ring: 0 the newest, ``m - 1`` the oldest."""
    return modulo(place - 1 - jnp.arange(m, dtype=jnp.int32), m)
