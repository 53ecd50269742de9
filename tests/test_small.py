"""Algebra of matrices of a few rows against NumPy, as loops and unrolled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb.xla import small

SIZES = [(1, 1), (2, 1), (5, 3), (10, 11), (20, 1), (21, 20)]
WAYS = (small._cholesky_by_rows, functools.partial(small._cholesky_by_rows, unroll=3))


def error(dtype):
    return 1e-11 if dtype == np.float64 else 2e-3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("n", "columns"), SIZES)
def test_cholesky(way, n, columns, dtype):
    rng = np.random.default_rng(n)
    half = rng.normal(size=(n, n + 2))
    A = (half @ half.T + 0.1 * np.eye(n)).astype(dtype)
    B = rng.normal(size=(n, columns)).astype(dtype)
    R, half = map(np.asarray, jax.jit(way)(A, B))
    assert R.dtype == half.dtype == dtype
    np.testing.assert_array_equal(np.tril(R, -1), 0)
    C = np.linalg.cholesky(A.astype(float))
    np.testing.assert_allclose(R.T, C, atol=error(dtype) * np.abs(C).max())
    expected = np.linalg.solve(C, B)
    np.testing.assert_allclose(half, expected, atol=error(dtype) * np.abs(expected).max())
    solution = np.asarray(jax.jit(small.solve_upper)(R, half))
    expected = np.linalg.solve(A.astype(float), B)
    np.testing.assert_allclose(solution, expected, atol=10 * error(dtype) * np.abs(expected).max())


@pytest.mark.parametrize("way", WAYS)
def test_cholesky_of_a_matrix_that_is_not_positive_definite(way, dtype):
    A = jnp.diag(jnp.asarray([1, 2, -1, 3], dtype)).at[0, 3].set(0.1).at[3, 0].set(0.1)
    R, half = jax.jit(way)(A, jnp.ones((4, 1), dtype))
    assert np.isnan(np.asarray(R)).any()
    assert np.isnan(np.asarray(half)).any()


@pytest.mark.parametrize("terms", [1, 10, *range(small.MANY_TERMS - 1, small.MANY_TERMS + 5), 101])
def test_product(terms, dtype):
    rng = np.random.default_rng(terms)
    A, B = rng.normal(size=(6, terms)).astype(dtype), rng.normal(size=(terms, 4)).astype(dtype)
    got = np.asarray(jax.jit(small.product)(A, B))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, A.astype(float) @ B, atol=error(dtype) * terms)
