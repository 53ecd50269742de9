"""What `vmap` makes of a solve.

On a CPU, one solve after the other beats all lanes in step: no lane waits for another,
and no branch is computed where it is not taken.  An accelerator wants all lanes at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.xla.batching import with_lanes
from jaxlbfgsb.xla.kernel import one_kernel
from jaxlbfgsb.xla.platform import by_platform

LANES = 16
"""Of one kernel, which copies what it is given."""

_Function = Callable[..., Any]


def lane_by_lane(single: _Function, vectorised: _Function, is_kernel: bool = False) -> _Function:
    """`single`, which under `vmap` on CPU is called for each lane in turn.

    Elsewhere `vectorised`, which computes the same, is mapped over all lanes at once.

    With `is_kernel` on CPU it is one kernel, and so are many lanes: to hand a small solve its
    numbers, and to put its results in their places, can take as long as the solve.
    """

    single, vectorised = jax.jit(single), jax.jit(vectorised)  # traced once for all uses

    def many(size: int, in_batched: Any, *args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        marked = functools.partial(zip, jax.tree.leaves(in_batched), strict=True)

        def over_lanes(function: _Function, mapped: _Function) -> _Function:
            def lanes(*leaves: jax.Array) -> Any:
                def lane(own: list[jax.Array]) -> Any:
                    rest = iter(own)
                    of_lane = [next(rest) if b else x for b, x in marked(leaves)]
                    return function(*jax.tree.unflatten(tree, of_lane))

                return mapped(lane)([x for b, x in marked(leaves) if b])

            return lanes

        def in_turn(function: _Function) -> _Function:
            return over_lanes(function, lambda lane: functools.partial(lax.map, lane))

        def by_kernels(*leaves: jax.Array) -> Any:
            """Kernel after kernel; past the end, the last lane again."""
            count = -(-size // LANES)
            length = -(-size // count)
            kernel = lane_by_lane(in_turn(single), at_once, is_kernel=True)
            if count == 1:
                return kernel(*leaves)

            def lanes_of(k: jax.Array) -> Any:
                index = jnp.minimum(length * k + jnp.arange(length), size - 1)
                return kernel(*(jnp.asarray(x)[index] if b else x for b, x in marked(leaves)))

            results = lax.map(lanes_of, jnp.arange(count))
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], results)

        at_once = over_lanes(vectorised, jax.vmap)
        on_cpu = by_kernels if is_kernel else in_turn(call)
        return by_platform(*leaves, cpu=on_cpu, default=at_once)

    call = with_lanes(one_kernel(single) if is_kernel else single, many)
    return call
