"""Both forms of ``B`` against BFGS updates of a dense matrix."""

import histories
import jax
import numpy as np
import oracles
import pytest

pytestmark = pytest.mark.usefixtures("either_backend")

N = 12
CAPACITIES = [1, 2, 5]


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
    products = jax.jit(lambda B, v, c: (B.W_transposed_times(v), B.W_times(c)))
    with_v, with_c = products(B, np.asarray(v, dtype), np.asarray(c, dtype))
    np.testing.assert_allclose(with_v, W.T @ v, atol=close(dtype, 30), rtol=0)
    np.testing.assert_allclose(with_c, W @ c, atol=close(dtype, 30), rtol=0)


def test_a_matrix_that_is_not_definite_leaves_nan(dtype):
    s = np.eye(N)[0]
    kept = histories.memory_of([(s, s), (s, 2 * s)], N, 2, dtype)
    broken = kept._replace(products=kept.products.at[2, 2].set(-100))
    assert np.isnan(np.asarray(histories.M(histories.compact(broken)))).any()
