"""Inside `shard_map`: over which mesh axes values differ.

JAX tracks this in the types, and a loop must start from the types that it ends with.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from jaxlbfgsb.types import PyTree


def varying_axes(*trees: PyTree) -> frozenset[str]:
    """Mesh axes over which some leaf differs; empty outside of `shard_map`."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if isinstance(leaf, jax.Array)]
    return frozenset().union(*(_axes(leaf) for leaf in leaves))


def vary_over(axes: frozenset[str], tree: PyTree) -> PyTree:
    """The same values, with types that let them differ over `axes`."""
    return tree if not axes else jax.tree.map(lambda leaf: _vary(axes, leaf), tree)


def _axes(leaf: jax.Array) -> frozenset[str]:
    aval: Any = jax.typeof(leaf)
    if hasattr(aval, "manual_axis_type"):
        return frozenset(aval.manual_axis_type.varying)
    return frozenset(getattr(aval, "vma", ()))  # before JAX 0.10


def _vary(axes: frozenset[str], leaf: jax.Array) -> jax.Array:
    missing = tuple(axes - varying_axes(leaf))
    if not missing:
        return leaf
    if hasattr(lax, "pcast"):
        return lax.pcast(leaf, missing, to="varying")
    return lax.pvary(leaf, missing)  # type: ignore[attr-defined]  # before JAX 0.9
