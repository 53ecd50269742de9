"""Derivatives of the solution: exact cases, edges, transformations, failures."""

import collections
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxlbfgsb import minimize
from jaxlbfgsb.derivatives.linear_solve import conjugate_residuals, solve_symmetric, tolerance

A = np.array([[3.0, 1.0], [1.0, 2.0]])
P = np.array([1.0, 5.0])
LOWER, UPPER = np.array([-1.0, -1.0]), np.array([10.0, 1.5])


def quadratic(x, p):
    return x @ jnp.asarray(A, x.dtype) @ x / 2 - p @ x


def fields(p, lower, upper, **options):
    result = minimize(quadratic, jnp.zeros_like(p), (p,), bounds=(lower, upper), **options)
    return {"x": result.x, "fun": result.fun, "jac": result.jac}


MODES = {"forward": jax.jacfwd, "reverse": jax.jacrev}
JACOBIANS = {mode: jax.jit(jac(fields, argnums=(0, 1, 2))) for mode, jac in MODES.items()}


def by_iteration(p, upper):
    return fields(p, LOWER, upper, implicit_solve="iterative")


JACOBIANS_BY_ITERATION = {
    mode: jax.jit(jac(by_iteration, argnums=(0, 1))) for mode, jac in MODES.items()
}


def exact(dtype):
    return 1e-8 if dtype == np.float64 else 1e-3


@pytest.mark.parametrize("mode", MODES)
class TestExactCases:
    def test_arguments_bounds_and_value(self, mode, dtype):
        p, lower, upper = (v.astype(dtype) for v in (P, LOWER, UPPER))
        d = JACOBIANS[mode](p, lower, upper)
        tol = {"rtol": 0, "atol": exact(dtype)}
        np.testing.assert_allclose(d["x"][0], [[1 / 3, 0], [0, 0]], **tol)
        np.testing.assert_allclose(d["x"][1], np.zeros((2, 2)), **tol)
        np.testing.assert_allclose(d["x"][2], [[0, -1 / 3], [0, 1]], **tol)
        np.testing.assert_allclose(d["fun"][0], [1 / 6, -1.5], **tol)  # the envelope: -x
        np.testing.assert_allclose(d["fun"][1], [0, 0], **tol)
        np.testing.assert_allclose(d["fun"][2], [0, -13 / 6], **tol)  # the multiplier
        np.testing.assert_allclose(d["jac"][0], [[0, 0], [1 / 3, -1]], **tol)
        np.testing.assert_allclose(d["jac"][2], [[0, 0], [0, 5 / 3]], **tol)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(d))

    def test_conjugate_residuals_agree(self, mode):
        d = JACOBIANS_BY_ITERATION[mode](P, UPPER)
        expected = JACOBIANS[mode](P, LOWER, UPPER)
        for name in d:
            for i, j in ((0, 0), (1, 2)):
                np.testing.assert_allclose(d[name][i], expected[name][j], rtol=0, atol=1e-8)

    def test_degenerate_bound_keeps_its_variable(self, mode):
        p = A @ np.array([0.3, 1.5])  # the multiplier of x_1 = 1.5 is zero
        d = JACOBIANS[mode](p, LOWER, UPPER)
        np.testing.assert_allclose(d["x"][0], [[1 / 3, 0], [0, 0]], atol=1e-8)
        np.testing.assert_allclose(d["x"][2], [[0, -1 / 3], [0, 1]], atol=1e-8)

    @pytest.mark.parametrize(("p", "side"), [(5.0, 2), (-5.0, 1)])
    def test_fixed_variable_follows_the_bound_that_holds_it(self, mode, p, side):
        fixed = np.array([-1.0, 0.5]), np.array([10.0, 0.5])
        d = JACOBIANS[mode](np.array([1.0, p]), *fixed)
        np.testing.assert_allclose(d["x"][side], [[0, -1 / 3], [0, 1]], atol=1e-8)
        np.testing.assert_allclose(d["x"][3 - side], np.zeros((2, 2)), atol=1e-8)

    def test_everything_active(self, mode):
        d = JACOBIANS[mode](np.array([100.0, -100.0]), LOWER, UPPER)
        np.testing.assert_allclose(d["x"][0], np.zeros((2, 2)))
        np.testing.assert_allclose(d["x"][1], np.diag([0, 1]))
        np.testing.assert_allclose(d["x"][2], np.diag([1, 0]))

    def test_closure_and_argument(self, mode):
        def fun(x, y):
            return jnp.sum(x**2) - jnp.sum(x * y)

        def closed(y):
            return minimize(lambda x: fun(x, y), jnp.zeros(3), bounds=(0.0, 1.0)).x

        def argument(y):
            return minimize(fun, jnp.zeros(3), (y,)).x

        y = jnp.array([0.5, 1.0, 3.0])
        np.testing.assert_allclose(MODES[mode](closed)(y), np.diag([0.5, 0.5, 0]), atol=1e-12)
        batch = jax.jit(jax.vmap(MODES[mode](argument)))(jnp.stack([y, -y]))
        np.testing.assert_allclose(batch, [np.eye(3) / 2, np.eye(3) / 2], atol=1e-12)


class TestHigherOrders:
    def test_hessian_of_the_optimal_value(self):
        def value(p):
            return fields(p, LOWER, UPPER)["fun"]

        np.testing.assert_allclose(jax.hessian(value)(P), [[-1 / 3, 0], [0, 0]], atol=1e-8)

    @pytest.mark.parametrize(
        ("outer", "solver"),
        [(jax.jacfwd, "dense"), (jax.jacrev, "dense"), (jax.jacrev, "iterative")],
    )
    def test_second_derivative_of_a_curved_solution(self, outer, solver):
        def solution(p):  # x = log(p) on the free variable
            def fun(x):
                return jnp.sum(jnp.exp(x) - p * x)

            bounds = (None, np.array([9.0, 0.0]))
            options = {"bounds": bounds, "implicit_solve": solver}
            return minimize(fun, jnp.zeros(2), gtol=1e-12, ftol=0, **options).x

        p = jnp.array([2.0, 3.0])
        d2 = jax.jit(outer(jax.jacrev(solution)))(p)
        expected = np.zeros((2, 2, 2))
        expected[0, 0, 0] = -1 / 4
        np.testing.assert_allclose(d2, expected, atol=1e-8)


# Random convex quadratics in a box, made so that the solution is known.

N, COUNT = 8, 200


def problems():
    """One problem in a row: H, p, lower, upper, and the solution with its sides."""
    rng = np.random.default_rng(0)
    rows = [oracles.box_quadratic(rng, N) for _ in range(COUNT)]
    return [np.stack(part) for part in zip(*rows, strict=True)]


def solve_quadratic(H, p, lower, upper):
    result = minimize(
        lambda x: x @ H @ x / 2 - p @ x, jnp.zeros(N), bounds=(lower, upper), ftol=0, gtol=1e-11
    )
    return result.x, result


@pytest.mark.parametrize("mode", MODES)
def test_random_quadratics_in_a_box(mode):
    H, p, lower, upper, x, side = problems()
    sides = zip(lower.ravel(), upper.ravel(), side.ravel(), strict=True)
    kinds = {(l == u, s, np.isfinite(l), np.isfinite(u)) for l, u, s in sides}
    assert len(kinds) == 10  # fixed from both sides; on each bound, and free, of all forms
    jac = MODES[mode](solve_quadratic, argnums=(0, 1, 2, 3), has_aux=True)
    derivatives, result = jax.jit(jax.vmap(jac))(H, p, lower, upper)
    np.testing.assert_array_equal(result.active, side)
    np.testing.assert_allclose(result.x, x, atol=1e-7)
    for i in range(COUNT):
        expected = oracles.box_quadratic_derivatives(H[i], x[i], side[i])
        for ours, theirs in zip(derivatives, expected, strict=True):
            scale = max(np.abs(theirs).max(), 1e-3)
            np.testing.assert_allclose(ours[i], theirs, rtol=0, atol=1e-6 * scale)


class TestSingular:
    """``(x_0 + x_1 - p)^2``: x moves by the least norm; flat directions stay."""

    @pytest.mark.parametrize("solver", ["dense", "iterative"])
    def test_least_norm(self, solver):
        def solution(p):
            def fun(x):
                return (x[0] + x[1] - p[0]) ** 2 + (2 * x[2] - p[1]) ** 4

            return minimize(fun, jnp.zeros(4), implicit_solve=solver).x

        d = jax.jit(jax.jacrev(solution))(jnp.array([3.0, 0.0]))
        expected = np.zeros((4, 2))
        expected[:2, 0] = 0.5  # and x_2, whose curvature vanishes, does not move
        np.testing.assert_allclose(d, expected, atol=1e-9)

    def test_units_are_no_singularity(self):
        scale = np.array([1e-7, 1.0, 1e7])

        def solution(p):
            return minimize(lambda x: jnp.sum((x * scale - p) ** 2), p / scale).x

        np.testing.assert_allclose(
            jax.jacrev(solution)(jnp.ones(3)), np.diag(1 / scale), rtol=1e-12
        )


class TestLinearSolve:
    free = np.array([True, True, False, True])
    b = np.array([1.0, -2.0, 3.0, 0.5])

    @pytest.mark.parametrize("solver", ["dense", "iterative"])
    def test_against_numpy(self, solver, dtype):
        rng = np.random.default_rng(1)
        G = rng.normal(size=(4, 4))
        H = (G @ G.T + np.eye(4)).astype(dtype)
        v = solve_symmetric(lambda v: H @ v, jnp.asarray(self.b, dtype), self.free, solver)
        expected = oracles.reduced_solve(H.astype(float), self.b, self.free)
        eps = tolerance(dtype) if solver == "iterative" else np.finfo(dtype).eps
        np.testing.assert_allclose(v, expected, rtol=0, atol=100 * eps)

    @pytest.mark.parametrize("solver", ["dense", "iterative"])
    @pytest.mark.parametrize("eigenvalues", [(2, 1, 0), (2, -1, 0.5), (0, 0, 0)])
    def test_singular_and_indefinite(self, solver, eigenvalues):
        Q = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
        H = Q @ np.diag(eigenvalues) @ Q.T
        b = H @ np.array([1.0, 2.0, 3.0])
        v = solve_symmetric(lambda v: H @ v, jnp.asarray(b), np.ones(3, bool), solver)
        np.testing.assert_allclose(v, np.linalg.pinv(H, rcond=1e-12) @ b, atol=1e-9)

    def test_stated_tolerance(self, dtype):
        d = np.geomspace(1, 1e4, 400).astype(dtype)
        b = jnp.asarray(np.random.default_rng(3).normal(size=400), dtype)
        v = jax.jit(lambda b: conjugate_residuals(lambda v: d * v, b))(b)
        error = np.linalg.norm(np.asarray(b, float) - d.astype(float) * np.asarray(v, float))
        assert error <= 2 * tolerance(dtype) * np.linalg.norm(b)

    @pytest.mark.parametrize("solver", ["dense", "iterative"])
    def test_what_is_not_finite_gives_nan_and_spares_its_neighbours(self, solver):
        H = jnp.stack([2 * jnp.eye(2), jnp.full((2, 2), jnp.nan), jnp.zeros((2, 2))])
        b = jnp.array([[1.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
        solve = jax.vmap(lambda H, b: solve_symmetric(lambda v: H @ v, b, np.ones(2, bool), solver))
        v = jax.jit(solve)(H, b)
        np.testing.assert_allclose(v[0], [0.5, 1.0])
        assert np.isnan(v[1]).all()
        np.testing.assert_array_equal(v[2], [0, 0])


def distance(x, target):
    return jnp.sum((x - target) ** 2) + jnp.sum(x**4)


class TestTransformations:
    def test_start_and_options_have_no_derivative(self):
        def solve(x0, gtol):
            return minimize(distance, x0, (jnp.ones(2),), gtol=gtol).x

        d = jax.jacrev(solve, argnums=(0, 1))(jnp.zeros(2), 1e-6)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(d))

    def test_counts_and_memory_have_no_derivative(self):
        def solve(p):
            result = minimize(distance, jnp.zeros(2), (p,))
            return result.hess_inv.s.sum() + result.pg_norm + jnp.sum(result.active * 1.0)

        assert not np.any(jax.grad(solve)(jnp.ones(2)))

    def test_scan_carries_derivatives(self):
        def last(targets):
            def body(x, target):
                x = minimize(distance, x, (target + x,), bounds=(-0.4, 0.4), gtol=1e-10, ftol=0).x
                return x, None

            return jnp.sum(jax.lax.scan(body, jnp.full(2, 0.1), targets)[0])

        targets = np.array([[0.2, -0.9], [0.1, 0.3], [-0.3, 0.1]])
        d = jax.jit(jax.grad(last))(targets)
        x, expected = np.full(2, 0.1), np.zeros((3, 2))
        for k, target in enumerate(targets):
            x = minimize(distance, x, (target + x,), bounds=(-0.4, 0.4), gtol=1e-10, ftol=0).x
            slope = np.where(np.abs(x) < 0.4, 2 / (2 + 12 * x**2), 0)
            expected[:k] *= slope
            expected[k] = slope
        np.testing.assert_allclose(d, expected, atol=1e-8)
        assert expected[0, 1] == 0  # on a bound

    @pytest.mark.parametrize("solver", ["dense", "iterative"])
    def test_shard_map(self, solver):
        mesh = Mesh(np.array(jax.devices()[:1]), ("i",))
        spec = PartitionSpec("i")

        def solve(targets, shared):
            def one(t):
                options = {"bounds": (0, shared), "implicit_solve": solver}
                return minimize(lambda x: jnp.sum((x - t) ** 2), jnp.zeros(2), **options).x

            return jax.vmap(one)(targets)

        mapped = jax.shard_map(solve, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)
        targets = jnp.array([[0.5, 2.0], [-1.0, 0.25], [3.0, 4.0]])
        total = jax.jit(jax.grad(lambda t, s: jnp.sum(mapped(t, s)), argnums=(0, 1)))
        in_targets, in_shared = total(targets, 1.0)
        np.testing.assert_allclose(in_targets, [[1, 0], [0, 1], [0, 0]], atol=1e-9)
        np.testing.assert_allclose(in_shared, 3, atol=1e-9)

    def test_pytrees_aux_and_integers(self):
        def fun(x, args, key):
            scale = jnp.arange(2) + args["order"]  # an integer argument
            value = jnp.sum((x["a"] - args["p"]) ** 2) + jnp.sum((x["b"] - scale) ** 2)
            noise = jax.random.uniform(key) * 0
            return value + noise, {"twice": 2 * x["a"], "order": args["order"], "p": args["p"]}

        def solve(p, high):
            x0 = {"a": np.zeros((2, 2), np.float32), "b": np.zeros(2)}
            args = ({"p": p, "order": 1}, jax.random.key(0))
            bounds = (None, {"a": high, "b": None})
            result = minimize(fun, x0, args, bounds=bounds, has_aux=True)
            return result.x, result.aux["twice"], result.aux["p"]

        p = jnp.array([[0.0, 1.0], [2.0, 3.0]], jnp.float32)
        for jac in (jax.jacfwd, jax.jacrev):
            x, twice, same = jax.jit(jac(solve))(p, np.float32(1.5))
            free = np.diag([1, 1, 0, 0]).reshape(2, 2, 2, 2)
            np.testing.assert_allclose(x["a"], free, atol=1e-6)
            assert x["a"].dtype == np.float32
            assert not np.any(x["b"])
            np.testing.assert_allclose(twice, 2 * free, atol=1e-6)
            np.testing.assert_allclose(same, np.eye(4).reshape(2, 2, 2, 2))

    def test_value_and_grad_functions(self):
        def both(x, p):
            return jnp.sum((x - p) ** 2), 2 * (x - p)

        def solve(p):
            bounds = (None, jnp.array([9.0, 0.5]))
            result = minimize(both, jnp.zeros(2), (p,), bounds=bounds, value_and_grad=True)
            return result.x, result.fun

        x, fun = jax.jacrev(solve)(jnp.array([2.0, 3.0]))
        np.testing.assert_allclose(x, np.diag([1, 0]), atol=1e-12)
        np.testing.assert_allclose(fun, [0, 5], atol=1e-8)


class TestCosts:
    def test_one_trace_and_the_same_program_when_nothing_is_differentiated(self, monkeypatch):
        traces = []

        def fun(x, p):
            traces.append(1)
            return distance(x, p)

        def operations():
            jitted = jax.jit(lambda p: minimize(fun, jnp.zeros(2), (p,)).x)
            text = jitted.lower(jnp.ones(2)).compile().as_text()
            return collections.Counter(re.findall(r" ([a-z][\w-]*)\(", text))

        with_rule = operations()
        assert with_rule["while"] > 0
        monkeypatch.setattr(
            importlib.import_module("jaxlbfgsb.solve"),
            "differentiable",
            lambda solve, evaluate, rule: solve,
        )
        jax.clear_caches()
        without_rule = operations()
        jax.clear_caches()  # and what was compiled without the rule
        assert without_rule == with_rule
        assert len(traces) == 1

    @pytest.mark.parametrize("n", [2, 600], ids=["one kernel", "many"])
    def test_one_trace_when_differentiated(self, n, monkeypatch):
        traces, solvers = [], []
        loop = importlib.import_module("jaxlbfgsb.loop")
        advance = loop.advance_running

        def advance_counted(*args):
            solvers.append(1)
            return advance(*args)

        def fun(x, p):
            traces.append(1)
            return jnp.sum((x - p) ** 2)

        monkeypatch.setattr(loop, "advance_running", advance_counted)
        jax.clear_caches()
        second = jax.hessian(lambda p: minimize(fun, jnp.zeros(n), (p,)).fun)
        jax.jit(second).trace(jnp.ones(n))
        jax.clear_caches()
        assert (len(traces), len(solvers)) == (1, 1)

    def test_many_variables_in_reverse_mode(self):
        n = 100_000

        def loss(p):
            def fun(x):
                chain = jnp.sum((x[1:] - x[:-1]) ** 2)
                return jnp.sum((x - p) ** 2) + chain + jnp.sum(x**4)

            result = minimize(fun, jnp.zeros(n), bounds=(0.1, 1.0))
            return jnp.sum(result.x**2), result

        p = np.random.default_rng(0).normal(1, 1, n)
        gradient = jax.jit(jax.grad(loss, has_aux=True)).lower(p).compile()
        # A solve holds about 70 vectors, most of them its history; n x n would be 100000.
        assert gradient.memory_analysis().temp_size_in_bytes < 100 * n * 8
        d, result = gradient(p)
        expected = oracles.chain_adjoint(np.asarray(result.x), np.asarray(result.active) == 0)
        np.testing.assert_allclose(d, 2 * expected, rtol=0, atol=1e-8)


class TestFailures:
    def test_one_failed_lane_among_a_thousand(self):
        targets = np.random.default_rng(0).normal(size=(1000, 3))
        targets[123] = np.nan

        def loss(targets, **options):
            def solve(t):
                return minimize(distance, jnp.zeros(3), (t,), bounds=(-0.2, 0.2), **options)

            result = jax.vmap(solve)(targets)
            return jnp.sum(jnp.where(result.success[:, None], result.x, 0)), result

        fast = jax.jit(jax.grad(loss, has_aux=True))
        d, result = fast(targets)
        x = np.asarray(result.x)
        assert result.success.sum() == 999
        others = np.arange(1000) != 123
        alone, _ = fast(np.where(others[:, None], targets, 0.0))
        np.testing.assert_array_equal(d[others], alone[others])
        expected = np.where(np.abs(x) < 0.2, 2 / (2 + 12 * x**2), 0)
        np.testing.assert_allclose(d[others], expected[others], rtol=1e-12)

    @pytest.mark.parametrize(
        ("jac", "policy"),
        [(jax.jacrev, True), (jax.jacrev, "nan_if_failed"), (jax.jacfwd, "nan_if_failed")],
    )
    def test_policy_where_the_solve_failed(self, jac, policy):
        def solve(p, policy, maxiter):
            result = minimize(
                distance, jnp.zeros(2), (p,), gtol=1e-12, ftol=0, maxiter=maxiter,
                implicit_diff=policy, has_aux=False, bounds=(-9, 9),
            )  # fmt: skip
            return {"x": result.x, "fun": result.fun, "jac": result.jac}, result.success

        one = jac(lambda p, limit: solve(p, policy, limit), has_aux=True)
        d, success = jax.jit(jax.vmap(one, (None, 0)))(jnp.ones(2) * 2, np.array([1, 100]))
        assert success.tolist() == [False, True]
        for leaf in d.values():
            assert np.isfinite(leaf[1]).all()
            assert (np.isnan(leaf[0]) == (policy == "nan_if_failed")).all()

    @pytest.mark.parametrize("solver", ["dense", "iterative"])
    def test_polish_squares_the_error(self, solver):
        def solve(p, polish):
            options = {"implicit_polish": polish, "implicit_solve": solver, "ftol": 0}
            return minimize(distance, jnp.zeros(2), (p,), gtol=0.1, bounds=(-1, 0.8), **options).x

        p = np.array([0.7, 5.0])
        root = np.roots([4, 0, 2, -2 * p[0]])
        x = root[np.isreal(root)].real.item()
        slope = 2 / (2 + 12 * x**2)
        plain, polished = (
            jax.jit(jax.jacrev(solve), static_argnums=1)(p, q) for q in (False, True)
        )
        error, better = (abs(d[0, 0] - slope) for d in (plain, polished))
        assert error > 1e-4
        assert better < error**1.5
        np.testing.assert_array_equal(polished[1], [0, 0])

    def test_nonsense_is_refused(self):
        with pytest.raises(ValueError, match="implicit_diff must be True, False or"):
            minimize(distance, jnp.zeros(2), (1.0,), implicit_diff="nan")
        with pytest.raises(ValueError, match="implicit_polish must be"):
            minimize(distance, jnp.zeros(2), (1.0,), implicit_polish=2)
        with pytest.raises(ValueError, match="implicit_solve must be"):
            minimize(distance, jnp.zeros(2), (1.0,), implicit_solve="lu")


class TestThroughTheIterations:
    @staticmethod
    def solve(p, bounds=(-1.0, 0.5)):
        options = {"bounds": bounds, "gtol": 1e-12, "ftol": 0, "implicit_diff": False}
        return minimize(distance, jnp.zeros(3), (p,), **options).x

    def test_forward_mode(self):
        p = jnp.array([0.3, -0.2, 5.0])
        derivative = jax.jit(jax.jacfwd(lambda p, lower: self.solve(p, (lower, 0.5))))
        x = np.asarray(self.solve(p))
        expected = np.diag([*(2 / (2 + 12 * x[:2] ** 2)), 0])
        for lower in (-1.0, -np.inf):
            np.testing.assert_allclose(derivative(p, lower), expected, atol=1e-6)

    def test_reverse_mode_says_what_to_do(self):
        for transform in (jax.jacrev, lambda f: jax.grad(lambda p: f(p).sum())):
            with pytest.raises(ValueError, match="Use implicit_diff=True"):
                transform(self.solve)(jnp.ones(3))
        batch = jax.vmap(jax.grad(lambda p: self.solve(p).sum()))
        with pytest.raises(ValueError, match=r"jax\.jacfwd"):
            jax.jit(batch)(jnp.ones((2, 3)))
