"""What a run shows of itself: its trace, callbacks and progress, eager and compiled."""

import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb import Trace, batch, minimize, minimize_batch

START = np.array([-1.2, 1.0])
BOUNDS = (None, np.array([0.5, 2.0]))


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def sorting(x):  # which can't be compiled into one kernel
    return rosenbrock(jnp.sort(x))


def on_tree(p):
    return rosenbrock(jnp.append(p["a"], p["b"]))


def seen_by_callback(x0, **options):
    rows = []

    def callback(intermediate_result):
        rows.append((np.array(intermediate_result.x), float(intermediate_result.fun)))

    result = minimize(rosenbrock, x0, callback=callback, **options)
    return result, rows


class TestTrace:
    def test_rows_are_the_start_and_the_iterates(self):
        result = minimize(rosenbrock, START, bounds=BOUNDS, trace=100, trace_x=True)
        _, seen = seen_by_callback(START, bounds=BOUNDS)
        table = result.trace.table()
        assert len(table) == int(result.nit) + 1 == len(seen) + 1
        assert table.dtype.names == (
            *("iteration", "fun", "pg_norm", "step", "nfev", "active", "x"),
        )
        np.testing.assert_array_equal(table.iteration, np.arange(len(table)))
        np.testing.assert_array_equal(table.x[0], START)
        np.testing.assert_allclose(table.x[1:], [x for x, _ in seen], rtol=1e-9)
        np.testing.assert_allclose(table.fun[1:], [f for _, f in seen], rtol=1e-9)
        gradients = jax.vmap(jax.grad(rosenbrock))(table.x)
        projected = np.clip(table.x - gradients, *(-np.inf, BOUNDS[1])) - table.x
        np.testing.assert_allclose(table.pg_norm, np.abs(projected).max(axis=1), atol=1e-9)
        np.testing.assert_array_equal(table.active, (table.x == BOUNDS[1]).sum(axis=1))
        assert table.active[0] == 0
        assert table.active[-1] == 1
        assert table.nfev[0] == 1
        assert table.nfev[-1] == result.nfev
        assert (np.diff(table.nfev) >= 1).all()
        assert (table.fun[-1], table.pg_norm[-1]) == (result.fun, result.pg_norm)

    def test_the_step_is_that_of_the_line_search(self):
        def exponential(x):
            return jnp.exp(x[0]) - 50 * x[0]

        table = minimize(exponential, np.zeros(1), trace=50, trace_x=True).trace.table()
        assert table.step[0] == 0
        # The first direction is the steepest descent, g = -49, and its first trial has length 1.
        assert abs(table.step[1] * 49 - abs(table.x[1, 0])) < 1e-12
        assert (table.step[1:] > 0).all()
        assert table.step[-1] == 1
        one_each = np.diff(table.nfev) == 1
        assert np.isin(1.0, table.step[1:][one_each])

    @pytest.mark.parametrize(
        # The whole run is one kernel, each step is one, parts of a step are.
        ("fun", "n", "dtype", "bounds"),
        [
            (rosenbrock, 2, np.float32, (-2.0, 1.5)),
            (sorting, 2, np.float64, (-2.0, 1.5)),
            (rosenbrock, 600, np.float64, None),
        ],
        ids=["kernel", "kernels", "parts"],
    )
    def test_the_points_are_those_of_a_run_without(self, fun, n, dtype, bounds):
        x0 = np.random.default_rng(n).standard_normal(n).astype(dtype)
        options = {"bounds": bounds, "maxiter": 60}
        plain = minimize(fun, x0, **options)
        traced = minimize(fun, x0, **options, trace=60, trace_x=True)
        assert plain.trace is None
        rest = jax.tree.leaves(traced)[: len(jax.tree.leaves(plain))]
        for a, b in zip(jax.tree.leaves(plain), rest, strict=True):
            np.testing.assert_array_equal(a, b)
        last = int(plain.nit)
        np.testing.assert_array_equal(traced.trace.x[last], plain.x)
        assert traced.trace.fun.dtype == traced.trace.x.dtype == dtype
        assert traced.trace.nfev.dtype == np.int32

    def test_it_keeps_the_first_rows_and_counts_the_others(self):
        whole = minimize(rosenbrock, START, trace=60).trace
        short = minimize(rosenbrock, START, trace=7).trace
        assert short.fun.shape == (8,)
        assert (int(short.rows), int(short.nit)) == (8, int(whole.nit))
        np.testing.assert_array_equal(short.fun, whole.fun[:8])
        np.testing.assert_array_equal(short.table(), whole.table()[:8])
        assert "iterations, the first 7 recorded:" in repr(short)
        assert "the first" not in repr(whole)
        beyond = int(whole.rows)
        assert np.isnan(whole.fun[beyond:]).all()
        assert (np.asarray(whole.nfev[beyond:]) == -1).all()
        start = minimize(rosenbrock, START, trace=0).trace.table()
        assert start.fun.tolist() == whole.fun[:1].tolist()

    def test_of_a_start_that_is_the_solution_or_has_no_value(self):
        solved = minimize(rosenbrock, np.ones(2), trace=7).trace.table()
        assert (len(solved), solved.fun[0], solved.nfev[0]) == (1, 0.0, 1)
        broken = minimize(lambda x: jnp.sum(jnp.log(x)), -np.ones(2), trace=5).trace.table()
        assert len(broken) == 1
        assert np.isnan(broken.fun[0])
        empty = jax.jit(lambda u: minimize(jnp.sum, START, bounds=(1.0, u), trace=5))(0.0)
        assert len(empty.trace.table()) == 0

    def test_under_vmap_and_in_a_batch(self, monkeypatch):
        starts = np.array([[-1.2, 1.0], [0.5, 0.5], [3.0, -1.0]])
        mapped = jax.vmap(lambda x: minimize(rosenbrock, x, trace=60, trace_x=True))(starts)
        in_turn = minimize_batch(rosenbrock, starts, trace=60, trace_x=True)
        monkeypatch.setattr(batch, "solve_in_turn", batch.solve_in_step)  # as on an accelerator
        in_step = minimize_batch(rosenbrock, starts, trace=60, trace_x=True)
        assert mapped.trace.x.shape == (3, 61, 2)
        for i, start in enumerate(starts):
            single = minimize(rosenbrock, start, trace=60, trace_x=True).trace.table()
            for result in (mapped, in_turn, in_step):
                table = result.trace[i].table()
                assert len(table) == result.nit[i] + 1
                np.testing.assert_array_equal(table.nfev, single.nfev)
                np.testing.assert_allclose(table.x, single.x, rtol=1e-6, atol=1e-9)
        with pytest.raises(TypeError, match=r"choose a lane: trace\[3\]\.table\(\)"):
            mapped.trace.table()
        with pytest.raises(TypeError, match="has no lanes"):
            mapped.trace[0][0]
        assert "columns of shape (3, 61)" in repr(mapped.trace)

    def test_it_has_no_derivative_and_takes_none_away(self):
        def solved(p, trace, **options):
            result = minimize(lambda x: jnp.sum((x - p) ** 2), np.zeros(2), trace=trace, **options)
            return result.x.sum() + (0 if trace is None else result.trace.fun[0])

        p = jnp.array([1.0, 2.0])
        np.testing.assert_allclose(jax.grad(solved)(p, 5), jax.grad(solved)(p, None))
        slope = jax.jvp(lambda p: solved(p, 5, implicit_diff=False), (p,), (jnp.ones(2),))[1]
        np.testing.assert_allclose(slope, 2, rtol=1e-6)

    def test_of_pytrees(self):
        start = {"a": jnp.array([-1.2]), "b": jnp.float32(1.0)}
        trace = minimize(on_tree, start, trace=10, trace_x=True).trace
        assert trace.x["a"].shape == (11, 1)
        assert trace.x["b"].dtype == np.float32
        table = trace.table()
        assert table.dtype.names[-2:] == ("x['a']", "x['b']")
        assert table["x['b']"][0] == 1

    def test_the_table_as_a_frame(self):
        pytest.importorskip("pandas")
        trace = minimize(rosenbrock, START, trace=60, trace_x=True).trace
        frame = trace.to_pandas()
        assert list(frame.columns) == [*trace.table().dtype.names[1:-1], "x[0]", "x[1]"]
        assert frame.index.name == "iteration"
        assert frame.loc[0, "x[1]"] == 1.0
        assert len(frame) == trace.rows

    def test_a_frame_without_pandas(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match="pip install pandas"):
            minimize(rosenbrock, START, trace=7).trace.to_pandas()

    @pytest.mark.parametrize("wrong", [True, -1, 2.5, "all"])
    def test_wrong_lengths(self, wrong):
        with pytest.raises(ValueError, match="trace is how many iterations"):
            minimize(rosenbrock, START, trace=wrong)

    def test_x_wants_a_length(self):
        with pytest.raises(ValueError, match="give its length too"):
            minimize(rosenbrock, START, trace_x=True)
        with pytest.raises(TypeError, match="trace_x must be"):
            minimize(rosenbrock, START, trace=3, trace_x=3)

    def test_no_table_inside_jit(self):
        with pytest.raises(TypeError, match="outside of jit only"):
            jax.jit(lambda x: minimize(rosenbrock, x, trace=3).trace.table())(START)
        columns = jax.jit(lambda x: minimize(rosenbrock, x, trace=3).trace)(START)
        assert isinstance(columns, Trace)
        assert len(columns.table()) == 4

    def test_with_a_callback(self):
        result, seen = seen_by_callback(START, trace=60, trace_x=True)
        np.testing.assert_array_equal(result.trace.table().x[1:], [x for x, _ in seen])


class TestCompiledCallback:
    def test_it_is_called_once_for_each_iteration_in_order(self):
        seen = []
        result, eager = seen_by_callback(START, bounds=BOUNDS)

        def callback(intermediate_result):
            assert isinstance(intermediate_result.x, np.ndarray)
            seen.append((intermediate_result.x, float(intermediate_result.fun)))

        compiled = jax.jit(lambda x: minimize(rosenbrock, x, bounds=BOUNDS, callback=callback))
        inside = compiled(START)
        assert inside.nit == result.nit == len(seen)
        # Two programs: in one of them an iteration is a kernel, which rounds otherwise.
        for of_compiled, of_eager in zip(seen, eager, strict=True):
            np.testing.assert_allclose(of_compiled[0], of_eager[0], rtol=1e-9)
            np.testing.assert_allclose(of_compiled[1], of_eager[1], rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(inside.x, result.x, rtol=1e-9)
        compiled(START)  # again, with nothing traced anew
        assert len(seen) == 2 * len(eager)

    def test_what_it_gets_is_its_own(self):
        def spoil(x):
            x["a"][:] = np.nan

        start = {"a": jnp.array([-1.2]), "b": jnp.array(1.0)}
        result = jax.jit(lambda p: minimize(on_tree, p, callback=spoil))(start)
        assert result.success
        assert abs(result.x["b"] - 1) < 1e-3

    def test_stop_iteration_ends_the_run(self):
        count = []

        def stop(x):
            count.append(x)
            if len(count) == 3:
                raise StopIteration

        result = jax.jit(lambda x: minimize(rosenbrock, x, callback=stop))(START)
        assert (result.nit, result.status, len(count)) == (3, 2, 3)
        assert "StopIteration" in result.message
        np.testing.assert_array_equal(result.x, count[-1])

    @pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
    def test_returning_true_ends_the_run(self, wrap):
        seen = []

        def callback(x):
            seen.append(x)
            return np.bool_(len(seen) == 3)

        result = wrap(lambda x: minimize(rosenbrock, x, callback=callback))(START)
        assert (result.nit, result.status, len(seen)) == (3, 2, 3)
        seen.clear()
        result = wrap(lambda x: minimize(rosenbrock, x, callback=lambda x: seen.append(x) or 1))(
            START
        )
        assert result.success
        assert len(seen) == result.nit

    def test_other_exceptions_end_the_program(self):
        def broken(x):
            raise KeyError("my mistake")

        with pytest.raises(jax.errors.JaxRuntimeError, match="my mistake"):
            jax.block_until_ready(
                jax.jit(lambda x: minimize(rosenbrock, x, callback=broken))(START)
            )

    def test_derivatives_call_back_too(self):
        seen = []

        def loss(p):
            fun = lambda x: jnp.sum((x - p) ** 4 + (x - p) ** 2)  # noqa: E731
            return jnp.sum(minimize(fun, np.zeros(2), gtol=1e-12, callback=seen.append).x ** 2)

        p = jnp.array([1.0, 2.0])
        np.testing.assert_allclose(jax.grad(loss)(p), [2, 4], rtol=1e-6)
        assert len(seen) > 2

    def test_through_the_iterations(self):
        seen = []

        def solved(p):
            fun = lambda x: (x - p) @ (x - p)  # noqa: E731
            return minimize(fun, np.zeros(2), implicit_diff=False, callback=seen.append).x

        slope = jax.jvp(solved, (jnp.ones(2),), (jnp.ones(2),))[1]
        np.testing.assert_allclose(slope, 1, rtol=1e-6)
        assert seen

    def test_where_all_values_are_known_while_tracing(self):
        seen = []
        result = jax.jit(lambda: minimize(rosenbrock, START, callback=seen.append))()
        assert len(seen) == result.nit

    @pytest.mark.parametrize("option", [{"callback": print}, {"progress": True}])
    def test_not_under_vmap(self, option):
        with pytest.raises(ValueError, match=r"jax\.lax\.map"):
            jax.vmap(lambda x: minimize(rosenbrock, x, **option))(np.ones((3, 2)))
        with pytest.raises(ValueError, match=r"trace=\.\.\."):
            jax.vmap(lambda a: minimize(lambda x: a * x @ x, START, **option).x)(np.ones(3))

    def test_lane_by_lane(self):
        seen = []
        starts = np.array([[-1.2, 1.0], [0.5, 0.5]])
        solve = jax.jit(lambda x: minimize(rosenbrock, x, callback=seen.append).nit)
        assert jax.lax.map(solve, starts).sum() == len(seen)


class TestProgress:
    @pytest.fixture
    def shown(self, monkeypatch):
        """Every line that a bar would show."""
        tqdm_auto = pytest.importorskip("tqdm.auto")
        lines = []

        class Bar(tqdm_auto.tqdm):
            def __init__(self, **options):
                super().__init__(file=io.StringIO(), **options)

            def update(self, n=1):
                super().update(n)
                lines.append((self.n, self.postfix))

            def close(self):
                lines.append("closed")
                super().close()
                self.close = lambda: None  # which Python calls once more

        monkeypatch.setattr(tqdm_auto, "tqdm", Bar)
        return lines

    @pytest.mark.parametrize("compiled", [False, True])
    def test_each_iteration_is_shown(self, shown, compiled):
        def solve(x):
            return minimize(rosenbrock, x, bounds=BOUNDS, progress=True, trace=100)

        result = (jax.jit(solve) if compiled else solve)(START)
        last = int(result.nit)
        assert shown[-1] == "closed"
        assert shown.count("closed") == 1
        table = result.trace.table()
        expected = [
            f"f={row.fun:.6g}, pg_norm={row.pg_norm:.2e}, nfev={row.nfev}, active={row.active}"
            for row in table[1:]
        ]
        assert [text for _, text in shown[:last]] == expected
        assert [n for n, _ in shown[:last]] == table.iteration[1:].tolist()

    @pytest.mark.parametrize("compiled", [False, True])
    def test_once_in_so_many_iterations(self, shown, compiled):
        def solve(x):
            return minimize(rosenbrock, x, progress=10)

        result = (jax.jit(solve) if compiled else solve)(START)
        last = int(result.nit)
        counts = [n for n, _ in shown[:-1]]
        assert counts == [*range(10, last, 10), last]

    def test_with_a_callback_that_breaks(self, shown):
        def broken(x):
            raise KeyError

        with pytest.raises(KeyError):
            minimize(rosenbrock, START, progress=True, callback=broken)
        assert shown[-1] == "closed"

    def test_without_tqdm(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
        with pytest.raises(ImportError, match=r"jaxlbfgsb\[progress\]"):
            minimize(rosenbrock, START, progress=True)

    @pytest.mark.parametrize("wrong", [0, -3, 1.5, "yes"])
    def test_wrong_progress(self, wrong):
        with pytest.raises(ValueError, match="progress must be"):
            minimize(rosenbrock, START, progress=wrong)
