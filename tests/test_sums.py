"""The sums that one direction leaves to the next, against whole sums in float64."""

import histories
import jax
import numpy as np
import oracles
import pytest

from jaxlbfgsb.method import memory, sums
from jaxlbfgsb.method.inverse import compact_inverse_times, inverse_times

pytestmark = pytest.mark.usefixtures("either_backend")

products = jax.jit(sums.products_by_side)
inverse = jax.jit(inverse_times)


@pytest.fixture(scope="module")
def sums_of(either_backend):
    return jax.jit(sums.sums_of)


@pytest.fixture
def on_cpu(request):
    """True where the program is that of a CPU."""
    return "accelerator" not in request.node.name


def close(dtype, size):
    return 100 * np.finfo(dtype).eps * size


def whole_sums(kept, free, sides=(True, False)):
    """Each entry over its side, pair by pair, in float64; NaN in places that are not used.

    And in entries that are over a side not asked for: the free one is True.
    """
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
            if over_free in sides:
                side = free if over_free else ~free
                sums[i, j] = rows[i, side] @ rows[j, side]
    return sums


def assert_sums(got, kept, free, dtype, sides=(True, False)):
    expected = whole_sums(kept, free, sides)
    size = np.linalg.norm(np.asarray(kept.pairs, np.float64), axis=1)
    error = np.abs(got - expected) / np.outer(size, size).clip(1e-300)
    assert np.nanmax(error) < close(dtype, 1)
    assert got.dtype == dtype


class Walk:
    """A run in which each step adds a pair and changes the free set; what its sums are made of."""

    def __init__(self, seed, n, m, dtype, *, bounded=True):
        self.rng, self.dtype, self.n, self.m = np.random.default_rng(seed), dtype, n, m
        brief = not bounded
        self.kept = memory.empty(n, m, np.dtype(dtype), brief=brief)
        self.free = self.rng.random(n) < 0.5 if bounded else None
        self.g = self.rng.normal(size=n).astype(dtype)
        self.last = sums.unknown_sums(n, m, np.dtype(dtype), bounded=bounded)
        self.is_new = False

    def step(self, change=0, moved=0, length=1.0):
        """So many variables change sides, and so many of the active ones moved."""
        n, rng = self.n, self.rng
        before = self.g
        self.g = (before + length * rng.normal(size=n)).astype(self.dtype)
        y = self.g - before
        s = rng.normal(size=n).astype(self.dtype)
        if self.free is not None:
            self.free = self.free.copy()
            self.free[rng.permutation(n)[:change]] ^= True
            stays = np.flatnonzero(~self.free)
            s[rng.permutation(stays)[moved:]] = 0
        self.kept = histories.update(self.kept, s, y, s @ y, np.True_)
        self.is_new = True

    def gradient(self):
        rows = np.asarray(self.kept.pairs, np.float64)
        g = np.where(True if self.free is None else self.free, self.g, 0)
        return sums.WithGradient((rows @ g).astype(self.dtype), np.asarray(self.g @ self.g))

    def sum(self, sums_of, kept=None):
        kept = self.kept if kept is None else kept
        return sums_of(kept, self.g, self.gradient(), self.free, self.last, np.asarray(self.is_new))

    def carry_on(self, sums_of):
        self.last = self.sum(sums_of)
        self.is_new = False


@pytest.mark.parametrize("n", [6, 600, 4400])
def test_products_over_each_side(n, dtype):
    rng = np.random.default_rng(n)
    for stored in (1, 3, 4):
        pairs = histories.rounded(oracles.random_pairs(rng, n, stored), dtype)
        kept = histories.memory_of(pairs, n, 3, dtype)
        for share in (0, 0.01, 0.5, 0.99, 1):
            free = rng.random(n) < share
            assert_sums(np.asarray(products(kept, free)), kept, free, dtype)


@pytest.mark.parametrize("m", [1, 5])
def test_sums_that_are_carried_on_are_those_of_the_whole(m, dtype, sums_of):
    walk = Walk(m, 700, m, dtype)
    for change in (0, 1, 3, 0, 40, 64, 65, 87, 88, 5, 700, 2, 0, 1):
        walk.step(change, moved=change % 23)
        walk.carry_on(sums_of)
        assert_sums(np.asarray(walk.last.products), walk.kept, walk.free, dtype)
        np.testing.assert_array_equal(walk.last.free, walk.free)
        assert walk.last.known


@pytest.mark.parametrize("m", [1, 5])
def test_sums_over_all_variables(m, dtype, sums_of):
    """Without bounds, at every offset of the ring; what only B needs is not there."""
    walk = Walk(m, 700, m, dtype, bounded=False)
    for _ in range(2 * m + 2):
        walk.step()
        walk.carry_on(sums_of)
        assert walk.last.known
        assert_sums(np.asarray(walk.last.products), walk.kept, np.ones(700, bool), dtype, [True])


@pytest.mark.parametrize("m", [1, 5])
def test_the_inverse_from_sums_over_all_variables(m, dtype, sums_of):
    """That of the recursion, carried on or summed as a whole."""
    n = 700
    rng = np.random.default_rng(m)
    by_sums = jax.jit(compact_inverse_times)
    kept = memory.empty(n, m, np.dtype(dtype), brief=True)
    last = sums.unknown_sums(n, m, np.dtype(dtype), bounded=False)
    g = rng.normal(size=n).astype(dtype)
    for pair in histories.rounded(oracles.random_pairs(rng, n, 2 * m + 1), dtype):
        kept = histories.store(kept, [pair])
        gradient = sums.WithGradient(np.asarray(kept.pairs) @ g, g @ g)
        expected = np.asarray(inverse(kept, g))
        unknown = last._replace(known=np.asarray(False))
        last, anew = (
            sums_of(kept, g, gradient, None, earlier, np.asarray(False))
            for earlier in (last, unknown)
        )
        for summed in (last, anew):
            got = by_sums(kept, summed.products, g, gradient.products)
            size = np.abs(expected).max()
            np.testing.assert_allclose(got, expected, atol=10 * close(dtype, size))


@pytest.mark.parametrize(
    ("change", "moved", "stale", "is_carried"),
    [
        (0, 0, False, True),
        (9, 9, False, True),
        (300, 0, False, False),
        (0, 300, False, True),
        (9, 0, True, False),
    ],
)
def test_what_is_carried_on_and_what_is_summed_anew(
    change, moved, stale, is_carried, dtype, sums_of, on_cpu
):
    """With an old row altered where no variable changes sides, only a new sum can tell."""
    walk = Walk(change, 700, 3, dtype)
    walk.step()
    walk.carry_on(sums_of)
    before = walk.free
    walk.step(change, moved)
    walk.last = walk.last._replace(known=np.asarray(not stale))
    stays = np.flatnonzero(before & walk.free)[0]
    altered = walk.kept._replace(pairs=walk.kept.pairs.at[0, stays].add(10))
    got, of_the_old = (walk.sum(sums_of, kept).products for kept in (altered, walk.kept))
    assert (got[0, 0] == of_the_old[0, 0]) == (is_carried and on_cpu)


@pytest.mark.parametrize(
    ("length", "is_new", "is_difference"),
    [(1.0, True, True), (1e-2, True, False), (1.0, False, False)],
)
@pytest.mark.parametrize("bounded", [True, False])
def test_when_products_with_y_are_a_difference(
    length, is_new, is_difference, bounded, dtype, sums_of, on_cpu
):
    """Where the change of the gradient is small they are measured, which an altered row tells."""
    walk = Walk(7, 700, 3, dtype, bounded=bounded)
    walk.step()
    walk.carry_on(sums_of)
    walk.step(length=length)
    walk.is_new = is_new
    altered = walk.kept._replace(pairs=walk.kept.pairs.at[0].add(10))
    gradient = walk.gradient()
    got, of_the_old = (
        sums_of(kept, walk.g, gradient, walk.free, walk.last, np.asarray(is_new)).products
        for kept in (altered, walk.kept)
    )
    assert (got[0, 1] == of_the_old[0, 1]) == (is_difference and on_cpu)
    expected = whole_sums(walk.kept, np.ones(700, bool) if walk.free is None else walk.free)
    size = np.linalg.norm(walk.kept.pairs[0]) * np.linalg.norm(walk.kept.pairs[1])
    np.testing.assert_allclose(of_the_old[0, 1], expected[0, 1], atol=close(dtype, size))


def test_the_history_is_not_read_where_all_are_free(dtype, sums_of, on_cpu):
    """But on an accelerator, where the first sums are of the whole and y is measured."""
    walk = Walk(1, 600, 3, dtype)
    walk.free[:] = True
    for _ in range(4):
        walk.step()
        unreadable = np.full_like(walk.kept.pairs, np.nan)
        kept = walk.kept._replace(pairs=unreadable) if on_cpu else walk.kept
        walk.last = walk.last._replace(known=np.asarray(True))
        walk.last = walk.sum(sums_of, kept)
        assert_sums(np.asarray(walk.last.products), walk.kept, walk.free, dtype)
        assert walk.last.known


def test_what_was_active_leaves_nothing_behind(dtype, sums_of):
    """Where all became free, the sums over none are zero, not what rounding left."""
    walk = Walk(3, 700, 2, dtype)
    walk.free[:] = True
    walk.free[:5] = False
    walk.step()
    walk.carry_on(sums_of)
    walk.step()
    walk.free[:] = True
    walk.carry_on(sums_of)
    assert not np.asarray(walk.last.products)[2:, 2:].any()
    assert_sums(np.asarray(walk.last.products), walk.kept, walk.free, dtype)


def test_a_difference_that_loses_digits_is_not_taken(dtype, sums_of):
    """Nearly all of y in few variables; what is left when they become active is tiny."""
    n, m = 4400, 2
    rng = np.random.default_rng(60)
    small = 1e-6 if dtype == np.float64 else 1e-3
    y = np.where(np.arange(n) < 50, 1, small) * rng.normal(size=n)
    old, new = histories.rounded([(y, y), (y, 2 * y)], dtype)
    walk = Walk(0, n, m, dtype)
    walk.kept = histories.store(walk.kept, [old])
    walk.free = np.arange(n) < n - 1
    walk.carry_on(sums_of)
    walk.kept = histories.store(walk.kept, [new])
    walk.free = walk.free & (np.arange(n) >= 50)
    got = np.asarray(walk.sum(sums_of).products)
    expected = whole_sums(walk.kept, walk.free)
    np.testing.assert_allclose(got[:m, :m], expected[:m, :m], rtol=close(dtype, 1))
