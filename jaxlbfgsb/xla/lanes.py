"""What `vmap` makes of a solve.

On a CPU, one solve after the other beats all lanes in step: no lane waits for another,
and no branch is computed where it is not taken.  An accelerator wants all lanes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.custom_batching import custom_vmap


def lane_by_lane(single: Callable[..., Any], vectorised: Callable[..., Any]) -> Callable[..., Any]:
    """`single`, which under `vmap` on CPU is called for each lane in turn.

    Elsewhere `vectorised`, which computes the same, is mapped over all lanes at once.
    """

    @custom_vmap
    def call(*args: Any) -> Any:
        return single(*args)

    @call.def_vmap
    def _(size: int, in_batched: Any, *args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        is_batched = jax.tree.leaves(in_batched)

        def in_turn(*leaves: jax.Array) -> Any:
            def one(lane: list[jax.Array]) -> Any:
                own = iter(lane)
                mixed = [next(own) if b else x for x, b in zip(leaves, is_batched, strict=True)]
                return call(*jax.tree.unflatten(tree, mixed))

            return lax.map(one, [x for x, b in zip(leaves, is_batched, strict=True) if b])

        def at_once(*leaves: jax.Array) -> Any:
            def one(*leaves: jax.Array) -> Any:
                return vectorised(*jax.tree.unflatten(tree, leaves))

            return jax.vmap(one, in_axes=[0 if b else None for b in is_batched])(*leaves)

        out = lax.platform_dependent(*leaves, cpu=in_turn, default=at_once)
        return out, jax.tree.map(lambda _: True, out)

    return call
