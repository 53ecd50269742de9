"""The end of a new search line against dense algebra, as one problem and as lanes find it."""

import histories
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.direction import new_direction
from jaxlbfgsb.method.subspace import LEAST_SLOPE

pytestmark = pytest.mark.usefixtures("either_backend")


@jax.jit
def find(x, g, box, kept, constrained):
    return new_direction(x, g, box, kept, None, constrained, jnp.asarray(True))


def tolerance(dtype):
    return 1e-9 if dtype == np.float64 else 1e-2


@pytest.mark.parametrize(
    ("n", "m"),
    [(2, 1), (3, 5), (9, 5), (60, 3)],
    ids=["one pair", "few variables", "dense", "compact"],
)
def test_at_every_offset_with_none_some_and_all_free(n, m, dtype):
    rng = np.random.default_rng(n)
    pairs = histories.rounded(oracles.random_pairs(rng, n, 2 * m + 1), dtype)
    seen = {"none": 0, "some": 0, "all": 0}
    for stored in range(1, 2 * m + 2):
        kept = histories.memory_of(pairs[:stored], n, m, dtype)
        B = oracles.bfgs_matrix(pairs[:stored][-m:], n)
        for width in np.repeat([1e-4, 0.3, 1.0, 1000.0], 5):
            x, g = rng.normal(size=(2, n)).astype(dtype)
            l, u = (x + side * width * rng.random(n) for side in (-1, 1))
            l, u = (v.astype(dtype) for v in (l, u))
            got = find(x, g, Box(l, u), kept, np.True_)
            xhat = np.asarray(got.xhat)
            assert not got.forgets
            assert xhat.dtype == dtype
            assert ((l <= xhat) & (xhat <= u)).all()

            x, g, l, u = oracles.double(x, g, l, u)
            xc, t_end, free, t = oracles.cauchy_point(x, g, l, u, B)
            step = oracles.subspace_step(x, g, B, xc, free)
            expected, excess, _ = oracles.into_the_box(x, g, xc, step, l, u, LEAST_SLOPE)
            is_near = free.any() and np.isclose(t, t_end, rtol=tolerance(dtype)).any()
            if is_near or abs(excess) < 10 * tolerance(dtype) * abs(step).max():
                continue  # rounding decides what is free, or which way the step is cut
            seen["all" if free.all() else "some" if free.any() else "none"] += 1
            np.testing.assert_allclose(
                xhat, expected, atol=tolerance(dtype) * (1 + abs(step).max())
            )
    assert min(seen.values()) >= 2 * m


def test_in_an_infinite_box_it_is_the_newton_point(dtype):
    n, m = 9, 5
    rng = np.random.default_rng(1)
    infinite = np.full(n, np.inf, dtype)
    for stored in range(1, 2 * m + 2):
        pairs = histories.rounded(oracles.random_pairs(rng, n, stored), dtype)
        kept = histories.memory_of(pairs, n, m, dtype)
        x, g = rng.normal(size=(2, n)).astype(dtype)
        free = find(x, g, Box(None, None), kept, np.False_)
        boxed = find(x, g, Box(-infinite, infinite), kept, np.False_)
        np.testing.assert_array_equal(boxed.xhat, free.xhat)
        expected = x - np.linalg.solve(oracles.bfgs_matrix(pairs[-m:], n), g.astype(float))
        np.testing.assert_allclose(free.xhat, expected, atol=tolerance(dtype))


@pytest.mark.parametrize("bounded", [True, False])
def test_with_nothing_stored_it_is_the_steepest_descent(bounded, dtype):
    x, g = np.array([0.0, 1.0], dtype), np.array([3.0, -4.0], dtype)
    box = Box(np.full(2, -1, dtype), np.full(2, 7, dtype)) if bounded else Box(None, None)
    got = find(x, g, box, histories.empty(2, 1, np.dtype(dtype)), np.bool_(bounded))
    np.testing.assert_array_equal(got.xhat, [-1, 5] if bounded else [-3, 5])
    assert not got.forgets


def test_where_the_matrix_breaks_down_the_memory_is_forgotten(dtype):
    pairs = oracles.random_pairs(np.random.default_rng(2), 9, 3)
    kept = histories.memory_of(pairs, 9, 5, dtype)
    broken = kept._replace(theta=np.asarray(np.nan, dtype))
    x, g = np.zeros(9, dtype), np.ones(9, dtype)
    for width in (0.5, 30.0):
        box = Box(np.full(9, -width, dtype), np.full(9, width, dtype))
        got = find(x, g, box, broken, np.True_)
        assert got.forgets
        np.testing.assert_array_equal(got.xhat, np.full(9, -min(width, 1.0)))
