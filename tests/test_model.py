"""Both forms of ``B`` against BFGS updates of a dense matrix."""

import histories
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from jaxlbfgsb.method import reduced

N = 12
CAPACITIES = [1, 2, 3, 4, 5, 10]
products = jax.jit(reduced.products_by_side)
solve = jax.jit(reduced.solve_K)


def close(dtype, size):
    """Absolute tolerance for numbers of magnitude `size`."""
    return (1e-10 if dtype == np.float64 else 2e-4) * size


@pytest.mark.parametrize("form", histories.FORMS)
@pytest.mark.parametrize("m", CAPACITIES)
def test_B_is_bfgs_at_every_offset_of_the_ring(m, form, dtype):
    rng = np.random.default_rng(m)
    pairs = histories.rounded(oracles.random_pairs(rng, N, 2 * m + 1, scale=3.0), dtype)
    kept = histories.empty(N, m, np.dtype(dtype))
    for stored in range(2 * m + 2):
        if stored:
            kept = histories.store(kept, pairs[stored - 1 : stored])
        used = pairs[:stored][-m:]
        assert kept.count == len(used)
        assert kept.place == stored % m
        B = histories.FORMS[form](kept)
        assert B.scaling.dtype == dtype
        expected = oracles.bfgs_matrix(used, N)
        got = histories.dense(B)
        size = np.linalg.norm(expected, 2)
        np.testing.assert_allclose(got, expected, atol=close(dtype, size), rtol=0)
        assert np.linalg.eigvalsh(got).min() > 0
        if stored:
            s, y = used[-1]
            atol = close(dtype, size * np.linalg.norm(s))
            np.testing.assert_allclose(got @ s, y, atol=atol, rtol=0)  # the secant equation


@pytest.mark.parametrize("m", CAPACITIES)
def test_middle_matrix_is_the_inverse_of_the_papers(m, dtype):
    rng = np.random.default_rng(20 + m)
    for stored in (1, m, m + 1, 2 * m - 1):
        pairs = histories.rounded(oracles.random_pairs(rng, N, stored), dtype)
        kept = histories.memory_of(pairs, N, m, dtype)
        used = pairs[-m:]
        place = histories.places(len(used), m, stored)
        rows = np.concatenate([place, m + place])  # oldest first
        expected = np.linalg.inv(oracles.K_matrix(used, np.zeros(N, bool)))
        got = np.asarray(histories.M(histories.compact(kept)))[np.ix_(rows, rows)]
        size = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, atol=close(dtype, size), rtol=0)


@pytest.mark.parametrize("form", histories.FORMS)
@pytest.mark.parametrize("m", [1, 2, 5])
def test_after_forget_only_new_pairs_count(m, form, dtype):
    rng = np.random.default_rng(50 + m)
    for stored in range(2 * m + 1):
        old = histories.memory_of(oracles.random_pairs(rng, N, stored), N, m, dtype)
        kept = histories.forget(old)
        np.testing.assert_array_equal(histories.dense(histories.FORMS[form](kept)), np.eye(N))
        new = histories.rounded(oracles.random_pairs(rng, N, m + 2, scale=0.1), dtype)
        for k in range(1, m + 3):
            kept = histories.store(kept, new[k - 1 : k])
            expected = oracles.bfgs_matrix(new[:k][-m:], N)
            got = histories.dense(histories.FORMS[form](kept))
            size = np.linalg.norm(expected, 2)
            np.testing.assert_allclose(got, expected, atol=close(dtype, size), rtol=0)


@pytest.mark.parametrize("stored", [0, 2, 7])
def test_products_with_W(stored, dtype):
    m = 4
    rng = np.random.default_rng(60 + stored)
    pairs = histories.rounded(oracles.random_pairs(rng, N, stored), dtype)
    B = histories.compact(histories.memory_of(pairs, N, m, dtype))
    used = pairs[-m:]
    W = np.zeros((N, 2 * m))
    for place, (s, y) in zip(histories.places(len(used), m, stored), used, strict=True):
        W[:, place], W[:, m + place] = y, oracles.newest_theta(used) * s
    v, c = rng.normal(size=N), rng.normal(size=2 * m)
    v_in, c_in = jnp.asarray(v, dtype), jnp.asarray(c, dtype)
    np.testing.assert_allclose(B.W_transposed_times(v_in), W.T @ v, atol=close(dtype, 30), rtol=0)
    np.testing.assert_allclose(B.W_times(c_in), W @ c, atol=close(dtype, 30), rtol=0)


def test_a_matrix_that_is_not_definite_leaves_nan(dtype):
    s = np.eye(N)[0]
    kept = histories.memory_of([(s, s), (s, 2 * s)], N, 2, dtype)
    broken = kept._replace(products=kept.products.at[2, 2].set(-100))
    assert np.isnan(np.asarray(histories.M(histories.compact(broken)))).any()


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
            got = np.asarray(solve(kept, products(kept, jnp.asarray(free)), jnp.asarray(v)))
            expected = np.linalg.solve(oracles.K_matrix(used, free), v[rows].astype(np.float64))
            size = np.abs(expected).max()
            np.testing.assert_allclose(got[rows], expected, atol=close(dtype, 1) * size, rtol=0)
            unused = np.setdiff1d(np.arange(2 * m), rows)
            np.testing.assert_array_equal(got[unused], 0)


def test_products_over_the_active_variables(dtype):
    rng = np.random.default_rng(30)
    kept = histories.memory_of(oracles.random_pairs(rng, N, 4), N, 3, dtype)
    for free in oracles.free_sets(rng, N):
        rows = np.asarray(kept.pairs, np.float64)
        m = len(rows) // 2
        by_side = np.concatenate(
            [rows[:m, free] @ rows[:, free].T, rows[m:, ~free] @ rows[:, ~free].T]
        )
        got = products(kept, jnp.asarray(free))
        np.testing.assert_allclose(got, by_side, atol=close(dtype, 1), rtol=0)
        assert got.dtype == dtype


def many_variables(rng, n, dtype, free):
    """Three pairs in which the active variables but the first few did not move."""
    pairs = oracles.random_pairs(rng, n, 3)
    rests = ~free
    rests[np.flatnonzero(~free)[:30]] = False
    pairs = [(np.where(rests, 0, s), y) for s, y in pairs]
    return histories.memory_of(histories.rounded(pairs, dtype), n, 4, dtype), rests


@pytest.mark.parametrize("free_ones", [0, 60, 2100, 4300, 4400])
def test_products_from_few_columns(free_ones, dtype):
    n = 4400
    rng = np.random.default_rng(free_ones)
    free = np.zeros(n, bool)
    free[rng.permutation(n)[:free_ones]] = True
    kept, _ = many_variables(rng, n, dtype, free)
    rows = np.asarray(kept.pairs, np.float64)
    by_side = np.concatenate([rows[:4, free] @ rows[:, free].T, rows[4:, ~free] @ rows[:, ~free].T])
    got = products(kept, jnp.asarray(free))
    size = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(
        got / np.outer(size, size).clip(1e-300), by_side / np.outer(size, size).clip(1e-300),
        atol=close(dtype, 1), rtol=0,
    )  # fmt: skip


def test_products_from_few_columns_read_no_others(dtype):
    """With NaN in a column that adds nothing, only the pass over all columns gives NaN."""
    n = 4400
    rng = np.random.default_rng(50)
    for free_ones, is_few in ((60, True), (2100, False)):
        free = np.zeros(n, bool)
        free[rng.permutation(n)[:free_ones]] = True
        kept, rests = many_variables(rng, n, dtype, free)
        poisoned = kept._replace(pairs=kept.pairs.at[0, np.flatnonzero(rests)[0]].set(np.nan))
        got = np.asarray(products(poisoned, jnp.asarray(free)))
        assert np.isfinite(got).all() == is_few


def test_a_difference_that_loses_digits_is_not_taken(dtype):
    """Nearly all of y in few active variables: what is left for the others is tiny."""
    n = 4400
    rng = np.random.default_rng(60)
    free = np.ones(n, bool)
    free[:50] = False
    y = np.where(free, 1e-6 if dtype == np.float64 else 1e-3, 1) * rng.normal(size=n)
    kept = histories.memory_of(histories.rounded([(y, y)], dtype), n, 2, dtype)
    rows = np.asarray(kept.pairs, np.float64)
    got = np.asarray(products(kept, jnp.asarray(free)))[0, 0]
    np.testing.assert_allclose(got, rows[0, free] @ rows[0, free], rtol=close(dtype, 1))


def test_a_K_that_is_not_definite_leaves_nan(dtype):
    rng = np.random.default_rng(40)
    kept = histories.memory_of(oracles.random_pairs(rng, N, 2), N, 2, dtype)
    free = jnp.ones(N, bool)
    broken = kept._replace(products=-kept.products)
    got = solve(broken, products(broken, free), jnp.ones(4, dtype))
    assert np.isnan(np.asarray(got)).any()
