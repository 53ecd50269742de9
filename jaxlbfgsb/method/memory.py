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

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.types import (
    Ages,
    AnyMatrix,
    Boolean,
    Integer,
    Mask,
    MiddleMatrix,
    PairRows,
    Scalar,
    Vector,
)
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import at, entry, modulo, part, put, put_entry
from jaxlbfgsb.xla.kernel import step_is_one_kernel
from jaxlbfgsb.xla.platform import by_platform
from jaxlbfgsb.xla.products import dot

_Pair: TypeAlias = tuple[Vector, Scalar, Vector, Scalar, Scalar]
"""d and the step that make s, y, ``y'y`` and ``s'y``: s itself is made only where it is stored."""


SMALL_MATRIX = 40
"""Rows of a B that stays in the fastest cache while it is updated and factorised."""
BLOCK = 2048
"""Variables at a time in the densest pass: so many stay in a cache."""


class Memory(NamedTuple):
    """Up to ``m`` correction pairs, with their inner products."""

    pairs: PairRows
    """``[Y; S]``: m rows of y, then m rows of s, both in ring order."""
    products: AnyMatrix
    """Of ``[Y; S] [Y; S]'`` what B is made of: ``S'S``, ``s_i'y_j`` where pair i is newer, and of
    each pair ``y'y`` and ``s'y``, the latter as the line search measured it.  The other entries
    mean nothing.  Where `is_brief`, only the two rows of ``y'y`` and ``s'y`` of each pair."""
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
    after pair, or sum what they need by themselves."""
    return 2 * memory.products.shape[-1] == memory.pairs.shape[-2]


def wants_brief(rows: int, n: int, *, bounded: bool) -> bool:
    """True where B is not made of products: without bounds, where H is all that is needed, and
    in few variables, where B itself is made of pair after pair."""
    is_small = n <= max(rows, min(2 * rows, SMALL_MATRIX))
    return not bounded or (is_small and step_is_one_kernel(rows, n))


def brief(memory: Memory) -> Memory:
    """The same memory with the products of each pair with itself alone."""
    m = memory.pairs.shape[0] // 2
    yy, sy = jnp.diagonal(memory.products)[:m], jnp.diagonal(memory.products[m:, :m])
    return memory._replace(products=jnp.stack([yy, sy]))


def without_products(memory: Memory) -> Memory:
    """The order of the pairs and theta, without the arrays that a kernel would copy."""
    return memory._replace(pairs=memory.pairs[:, :0], products=memory.products[:, :0])


def with_all_products(memory: Memory) -> Memory:
    """The memory with every entry of ``[Y; S] [Y; S]'``."""
    m = memory.pairs.shape[0] // 2
    products = rows_with_rows(memory.pairs)
    sy = memory.products[1] if is_brief(memory) else jnp.diagonal(memory.products[m:, :m])
    index = jnp.arange(m)
    products = products.at[m + index, index].set(sy).at[index, m + index].set(sy)
    return memory._replace(products=products)


def rows_with_rows(pairs: PairRows, free: Mask | None = None) -> MiddleMatrix:
    """``[Y; S] [Y; S]'``; with a mask, that of ``[Y Z Z'; S (I - Z Z')]`` with ``[Y; S]``.

    On a CPU of many variables block by block: XLA's product of the whole takes many times as long,
    and no masked copy leaves the cache.  In a kernel, where there is no such product, row by row.
    """
    rows, n = pairs.shape
    is_y = jnp.arange(rows)[:, None] < rows // 2

    def of_one_side(block: PairRows, free: Mask | None) -> PairRows:
        return block if free is None else where(is_y == free, block, 0)

    def whole(pairs: PairRows) -> MiddleMatrix:
        return dot(of_one_side(pairs, free), pairs.T)

    # Zeros of the type that the sums have inside of `shard_map`.
    zeros = jnp.zeros_like(jnp.outer(pairs[:, 0], pairs[:, 0]))

    def row_by_row(pairs: PairRows) -> MiddleMatrix:
        def add(i: Integer, total: MiddleMatrix) -> MiddleMatrix:
            row = at(pairs, i)
            row = row if free is None else where((i < rows // 2) == free, row, 0)
            return put(total, dot(pairs, row), i)

        return lax.fori_loop(0, rows, add, zeros)

    def by_blocks(pairs: PairRows) -> MiddleMatrix:
        def add(i: Integer, total: MiddleMatrix) -> MiddleMatrix:
            start = jnp.minimum(i * BLOCK, n - BLOCK)
            block = part(pairs, start, BLOCK, axis=1)
            is_next = start + jnp.arange(BLOCK) >= i * BLOCK
            of_side = of_one_side(block, None if free is None else part(free, start, BLOCK))
            return total + dot(where(is_next, of_side, 0), block.T)

        return lax.fori_loop(0, -(-n // BLOCK), add, zeros)

    if step_is_one_kernel(rows, n):
        return by_platform(pairs, cpu=row_by_row, default=whole)
    return whole(pairs) if n <= BLOCK else by_platform(pairs, cpu=by_blocks, default=whole)


def forget(memory: Memory) -> Memory:
    """Back to ``B = I``; the rows stay where they are, unused."""
    return memory._replace(theta=jnp.ones_like(memory.theta), count=jnp.zeros_like(memory.count))


def update(
    memory: Memory,
    d: Vector,
    y: Vector,
    yy: Scalar,
    sy: Scalar,
    store: Boolean,
    step: Scalar | float = 1.0,
) -> Memory:
    """Store the pair of ``s = step d`` and y with ``y'y`` and ``s'y > 0`` where `store` is True.

    Unless the memory is brief, that takes a pass over the history.
    """
    rows, products = by_platform(
        *(memory, (d, jnp.asarray(step, d.dtype), y, yy, sy), store),
        cpu=_written_if_stored,
        default=_written_either_way,
    )
    place = memory.place
    m = rows.shape[0] // 2
    return Memory(
        pairs=rows,
        products=products,
        theta=where(store, yy / where(store, sy, 1), memory.theta),
        count=where(store, jnp.minimum(memory.count + 1, m), memory.count),
        place=where(store, modulo(place + 1, m), place),
    )


def _written_if_stored(memory: Memory, pair: _Pair, store: Boolean) -> tuple[PairRows, AnyMatrix]:
    """A loop of at most one turn, which writes in place; a branch would copy the history."""

    def write(carry: tuple[Boolean, PairRows, AnyMatrix]) -> tuple[Any, PairRows, AnyMatrix]:
        store, pairs, products = carry
        now = memory._replace(pairs=pairs, products=products)
        return jnp.zeros_like(store), *_written(now, pair)

    start = (store, memory.pairs, memory.products)
    return lax.while_loop(lambda carry: carry[0], write, start)[1:]


def _written_either_way(memory: Memory, pair: _Pair, store: Boolean) -> tuple[PairRows, AnyMatrix]:
    """The old rows again where nothing is stored: what costs least for many lanes in step."""
    old_s, old_y, _ = pair_at(memory, memory.place)
    d, step, y, yy, sy = pair
    s, y = where(store, step * d, old_s), where(store, y, old_y)
    pairs, products = _written(memory, (s, jnp.ones_like(step), y, yy, sy))
    return pairs, where(store, products, memory.products)


def _written(memory: Memory, pair: _Pair) -> tuple[PairRows, AnyMatrix]:
    pairs, products, place = memory.pairs, memory.products, memory.place
    m = pairs.shape[0] // 2
    d, step, y, yy, sy = pair
    for row, index in ((y, place), (step * d, m + place)):
        pairs = put(pairs, row, index)
    if is_brief(memory):
        return pairs, put(products, jnp.stack([yy, sy]), place, axis=1)
    with_s = put(step * dot(pairs, d), sy, place)
    products = put(put(products, with_s, m + place), with_s, m + place, axis=1)
    return pairs, put_entry(products, yy, place, place)


def pair_at(memory: Memory, place: Integer) -> tuple[Vector, Vector, Scalar]:
    """``s``, ``y`` and ``s'y`` of the pair in one place of the ring."""
    y = at(memory.pairs, place)
    s = at(memory.pairs, memory.pairs.shape[0] // 2 + place)
    return s, y, _sy_at(memory, place)


def own_products(memory: Memory, place: Integer) -> tuple[Scalar, Scalar]:
    """``y'y`` and ``s'y`` of the pair in one place of the ring."""
    row = jnp.zeros_like(place) if is_brief(memory) else place
    return entry(memory.products, row, place), _sy_at(memory, place)


def _sy_at(memory: Memory, place: Integer) -> Scalar:
    m = memory.pairs.shape[0] // 2
    row = jnp.ones_like(place) if is_brief(memory) else m + place
    return entry(memory.products, row, place)


def ages(place: Integer, m: int) -> Ages:
    """Of the pair in each place of the ring: 0 the newest, ``m - 1`` the oldest."""
    return _ages_at(place, jnp.arange(m, dtype=jnp.int32), m)


def ages_of_rows(memory: Memory) -> Ages:
    """`ages` for the rows of ``[Y; S]``."""
    rows = memory.pairs.shape[0]
    m = rows // 2
    return _ages_at(memory.place, jnp.arange(rows, dtype=jnp.int32) % m, m)


def _ages_at(place: Integer, places: jax.Array, m: int) -> Ages:
    return modulo(place - 1 - places, m)
