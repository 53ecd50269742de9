"""The state in few arrays, for drivers that pay for each array at each call.

The scalars of a state travel as one vector of floats and one of integers.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlbfgsb.box import Box
from jaxlbfgsb.core import State, init


class Packed(NamedTuple):
    """A `State`: its vectors and matrices, its real scalars, its integers and flags."""

    arrays: list[jax.Array]
    floats: jax.Array
    integers: jax.Array


class _Layout(NamedTuple):
    tree: Any
    kinds: tuple[str, ...]
    """Of each leaf: array, float, int or bool."""


@functools.lru_cache(maxsize=1)
def _layout() -> _Layout:
    x = jax.ShapeDtypeStruct((1,), jnp.float32)
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda x: init(x, Box(None, None), 1), x))
    scalar_kinds = {"f": "float", "i": "int", "b": "bool"}
    kinds = tuple("array" if leaf.ndim else scalar_kinds[leaf.dtype.kind] for leaf in leaves)
    return _Layout(tree, kinds)


@functools.cache
def position(name: str) -> int:
    """Where the field `name` of a state stands in `arrays`, `floats` or `integers`."""
    layout = _layout()
    marked = jax.tree.unflatten(layout.tree, range(len(layout.kinds)))
    index: int = getattr(marked, name)
    groups = {"array": ("array",), "float": ("float",), "int": ("int", "bool")}
    return sum(kind in groups[layout.kinds[index]] for kind in layout.kinds[:index])


def pack(state: State) -> Packed:
    leaves = list(zip(jax.tree.leaves(state), _layout().kinds, strict=True))
    return Packed(
        arrays=[leaf for leaf, kind in leaves if kind == "array"],
        floats=jnp.stack([leaf for leaf, kind in leaves if kind == "float"]),
        integers=jnp.stack(
            [leaf.astype(jnp.int32) for leaf, kind in leaves if kind in ("int", "bool")]
        ),
    )


def unpack(packed: Packed) -> State:
    layout = _layout()
    arrays, floats, integers = iter(packed.arrays), iter(packed.floats), iter(packed.integers)
    sources = {"array": arrays, "float": floats, "int": integers, "bool": integers}
    leaves = [(next(sources[kind]), kind) for kind in layout.kinds]
    return jax.tree.unflatten(
        layout.tree, [leaf != 0 if kind == "bool" else leaf for leaf, kind in leaves]
    )
