"""A binary heap of indices, by the numbers that they point to: for loops inside of a kernel.

The original keeps the breakpoints in one, too (its HPSOLB): the next is known at once, and only
those that are crossed are put in order.  Equal numbers come by index.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.types import Boolean, Integer, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import at, put


class Heap(NamedTuple):
    places: jax.Array
    """int32: the heap in the first `size` of them, the root in the first of all."""
    size: Integer
    first: Integer
    """The root.  Who reads it here, and not in the array, lets XLA write there in place."""


def heaped(places: jax.Array, size: Integer, t: Vector) -> Heap:
    """So many indices in any order become a heap."""
    parents = size // 2

    def sink(k: Integer, places: jax.Array) -> jax.Array:
        hole = parents - 1 - k
        return _sunk(places, size, t, hole, at(places, hole))

    places = lax.fori_loop(jnp.zeros_like(parents), parents, sink, places)
    return Heap(places, size, at(places, jnp.zeros_like(size)))


def without_first(heap: Heap, t: Vector) -> Heap:
    """The heap, which is not empty, without its root."""
    places, size = heap.places, heap.size - 1
    root = jnp.zeros_like(size)
    places = _sunk(places, size, t, root, at(places, size))
    return Heap(places, size, at(places, root))


def _sunk(places: jax.Array, size: Integer, t: Vector, hole: Integer, index: Integer) -> jax.Array:
    """`index` in the hole, or as far below as those that come before it move up from."""

    def comes_before(i: Integer, j: Integer) -> Boolean:
        t_i, t_j = at(t, i), at(t, j)
        return (t_i < t_j) | ((t_i == t_j) & (i < j))

    def lesser_child(places: jax.Array, hole: Integer) -> Integer:
        left = jnp.minimum(2 * hole + 1, len(places) - 1)
        right = jnp.minimum(left + 1, len(places) - 1)
        is_right = (right < size) & comes_before(at(places, right), at(places, left))
        return where(is_right, right, left)

    def goes_on(carry: tuple[jax.Array, Integer, Integer]) -> Boolean:
        places, hole, child = carry
        return (2 * hole + 1 < size) & comes_before(at(places, child), index)

    def move_up(
        carry: tuple[jax.Array, Integer, Integer],
    ) -> tuple[jax.Array, Integer, Integer]:
        places, hole, child = carry
        places = put(places, at(places, child), hole)
        return places, child, lesser_child(places, child)

    places, hole, _ = lax.while_loop(goes_on, move_up, (places, hole, lesser_child(places, hole)))
    return put(places, index, hole)
