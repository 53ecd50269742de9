"""The system of the free variables against dense algebra."""

import histories
import jax
import numpy as np
import oracles
import pytest

from jaxlbfgsb.method import reduced
from jaxlbfgsb.method.memory import without_products
from jaxlbfgsb.method.sums import products_by_side

N = 6
products = jax.jit(products_by_side)


@jax.jit
def solve(kept, by_side, v):
    return reduced.solve_K(kept.products, by_side, v, without_products(kept))


def close(dtype, size):
    return 100 * np.finfo(dtype).eps * size


@pytest.mark.parametrize("m", [1, 2, 4])
def test_solve_K_at_every_offset_of_the_ring(m, dtype):
    rng = np.random.default_rng(20 + m)
    pairs = histories.rounded(oracles.random_pairs(rng, N, 2 * m + 1, scale=2.0), dtype)
    for stored in range(1, 2 * m + 2):
        kept = histories.memory_of(pairs[:stored], N, m, dtype)
        used = pairs[:stored][-m:]
        place = histories.places(len(used), m, stored)
        rows = np.concatenate([place, m + place])
        for free in oracles.free_sets(rng, N):
            v = np.zeros(2 * m)
            v[rows] = rng.normal(size=len(rows))
            v = v.astype(dtype)
            got = np.asarray(solve(kept, products(kept, free), v))
            expected = np.linalg.solve(oracles.K_matrix(used, free), v[rows].astype(np.float64))
            size = np.abs(expected).max()
            np.testing.assert_allclose(got[rows], expected, atol=close(dtype, 1) * size, rtol=0)
            unused = np.setdiff1d(np.arange(2 * m), rows)
            np.testing.assert_array_equal(got[unused], 0)


def test_a_K_that_is_not_definite_leaves_nan(dtype):
    rng = np.random.default_rng(40)
    kept = histories.memory_of(oracles.random_pairs(rng, N, 2), N, 2, dtype)
    free = np.ones(N, bool)
    broken = kept._replace(products=-kept.products)
    got = solve(broken, products(broken, free), np.ones(4, dtype))
    assert np.isnan(np.asarray(got)).any()
