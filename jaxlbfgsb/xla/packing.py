"""Pytrees in few arrays, for callers that pay for each array at each call."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_Tree = TypeVar("_Tree")


class Packed(NamedTuple):
    """What was packed: arrays that stay by themselves, real numbers, all the rest."""

    arrays: list[jax.Array]
    floats: jax.Array
    words: jax.Array
    """int32: integers and the bits of everything else, then flags."""


class Packing(Generic[_Tree]):
    """How pytrees like `example` are packed; lossless.

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
        sizes = [self._size(*both) for both in zip(self.leaves, self.kinds, strict=True)]
        self.floats, self._whole_words, flags = (
            sum(size for size, kind in zip(sizes, self.kinds, strict=True) if kind == name)
            for name in ("floats", "words", "flags")
        )
        self.words = self._whole_words + flags

    def _kind(self, leaf: jax.ShapeDtypeStruct, scalars_only: bool) -> str:
        if scalars_only and leaf.ndim:
            return "arrays"
        if leaf.dtype.kind == "b":
            return "flags"
        return "floats" if leaf.dtype == self.dtype else "words"

    def _size(self, leaf: jax.ShapeDtypeStruct, kind: str) -> int:
        return leaf.size * (2 if kind == "words" and leaf.dtype.itemsize == 8 else 1)

    def pack(self, tree: _Tree) -> Packed:
        parts: dict[str, list[jax.Array]] = {"arrays": [], "floats": [], "words": [], "flags": []}
        for leaf, kind in zip(jax.tree.leaves(tree), self.kinds, strict=True):
            parts[kind].append(jnp.asarray(leaf))
        words = [_to_words(leaf) for leaf in parts["words"]]
        if parts["flags"]:  # together: each conversion by itself would be a program of XLA
            words.append(_joined([leaf.ravel() for leaf in parts["flags"]], bool).astype(jnp.int32))
        return Packed(
            arrays=parts["arrays"],
            floats=_joined([leaf.ravel() for leaf in parts["floats"]], self.dtype),
            words=_joined(words, np.int32),
        )

    def unpack(self, packed: Packed) -> _Tree:
        arrays = iter(packed.arrays)
        used = {"floats": 0, "words": 0, "flags": self._whole_words}
        leaves = []
        for leaf, kind in zip(self.leaves, self.kinds, strict=True):
            if kind == "arrays":
                leaves.append(next(arrays))
                continue
            size = self._size(leaf, kind)
            source = packed.floats if kind == "floats" else packed.words
            part = source[used[kind] : used[kind] + size]
            used[kind] += size
            if kind != "floats":
                part = _from_words(part, leaf.dtype)
            leaves.append(part.reshape(leaf.shape))
        return jax.tree.unflatten(self.tree, leaves)

    def position(self, name: str) -> int:
        """Where the scalar or array field `name` stands in `arrays`, `floats` or `words`."""
        index: int = getattr(jax.tree.unflatten(self.tree, range(len(self.leaves))), name)
        return self.kinds[:index].count(self.kinds[index])


def _joined(parts: list[jax.Array], dtype: Any) -> jax.Array:
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)


def _to_words(leaf: jax.Array) -> jax.Array:
    if leaf.dtype.itemsize < 4:  # short integers
        return leaf.ravel().astype(jnp.int32)
    return lax.bitcast_convert_type(leaf, jnp.int32).ravel()


def _from_words(words: jax.Array, dtype: Any) -> jax.Array:
    if dtype.kind == "b":
        return words != 0
    if dtype.itemsize < 4:
        return words.astype(dtype)
    return lax.bitcast_convert_type(words.reshape(-1, 2) if dtype.itemsize == 8 else words, dtype)
