"""Algebra of matrices of a few rows against NumPy, as loops and unrolled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb.xla import small

SIZES = [(1, 0), (1, 1), (2, 1), (5, 0), (5, 5), (20, 10), (33, 4), (40, 0)]
UNROLLED = [None, 3]


def error(dtype):
    return 1e-11 if dtype == np.float64 else 2e-3


def quasidefinite(rng, n, negative, dtype):
    """Negative definite in the first places, positive definite in the others."""

    def definite(size):
        half = rng.normal(size=(size, size + 2))
        return half @ half.T + 0.1 * np.eye(size)

    cross = rng.normal(size=(negative, n - negative))
    A = np.block([[-definite(negative), cross], [cross.T, definite(n - negative)]])
    return A.astype(dtype)


@pytest.mark.parametrize("unroll", UNROLLED)
@pytest.mark.parametrize(("n", "negative"), SIZES)
def test_solve(n, negative, unroll, dtype):
    rng = np.random.default_rng(n + negative)
    A, b = quasidefinite(rng, n, negative, dtype), rng.normal(size=n).astype(dtype)
    solve = jax.jit(functools.partial(small._solve, negative=negative, unroll=unroll))
    got = np.asarray(solve(A, b))
    assert got.dtype == dtype
    expected = np.linalg.solve(A.astype(float), b)
    np.testing.assert_allclose(got, expected, atol=10 * error(dtype) * np.abs(expected).max())


@pytest.mark.parametrize("at_fault", range(4))
@pytest.mark.parametrize("value", [-1.0, 0.0, "too large", "too small"])
def test_a_pivot_that_is_not_as_it_should_be_leaves_nan(value, at_fault, dtype):
    limits = np.finfo(dtype)
    pivots = np.asarray([-1, -2, 1, 3], dtype)
    if isinstance(value, str):
        size = limits.max if value == "too large" else limits.smallest_subnormal
        pivots[at_fault] = np.copysign(size, pivots[at_fault])
    else:
        pivots[at_fault] *= value
    got = np.asarray(small.solve(jnp.diag(jnp.asarray(pivots)), jnp.ones(4, dtype), 2))
    assert np.isnan(got[at_fault])


@pytest.mark.parametrize("unroll", UNROLLED)
@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 1), (5, 3), (10, 20), (33, 2)])
def test_eliminated(n, columns, unroll, dtype):
    rng = np.random.default_rng(n)
    A, B = quasidefinite(rng, n, 0, dtype), rng.normal(size=(n, columns)).astype(dtype)
    M = np.concatenate([A, B], axis=1)
    rows, inverses = map(
        np.asarray, jax.jit(functools.partial(small._eliminated, unroll=unroll))(M)
    )
    assert rows.dtype == inverses.dtype == dtype
    C = np.linalg.cholesky(A.astype(float))
    pivots = np.diag(C) ** 2
    expected = (np.diag(C) * np.linalg.solve(C, B).T).T
    size = error(dtype) * np.abs(expected).max()
    np.testing.assert_allclose(inverses, 1 / pivots, rtol=100 * error(dtype))
    np.testing.assert_allclose(rows[:, n:], expected, atol=10 * size)
    np.testing.assert_allclose(np.triu(rows[:, :n]), (C * np.diag(C)).T, atol=10 * size)
    np.testing.assert_allclose(np.tril(rows[:, :n], -1), 0, atol=10 * size)


@pytest.mark.parametrize("known", [1, 3])
def test_eliminated_goes_on_below_rows_that_are_known(known, dtype):
    rng = np.random.default_rng(known)
    n = 7
    A, B = quasidefinite(rng, n, known, dtype), rng.normal(size=(n, 2)).astype(dtype)
    M = np.concatenate([A, B], axis=1).astype(float)
    for j in range(known):
        M[j + 1 :] -= np.outer(M[j + 1 :, j] / M[j, j], M[j])
    pivots = np.diag(M)[:known]
    above, below = M[:known, known:].astype(dtype), slice(known, None)
    above = above, (1 / pivots).astype(dtype)
    got, inverses = jax.jit(small.eliminated)(A[below, below], B[below], above)
    for j in range(known, n):
        M[j + 1 :] -= np.outer(M[j + 1 :, j] / M[j, j], M[j])
    np.testing.assert_allclose(got, M[known:, n:], atol=error(dtype) * np.abs(M).max())
    np.testing.assert_allclose(inverses, 1 / np.diag(M)[known:], rtol=100 * error(dtype))


@pytest.mark.parametrize("n", [1, 2, 5, 20])
@pytest.mark.parametrize("columns", [1, 3])
def test_substitution(n, columns, dtype):
    rng = np.random.default_rng(n)
    C = (np.tril(rng.normal(size=(n, n)), -1) / n + np.eye(n)).astype(dtype)
    B = rng.normal(size=(n, columns)).astype(dtype)
    for solve, matrix in ((small.solve_lower, C), (small.solve_lower_transposed, C.T)):
        got = np.asarray(jax.jit(solve)(C, B))
        assert got.dtype == dtype
        expected = np.linalg.solve(matrix.astype(float), B)
        np.testing.assert_allclose(got, expected, atol=error(dtype) * np.abs(expected).max())
