"""A function with a rule of its own for many lanes of `vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.custom_batching import custom_vmap

_Out = TypeVar("_Out")


def with_lanes(function: Callable[..., _Out], rule: Callable[..., _Out]) -> Callable[..., _Out]:
    """`function`, and under `vmap` ``rule(size, in_batched, *args)``, which returns all lanes.

    `custom_vmap`, but for what it meets where `jacfwd` maps over tangents at one point: lanes of
    which none has arguments of its own, and arguments with None in them, which it takes for leaves.
    """

    def call(*args: Any) -> _Out:
        leaves, tree = jax.tree.flatten(args)

        @custom_vmap
        def of_leaves(*leaves: Any) -> _Out:
            return function(*jax.tree.unflatten(tree, leaves))

        @of_leaves.def_vmap
        def _(size: int, are_batched: list[bool], *leaves: Any) -> tuple[_Out, Any]:
            args, in_batched = (jax.tree.unflatten(tree, each) for each in (leaves, are_batched))
            some = any(are_batched)
            results = rule(size, in_batched, *args) if some else function(*args)
            return results, jax.tree.map(lambda _: some, results)

        return of_leaves(*leaves)

    return call
