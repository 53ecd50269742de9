"""The pairs and their products against what was stored."""

import histories
import jax
import numpy as np
import oracles
import pytest

from jaxlbfgsb.method import inverse, memory
from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.inverse import InverseHessian
from jaxlbfgsb.method.state import init, suited_to
from jaxlbfgsb.xla.products import dot

N = 12

with_all_products = jax.jit(memory.with_all_products)


def close(dtype, size):
    """Absolute tolerance for numbers of magnitude `size`."""
    return (1e-10 if dtype == np.float64 else 2e-4) * size


def of_B(products, place):
    """Those of the products that B is made of, the others zero."""
    m = len(products) // 2
    age = (place - 1 - np.arange(m)) % m
    is_needed = np.eye(2 * m, dtype=bool)
    is_needed[m:, m:] = True
    is_needed[m:, :m] = age[:, None] <= age[None, :]
    is_needed[:m, m:] = is_needed[m:, :m].T
    return np.where(is_needed, products, 0)


def assert_same_bits(a, b):
    for i, j in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert i.dtype == j.dtype
        np.testing.assert_array_equal(np.asarray(i), np.asarray(j))


@pytest.mark.parametrize("m", [1, 3])
def test_products_are_inner_products_with_sy_as_given(m, dtype):
    rng = np.random.default_rng(30 + m)
    kept = histories.empty(N, m, np.dtype(dtype))
    for _ in range(2 * m + 1):
        ((s, y),) = histories.rounded(oracles.random_pairs(rng, N, 1), dtype)
        sy = np.asarray(1.25 * (s @ y), dtype)  # unlike s @ y, to see which one is used
        place = int(kept.place)
        kept = histories.update(kept, np.asarray(s, dtype), np.asarray(y, dtype), sy, np.True_)
        np.testing.assert_array_equal(kept.pairs[place], y)
        np.testing.assert_array_equal(kept.pairs[m + place], s)
        assert kept.products[place, m + place] == kept.products[m + place, place] == sy
        np.testing.assert_allclose(kept.theta, y @ y / float(sy), rtol=close(dtype, 1))
    rows = np.asarray(kept.pairs, np.float64)
    expected = rows @ rows.T
    i = np.arange(m)
    expected[i, m + i] *= 1.25
    expected[m + i, i] *= 1.25
    all_products = expected
    got, expected = (of_B(products, int(kept.place)) for products in (kept.products, expected))
    np.testing.assert_allclose(got, expected, atol=close(dtype, 30), rtol=0)
    np.testing.assert_array_equal(got, got.T)
    np.testing.assert_allclose(
        with_all_products(kept).products, all_products, atol=close(dtype, 30), rtol=0
    )


@pytest.mark.parametrize("m", [1, 4])
def test_a_skipped_pair_changes_no_bit(m, dtype):
    rng = np.random.default_rng(40 + m)
    for stored in range(2 * m + 1):
        before = histories.memory_of(oracles.random_pairs(rng, N, stored), N, m, dtype)
        for bad in (1.0, np.nan, np.inf):
            v = np.full(N, bad, dtype)
            after = histories.update(before, v, -v, -v[0], np.False_)
            assert_same_bits(after, before)


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("brief", [True, False])
def test_both_ways_to_write_agree(m, stored, brief, dtype):
    rng = np.random.default_rng(45 + m)
    for count in range(2 * m + 1):
        before = histories.memory_of(oracles.random_pairs(rng, N, count), N, m, dtype)
        before = memory.brief(before) if brief else before
        ((s, y),) = histories.rounded(oracles.random_pairs(rng, N, 1), dtype)
        given = tuple(np.asarray(v, dtype) for v in (2 * s, 0.5, y, y @ y, s @ y))
        if_stored, either_way = (
            jax.jit(write)(before, given, np.asarray(stored))
            for write in (memory._written_if_stored, memory._written_either_way)
        )
        assert_same_bits(if_stored[0], either_way[0])
        products = if_stored[1], either_way[1]
        np.testing.assert_allclose(*products, atol=close(dtype, 30), rtol=0)
        changed = not np.array_equal(if_stored[0], before.pairs)
        assert changed == stored


@pytest.mark.parametrize(("m", "dtype"), [(N // 2, np.float64), (N, np.float32)])
def test_what_few_variables_need_of_the_products(m, dtype):
    """``s'y`` and ``y'y``: B, H and its diagonal are those of a memory with all of them."""
    rng = np.random.default_rng(49 + m)

    @jax.jit
    def of_inverse(kept):
        H = InverseHessian.of(kept)
        return H.todense(), H.diagonal()

    kept = histories.empty(N, m, np.dtype(dtype))
    part = memory.empty(N, m, np.dtype(dtype), brief=True)
    for s, y in histories.rounded(oracles.random_pairs(rng, N, m + 3), dtype):
        pair = [np.asarray(v, dtype) for v in (s, y, s @ y)]
        kept = histories.update(kept, *pair, np.True_)
        part = histories.update(part, *pair, np.True_)
        assert_same_bits(
            memory.brief(everything := with_all_products(part)).products[1], part.products[1]
        )
        np.testing.assert_allclose(part.theta, kept.theta, rtol=close(dtype, 1))
        got, expected = (of_B(k.products, int(kept.place)) for k in (everything, kept))
        np.testing.assert_allclose(got, expected, atol=close(dtype, 30))
        of_part, of_all = (
            (histories.FORMS["dense"](k).matrix, *of_inverse(k)) for k in (part, kept)
        )
        for got, expected in zip(of_part, of_all, strict=True):
            np.testing.assert_allclose(got, expected, atol=close(dtype, np.abs(expected).max()))


def by_products(kept, v):
    products = memory.with_all_products(kept).products
    return inverse.compact_inverse_times(kept, products, v, dot(kept.pairs, v))


@pytest.mark.parametrize("form", [inverse.inverse_times, by_products])
@pytest.mark.parametrize("m", [1, 5, N])
def test_H_is_the_inverse_of_bfgs_at_every_offset_of_the_ring(m, form, dtype):
    rng = np.random.default_rng(60 + m)
    pairs = histories.rounded(oracles.random_pairs(rng, N, 2 * m + 1), dtype)
    times = jax.jit(jax.vmap(form, in_axes=(None, 1), out_axes=1))
    for stored in range(2 * m + 2):
        kept = histories.memory_of(pairs[:stored], N, m, dtype)
        expected = np.linalg.inv(oracles.bfgs_matrix(pairs[:stored][-m:], N))
        got = times(kept, np.eye(N, dtype=dtype))
        np.testing.assert_allclose(got, expected, atol=close(dtype, np.abs(expected).max()))


@pytest.mark.parametrize(("n", "m"), [(N, 10), (100, 10), (200, 20), (600, 10)])
def test_a_memory_suits_the_box_where_bounds_come_and_go(n, m):
    """Brief in any box; without bounds only (twice: a kernel with them, none; then no kernel)."""
    rng = np.random.default_rng(n)
    pairs = [tuple(map(np.asarray, pair)) for pair in oracles.random_pairs(rng, n, m + 3)]
    free, bounded = Box(None, None), Box(np.full(n, -1.0), np.full(n, 1.0))
    start = jax.jit(init, static_argnums=2)
    suit, times = jax.jit(suited_to), jax.jit(inverse.inverse_times)

    def run_in(box):
        run = start(np.zeros(n), box, m)
        for s, y in pairs:
            run = run._replace(memory=histories.update(run.memory, s, y, s @ y, np.True_))
        return run

    assert memory.is_brief(run_in(free).memory)
    assert memory.is_brief(run_in(bounded).memory) == (n == N)
    assert (run_in(free).sums is None) == (n < 600)
    assert (run_in(bounded).sums is None) == (n < 200)
    for before, after in ((free, bounded), (bounded, free), (free, free), (bounded, bounded)):
        got, expected = suit(run_in(before), after), run_in(after)
        assert jax.tree.map(np.shape, got) == jax.tree.map(np.shape, expected)
        of_both = [run.memory.products for run in (got, expected)]
        if not memory.is_brief(expected.memory):
            of_both = [of_B(products, int(got.memory.place)) for products in of_both]
        np.testing.assert_allclose(*of_both, atol=1e-9)
        products = (times(run.memory, np.ones(n)) for run in (got, expected))
        np.testing.assert_allclose(*products, rtol=1e-9, atol=1e-9)


def test_ages_count_back_from_the_newest_pair():
    ages = jax.jit(memory.ages, static_argnums=1)
    for m in (1, 2, 5):
        for stored in range(1, 3 * m):
            age = np.asarray(ages(np.int32(stored % m), m))
            for back in range(m):
                assert age[(stored - 1 - back) % m] == back
