"""The next few of many numbers, and running sums, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb.method.chunks import prefix_sums, soonest

find = jax.jit(soonest, static_argnums=4)


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 255, 256, 257, 5000])
def test_prefix_sums(columns, dtype):
    A = np.random.default_rng(columns).normal(size=(3, columns)).astype(dtype)
    got = jax.jit(prefix_sums)(A)
    expected = np.cumsum(A.astype(np.float64), axis=1)
    np.testing.assert_allclose(got, expected, atol=1e3 * np.finfo(dtype).eps, rtol=0)


def spreads(rng, n):
    """Numbers spread evenly, over many decades, in ties, in clusters far away, all equal."""
    yield rng.random(n)
    yield np.exp(10 * rng.normal(size=n))
    yield rng.integers(0, 5, n) / 4
    yield 1000 + 1e-4 * rng.random(n) + 100 * (rng.random(n) < 0.3)
    yield np.ones(n)
    yield np.where(rng.random(n) < 0.5, np.inf, rng.random(n))


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_chunk_after_chunk_is_the_order_of_all(size, dtype):
    rng = np.random.default_rng(size)
    n = 300
    for t in spreads(rng, n):
        t = np.asarray(t, dtype)
        finite = np.isfinite(t)
        expected = [i for i in np.argsort(t, kind="stable") if finite[i]]
        for reach in (0.0, 0.5, 1e3):
            ahead, got = np.ones(n, bool), []
            while len(got) < len(expected):
                first = t[ahead].min()
                b, left = map(np.asarray, find(t, ahead, first, first + dtype(reach), size))
                b = b[b < n]
                assert 0 < len(b) <= size
                assert (np.diff(b) > 0).all()
                np.testing.assert_array_equal(ahead & ~left, np.isin(np.arange(n), b))
                got += list(b[np.argsort(t[b], kind="stable")])
                ahead = left
            assert got == expected


def test_a_chunk_is_not_much_smaller_than_asked(dtype):
    t = np.random.default_rng(0).random(20_000).astype(dtype)
    b, _ = find(jnp.asarray(t), jnp.ones(len(t), bool), t.min(), jnp.asarray(2, dtype), 512)
    assert 400 < (b < len(t)).sum() <= 512
