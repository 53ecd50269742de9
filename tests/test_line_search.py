"""The line search: Moré and Thuente's own tests, and parity with SciPy's port of theirs."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.optimize._dcsrch import DCSRCH

from jaxlbfgsb.method import line_search

MU = line_search.SUFFICIENT_DECREASE
ETA = line_search.CURVATURE
XTOL = line_search.INTERVAL_TOLERANCE

FUNCTIONS = oracles.more_thuente_functions()
FIRST_STEPS = (1e-3, 1e-1, 1e1, 1e3)

start = jax.jit(line_search.start)
advance = jax.jit(line_search.advance)
back_off = jax.jit(line_search.back_off)


def search(phi, first, largest=1e10, dtype=np.float64, advance=advance, limit=60):
    """Run a search; the final state, whether it ended by itself, and all trials.

    A trial is ``(step, value, slope)`` as the search saw them.
    """

    def evaluate(a):
        with np.errstate(invalid="ignore", divide="ignore"):
            return (dtype(v) for v in phi(float(a)))

    value, slope = evaluate(0)
    s = start(*(jnp.asarray(v, dtype) for v in (value, slope, first, largest)))
    trials = []
    for _ in range(limit):
        value, slope = evaluate(s.step)
        trials.append((float(s.step), float(value), float(slope)))
        if np.isfinite(value) and np.isfinite(slope):
            s, over = advance(s, jnp.asarray(value), jnp.asarray(slope))
        else:
            s, over = back_off(s), False
        assert all(leaf.dtype in (dtype, bool, np.int32) for leaf in jax.tree.leaves(s))
        assert s.evaluations == len(trials)
        if over:
            return s, True, trials
    return s, False, trials


def decreases(s, trial, slack=0.0):
    step, value, _ = trial
    return value <= float(s.initial_value) + MU * step * float(s.initial_slope) + slack


def is_flat(s, trial):
    return abs(trial[2]) <= ETA * abs(float(s.initial_slope))


# The tables of the paper: mu, eta, and the evaluations from each of FIRST_STEPS.
TABLES = {
    "5.1": (0.001, 0.1, (6, 3, 1, 4)),
    "5.2": (0.1, 0.1, (12, 8, 8, 11)),
    "5.3": (0.1, 0.1, (12, 12, 10, 13)),
    "5.4 narrow": (0.001, 0.001, (4, 1, 3, 4)),
    "5.4 left": (0.001, 0.001, (6, 3, 7, 8)),
    "5.4 right": (0.001, 0.001, (13, 11, 8, 11)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tables_of_the_paper(name, monkeypatch):
    mu, eta, evaluations = TABLES[name]
    monkeypatch.setattr(line_search, "SUFFICIENT_DECREASE", mu)
    monkeypatch.setattr(line_search, "CURVATURE", eta)
    monkeypatch.setattr(line_search, "INTERVAL_TOLERANCE", 0.0)
    patched = jax.jit(lambda *args: line_search.advance(*args))
    for first, expected in zip(FIRST_STEPS, evaluations, strict=True):
        s, over, trials = search(FUNCTIONS[name], first, advance=patched)
        assert over
        assert len(trials) == expected
        step, value, slope = trials[-1]
        assert value <= float(s.initial_value) + mu * step * float(s.initial_slope)
        assert abs(slope) <= eta * abs(float(s.initial_slope))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_strong_wolfe_with_the_constants_of_the_original(name, dtype):
    for first in FIRST_STEPS:
        s, over, trials = search(FUNCTIONS[name], first, dtype=dtype)
        assert over
        assert len(trials) <= 12
        assert decreases(s, trials[-1])
        # (5.2) and (5.3) are so steep around a minimiser that XTOL ends some searches.
        narrow = bool(s.bracketed) and float(s.high - s.low) <= 1.001 * XTOL * float(s.high)
        assert is_flat(s, trials[-1]) or (narrow and name in ("5.2", "5.3"))
        assert trials[-1][1] <= min(value for _, value, _ in trials)


def scipy_steps(phi, first, largest, mu, eta, xtol):
    """The trials of SciPy's search, and how it ended."""
    port = DCSRCH(None, None, mu, eta, xtol, 0.0, largest)
    value, slope = phi(0.0)
    step, value, slope, task = port._iterate(first, value, slope, b"START")
    steps = []
    while task[:2] == b"FG" and len(steps) < 60:
        steps.append(step)
        value, slope = phi(step)
        step, value, slope, task = port._iterate(step, value, slope, task)
    return steps, task


def random_function(rng):
    """Waves on a parabola, falling at 0."""
    c = 10 ** rng.uniform(-4, 1) * rng.choice([1, 1, 1, -1])
    k = rng.integers(1, 4)
    size, w, p = rng.normal(size=k), 10 ** rng.uniform(-1, 1.3, k), rng.uniform(0, 6.3, k)
    b = rng.normal()
    sign = -np.sign(b + size @ (w * np.cos(p)))

    def phi(a):
        value = c * a * a / 2 + sign * (b * a + size @ np.sin(w * a + p))
        return value, c * a + sign * (b + size @ (w * np.cos(w * a + p)))

    return phi


@pytest.mark.parametrize(
    ("mu", "eta", "xtol"),
    [(MU, ETA, XTOL), (0.4, 0.5, 0.0)],
    ids=["of the original", "strict, so that psi takes the place of phi"],
)
def test_steps_are_those_of_scipys_port(mu, eta, xtol, monkeypatch):
    monkeypatch.setattr(line_search, "SUFFICIENT_DECREASE", mu)
    monkeypatch.setattr(line_search, "CURVATURE", eta)
    monkeypatch.setattr(line_search, "INTERVAL_TOLERANCE", xtol)
    patched = jax.jit(lambda *args: line_search.advance(*args))
    rng = np.random.default_rng(5)
    endings, lengths = {}, []
    functions = [random_function(rng) for _ in range(400)] + list(FUNCTIONS.values())
    for phi in functions:
        first = 10 ** rng.uniform(-3, 2)
        largest = first * rng.choice([1.0, 3.0, 100.0, 1e10])
        expected, task = scipy_steps(phi, first, largest, mu, eta, xtol)
        _, over, trials = search(phi, first, largest, advance=patched)
        steps = [step for step, _, _ in trials]
        assert len(steps) == len(expected)
        np.testing.assert_allclose(steps, expected, rtol=1e-7)
        assert over == (task[:2] != b"FG")
        endings[task] = endings.get(task, 0) + 1
        lengths.append(len(steps))
    assert max(lengths) > 8
    assert endings[b"CONVERGENCE"] > 200
    assert endings[b"WARNING: STP = STPMAX"] > 20
    assert xtol == 0 or endings[b"WARNING: XTOL TEST SATISFIED"] > 5


def test_it_ends_at_the_largest_step_while_the_function_falls(dtype):
    _, over, trials = search(lambda a: (-a, -1.0), 0.5, largest=40.0, dtype=dtype)
    assert over
    steps = [step for step, _, _ in trials]
    assert steps[-1] == 40
    assert steps == sorted(steps)
    s, over, trials = search(lambda a: (-a, -1.0), 40.0, largest=40.0, dtype=dtype)
    assert over
    assert [step for step, _, _ in trials] == [40]
    assert decreases(s, trials[0])


def test_a_first_step_that_is_good_enough_ends_at_once(dtype):
    _, over, trials = search(lambda a: ((a - 1) ** 2, 2 * (a - 1)), 1.0, dtype=dtype)
    assert over
    assert trials == [(1, 0, 0)]


def test_no_descent_ends_without_a_step(dtype):
    """A slope that lies: steps shrink, and nothing overflows or turns NaN."""
    s, _, trials = search(lambda a: (a, -1.0 if a == 0 else 1.0), 1.0, dtype=dtype, limit=20)
    assert all(0 <= b[0] <= a[0] for a, b in pairwise(trials))
    assert trials[-1][0] < 1e-4
    assert s.best.step == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_back_off_from_where_the_function_is_not_finite(bad, dtype):
    rng = np.random.default_rng(6)
    backed_off = []
    for _ in range(40):
        edge, minimum = 10 ** rng.uniform(-3, 1, 2)

        def bowl(a, edge=edge, minimum=minimum):
            return (bad, bad) if a >= edge else ((a - minimum) ** 2, 2 * (a - minimum))

        def barrier(a, edge=edge, minimum=minimum):
            if a >= edge:
                return bad, bad
            return -a / edge - 0.1 * np.log(1 - a / edge), (-1 + 0.1 / (1 - a / edge)) / edge

        for phi in (bowl, barrier):
            first = 10 ** rng.uniform(-3, 4)
            s, over, trials = search(phi, first, dtype=dtype, limit=20)
            assert over
            steps, values, _ = np.array(trials).T
            finite = np.isfinite(values)
            assert finite[-1]
            assert decreases(s, trials[-1], slack=4 * np.finfo(dtype).eps * abs(phi(0)[0]))
            assert (steps > 0).all()
            for i in np.flatnonzero(~finite):  # never as long again
                assert (steps[i + 1 :] < steps[i]).all()
            assert s.nonfinite == (~finite).sum()
            assert is_flat(s, trials[-1]) or s.nonfinite
            backed_off.append(int(s.nonfinite))
    assert sum(k > 0 for k in backed_off) > 20


def test_eight_failures_reach_far(dtype):
    def phi(a):
        return (0.0, -1.0) if a == 0 else (np.nan, np.nan)

    s, over, trials = search(phi, 1.0, dtype=dtype, limit=8)
    assert not over
    expected = 0.5 ** np.cumsum(np.arange(8))
    np.testing.assert_array_equal([step for step, _, _ in trials], expected)
    assert 0 < s.step < 1e-10
    assert s.nonfinite == 8


def test_back_off_returns_towards_the_best_step(dtype):
    """The first trial is good and long steps are not finite: it ends between them."""

    def phi(a):
        return (np.inf, np.nan) if a > 3 else (-a, -1.0)

    s, over, trials = search(phi, 1.0, dtype=dtype)
    assert over
    assert trials[0][0] == 1
    assert trials[1][0] > 3
    assert 1 < trials[-1][0] <= 3
    assert decreases(s, trials[-1])
