"""The generalized Cauchy point against a walk with a dense matrix."""

import histories
import jax
import numpy as np
import oracles
import pytest

from jaxlbfgsb.method import cauchy
from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.cauchy import CHUNK, generalized_cauchy_point
from jaxlbfgsb.xla.kernel import FEW_PRODUCTS, FEW_VARIABLES, SOME_VARIABLES, step_is_one_kernel

pytestmark = pytest.mark.usefixtures("either_backend")

find = jax.jit(generalized_cauchy_point)
find_all = jax.jit(jax.vmap(generalized_cauchy_point))


M = 16
LARGE = 6 * CHUNK + 18
SOME = FEW_PRODUCTS // (2 * M) ** 2 + 1
MANY = SOME_VARIABLES + 1
assert FEW_VARIABLES < SOME < MANY
assert not step_is_one_kernel(2 * M, SOME)
EVERY_SIZE = [(FEW_VARIABLES, 3), (SOME, M), (MANY, 3), (LARGE, 3)]
"""(n, m): all is one kernel, the walk is, and then the walk by a heap; more than some chunks."""


def tolerance(dtype):
    return 1e-9 if dtype == np.float64 else 2e-3


def histories_of_every_kind(rng, n, m, dtype):
    """``(memory, pairs in use)``: empty, partly filled, full, wrapped, forgotten."""
    for stored in (0, 1, max(m - 1, 1), m, m + 1, 2 * m + 1):
        pairs = histories.rounded(oracles.random_pairs(rng, n, stored), dtype)
        yield histories.memory_of(pairs, n, m, dtype), pairs[-m:]
    old = histories.forget(histories.memory_of(oracles.random_pairs(rng, n, m + 1), n, m, dtype))
    pairs = histories.rounded(oracles.random_pairs(rng, n, 1), dtype)
    yield histories.store(old, pairs), pairs


def random_problem(rng, n, dtype, ties=False, width=None):
    """A point in a box and a gradient, with every kind of variable among them.

    A small `width` lets many variables meet their bounds.
    """
    sign = rng.choice([-1.0, 1.0], n)
    width = rng.choice([0.125, 0.5, 4.0]) if width is None else width
    if ties:  # numbers whose quotients are exact, so that breakpoints are equal
        size, t = rng.choice([0.5, 1.0, 2.0], n), rng.choice([0.25, 0.5, 1.0, 8.0], n)
        x = rng.integers(-8, 8, n) / 8
    else:
        size, t = np.exp(rng.normal(size=n)), np.exp(rng.normal(size=n))
        x = rng.normal(size=n)
    t = width * t
    g = sign * size
    ahead, behind = x - t * g, x + sign * rng.choice([0.0, 1.0], n)
    l, u = np.minimum(ahead, behind), np.maximum(ahead, behind)
    names = ["open", "on bound", "fixed", "flat", "open behind", "bounded"]
    kind = rng.choice(names, n, p=[0.1, 0.1, 0.05, 0.07, 0.04, 0.64])
    down, up = g > 0, g < 0
    l = np.where((kind == "open") & down | (kind == "open behind") & up, -np.inf, l)
    u = np.where((kind == "open") & up | (kind == "open behind") & down, np.inf, u)
    l = np.where((kind == "on bound") & down | (kind == "fixed"), x, l)
    u = np.where((kind == "on bound") & up | (kind == "fixed"), x, u)
    g = np.where(kind == "flat", 0, g)  # on a bound or between two
    g[0], l[0], u[0] = 1.0, x[0] - width, x[0] + 1.0  # one can move
    x, g, l, u = (v.astype(dtype) for v in (x, g, l, u))
    return np.clip(x, l, u), g, l, u


def check(problem, B, dense, dtype):
    """Compare with the oracle, which has B as a matrix; the number of breakpoints crossed."""
    x, g, l, u = problem
    got = find(x, g, Box(l, u), B)
    xc, c, free = map(np.asarray, got[:3])
    exact, t_end, exact_free, t = oracles.cauchy_point(*oracles.double(x, g, l, u), dense)

    assert xc.dtype == c.dtype == dtype
    scale = max(1.0, t_end * np.abs(g).max())
    np.testing.assert_allclose(xc, exact, atol=tolerance(dtype) * scale, rtol=0)
    rows = histories.W(B).T
    sizes = np.abs(rows) @ np.abs(exact - x) + 1
    assert (np.abs(c - rows @ (exact - x)) <= tolerance(dtype) * sizes * scale).all()

    # Feasible bit for bit; a variable that is not free is on the bound that it met.
    assert ((l <= xc) & (xc <= u)).all()
    bound = np.where(t == 0, x, np.where(g < 0, u, l))
    np.testing.assert_array_equal(xc[~free], bound[~free])
    decided = (dtype == np.float64) | ~np.isclose(t, t_end, rtol=tolerance(dtype), atol=0)
    np.testing.assert_array_equal(free[decided], exact_free[decided])
    return int(((t > 0) & ~exact_free).sum())


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(
    ("n", "m", "form"),
    [
        (1, 1, "compact"),
        (9, 5, "dense"),
        (60, 3, "compact"),
        (MANY, 3, "compact"),
    ],
)
def test_random_boxes(n, m, form, ties, dtype):
    rng = np.random.default_rng([n, m, ties])
    crossed = []
    problems = 20 if n < MANY else 8
    for kept, pairs in histories_of_every_kind(rng, n, m, dtype):
        B, dense = histories.FORMS[form](kept), oracles.bfgs_matrix(pairs, n)
        for _ in range(problems):
            crossed.append(check(random_problem(rng, n, dtype, ties), B, dense, dtype))
    assert min(crossed) < min(n / 4, 16)
    assert max(crossed) >= 0.4 * n
    assert sum(k > 16 for k in crossed) > problems or n < MANY


@pytest.fixture(params=[cauchy.CHUNKS_SHARE, 4])
def chunks(request, monkeypatch):
    """On an accelerator all of one size, or a small one before those that are a share of the
    variables."""
    monkeypatch.setattr(cauchy, "CHUNKS_SHARE", request.param)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("stored", [0, 8])
def test_more_breakpoints_than_a_chunk(stored, dtype):
    n, m = LARGE, 3
    rng = np.random.default_rng(stored)
    pairs = histories.rounded(oracles.random_pairs(rng, n, stored), dtype)
    B = histories.compact(histories.memory_of(pairs, n, m, dtype))
    dense = oracles.bfgs_matrix(pairs[-m:], n)
    for ties in (False, True):
        problem = random_problem(rng, n, dtype, ties, width=1 / 64)
        assert check(problem, B, dense, dtype) > 3 * CHUNK


@pytest.mark.parametrize(("n", "m"), EVERY_SIZE)
def test_every_number_of_breakpoints_near_the_switches(n, m, dtype):
    """With ``B = I`` the minimiser is at t = 1, so that the crossings can be counted out."""
    rng = np.random.default_rng(n)
    B = histories.compact(histories.empty(n, m, np.dtype(dtype)))
    counts = {0, 1, n - 1, n}
    counts |= {k + d for k in (CHUNK, 5 * CHUNK) for d in (-1, 0, 1)}
    for count in sorted(k for k in counts if k <= n):
        g = rng.uniform(1, 2, n) * rng.choice([-1, 1], n)
        t = rng.permutation(np.r_[rng.uniform(0.1, 0.9, count), rng.uniform(1.1, 2, n - count)])
        x = rng.normal(size=n)
        l, u = np.where(g > 0, x - t * g, -np.inf), np.where(g < 0, x - t * g, np.inf)
        x, g, l, u = (v.astype(dtype) for v in (x, g, l, u))
        xc, _, free, *_ = map(np.asarray, find(x, g, Box(l, u), B))
        np.testing.assert_array_equal(free, t > 1)
        np.testing.assert_allclose(xc, np.clip(x - g, l, u), atol=tolerance(dtype) / 4, rtol=0)
        np.testing.assert_array_equal(xc[t < 1], np.where(g < 0, u, l)[t < 1])


def test_a_minimiser_at_a_breakpoint_crosses_it(dtype):
    """Equality goes on: the variable is then on its bound, and active."""
    for n, m in EVERY_SIZE[:-1]:
        x, g = np.zeros(n, dtype), np.ones(n, dtype)
        l = np.full(n, -2, dtype)
        l[n - 1] = -1
        B = histories.compact(histories.empty(n, m, np.dtype(dtype)))
        xc, _, free, *_ = find(x, g, Box(l, np.ones(n, dtype)), B)
        np.testing.assert_array_equal(xc, -np.ones(n))
        assert not free[n - 1]
        assert free[: n - 1].all()


def test_breakpoints_a_rounding_error_away_stay_in_the_box(dtype):
    rng = np.random.default_rng(8)
    n = 60
    B = histories.compact(histories.empty(n, 3, np.dtype(dtype)))
    for _ in range(100):
        x, g = rng.normal(size=(2, n)).astype(dtype)
        end = (x - g).astype(dtype)
        for _ in range(rng.integers(3)):
            end = np.nextafter(end, x - np.sign(g) * rng.choice([0, 9], n).astype(dtype))
        l, u = np.where(g > 0, end, -np.inf).astype(dtype), np.where(g < 0, end, np.inf)
        u = u.astype(dtype)
        xc, _, free, *_ = find(x, g, Box(l, u), B)
        xc, free = np.asarray(xc), np.asarray(free)
        assert ((l <= xc) & (xc <= u)).all()
        np.testing.assert_array_equal(xc[~free], end[~free])
        np.testing.assert_allclose(xc, end, rtol=0, atol=20 * np.finfo(dtype).eps)


def test_all_breakpoints_equal(dtype):
    for n, m in EVERY_SIZE:
        x, g = np.zeros(n, dtype), -np.ones(n, dtype)
        for bound, all_met in ((0.25, True), (1.0, True), (1.5, False)):
            u = np.full(n, bound, dtype)
            B = histories.compact(histories.empty(n, m, np.dtype(dtype)))
            xc, _, free, *_ = find(x, g, Box(np.full(n, -np.inf, dtype), u), B)
            np.testing.assert_array_equal(xc, np.full(n, min(bound, 1.0)))
            assert (~free).all() == all_met
            assert free.any() != all_met


def test_zero_gradient_on_a_bound_is_active_and_inside_free(dtype):
    x = np.array([0.0, 1.0, 0.5, 0.25], dtype)
    l = np.array([0.0, 0.0, 0.0, 0.0], dtype)
    u = np.array([1.0, 1.0, 1.0, 1.0], dtype)
    g = np.array([0.0, 0.0, 0.0, 0.125], dtype)
    B = histories.compact(histories.empty(4, 5, np.dtype(dtype)))
    xc, c, free, *_ = find(x, g, Box(l, u), B)
    np.testing.assert_array_equal(free, [False, False, True, True])
    np.testing.assert_array_equal(xc, [0.0, 1.0, 0.5, 0.125])
    assert not c.any()


def test_where_nothing_can_move_the_point_stays(dtype):
    x = np.array([0.0, 1.0, 0.5, 0.5], dtype)
    l, u = np.array([0, 0, 0, 0.5], dtype), np.array([1, 1, 1, 0.5], dtype)
    g = np.array([3.0, -2.0, 0.0, 1.0], dtype)
    B = histories.compact(histories.empty(4, 5, np.dtype(dtype)))
    xc, c, free, *_ = find(x, g, Box(l, u), B)
    np.testing.assert_array_equal(xc, x)
    np.testing.assert_array_equal(free, [False, False, True, False])
    assert not c.any()


def test_infinite_bounds_everywhere(dtype):
    n, m = 16, 3
    rng = np.random.default_rng(9)
    pairs = histories.rounded(oracles.random_pairs(rng, n, 5), dtype)
    B = histories.compact(histories.memory_of(pairs, n, m, dtype))
    dense = oracles.bfgs_matrix(pairs[-m:], n)
    for _ in range(10):
        x, g = rng.normal(size=(2, n)).astype(dtype)
        infinite = np.full(n, np.inf, dtype)
        assert check((x, g, -infinite, infinite), B, dense, dtype) == 0


@pytest.mark.parametrize(("n", "m"), [(16, 3), (MANY, 3)])
def test_lanes_of_a_batch_agree_with_single_problems(n, m, dtype):
    rng = np.random.default_rng([n, m])
    problems, matrices = [], []
    for kept, _ in histories_of_every_kind(rng, n, m, dtype):
        for ties in (False, True):
            problems.append(random_problem(rng, n, dtype, ties))
            matrices.append(histories.compact(kept))
    x, g, l, u = (np.stack(v) for v in zip(*problems, strict=True))
    B = jax.tree.map(lambda *leaves: np.stack(leaves), *matrices)
    batch = jax.tree.map(np.asarray, find_all(x, g, Box(l, u), B))
    for i in range(len(problems)):
        alone = find(x[i], g[i], Box(l[i], u[i]), matrices[i])
        np.testing.assert_array_equal(batch.free[i], alone.free)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(batch.xc[i], alone.xc, atol=200 * eps, rtol=200 * eps)
        np.testing.assert_allclose(batch.c[i], alone.c, atol=2000 * eps, rtol=2000 * eps)
        assert ((l[i] <= batch.xc[i]) & (batch.xc[i] <= u[i])).all()
