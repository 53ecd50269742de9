"""The subspace minimiser against a dense solve over the free variables."""

import histories
import jax
import numpy as np
import oracles
import pytest

from jaxlbfgsb.method import subspace
from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.cauchy import CauchyPoint, generalized_cauchy_point
from jaxlbfgsb.method.sums import sums_of, unknown_sums
from jaxlbfgsb.xla.kernel import SOME_VARIABLES

N = 9


@jax.jit
def minimize(*args):
    return subspace.subspace_minimizer(*args)[0]


def tolerance(dtype):
    return 1e-9 if dtype == np.float64 else 3e-3


def random_problem(rng, free, dtype, width):
    """Points ``x``, ``xc`` of a box and a gradient; small `width`: many bounds are met."""
    x = rng.normal(size=N)
    l, u = x - width * rng.random(N), x + width * rng.random(N)
    l, u = np.where(rng.random(N) < 0.3, -np.inf, l), np.where(rng.random(N) < 0.3, np.inf, u)
    xc = np.clip(x + 0.3 * rng.normal(size=N), l, u)
    g = rng.normal(size=N) + np.where(free, 0, rng.choice([0, 30]) * (xc - x))  # rises to xc
    x, xc, g, l, u = (v.astype(dtype) for v in (x, xc, g, l, u))
    return np.clip(x, l, u), g, l, u, np.clip(xc, l, u)


def at_point(xc, c, free):
    """Anywhere, not on the path: in few variables neither t nor p is used."""
    nan = np.full((), np.nan, xc.dtype)
    return CauchyPoint(xc, c, free, nan, np.full_like(c, np.nan), nan)


def cauchy_point_at(xc, x, free, B):
    c = histories.W(B).T @ (xc.astype(np.float64) - x)
    return at_point(xc, np.asarray(c, xc.dtype), free)


def compare_with_dense_solve(minimize, m, dtype, least_slope, form="compact"):
    """At every offset of the ring, for every kind of free set; how often each way was taken."""
    rng = np.random.default_rng(m)
    ways = dict.fromkeys(("inside", "projected", "truncated"), 0)
    pairs = histories.rounded(oracles.random_pairs(rng, N, 2 * m + 2), dtype)
    for stored in range(1, 2 * m + 3):
        kept = histories.memory_of(pairs[:stored], N, m, dtype)
        B = histories.FORMS[form](kept)
        dense = oracles.bfgs_matrix(pairs[:stored][-m:], N)
        for free in oracles.free_sets(rng, N):
            for width in (0.5, 2.0, 50.0):
                x, g, l, u, xc = random_problem(rng, free, dtype, width)
                box = Box(l, u)
                cauchy = cauchy_point_at(xc, x, free, B)
                got = np.asarray(minimize(x, g, box, B, cauchy))
                assert got.dtype == dtype
                assert ((l <= got) & (got <= u)).all()
                np.testing.assert_array_equal(got[~free], xc[~free])

                x, g, l, u, xc = oracles.double(x, g, l, u, xc)
                step = oracles.subspace_step(x, g, dense, xc, free)
                expected, excess, first = oracles.into_the_box(x, g, xc, step, l, u, least_slope)
                if abs(excess) < 10 * tolerance(dtype) * np.abs(step).max(initial=0):
                    continue  # rounding decides which of the two ways
                cut = (np.clip(xc + step, l, u) != xc + step).any()
                if cut and first is not None:
                    assert got[first] in (l[first], u[first])  # bit for bit
                ways["inside" if not cut else "truncated" if excess > 0 else "projected"] += 1
                size = 1 + np.abs(step).max()
                np.testing.assert_allclose(got, expected, atol=tolerance(dtype) * size, rtol=0)
    return ways


@pytest.mark.parametrize("form", histories.FORMS)
@pytest.mark.parametrize("m", [1, 2, 5])
def test_minimiser_over_the_free_variables_in_the_box(m, form, dtype):
    ways = compare_with_dense_solve(minimize, m, dtype, subspace.LEAST_SLOPE, form)
    assert min(ways.values()) > 5


def test_a_projected_step_that_descends_too_little_is_truncated(dtype, monkeypatch):
    """A large LEAST_SLOPE, so that the test above meets it."""
    usual = compare_with_dense_solve(minimize, 2, dtype, subspace.LEAST_SLOPE)
    monkeypatch.setattr(subspace, "LEAST_SLOPE", 20.0)
    patched = jax.jit(lambda *args: subspace.subspace_minimizer(*args)[0])
    ways = compare_with_dense_solve(patched, 2, dtype, 20.0)
    assert ways["truncated"] > usual["truncated"]


def test_truncated_point_is_on_the_bound_it_meets_bit_for_bit(dtype):
    """With ``B = I`` the step is exact; variable 0 meets its bound first."""
    x = np.array([0.0, 0.0, 0.0], dtype)
    xc = np.array([0.1, 0.0, 0.7], dtype)
    g = np.array([-3.0, -1.0, 10.0], dtype)  # ascends: the third variable is not free
    box = Box(np.full(3, -1, dtype), np.array([0.3, 9.0, 1.0], dtype))
    kept = histories.empty(3, 2, np.dtype(dtype))
    B = histories.compact(kept)
    cauchy = at_point(xc, np.zeros(4, dtype), np.array([True, True, False]))
    got = minimize(x, g, box, B, cauchy)
    assert got[0] == dtype(0.3)
    alpha = (0.3 - 0.1) / 2.9
    np.testing.assert_allclose(got, [0.3, alpha, 0.7], rtol=1e-6)


def test_a_blocked_step_stays_at_the_cauchy_point(dtype):
    x, xc = np.array([0.0, 0.0], dtype), np.array([0.5, 0.5], dtype)
    g = np.array([-1.0, 4.0], dtype)
    box = Box(np.full(2, -1, dtype), np.array([0.5, 0.5], dtype))
    kept = histories.empty(2, 1, np.dtype(dtype))
    cauchy = at_point(xc, np.zeros(2, dtype), np.array([True, False]))
    got = minimize(x, g, box, histories.compact(kept), cauchy)
    np.testing.assert_array_equal(got, xc)


@pytest.mark.parametrize("m", [1, 3])
def test_without_bounds_it_is_the_quasi_newton_step(m, dtype):
    rng = np.random.default_rng(10 + m)
    for stored in range(1, 2 * m + 2):
        pairs = histories.rounded(oracles.random_pairs(rng, N, stored), dtype)
        kept = histories.memory_of(pairs, N, m, dtype)
        x, g = rng.normal(size=(2, N)).astype(dtype)
        cauchy = at_point(x, np.zeros(2 * m, dtype), np.ones(N, bool))
        B = histories.compact(kept)
        expected = x - np.linalg.solve(oracles.bfgs_matrix(pairs[-m:], N), g.astype(np.float64))
        infinite = np.full(N, np.inf, dtype)
        got = minimize(x, g, Box(-infinite, infinite), B, cauchy)
        size = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, atol=tolerance(dtype) * size, rtol=0)


@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
@pytest.mark.parametrize("stored", [1, 5, 8])
def test_on_the_path_in_many_variables(stored, share, dtype):
    """From the Cauchy point; few free variables make the sums over them be measured."""
    n, m = SOME_VARIABLES + 1, 5
    rng = np.random.default_rng([stored, int(100 * share)])
    pairs = histories.rounded(oracles.random_pairs(rng, n, stored), dtype)
    kept = histories.memory_of(pairs, n, m, dtype)
    B = histories.compact(kept)
    x, g = rng.normal(size=(2, n)).astype(dtype)
    width = np.where(rng.random(n) < share, 100, 1e-5).astype(dtype)
    box = Box(x - width, x + width)
    cauchy = jax.jit(generalized_cauchy_point)(x, g, box, B)
    unknown = unknown_sums(n, m, np.dtype(dtype), bounded=True)
    gradient = B.with_gradient(cauchy.p, cauchy.square)
    sums = jax.jit(sums_of)(kept, g, gradient, cauchy.free, unknown, np.False_)
    got = minimize(x, g, box, B, cauchy, sums)
    dense = oracles.bfgs_matrix(pairs[-m:], n)
    free = np.asarray(cauchy.free)
    assert 0 < free.mean() <= 1
    x, g, xc = oracles.double(x, g, cauchy.xc)
    expected = xc + oracles.subspace_step(x, g, dense, xc, free)
    assert (np.abs(expected - x) <= 1.01 * width).all()  # no bound is met on the way
    np.testing.assert_allclose(got, expected, atol=tolerance(dtype), rtol=0)
