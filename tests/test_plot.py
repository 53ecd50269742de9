"""The pictures show what the results hold."""

import importlib
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxlbfgsb
from jaxlbfgsb import minimize, minimize_batch, plot

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

START = np.array([-1.2, 1.0])
LOWER, UPPER = np.array([-1.5, -0.5]), np.array([0.6, np.inf])


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def run():
    return minimize(rosenbrock, START, bounds=(LOWER, UPPER), trace=50, trace_x=True)


@pytest.fixture(scope="module")
def stopped():
    return minimize(rosenbrock, START, bounds=(LOWER, UPPER), trace=50, trace_x=True, maxiter=5)


def labels(axes):
    return axes.get_legend_handles_labels()[1]


class TestConvergence:
    def test_of_one_run(self, run):
        axes = plot.convergence(run)
        (line,) = axes.lines
        table = run.trace.table()
        np.testing.assert_array_equal(line.get_xdata(), table.iteration)
        np.testing.assert_array_equal(
            line.get_ydata(), np.where(table.pg_norm, table.pg_norm, np.nan)
        )
        assert axes.get_yscale() == "log"
        assert axes.get_xlabel() == "iteration"
        assert axes.get_ylabel() == "norm of the projected gradient"
        assert axes.get_legend() is None  # nothing to tell apart

    def test_of_several_runs_and_of_f(self, run, stopped):
        axes = plot.convergence({"free": run, "short": stopped}, quantity="fun")
        assert labels(axes) == ["free", "short", "did not converge"]
        first, second, cross = axes.lines
        assert len({first.get_color(), second.get_color()}) == 2
        lowest = float(run.fun)
        np.testing.assert_allclose(second.get_ydata(), stopped.trace.table().fun - lowest)
        assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (5, stopped.fun - lowest)
        assert cross.get_color() == second.get_color()
        assert axes.get_ylabel() == "f above its lowest value"

    def test_of_a_sequence_into_given_axes(self, run):
        _, own = plt.subplots()
        assert plot.convergence([run, run], ax=own) is own
        assert labels(own) == ["run 0", "run 1"]

    def test_without_a_trace(self):
        with pytest.raises(ValueError, match=r"trace=100\), for example"):
            plot.convergence(minimize(rosenbrock, START))


@pytest.fixture(scope="module")
def lanes():
    starts = np.random.default_rng(0).uniform(-2, 2, (30, 2))
    return minimize_batch(rosenbrock, starts, maxiter=32, trace=40)


class TestBatch:
    def test_quantiles_and_failed_lanes(self, lanes):
        result, axes = lanes, plot.batch(lanes)
        failed = np.flatnonzero(~np.asarray(result.success))
        assert 0 < failed.size < 15
        median, *single, crosses = axes.lines
        assert len(single) == failed.size
        steps = median.get_xdata()
        assert steps[-1] == result.nit.max() == 32
        converged = np.flatnonzero(np.asarray(result.success))
        tables = [result.trace[i].table().pg_norm for i in converged]
        at_ten = [t[min(10, len(t) - 1)] for t in tables]  # a lane that ended keeps its value
        np.testing.assert_allclose(median.get_ydata()[10], np.median(at_ten))
        first = result.trace[int(failed[0])].table()
        np.testing.assert_array_equal(single[0].get_ydata(), first.pg_norm)
        np.testing.assert_array_equal(crosses.get_ydata(), np.asarray(result.pg_norm)[failed])
        assert labels(axes) == [
            "90 % of the converged lanes",
            "50 % of the converged lanes",
            f"median of {converged.size}",
            f"{failed.size} did not converge",
        ]

    def test_of_f(self, lanes):
        axes = plot.batch(lanes, quantity="fun")
        assert axes.get_ylabel() == "f above its lowest value"
        assert np.nanmax(axes.lines[0].get_ydata()) > 1

    def test_of_one_run(self, run):
        with pytest.raises(ValueError, match=r"there is plot\.convergence"):
            plot.batch(run)


class TestPath:
    def test_path_box_and_contours(self, run):
        axes = plot.path(rosenbrock, run, (LOWER, UPPER))
        by_label = {line.get_label(): line for line in axes.lines}
        way = by_label[f"{int(run.nit)} steps"]
        np.testing.assert_array_equal(way.get_xydata(), run.trace.table().x)
        np.testing.assert_array_equal(by_label["start"].get_xydata(), [START])
        np.testing.assert_array_equal(by_label["end"].get_xydata(), [run.x])
        assert "outside of the bounds" in labels(axes)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert left < -1.5 < 0.6 < right
        assert bottom < -0.5 < 1 < top
        grey = [c for c in axes.collections if len(c.get_paths()) == 1]
        corners = np.concatenate([c.get_paths()[0].vertices for c in grey])
        assert np.isclose(corners[:, 0], 0.6).any()
        assert np.isclose(corners[:, 1], -0.5).any()
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("x[0]", "x[1]")

    def test_contours_are_values_of_the_function(self, run):
        axes = plot.path(rosenbrock, run)
        (contours,) = (c for c in axes.collections if hasattr(c, "levels"))
        level = contours.levels[5]
        points = contours.get_paths()[5].vertices
        values = np.array([float(rosenbrock(p)) for p in points[:: len(points) // 9]])
        offset = values - level  # f is drawn above its lowest value on the grid
        assert np.ptp(offset) < 0.05 * level
        assert "outside of the bounds" not in labels(axes)

    def test_of_a_pytree(self):
        def fun(p, shift):
            return (p["a"] - shift) ** 2 + p["b"] ** 2

        start = {"a": jnp.float32(1.0), "b": jnp.float32(2.0)}
        result = minimize(fun, start, (3.0,), trace=9, trace_x=True)
        axes = plot.path(fun, result, args=(3.0,))
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("x['a']", "x['b']")

    def test_errors_teach(self, run):
        with pytest.raises(ValueError, match="trace_x=True"):
            plot.path(rosenbrock, minimize(rosenbrock, START, trace=3))
        three = minimize(rosenbrock, np.zeros(3), trace=3, trace_x=True)
        with pytest.raises(ValueError, match="this one has 3"):
            plot.path(rosenbrock, three)


COSTS = {"A": [1.0, 4.0, np.nan], "B": [3.0, 2.0, np.inf]}


class TestProfile:
    def test_shares(self):
        axes = plot.profile(COSTS)
        first, second = axes.lines
        assert labels(axes) == ["A", "B"]
        assert first.get_xdata()[:-1].tolist() == [1, 1, 2]
        assert first.get_ydata().tolist() == [0, 1 / 3, 2 / 3, 2 / 3]
        assert second.get_xdata()[1:-1].tolist() == [1, 3]
        assert axes.get_ylabel() == "share of problems solved"
        assert axes.get_xlabel() == "cost / cost of the best"

    def test_absolute(self):
        axes = plot.profile(COSTS, relative=False, looks={"B": {"color": "red"}})
        assert axes.lines[0].get_xdata()[1:-1].tolist() == [1, 4]
        assert axes.lines[1].get_color() == "red"

    @pytest.mark.parametrize("wrong", [{}, {"A": [1], "B": [1, 2]}, {"A": []}, {"A": 1.0}])
    def test_wrong_costs(self, wrong):
        with pytest.raises(ValueError, match="one number for each problem"):
            plot.profile(wrong)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"jaxlbfgsb\[plot\]"):
        plot.profile({"A": [1.0]})


@pytest.mark.parametrize("name", plot.__all__)
def test_names_are_documented(name):
    assert getattr(jaxlbfgsb.plot, name).__doc__


def test_the_script_of_the_documents(monkeypatch, tmp_path):
    images = Path(__file__).parent.parent / "docs" / "images"
    monkeypatch.syspath_prepend(str(images))
    sight = importlib.import_module("sight")
    monkeypatch.setattr(sight, "convergence", sight.path)  # one picture stands for all
    monkeypatch.setattr(sight, "batch", sight.path)
    monkeypatch.setattr(sight, "profile", sight.path)
    sight.main(tmp_path)
    assert "outside of the bounds" in (tmp_path / "sight-path.svg").read_text()
    for name in plot.__all__:
        assert (images / f"sight-{name}.svg").exists()
