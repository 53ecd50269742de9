"""The sums over the sides of a free set and the system made of them, against whole sums."""

import histories
import jax
import numpy as np
import oracles
import pytest

from jaxlbfgsb.method import reduced

N = 6
products = jax.jit(reduced.products_by_side)
solve = jax.jit(reduced.solve_K)
sides_of = jax.jit(reduced.sides_of)


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


def whole_sums(kept, free):
    """Each entry over its side, pair by pair, in float64; the places not used are NaN."""
    rows = np.asarray(kept.pairs, np.float64)
    m, count = len(rows) // 2, int(kept.count)
    age = [(int(kept.place) - 1 - place) % m for place in range(m)]
    sums = np.full((2 * m, 2 * m), np.nan)
    for i in range(2 * m):
        for j in range(2 * m):
            if max(age[i % m], age[j % m]) >= count:
                continue
            y_and_s = (i < m) != (j < m)
            s, y = (i, j) if i >= m else (j, i)
            over_free = age[s % m] >= age[y % m] if y_and_s else i < m
            side = free if over_free else ~free
            sums[i, j] = rows[i, side] @ rows[j, side]
    return sums


def assert_sums(got, kept, free, dtype):
    expected = whole_sums(kept, free)
    size = np.linalg.norm(np.asarray(kept.pairs, np.float64), axis=1)
    error = np.abs(got - expected) / np.outer(size, size).clip(1e-300)
    assert np.nanmax(error) < close(dtype, 1)
    assert got.dtype == dtype


@pytest.mark.parametrize("n", [6, 600, 4400])
def test_products_over_each_side(n, dtype):
    rng = np.random.default_rng(n)
    for stored in (1, 3, 4):
        pairs = histories.rounded(oracles.random_pairs(rng, n, stored), dtype)
        kept = histories.memory_of(pairs, n, 3, dtype)
        for share in (0, 0.01, 0.5, 0.99, 1):
            free = rng.random(n) < share
            assert_sums(np.asarray(products(kept, free)), kept, free, dtype)


def unknown(n, m, dtype):
    return reduced.unknown_sides(n, m, np.dtype(dtype))


def walk(rng, n, m, dtype, changes):
    """A memory that grows by a pair, and a free set that changes, in each of many turns."""
    pairs = histories.rounded(oracles.random_pairs(rng, n, len(changes)), dtype)
    kept = histories.empty(n, m, np.dtype(dtype))
    free = rng.random(n) < 0.5
    for pair, change in zip(pairs, changes, strict=True):
        kept = histories.store(kept, [pair])
        free = free.copy()
        free[rng.permutation(n)[:change]] ^= True
        yield kept, free


@pytest.mark.parametrize("m", [1, 5])
def test_sums_that_are_carried_on_are_those_of_the_whole(m, dtype):
    n = 700
    rng = np.random.default_rng(m)
    last = unknown(n, m, dtype)
    for kept, free in walk(rng, n, m, dtype, [0, 1, 3, 0, 40, 64, 65, 87, 88, 5, 700, 2, 0, 1]):
        last = sides_of(kept, free, last)
        assert_sums(np.asarray(last.products), kept, free, dtype)
        np.testing.assert_array_equal(last.free, free)
        assert last.known


@pytest.mark.parametrize(
    ("change", "stale", "is_carried"),
    [(0, False, True), (9, False, True), (300, False, False), (9, True, False)],
)
def test_what_is_carried_on_and_what_is_summed_anew(change, stale, is_carried, dtype):
    """With an old row altered where no variable changes sides, only a new sum can tell."""
    n, m = 700, 3
    rng = np.random.default_rng(change)
    (first, free), (second, then) = walk(rng, n, m, dtype, [0, change])
    last = sides_of(first, free, unknown(n, m, dtype))
    last = last._replace(known=np.asarray(not stale))
    stays = np.flatnonzero(free & then)[0]
    altered = second._replace(pairs=second.pairs.at[0, stays].add(10))
    got, of_the_old = (sides_of(kept, then, last).products for kept in (altered, second))
    assert (got[0, 0] == of_the_old[0, 0]) == is_carried


def test_nothing_is_summed_where_all_are_free(dtype):
    n, m = 600, 3
    rng = np.random.default_rng(1)
    kept = histories.memory_of(oracles.random_pairs(rng, n, 4), n, m, dtype)
    altered = kept._replace(pairs=np.full_like(kept.pairs, np.nan))
    free = np.ones(n, bool)
    sides = sides_of(altered, free, unknown(n, m, dtype))
    assert_sums(np.asarray(sides.products), kept, free, dtype)
    assert sides.known


def test_a_difference_that_loses_digits_is_not_taken(dtype):
    """Nearly all of y in few variables; what is left when they become active is tiny."""
    n, m = 4400, 2
    rng = np.random.default_rng(60)
    small = 1e-6 if dtype == np.float64 else 1e-3
    y = np.where(np.arange(n) < 50, 1, small) * rng.normal(size=n)
    old, new = histories.rounded([(y, y), (y, 2 * y)], dtype)
    kept = histories.memory_of([old], n, m, dtype)
    free = np.arange(n) < n - 1
    last = sides_of(kept, free, unknown(n, m, dtype))
    kept = histories.store(kept, [new])
    free[:50] = False
    got = np.asarray(sides_of(kept, free, last).products)
    expected = whole_sums(kept, free)
    np.testing.assert_allclose(got[:m, :m], expected[:m, :m], rtol=close(dtype, 1))


def test_a_K_that_is_not_definite_leaves_nan(dtype):
    rng = np.random.default_rng(40)
    kept = histories.memory_of(oracles.random_pairs(rng, N, 2), N, 2, dtype)
    free = np.ones(N, bool)
    broken = kept._replace(products=-kept.products)
    got = solve(broken, products(broken, free), np.ones(4, dtype))
    assert np.isnan(np.asarray(got)).any()
