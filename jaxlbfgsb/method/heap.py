"""A binary heap of numbers, each with its index, for loops inside of a kernel.

The original keeps the breakpoints in one, too (its HPSOLB): the next is known at once, and only
those that are crossed are put in order.  Equal numbers come by index.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.types import Boolean, Integer, Scalar, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import at, put


class Entry(NamedTuple):
    number: Scalar
    index: Integer  # type: ignore[assignment]

    def comes_before(self, other: Entry) -> Boolean:
        is_equal = self.number == other.number
        return (self.number < other.number) | (is_equal & (self.index < other.index))


class Entries(NamedTuple):
    """Room for some: two arrays of one length, since what is moved is looked at next."""

    numbers: Vector
    indices: jax.Array
    """int32"""

    def at(self, place: Integer) -> Entry:
        return Entry(at(self.numbers, place), at(self.indices, place))

    def put(self, entry: Entry, place: Integer) -> Entries:
        return Entries(
            put(self.numbers, entry.number, place), put(self.indices, entry.index, place)
        )


class Heap(NamedTuple):
    entries: Entries
    """The heap in the first `size` of them, the root in the first of all."""
    size: Integer
    first: Entry
    """The root.  Who reads it here, and not in the arrays, lets XLA write there in place."""


def heaped(entries: Entries, size: Integer) -> Heap:
    """So many entries in any order become a heap."""
    parents = size // 2

    def sink(k: Integer, entries: Entries) -> Entries:
        hole = parents - 1 - k
        return _sunk(entries, size, hole, entries.at(hole))

    entries = lax.fori_loop(jnp.zeros_like(parents), parents, sink, entries)
    return Heap(entries, size, entries.at(jnp.zeros_like(size)))


def without_first(heap: Heap) -> Heap:
    """The heap, which is not empty, without its root."""
    size = heap.size - 1
    root = jnp.zeros_like(size)
    entries = _sunk(heap.entries, size, root, heap.entries.at(size))
    return Heap(entries, size, entries.at(root))


def _sunk(entries: Entries, size: Integer, hole: Integer, entry: Entry) -> Entries:
    """The entry in the hole, or as far below as those that come before it move up from."""

    def lesser_child(entries: Entries, hole: Integer) -> Integer:
        most = len(entries.indices) - 1
        left = jnp.minimum(2 * hole + 1, most)
        right = jnp.minimum(left + 1, most)
        is_right = (right < size) & entries.at(right).comes_before(entries.at(left))
        return where(is_right, right, left)

    def goes_on(carry: tuple[Entries, Integer, Integer]) -> Boolean:
        entries, hole, child = carry
        return (2 * hole + 1 < size) & entries.at(child).comes_before(entry)

    def move_up(carry: tuple[Entries, Integer, Integer]) -> tuple[Entries, Integer, Integer]:
        entries, hole, child = carry
        entries = entries.put(entries.at(child), hole)
        return entries, child, lesser_child(entries, child)

    start = entries, hole, lesser_child(entries, hole)
    entries, hole, _ = lax.while_loop(goes_on, move_up, start)
    return entries.put(entry, hole)
