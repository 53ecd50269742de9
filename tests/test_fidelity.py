"""The steps of the installed SciPy, on the small bounded problems of `benchmarks.fidelity`.

The whole table is printed by ``python -m benchmarks.fidelity``; this is its fast part.
"""

import functools
import pathlib
import sys

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for `benchmarks`

from benchmarks import fidelity, noise  # noqa: E402
from benchmarks.problems import load  # noqa: E402

# Runs that end before rounding has grown to anything, by number of variables (each number is
# compiled once).
SHORT = (
    *("BRANIN", "EGGCRATEB", "EXP2B", "HS4", "HS5", "PRICE4B"),
    *("BOX2", "DGOSPEC", "KOEBHELB", "LEVYMONT6", "PFIT1LS"),
    *("HATFLDA", "HS38", "PALMER4B"),
    "S368",
)
# Runs that rounding makes drift: SciPy leaves its own path as early if the gradient is
# changed in its last bit.
LONG = (
    *("PFIT3LS", "DEVGLA1B"),
    *("AIRCRFTB", "PALMER2E", "PALMER3E", "PALMER6E"),
)


@functools.cache
def row(name):
    return fidelity.compare(name)


@pytest.mark.parametrize("name", SHORT + LONG)
def test_first_evaluation_points_are_those_of_scipy(name):
    assert row(name)["same_start"], row(name)


@pytest.mark.parametrize("name", SHORT)
def test_short_runs_have_the_counts_of_scipy(name):
    assert row(name)["same_counts"], row(name)
    assert row(name)["no_worse"], row(name)


def test_long_runs_end_as_well_as_scipy_on_the_whole():
    # Where one run ends is chance: SciPy's own end depends on the last bit as much.
    rows = [row(name) for name in LONG]
    assert sum(r["no_worse"] for r in rows) >= len(rows) / 2
    assert 0.7 < fidelity.summarise(rows)["geometric mean of nfev ratios"] < 1.5


def test_first_step_is_the_projected_gradient_step_where_scipy_rounds_it():
    """With B = I the Cauchy point is P(x - g).

    SciPy sums its derivatives along the path, which cancels once a long component has
    met its bound: its step is 4e-9 off here, and eight digits are lost for good.
    """
    problem = load("LOGROS")
    fun = fidelity.host_function(problem)
    x0 = np.clip(problem.x0, problem.lower, problem.upper)
    d = np.clip(x0 - fun(x0)[1], problem.lower, problem.upper) - x0
    expected = x0 + d * min(1 / np.linalg.norm(d), 1)
    ours, theirs = (run(problem, fun).points[1] for run in (fidelity.run_ours, fidelity.run_scipy))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-11)


def test_split_is_the_first_point_that_differs():
    points = [np.array([1.0, 1e-12]), np.array([2.0, 0.0]), np.array([0.0, 0.0])]
    nearly = [point + 0.9e-9 * np.max(np.abs(point)) for point in points]
    assert fidelity.first_split(points, points) is None
    assert fidelity.first_split(nearly, points) is None
    assert fidelity.first_split(points[:1], points) is None
    assert fidelity.first_split([points[0], points[1] * (1 + 2e-9)], points) == 1
    assert fidelity.first_split([points[0], points[1], points[2] + 1e-300], points) == 2
    assert fidelity.first_split([points[0] * np.nan], points) == 0


@pytest.mark.parametrize(
    ("ours", "theirs", "holds"),
    [
        (1.0, 1.0, True),
        (1.0 + 0.9e-6, 1.0, True),
        (1.0 + 2e-6, 1.0, False),
        (-1.0 + 2e-6, -1.0, False),
        (1e-9, 0.0, True),
        (3e-9, 0.0, False),
        (-5.0, 1.0, True),
        (1.0, np.nan, True),
        (np.nan, 1.0, False),
        (np.inf, 1.0, False),
    ],
)
def test_no_worse(ours, theirs, holds):
    assert fidelity.no_worse(ours, theirs) is holds


def test_noise_changes_the_last_place_and_no_short_run():
    x = np.array([1.5, -0.5])
    gradient = np.array([3.0, 0.7])
    changed = [noise.noisy(lambda _: (2.0, gradient), seed)(x) for seed in range(12)]
    values, gradients = zip(*changed, strict=True)
    assert set(values) == {2 - 2 * noise.EPS, 2.0, 2 + 2 * noise.EPS}
    assert 0 < np.max(np.abs(np.array(gradients) / gradient - 1)) <= 1.5 * noise.EPS
    rows = noise.against_itself(load("HS4"), 3)
    assert noise.line(rows)["f worse"] == 0
    table = fidelity.summarise(rows[:1])
    same = noise.summarise([table, table])["same nit and nfev (n <= 100)"]
    assert same == {"of": 1, "least": 1, "median": 1, "most": 1}
