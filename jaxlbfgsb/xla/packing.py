"""Pytrees in few arrays, for callers that pay for each array at each call."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_Tree = TypeVar("_Tree")
_KINDS = ("arrays", "floats", "words", "flags")


class Packed(NamedTuple):
    """What was packed: arrays that stay by themselves, real numbers, all the rest."""

    arrays: list[jax.Array]
    floats: jax.Array
    words: jax.Array
    """int32: integers and the bits of everything else, then flags."""


class Place(NamedTuple):
    """Where a leaf is in a `Packed`: a field of that, and the part of the field."""

    field: str
    part: slice


class Packing(Generic[_Tree]):
    """How pytrees like `example` are packed; lossless.  Equal for pytrees that are alike.

    Parameters
    ----------
    example
        A pytree of arrays, or of their shapes and dtypes.
    scalars_only
        True to leave arrays with axes by themselves: nothing large is copied then.

    Attributes
    ----------
    arrays
        How many stay by themselves.
    floats, words
        The lengths of the two arrays of a `Packed`.
    """

    def __init__(self, example: _Tree, scalars_only: bool = False) -> None:
        leaves, self.tree = jax.tree.flatten(example)
        self.leaves = [jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves]
        real = [leaf.dtype for leaf in self.leaves if leaf.dtype.kind == "f"]
        self.dtype = real[0] if real else np.dtype(np.float32)
        self.kinds = [self._kind(leaf, scalars_only) for leaf in self.leaves]
        self.arrays = self.kinds.count("arrays")
        self._sizes: dict[str, list[int]] = {name: [] for name in _KINDS}
        for leaf, kind in zip(self.leaves, self.kinds, strict=True):
            words = 2 if kind == "words" and leaf.dtype.itemsize == 8 else 1
            self._sizes[kind].append(words * leaf.size)
        self.floats = sum(self._sizes["floats"])
        self.words = sum(self._sizes["words"] + self._sizes["flags"])
        self._likeness = (
            self.tree,
            tuple((leaf.shape, leaf.dtype) for leaf in self.leaves),
            tuple(self.kinds),
        )
        self._hash = hash(self._likeness)  # once: it is asked for at each call of a program

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packing) and self._likeness == other._likeness

    def __hash__(self) -> int:
        return self._hash

    def _kind(self, leaf: jax.ShapeDtypeStruct, scalars_only: bool) -> str:
        if scalars_only and leaf.ndim:
            return "arrays"
        if leaf.dtype.kind == "b":
            return "flags"
        return "floats" if leaf.dtype == self.dtype else "words"

    def pack(self, tree: _Tree) -> Packed:
        parts: dict[str, list[jax.Array]] = {name: [] for name in _KINDS}
        for leaf, kind in zip(jax.tree.leaves(tree), self.kinds, strict=True):
            array = jnp.asarray(leaf)
            array = _to_words(array) if kind == "words" else array
            parts[kind].append(array if kind == "arrays" else _shaped(array, (array.size,)))
        words = parts["words"]
        if parts["flags"]:  # together: each conversion by itself would be a program of XLA
            words.append(_joined(parts["flags"], bool).astype(jnp.int32))
        return Packed(
            parts["arrays"], _joined(parts["floats"], self.dtype), _joined(words, np.int32)
        )

    def unpack(self, packed: Packed) -> _Tree:
        words = lax.split(packed.words, self._sizes["words"] + self._sizes["flags"])
        parts = {
            "arrays": iter(packed.arrays),
            "floats": iter(lax.split(packed.floats, self._sizes["floats"])),
            "words": iter(words),
            "flags": iter(words[len(self._sizes["words"]) :]),
        }
        leaves = []
        for leaf, kind in zip(self.leaves, self.kinds, strict=True):
            part = next(parts[kind])
            if kind in ("words", "flags"):
                part = _from_words(part, leaf.dtype)
            leaves.append(part if kind == "arrays" else _shaped(part, leaf.shape))
        return jax.tree.unflatten(self.tree, leaves)

    @functools.cached_property
    def places(self) -> _Tree:
        """The `Place` of each leaf."""
        sizes = {kind: iter(sizes) for kind, sizes in self._sizes.items()}
        starts = dict.fromkeys(_KINDS, 0) | {"flags": sum(self._sizes["words"])}
        places = []
        for kind in self.kinds:
            size = 1 if kind == "arrays" else next(sizes[kind])
            field = "words" if kind == "flags" else kind
            places.append(Place(field, slice(starts[kind], starts[kind] + size)))
            starts[kind] += size
        return jax.tree.unflatten(self.tree, places)


@functools.lru_cache(maxsize=256)
def _the_one_like(packing: Packing[_Tree]) -> Packing[_Tree]:
    """One and the same for all that are equal, which a call of a program sees at a glance."""
    return packing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedTree(Generic[_Tree]):
    """A pytree in few arrays, from one call of a program to the next."""

    packed: Packed
    packing: Packing[_Tree] = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, tree: _Tree, scalars_only: bool) -> PackedTree[_Tree]:
        packing = _the_one_like(Packing(tree, scalars_only))
        return cls(packing.pack(tree), packing)

    @property
    def tree(self) -> _Tree:
        """The pytree; one with leading axes after `vmap`."""
        unpack = self.packing.unpack
        for _ in range(self.packed.words.ndim - 1):
            unpack = jax.vmap(unpack)
        return unpack(self.packed)

    @property
    def shapes(self) -> _Tree:
        """Shapes and dtypes of the leaves, without leading axes."""
        return jax.tree.unflatten(self.packing.tree, self.packing.leaves)

    def look(self, *path: str) -> np.ndarray:
        """A leaf by the names that lead to it, flat, without a program.

        Of real numbers, or of integers of 32 bits or flags, which are integers here.
        """
        place: Any = self.packing.places
        for name in path:
            place = getattr(place, name)
        field = getattr(self.packed, place.field)
        if place.field == "arrays":
            return np.asarray(field[place.part.start]).ravel()
        return np.asarray(field)[place.part]


def _joined(parts: list[jax.Array], dtype: Any) -> jax.Array:
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)


def _to_words(leaf: jax.Array) -> jax.Array:
    if leaf.dtype.itemsize < 4:  # short integers
        return leaf.astype(jnp.int32)
    return leaf if leaf.dtype == np.int32 else lax.bitcast_convert_type(leaf, jnp.int32)


def _from_words(words: jax.Array, dtype: Any) -> jax.Array:
    if dtype.kind == "b":
        return words != 0
    if dtype.itemsize < 4:
        return words.astype(dtype)
    if dtype == np.int32:
        return words
    return lax.bitcast_convert_type(words.reshape(-1, 2) if dtype.itemsize == 8 else words, dtype)


def _shaped(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return array if array.shape == shape else lax.reshape(array, shape)
