"""The heap against Python's."""

import heapq

import histories
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.cauchy import generalized_cauchy_point
from jaxlbfgsb.method.heap import Entries, heaped, without_first
from jaxlbfgsb.xla.kernel import one_kernel


def order(entries, size):
    """The indices as they leave a heap of the first `size`, then -1."""
    n = len(entries.indices)

    def leave(k, carry):
        heap, left = carry
        left = left.at[k].set(jnp.where(heap.size > 0, heap.first.index, -1))
        heap = jax.lax.cond(heap.size > 0, lambda: without_first(heap), lambda: heap)
        return heap, left

    start = heaped(entries, size), jnp.full(n, -1, jnp.int32)
    return jax.lax.fori_loop(0, n, leave, start)[1]


@pytest.mark.parametrize("wrap", [lambda f: f, one_kernel], ids=["outside", "kernel"])
@pytest.mark.parametrize("n", [1, 2, 3, 40, 700])
def test_indices_leave_in_the_order_of_their_numbers(n, wrap, dtype):
    rng = np.random.default_rng(n)
    call = jax.jit(wrap(order))
    for size in {0, 1, n // 2, n - 1, n}:
        for t in (rng.random(n), rng.integers(0, 4, n), np.zeros(n), rng.permutation(n)):
            t = t.astype(dtype)
            places = rng.permutation(n).astype(np.int32)
            queue = [(t[i], i) for i in places[:size]]
            heapq.heapify(queue)
            expected = [heapq.heappop(queue)[1] for _ in range(size)] + (n - size) * [-1]
            entries = Entries(t[places], places)
            np.testing.assert_array_equal(call(entries, np.int32(size)), expected)


def test_a_search_copies_no_heap():
    """A crossing costs a path through the heap, not a pass over it."""
    n, m = 5000, 3
    B = histories.compact(histories.empty(n, m, np.dtype(np.float64)))
    x, l, u = np.zeros(n), np.full(n, -0.5), np.full(n, 0.5)
    text = jax.jit(generalized_cauchy_point).lower(x, x, Box(l, u), B).compile().as_text()
    indices = [line for line in text.splitlines() if f" = s32[{n}" in line]
    assert any("dynamic-update-slice(" in line for line in indices)
    assert not [line for line in indices if " copy(" in line]
    assert not [line for line in text.splitlines() if f" = f64[{n},1]" in line and " copy(" in line]
