"""The JAX front door: forms of input, transformations, caching, errors."""

import collections
import functools
import gc
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from scipy.optimize import Bounds, fmin_l_bfgs_b

import jaxlbfgsb
from jaxlbfgsb import OptimizeResult, Reason, minimize, pytrees
from jaxlbfgsb.program.closures import fingerprint


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def distance(x, target):
    return jnp.sum((x - target) ** 2)


START = np.array([-1.2, 1.0])
COMPILATIONS = collections.Counter()


def count_compilations(name, duration, **_):
    if name == "/jax/core/compile/backend_compile_duration":
        COMPILATIONS["compiled"] += 1


jax.monitoring.register_event_duration_secs_listener(count_compilations)


class TestResult:
    def test_fields(self, dtype):
        result = minimize(rosenbrock, START.astype(dtype), bounds=(None, np.array([0.5, 2.0])))
        assert result.x.dtype == result.fun.dtype == result.jac.dtype == dtype
        assert result.status == 0
        assert result.success
        assert result.x[0] == dtype(0.5)
        assert result.active.tolist() == [1, 0]
        np.testing.assert_allclose(result.x[1], 0.25, rtol=1e-3)
        np.testing.assert_allclose(result.jac, jax.grad(rosenbrock)(result.x), atol=1e-6)
        assert result.njev == result.nfev > result.nit > 0
        assert result.aux is None
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(result))

    def test_message_and_repr(self):
        result = minimize(rosenbrock, START)
        assert result.message.startswith("Converged")
        text = repr(result)
        for word in ("Converged", "nfev", Reason(int(result.reason)).name):
            assert text.count(word) == 1
        assert text.splitlines()[0] == f"   message: {result.message}"
        assert len({line.index(":") for line in text.splitlines()}) == 1

    def test_repr_of_pytrees_and_under_jit(self):
        start = {"a": jnp.ones((2, 1)), "b": jnp.zeros(())}
        result = minimize(lambda p: (jnp.sum(p["a"] ** 2), {"c": p["b"]}), start, has_aux=True)
        names = [line.split(":")[0].strip() for line in repr(result).splitlines() if ":" in line]
        assert {"x['a']", "x['b']", "jac['a']", "active['b']", "aux['c']"} < set(names)
        shown = []
        jax.jit(lambda x: shown.append(repr(minimize(rosenbrock, x))))(START)
        assert "reason: JitTracer" in shown[0]

    def test_message_of_a_batch_and_under_jit(self):
        batch = jax.vmap(lambda x: minimize(rosenbrock, x))(np.stack([START, START + 1]))
        assert batch.message.shape == (2,)
        assert "nfev" in repr(batch)
        lines = repr(batch.__class__(**{**vars(batch), "reason": jnp.array([4, 1])})).splitlines()
        assert lines[0] == "   message: 2 of 2 runs converged."
        assert lines[1] == "    reason: PROJECTED_GRADIENT 1, MAXITER 1"
        with pytest.raises(TypeError, match="outside of jit"):
            jax.jit(lambda x: len(minimize(rosenbrock, x).message))(START)

    def test_it_is_a_pytree(self):
        result = minimize(rosenbrock, START)
        leaves, tree = jax.tree.flatten(result)
        assert isinstance(jax.tree.unflatten(tree, leaves), OptimizeResult)

    @pytest.mark.parametrize("maxcor", [1, 3, 10])
    def test_newest_secant_equation(self, maxcor):
        for maxiter in (1, 2, 4, 7, 12, 30):
            options = {"maxcor": maxcor, "maxiter": maxiter, "ftol": 0}
            H = minimize(rosenbrock, np.linspace(-1, 1, 6), **options).hess_inv
            dense = np.asarray(H.todense())
            s, y = np.asarray(H.s)[-1], np.asarray(H.y)[-1]
            assert H.n_corrs == min(maxiter, maxcor)
            np.testing.assert_allclose(H @ y, s, rtol=0, atol=1e-9 * np.linalg.norm(s))
            np.testing.assert_allclose(dense, dense.T, rtol=0, atol=1e-9 * abs(dense).max())
            np.testing.assert_allclose(dense.diagonal(), H.diagonal(), rtol=1e-9)
            assert (np.linalg.eigvalsh(dense) > 0).all()
            if maxiter >= 2 and maxcor >= 2:  # the last step leads to x
                assert np.abs(s).max() > 0
            unused = np.asarray(H.s)[: maxcor - int(H.n_corrs)]
            assert not unused.any()

    def test_operator_refuses_wrong_shapes(self):
        H = minimize(rosenbrock, START).hess_inv
        assert H.shape == (2, 2)
        assert (H @ np.eye(2)).shape == (2, 2)
        with pytest.raises(ValueError, match=r"shape \(3,\)"):
            H @ np.ones(3)


class TestForms:
    def test_pytree(self):
        def f(p, shift):
            return jnp.sum((p["a"] - 1) ** 2) + jnp.sum((p["b"][0] + shift) ** 4)

        x0 = {"a": np.zeros((2, 3), np.float32), "b": (np.ones(2), None)}
        bounds = ({"a": None, "b": -1.5}, {"a": np.full((2, 3), 0.5), "b": None})
        result = minimize(f, x0, (2.0,), bounds=bounds)
        assert result.x["a"].dtype == np.float32
        assert result.x["b"][0].dtype == np.float64
        assert (result.x["a"] == 0.5).all()
        assert (result.x["b"][0] == -1.5).all()
        assert (result.active["a"] == 1).all()
        assert (result.active["b"][0] == -1).all()
        assert result.jac["a"].shape == (2, 3)

    def test_scalar_and_matrix_x0(self):
        result = minimize(lambda x: (x - 2) ** 2, 0.5, bounds=(0, 1))
        assert result.x.shape == ()
        assert result.x == 1
        matrix = minimize(lambda x: jnp.sum((x - 2) ** 2), np.zeros((2, 2)))
        np.testing.assert_allclose(matrix.x, 2)

    def test_forms_of_bounds_agree(self):
        lower, upper = np.array([-2.0, -np.inf]), np.array([0.5, np.inf])
        results = [
            minimize(rosenbrock, START, bounds=bounds)
            for bounds in (
                (lower, upper),
                (jnp.array(lower), jnp.array(upper)),
                Bounds(lower, upper),
                ((lower), upper.astype(np.float32)),
            )
        ]
        for result in results:
            np.testing.assert_array_equal(result.x, results[0].x)
        one_sided = minimize(rosenbrock, START, bounds=(None, upper))
        np.testing.assert_allclose(one_sided.x, results[0].x, rtol=1e-6)
        scalar = minimize(rosenbrock, START, bounds=Bounds(-2, 0.5))
        assert scalar.x[0] == 0.5

    def test_scalar_bounds_of_a_pytree_by_scipy(self):
        x0 = {"a": np.zeros(2), "b": np.zeros(3)}
        result = minimize(lambda p: -jnp.sum(p["a"]) - jnp.sum(p["b"]), x0, bounds=Bounds(-1, 1))
        assert all((leaf == 1).all() for leaf in jax.tree.leaves(result.x))

    def test_infinite_bounds_are_none(self):
        x0 = np.resize(START, 12)
        free = minimize(rosenbrock, x0)
        infinite = jax.jit(lambda low: minimize(rosenbrock, x0, bounds=(low, jnp.inf)))
        result = infinite(jnp.full(12, -jnp.inf))
        assert (result.nit, result.nfev) == (free.nit, free.nfev)
        np.testing.assert_allclose(result.x, free.x, rtol=1e-9)

    def test_returned_forms(self):
        def value(x):
            return jnp.sum((x - 1) ** 4)

        def pair(x):
            return value(x), jax.grad(value)(x)

        def with_aux(x):
            return value(x), {"half": x / 2}

        def both(x):
            return (value(x), x + 1), jax.grad(value)(x)

        plain = minimize(value, START)
        for fun, options in (
            (pair, {"value_and_grad": True}),
            (with_aux, {"has_aux": True}),
            (both, {"value_and_grad": True, "has_aux": True}),
        ):
            result = minimize(fun, START, **options)
            np.testing.assert_array_equal(result.x, plain.x)
        aux = minimize(with_aux, START, has_aux=True)
        np.testing.assert_array_equal(aux.aux["half"], aux.x / 2)
        np.testing.assert_array_equal(
            minimize(both, START, value_and_grad=True, has_aux=True).aux, plain.x + 1
        )

    def test_static_leaves_of_args(self):
        def f(x, kind, data):
            return jnp.sum((x - data["c"]) ** 2) if kind == "square" else jnp.sum(jnp.abs(x))

        result = minimize(f, START, ("square", {"c": 3, "unused": None}))
        np.testing.assert_allclose(result.x, 3)

    def test_gtol_rel(self):
        x0, pg0 = START, np.abs(jax.grad(rosenbrock)(START)).max()
        loose = minimize(rosenbrock, x0, gtol=0, ftol=0, gtol_rel=1e-2)
        assert loose.reason == Reason.PROJECTED_GRADIENT
        assert 1e-6 * pg0 < loose.pg_norm <= 1e-2 * pg0
        assert minimize(rosenbrock, x0, gtol=0, ftol=0, gtol_rel=1e-9).pg_norm <= 1e-9 * pg0


class TestTransformations:
    def test_jit_gives_the_same_bits(self, dtype):
        x0 = START.astype(dtype)
        eager = minimize(rosenbrock, x0, bounds=(-2, 0.7))
        jitted = jax.jit(lambda x: minimize(rosenbrock, x, bounds=(-2, 0.7)))(x0)
        for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_vmap_with_own_bounds_and_data(self, dtype):
        rng = np.random.default_rng(3)
        targets = rng.normal(size=(9, 4)).astype(dtype)
        lower = np.sort(rng.normal(size=(9, 4)), axis=0).astype(dtype) - dtype(1)

        def solve(x0, target, low):
            return minimize(distance, x0, (target,), bounds=(low, low + 1))

        batch = jax.vmap(solve)(np.zeros((9, 4), dtype), targets, lower)
        for i in range(9):
            single = solve(np.zeros(4, dtype), targets[i], lower[i])
            np.testing.assert_allclose(batch.x[i], single.x, rtol=1e-5, atol=1e-6)
            assert batch.nit[i] == single.nit
        assert batch.success.all()
        expected = np.clip(targets, lower, lower + dtype(1))
        np.testing.assert_allclose(batch.x, expected, atol=1e-4)

    def test_scan(self):
        def body(x, target):
            x = minimize(distance, x, (target,), bounds=(-1.0, 1.0)).x
            return x, x

        targets = np.random.default_rng(0).normal(size=(5, 3))
        _, xs = jax.lax.scan(body, jnp.zeros(3), targets)
        np.testing.assert_allclose(xs, np.clip(targets, -1, 1), atol=1e-5)

    @pytest.mark.parametrize("bounds", [(0, 1), None])
    @pytest.mark.parametrize("n", [2, 60, 600, 2100])
    def test_shard_map(self, n, bounds):
        self.check_shard_map(n, bounds)

    @pytest.mark.usefixtures("as_on_an_accelerator")
    @pytest.mark.parametrize("n", [60, 600])
    def test_shard_map_as_on_an_accelerator(self, n):
        self.check_shard_map(n, (0, 1))

    @pytest.mark.usefixtures("beside_an_accelerator")
    def test_shard_map_beside_an_accelerator(self):
        self.check_shard_map(60, (0, 1))

    def check_shard_map(self, n, bounds):
        mesh = Mesh(np.array(jax.devices()[:1]), ("i",))
        spec = PartitionSpec("i")

        def solve(targets):
            return jax.vmap(lambda t: minimize(distance, jnp.zeros(n), (t,), bounds=bounds).x)(
                targets
            )

        targets = np.random.default_rng(0).normal(size=(4, n))
        xs = jax.jit(jax.shard_map(solve, mesh=mesh, in_specs=spec, out_specs=spec))(targets)
        expected = targets if bounds is None else np.clip(targets, 0, 1)
        np.testing.assert_allclose(xs, expected, atol=1e-5)

    def test_shard_map_without_vmap(self):
        mesh = Mesh(np.array(jax.devices()[:1]), ("i",))
        spec = PartitionSpec("i")
        solve = jax.shard_map(
            lambda x0: minimize(rosenbrock, x0, bounds=(None, 2.0)).x,
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
        )
        np.testing.assert_allclose(jax.jit(solve)(START), 1, rtol=1e-4)

    def test_closure_over_a_tracer(self):
        @jax.jit
        def solve(target):
            return minimize(lambda x: jnp.sum((x - target) ** 2), jnp.zeros(3)).x

        np.testing.assert_allclose(solve(jnp.arange(3.0)), np.arange(3), atol=1e-6)

    def test_dynamic_options(self):
        solve = jax.jit(lambda n, tol: minimize(rosenbrock, START, maxiter=n, gtol=tol, ftol=0))
        assert solve(3, 1e-5).nit == 3
        assert solve(5, 1e-5).nit == 5
        assert solve(1000, 1e-8).pg_norm <= 1e-8

    def test_invalid_values_under_jit_end_in_a_reason(self):
        solve = jax.jit(lambda low, tol: minimize(rosenbrock, START, bounds=(low, 0), gtol=tol))
        assert solve(1.0, 1e-5).reason == Reason.INVALID_BOUNDS
        assert solve(np.nan, 1e-5).reason == Reason.INVALID_BOUNDS
        assert solve(-1.0, -1.0).reason == Reason.INVALID_OPTIONS
        assert not solve(-1.0, -1.0).success
        assert solve(-1.0, 1e-5).success


class Model:
    def __init__(self, target):
        self.target = target
        self.options = {"power": 2}

    def loss(self, x):
        return jnp.sum((x - self.target) ** self.options["power"])


GLOBAL_TARGET = 1.0


def loss_with_global(x):
    return jnp.sum((x - GLOBAL_TARGET) ** 2)


@pytest.mark.usefixtures("as_on_an_accelerator")
@pytest.mark.parametrize(
    ("dtype", "n", "bounds", "by_lanes"),
    [
        (np.float32, 2, None, True),
        (np.float64, 30, (-2.0, 0.7), True),
        (np.float32, 600, (-2.0, 0.7), False),
    ],
)
def test_what_an_accelerator_runs_solves_as_well(n, bounds, by_lanes, dtype):
    x0 = np.resize(START.astype(dtype), n)
    value_and_grad = jax.jit(jax.value_and_grad(rosenbrock))
    _, best, _ = fmin_l_bfgs_b(
        lambda x: tuple(map(np.asarray, value_and_grad(x))),
        x0.astype(float),
        bounds=bounds and [bounds] * n,
    )

    def solve(x):
        result = minimize(rosenbrock, x, bounds=bounds, maxcor=2)
        return result.fun, result.success

    values, successes = jax.vmap(solve)(np.stack([x0, x0])) if by_lanes else solve(x0)
    assert np.all(values <= best + 1e-5 * max(best, 1) * (100 if dtype == np.float32 else 1))
    assert np.all(successes)


def test_values_that_lie_on_a_device_are_checked_there_inside_of_a_trace_too(monkeypatch, dtype):
    monkeypatch.setattr(pytrees, "_is_far", lambda array: isinstance(array, jax.Array))
    x0, upper = jnp.zeros(3, dtype), jnp.ones(3, dtype)

    def closed_over(x0, upper):
        lower = jnp.zeros(3, dtype)
        return jax.jit(lambda target: minimize(distance, x0, (target,), bounds=(lower, upper)).x)

    target = jnp.asarray([-1, 0.5, 2], dtype)
    np.testing.assert_allclose(closed_over(x0, upper)(target), [0, 0.5, 1], atol=1e-6)
    with pytest.raises(ValueError, match="NaN"):
        closed_over(x0.at[0].set(jnp.nan), upper)(target)
    with pytest.raises(ValueError, match="greater than its upper bound"):
        closed_over(x0, upper.at[0].set(-1))(target)


class TestCaching:
    """One trace, one compilation, and never a stale value."""

    @pytest.fixture
    def compilations(self):
        """Counts what XLA has compiled so far."""
        return COMPILATIONS

    def test_one_trace_in_all(self, compilations):
        traces = 0

        def f(x, a):
            nonlocal traces
            traces += 1
            return jnp.sum(a * (x - 1) ** 4)

        x0 = np.full(7, 3.0)
        minimize(f, x0, (1.0,), bounds=(0.0, 2.0))
        before = compilations["compiled"]
        for k in range(4):
            minimize(
                f,
                x0 + k,
                (2.0 + k,),
                bounds=(-float(k), 5.0),
                ftol=10.0**-k,
                gtol=1e-4,
                maxiter=10 + k,
                maxfun=100 + k,
                maxls=10 + k,
                gtol_rel=0.1 * k,
            )
        assert traces == 1
        assert compilations["compiled"] == before

    def test_one_trace_under_jit_and_vmap(self):
        traces = []

        def f(x):
            traces.append(1)
            return jnp.sum((x - 1) ** 4)

        jax.jit(jax.vmap(lambda x: minimize(f, x)))(np.zeros((3, 2)))
        assert len(traces) == 1

    def test_trace_with_aux_and_gradient_is_one(self):
        traces = []

        def f(x):
            traces.append(1)
            return (jnp.sum(x**4), x), 4 * x**3

        minimize(f, np.ones(3), value_and_grad=True, has_aux=True)
        assert len(traces) == 1

    def test_new_data_in_a_closure_is_used_and_compiles_nothing(self, compilations):
        def solve(target):
            return minimize(
                lambda x: jnp.sum(jax.nn.softplus(x - target) + (x - target) ** 2), np.zeros(5)
            ).x

        targets = [jax.device_put(np.arange(5.0) + k) for k in range(3)]
        first = np.asarray(solve(targets[0]))
        before = compilations["compiled"]
        for k in (1, 2):
            np.testing.assert_allclose(np.asarray(solve(targets[k])) - k, first, atol=1e-4)
        assert compilations["compiled"] == before

    @pytest.mark.parametrize("n", [2, 600])
    def test_what_a_result_offers_is_compiled_once(self, compilations, n):
        def offered(start):
            result = minimize(rosenbrock, np.full(n, start))
            H = result.hess_inv
            v = np.ones(n)
            return H @ v, H @ v[:, None], H.s, H.y, H.diagonal(), result.covariance()

        first = offered(-1.0)
        before = compilations["compiled"]
        second = offered(-0.5)
        assert compilations["compiled"] == before
        assert not np.array_equal(first[0], second[0])

    def test_closure_cell(self):
        target = 1.0

        def f(x):
            return jnp.sum((x - target) ** 2)

        assert minimize(f, np.zeros(2)).x[0] == pytest.approx(1)
        target = 2.0
        assert minimize(f, np.zeros(2)).x[0] == pytest.approx(2)

    def test_array_in_a_cell_overwritten_in_place(self):
        target = np.ones(2)

        def f(x):
            return jnp.sum((x - target) ** 2)

        assert minimize(f, np.zeros(2)).x[0] == pytest.approx(1)
        target[:] = 3
        assert minimize(f, np.zeros(2)).x[0] == pytest.approx(3)

    def test_defaults(self):
        def f(x, target=1.0):
            return jnp.sum((x - target) ** 2)

        assert minimize(f, np.zeros(2)).x[0] == pytest.approx(1)
        f.__defaults__ = (4.0,)
        assert minimize(f, np.zeros(2)).x[0] == pytest.approx(4)

    def test_keyword_defaults_and_partial(self):
        def f(x, *, target=1.0):
            return jnp.sum((x - target) ** 2)

        assert minimize(f, np.zeros(2)).x[0] == pytest.approx(1)
        f.__kwdefaults__["target"] = 5.0
        assert minimize(f, np.zeros(2)).x[0] == pytest.approx(5)
        for target in (6.0, 7.0):
            bound = functools.partial(f, target=target)
            assert minimize(bound, np.zeros(2)).x[0] == pytest.approx(target)

    def test_attributes_of_a_bound_method(self):
        model = Model(1.0)
        assert minimize(model.loss, np.zeros(2)).x[0] == pytest.approx(1)
        model.target = 2.0
        assert minimize(model.loss, np.zeros(2)).x[0] == pytest.approx(2)
        model.target = np.array([3.0, 4.0])
        assert minimize(model.loss, np.zeros(2)).x[1] == pytest.approx(4)
        model.options["power"] = 4
        result = minimize(model.loss, np.zeros(2), gtol=1e-9, ftol=0)
        np.testing.assert_allclose(result.fun, jnp.sum((result.x - model.target) ** 4), rtol=1e-12)

    def test_callable_object_and_nested_function(self):
        class Loss:
            def __init__(self, inner):
                self.inner = inner

            def __call__(self, x):
                return self.inner(x)

        for target in (1.0, 2.0):
            loss = Loss(lambda x, target=target: jnp.sum((x - target) ** 2))
            assert minimize(loss, np.zeros(2)).x[0] == pytest.approx(target)

    def test_globals(self, monkeypatch):
        assert minimize(loss_with_global, np.zeros(2)).x[0] == pytest.approx(1)
        monkeypatch.setitem(globals(), "GLOBAL_TARGET", 2.0)
        assert minimize(loss_with_global, np.zeros(2)).x[0] == pytest.approx(2)

    def test_what_cannot_be_seen_through_is_traced_each_time(self):
        source = iter([1.0, 2.0, 3.0, 4.0])  # an iterator shows nothing of its state

        def f(x):
            return jnp.sum((x - next(source)) ** 2)

        assert minimize(f, np.zeros(2)).x[0] == pytest.approx(1)
        assert minimize(f, np.zeros(2)).x[0] == pytest.approx(2)

    def test_x64_setting_is_part_of_the_key(self):
        def f(x):
            return jnp.sum((x - jnp.asarray(0.1)) ** 2)

        wide = minimize(f, np.zeros(2, np.float32))
        with jax.enable_x64(False):
            narrow = minimize(f, np.zeros(2, np.float32))
        assert wide.x.dtype == narrow.x.dtype == np.float32

    def test_a_solve_in_the_function_is_seen_through(self):
        """Wherever this package lies, its own caches are no values to compute with."""

        def outer(p):
            return minimize(lambda x: (x - p) ** 2, 0.0 * p).fun

        before = fingerprint(outer)
        minimize(lambda x: x**4, jnp.array(1.0))
        assert before is not None
        assert fingerprint(outer) == before

    def test_what_moves_from_one_container_to_the_next_counts(self):
        """Taken apart one after the other, they hold the same objects in the same order."""
        first, second = [list], []

        def f(x):
            return jnp.sum((x - len(first) + 2 * len(second)) ** 2)

        before = fingerprint(f)
        assert minimize(f, jnp.zeros(2)).x[0] == pytest.approx(1)
        second.append(first.pop())
        assert fingerprint(f) != before
        assert minimize(f, jnp.zeros(2)).x[0] == pytest.approx(-2)

    def test_a_float64_start_where_jax_computes_in_float32(self):
        """No warning, the tolerances of float32, and none of them left for float64."""

        def f(x):
            return jnp.sum((x - 0.1) ** 4)

        with jax.enable_x64(False):
            narrow = minimize(f, np.ones(2))
            same = minimize(f, np.ones(2, np.float32))
        assert narrow.x.dtype == np.float32
        assert (narrow.nit, narrow.nfev) == (same.nit, same.nfev)
        wide = minimize(f, np.ones(2))
        assert wide.x.dtype == np.float64
        assert wide.nit > narrow.nit

    def test_clear_cache_lets_data_go(self):
        class Tag:
            pass

        tag = Tag()
        seen = weakref.ref(tag)
        minimize(lambda x, tag=tag: jnp.sum(x**2), np.ones(2))
        del tag
        jaxlbfgsb.clear_cache()
        gc.collect()
        assert seen() is None


class TestCallback:
    def test_once_per_iteration_with_x(self):
        seen = []
        result = minimize(rosenbrock, START, callback=seen.append)
        assert len(seen) == result.nit
        np.testing.assert_array_equal(seen[-1], result.x)
        plain = minimize(rosenbrock, START)  # compiled as another program
        np.testing.assert_allclose(plain.x, result.x, rtol=1e-10)

    def test_intermediate_result(self):
        values = []

        def callback(intermediate_result):
            values.append(float(intermediate_result.fun))

        result = minimize(rosenbrock, START, callback=callback)
        assert values == sorted(values, reverse=True)
        assert values[-1] == result.fun

    def test_stop(self):
        seen = []

        def callback(x):
            seen.append(x)
            if len(seen) == 3:
                raise StopIteration

        result = minimize(rosenbrock, START, callback=callback)
        assert result.nit == 3
        assert result.reason == Reason.CALLBACK
        assert result.status == 2
        limited = minimize(rosenbrock, START, maxiter=3, callback=callback)
        assert limited.reason == Reason.MAXITER

    def test_other_exceptions_propagate(self):
        def callback(x):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            minimize(rosenbrock, START, callback=callback)

    def test_converged_at_the_start(self):
        result = minimize(rosenbrock, np.ones(2), callback=pytest.fail)
        assert (result.nit, result.nfev) == (0, 1)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"fun": 3}, TypeError, "callable"),
        ({"args": [1.0]}, TypeError, "tuple"),
        ({"x0": np.array([1, 2])}, TypeError, "floating-point.*int64"),
        ({"x0": np.array([1j, 2])}, TypeError, "complex128"),
        ({"x0": np.ones(2, np.float16)}, TypeError, "float32 or float64"),
        ({"x0": np.zeros(0)}, ValueError, "no variables"),
        ({"x0": {}}, ValueError, "no variables"),
        ({"x0": np.array([np.nan, 1.0])}, ValueError, "NaN"),
        ({"x0": "start"}, TypeError, "floating-point"),
        ({"bounds": [(0, 1), (0, 1)]}, ValueError, r"\(lower, upper\)"),
        ({"bounds": ((0, 1), (0, 1))}, ValueError, r"for example jnp.array\(\[0, 1\]\)"),
        ({"bounds": ([0.0, 0.0], None)}, ValueError, "list or tuple of numbers"),
        ({"x0": [1, 2]}, TypeError, "each number a variable"),
        ({"bounds": np.zeros((2, 2))}, ValueError, r"\(lower, upper\)"),
        ({"bounds": (0, 1, 2)}, ValueError, r"\(lower, upper\)"),
        ({"bounds": (np.zeros(3), None)}, ValueError, r"shape \(3,\)"),
        ({"bounds": (1.0, 0.0)}, ValueError, "greater than"),
        ({"bounds": (np.array([0.0, 2.0]), 1.0)}, ValueError, "2.0 > 1.0 at index 1"),
        ({"bounds": (np.nan, None)}, ValueError, "NaN"),
        ({"bounds": (np.inf, np.inf)}, ValueError, "no finite number"),
        ({"bounds": (None, -np.inf)}, ValueError, "no finite number"),
        ({"bounds": ("a", None)}, TypeError, "real numbers"),
        ({"bounds": ({"a": 0}, None)}, ValueError, "do not fit"),
        ({"maxcor": 0}, ValueError, "at least 1"),
        ({"maxcor": 2.5}, ValueError, "integer"),
        ({"maxcor": True}, ValueError, "integer"),
        ({"ftol": -1.0}, ValueError, "ftol"),
        ({"gtol": np.nan}, ValueError, "gtol"),
        ({"gtol_rel": np.ones(2)}, ValueError, "scalar"),
        ({"gtol": "small"}, TypeError, "gtol"),
        ({"maxls": 0}, ValueError, "maxls must be positive"),
        ({"maxiter": "many"}, TypeError, "maxiter"),
        ({"fun": lambda x: x}, ValueError, r"scalar.*shape \(2,\)"),
        ({"fun": lambda x: (x[0], x)}, TypeError, "value_and_grad=True"),
        ({"fun": lambda x: None}, TypeError, "returned None"),
        ({"fun": lambda x: jnp.sum(x).astype(int)}, TypeError, "int64"),
        ({"fun": lambda x: jnp.sum(x) * 1j}, TypeError, "complex"),
        ({"fun": lambda x: x[0], "has_aux": True}, TypeError, r"\(value, aux\)"),
        ({"fun": lambda x: x[0], "value_and_grad": True}, TypeError, r"\(value, gradient\)"),
        ({"fun": lambda x: (x[0], x[:1]), "value_and_grad": True}, ValueError, "shape of x0"),
        ({"fun": lambda x: (x[0], [x]), "value_and_grad": True}, ValueError, "structure of x0"),
        ({"tolerance": 1.0}, TypeError, "tolerance"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_errors_teach(change, error, text):
    arguments = {"fun": rosenbrock, "x0": START} | change
    with pytest.raises(error, match=text):
        minimize(**arguments)


@pytest.mark.parametrize(
    ("fun", "x0", "note"),
    [
        (lambda x: np.sum(np.asarray(x) ** 2), np.ones(2), "fmin_l_bfgs_b"),
        (lambda x: float(jnp.sum(x**2)), np.ones(2), "AskTell"),
        (lambda x: jnp.sum((x - np.ones(2)) ** 2), [1.0, 2.0], r"jnp.array\(x0\)"),
    ],
    ids=["numpy", "float", "list"],
)
def test_errors_in_the_function_say_what_to_do(fun, x0, note):
    with pytest.raises(TypeError) as caught:
        minimize(fun, x0)
    assert any(re.search(note, text) for text in caught.value.__notes__)
