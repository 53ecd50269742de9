"""The benchmarks run, at tiny sizes, and compute what they say.  No test asserts a time."""

import json
import math
import pathlib
import sys

import jax
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for `benchmarks`

from benchmarks import budget, features, measure, plots, report
from benchmarks.__main__ import load, main
from benchmarks.functions import logistic, quadratic, rosenbrock
from benchmarks.peers import OURS, SCIPY
from benchmarks.solver import Limits, host_function
from benchmarks.suites import NAMES
from jaxlbfgsb import clear_cache
from jaxlbfgsb.plot import profile_curves


@pytest.mark.parametrize("suite", NAMES)
def test_suites_run(suite, tmp_path):
    assert main([suite, "--quick", "--save"], tmp_path) == 0
    (path,) = tmp_path.glob("*.json")
    assert path.stem.startswith(suite)
    record = json.loads(path.read_text())
    assert record["suite"] == suite
    assert record["command"] == f"python -m benchmarks {suite} --quick --save"
    assert record["environment"]["packages"]["jax"]
    assert record["rows"]
    assert set(load(suite).COLUMNS) & set(record["rows"][0])
    if suite in ("small", "medium", "large"):
        ours, scipy = record["rows"][:2]
        assert [ours["solver"], scipy["solver"]] == [OURS.name, SCIPY.name]
        assert scipy["ratio"] > 0
        assert ours["nit"] == scipy["nit"]
        assert not measure.failed(ours["fun"], scipy["fun"])
    if suite == "large":
        assert record["rows"][0]["crossed"] > 10  # of a quadratic with n = 100


def test_solvers_of_free_problems_run(tmp_path):
    command = "small --quick --lists unconstrained --problems 1 --save"
    assert main(command.split(), tmp_path) == 0
    rows = json.loads((tmp_path / "small-unconstrained.json").read_text())["rows"]
    by_solver = {row["solver"]: row for row in rows if row["set"] == "CUTEst"}
    assert {"jaxlbfgsb", "SciPy", "optax lbfgs", "optimistix LBFGS"} <= set(by_solver)
    for row in by_solver.values():
        assert row.get("note") == "not installed" or not row["failed"], row


def test_unknown_suites_are_refused_and_known_ones_listed(capsys):
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert main(["--list"]) == 0
    assert all(name in capsys.readouterr().out for name in NAMES[:1])


def test_ratios_are_medians_of_pairs():
    times = [(1.0, 2.0), (2.0, 20.0), (10.0, 30.0)]
    assert measure.median_ratio(times) == 3.0  # of 2, 10 and 3; the ratio of medians is 10
    assert math.isclose(measure.geometric_mean([2.0, 8.0]), 4.0)
    assert measure.geometric_mean([]) is None


def test_solvers_take_turns_and_the_first_pair_warms_up():
    calls = []
    effort = measure.Effort(limit=math.inf, most=3)
    times = measure.pair_times(lambda: calls.append("a"), lambda: calls.append("b"), effort)
    assert "".join(calls) == "abbaabba"
    assert len(times) == 3
    once = measure.pair_times(lambda: None, lambda: None, measure.Effort(limit=0, most=9))
    assert len(once) == 1


@pytest.mark.parametrize(
    ("value", "best", "fails"),
    [
        (1.0, 1.0, False),
        (1e-7, 0.0, False),
        (2e-6, 0.0, True),
        (1e9 + 100, 1e9, False),
        (1e9 + 2000, 1e9, True),
        (math.nan, 0.0, True),
        (math.inf, 0.0, True),
        (math.inf, math.inf, True),
    ],
)
def test_who_failed(value, best, fails):
    assert measure.failed(value, best) is fails


def test_summary_leaves_failures_out_of_the_mean():
    rows = [
        *({"problem": p, "solver": OURS.name, "fun": 0.0} for p in "abc"),
        {"problem": "a", "solver": "P", "fun": 0.0, "ratio": 2.0},
        {"problem": "b", "solver": "P", "fun": 1e-9, "ratio": 0.5},
        {"problem": "c", "solver": "P", "fun": 1.0, "ratio": 100.0},
    ]
    for problem in "abc":
        measure.judge_rows([row for row in rows if row["problem"] == problem])
    summary = measure.summary_by_peer(rows)
    assert summary["problems"] == 3
    assert summary["P"]["failed"] == ["c"]
    assert summary["P"]["both solved"] == 2
    assert math.isclose(summary["P"]["geometric mean of ratios, both solved"], 1.0)
    assert summary["P"]["jaxlbfgsb slower"] == ["b"]
    assert summary["P"]["smallest ratio"] == ["b", 0.5]


def test_a_peer_that_is_missing_or_breaks_has_a_row(monkeypatch):
    monkeypatch.setattr(measure, "OURS", SCIPY)  # which has nothing to compile

    def broken(problem, limits):
        raise RuntimeError("broken")

    missing = SCIPY._replace(name="missing", needs="no_such_package")
    breaks = SCIPY._replace(name="breaks", prepare=broken)
    rows = measure.compare(
        rosenbrock(2), (missing, breaks), Limits(maxiter=3), measure.Effort(0, 1)
    )
    assert [row.get("note") for row in rows] == [None, "not installed", "raised RuntimeError"]


def test_scipy_agrees_on_the_logistic_regression():
    problem = logistic(20)
    fun = host_function(problem)
    ours, theirs = (
        measure.quality(problem, fun, solver.prepare(problem, Limits())().x)
        for solver in (OURS, SCIPY)
    )
    assert not measure.failed(ours[0], theirs[0])
    assert ours[1] < 1e-3


def test_numpy_function_is_the_function():
    problem = rosenbrock(7)
    value, gradient = problem.numpy(problem.x0)
    expected = host_function(problem)(problem.x0)
    np.testing.assert_allclose(value, expected[0], rtol=1e-14)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-12)


def test_half_of_the_variables_of_the_quadratic_end_on_a_bound():
    problem = quadratic(300)
    x = SCIPY.prepare(problem, Limits())().x
    assert 0.4 < np.mean((x == problem.lower) | (x == problem.upper)) < 0.6


def solved(problem, solver, seconds, nfev, failed=False):
    return {
        "problem": problem, "n": 1, "set": "CUTEst", "solver": solver, "seconds": seconds,
        "nfev": nfev, "failed": failed,
    }  # fmt: skip


PROFILED = [
    solved("a", OURS.name, 1.0, 4),
    solved("a", SCIPY.name, 3.0, 8),
    solved("b", OURS.name, 4.0, 20),
    solved("b", SCIPY.name, 2.0, 2, failed=True),
]


def test_profiles_count_what_was_solved():
    times = profile_curves(plots.times(PROFILED))
    assert times == {OURS.name: ([1.0, 1.0], [0.5, 1.0]), SCIPY.name: ([3.0], [0.5])}
    evaluations = profile_curves(plots.evaluations(PROFILED), relative=False)
    assert evaluations == {OURS.name: ([2.0, 10.0], [0.5, 1.0]), SCIPY.name: ([4.0], [0.5])}


def test_figures_are_drawn_from_saved_results(tmp_path):
    large = [
        {"problem": p, "solver": s, "n": n, "per_evaluation": 1e-6 * n}
        for p in ("p", "q", "r") for s in (OURS.name, SCIPY.name) for n in (10, 100)
    ]  # fmt: skip
    batch = [
        {"solver": s, "n": 2, "B": B, "us_per_problem": 3.0} for s in "ab" for B in (10, 100)
    ] + [{"solver": "c", "n": 2, "B": 10, "note": "not installed"}]
    for stem, rows in (("small", PROFILED), ("large", large), ("batch", batch)):
        report.save(tmp_path / f"{stem}.json", {"rows": rows})
    assert main(["plots"], tmp_path) == 0
    names = {path.stem for path in tmp_path.glob("*.svg")}
    profiles = {f"small-{kind}-profile" for kind in ("performance", "data")}
    assert names == profiles | {"time-against-n", "time-against-batch"}
    first = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert main(["plots"], tmp_path) == 0  # the same results draw the same files
    assert first == {path.name: path.read_text() for path in tmp_path.glob("*.svg")}


def test_results_are_plain_json_without_names_of_machines(tmp_path):
    record = {"a": np.float64(1.5), "b": (np.int32(2), math.nan), "c": {"d": math.inf}}
    report.save(tmp_path / "x.json", record)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": 1.5, "b": [2, None], "c": {"d": None},
    }  # fmt: skip
    import platform

    described = json.dumps(report.environment())
    assert platform.node() not in described


def test_features_are_probed():
    ours = features.PEERS["jaxlbfgsb"]
    for probe in (features.bounded, features.secant, features.traced_once):
        assert features.cell(probe, ours) == "yes"
    wrong = ours._replace(solve=lambda *_: np.zeros(2), hess_inv=None)
    assert features.cell(features.bounded, wrong) == "no"
    assert features.cell(features.secant, wrong) == "-"
    assert features.cell(features.in_jit, ours._replace(solve=None)) == "no"


@pytest.mark.parametrize("n", [3, 600])
def test_budget_of_an_iteration(n, capsys):
    """Each part of the solver is found, in the one kernel of a small solve and among many."""
    # What was traced of an equal function, or for another caller, says their lines.
    jax.clear_caches()
    clear_cache()
    budget.main(str(n))
    shown = " ".join(capsys.readouterr().out.split())
    assert "microseconds an evaluation" in shown
    solve, program = budget.solver(n)
    found = set(budget.parts_of_kernels(program).values())
    of_many = {*budget.PARTS.values(), budget.PRODUCTS} - {"Newton step"}
    assert found >= ({"line search and tests"} if n == 3 else of_many)
    assert int(solve().nfev) > 0
