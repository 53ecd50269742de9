"""The class for code written for jaxopt: the solver of `minimize`, at once or step by step."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxlbfgsb import LBFGSB, Reason, minimize
from tests.jaxopt_suite.__main__ import main as jaxopt_suite

X0 = np.array([-1.2, 1.0, -0.5, 0.3])
BOX = (np.full(4, -2.0), np.array([0.5, 2.0, 0.8, 2.0]))


def rosenbrock(x, a=100.0):
    return jnp.sum(a * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def distance(x, data, weight=1.0):
    return weight * jnp.sum((x["a"] - data) ** 2) + (x["b"] - 2) ** 2


def start(dtype=np.float64):
    return {"a": jnp.zeros(3, dtype), "b": jnp.zeros((), dtype)}


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


MANY = 600
BOUNDED = (-1.0, 0.5)


def distances(x):
    """Half of the upper bounds hold the minimiser."""
    target, weights = jnp.linspace(0, 1, len(x)), np.geomspace(1, 30, len(x))
    return jnp.sum(weights * (x - target) ** 2) / 2 + jnp.sum(jnp.diff(x) ** 4) / 10


def points_of(solver, x0, bounds, update, *args):
    points, state = [], solver.init_state(x0, bounds, *args)
    while state.reason == Reason.NOT_FINISHED:
        x0, state = update(x0, state, bounds, *args)
        points.append(x0)
    return points, state


@pytest.mark.parametrize(
    ("bounds", "dtype"), [(None, np.float32), (BOX, np.float64)], ids=["free", "bounded"]
)
def test_run_is_minimize_bit_for_bit(bounds, dtype):
    x0 = X0.astype(dtype)
    params, state = LBFGSB(rosenbrock, maxiter=500, tol=1e-3).run(x0, bounds)
    same = minimize(rosenbrock, x0, bounds=bounds, gtol=1e-3, ftol=0.0, maxls=30)
    assert params.dtype == state.value.dtype == dtype
    assert_same(params, same.x)
    assert_same(
        (state.value, state.grad, state.error, state.iter_num, state.num_fun_eval, state.reason),
        (same.fun, same.jac, same.pg_norm, same.nit, same.nfev, same.reason),
    )
    assert_same(state.hess_inv.todense(), same.hess_inv.todense())
    assert state.num_linesearch_iter == same.nfev - 1
    assert state.num_grad_eval == same.nfev
    assert state.status == 0
    assert not state.failed_linesearch


def test_updates_visit_the_iterates_of_minimize():
    expected, options = [], {"gtol": 1e-2, "ftol": 0.0, "maxls": 30}
    solver = LBFGSB(rosenbrock, tol=1e-2)
    same = minimize(rosenbrock, X0, bounds=BOX, callback=expected.append, **options)
    points, state = points_of(solver, X0, BOX, jax.jit(solver.update))
    assert len(points) > 10
    # Two programs: XLA may round in each as it likes, and a rounding error grows.
    assert len(points) == len(expected)
    np.testing.assert_allclose(points[:10], expected[:10], rtol=1e-8)
    np.testing.assert_allclose(points[-1], expected[-1], atol=1e-3)
    assert state.num_fun_eval == same.nfev
    assert state.reason == Reason.PROJECTED_GRADIENT
    assert state.status == 0


def test_a_loop_of_updates_compiles_into_a_larger_program():
    solver = LBFGSB(rosenbrock, tol=1e-5)

    @jax.jit
    def loop(x0, upper, a):
        state = solver.init_state(x0, (None, upper), a=a)

        def step(carry):
            return tuple(solver.update(*carry, (None, upper), a=a))

        return jax.lax.while_loop(lambda carry: carry[1].error > solver.tol, step, (x0, state))

    uppers = jnp.array([0.5, 3.0])
    params, state = jax.vmap(loop, in_axes=(None, 0, None))(X0[:2], uppers, 10.0)
    np.testing.assert_allclose(params, [[0.5, 0.25], [1, 1]], rtol=1e-4)
    assert (state.error <= 1e-5).all()


def test_pytrees_keywords_aux_and_gradients():
    data = jnp.array([0.5, -1.0, 3.0])
    bounds = ({"a": None, "b": 0.0}, 1.0)
    expected, state = LBFGSB(distance, tol=1e-8).run(start(), bounds, data, weight=2.0)
    np.testing.assert_allclose(expected["a"], [0.5, -1.0, 1.0], atol=1e-8)
    assert expected["b"] == 1.0
    assert state.aux is None

    def with_aux(x, data, weight):
        return distance(x, data, weight), {"residual": x["a"] - data}

    given = jax.value_and_grad(distance)
    given_with_aux = jax.value_and_grad(with_aux, has_aux=True)
    for solver in (
        LBFGSB(distance, value_and_grad=given, tol=1e-8),
        LBFGSB(given_with_aux, value_and_grad=True, has_aux=True, tol=1e-8),
    ):
        params, state = solver.run(start(), bounds, data=data, weight=2.0)
        np.testing.assert_allclose(params["a"], expected["a"], atol=1e-8)
        if solver.has_aux:
            assert_same(state.aux["residual"], params["a"] - data)
        assert solver.l2_optimality_error(params, bounds, data, weight=2.0) <= 1e-7
    first = solver.init_state(start(), bounds, data, weight=2.0)
    _, second = solver.update(start(), first, bounds, data, weight=2.0)
    assert jax.tree.structure(second) == jax.tree.structure(first) == jax.tree.structure(state)
    assert_same(first.aux["residual"], -data)


def test_derivatives_in_keywords_and_bounds():
    def loss(data, upper, weight, **options):
        solver = LBFGSB(distance, tol=1e-10, **options)
        params, state = solver.run(start(), bounds=(-5.0, upper), data=data, weight=weight)
        return jnp.sum(params["a"] ** 2) + state.value

    point = (jnp.array([0.5, -1.0, 3.0]), jnp.asarray(1.0), jnp.asarray(2.0))
    expected = (np.array([1.0, -2.0, 8.0]), -8.0, 4.0)  # a[2] and b are on their upper bound
    reverse = jax.jit(jax.grad(loss, (0, 1, 2)))(*point)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-8), reverse, expected)
    change = (jnp.array([1.0, 2.0, 3.0]), jnp.asarray(4.0), jnp.asarray(5.0))
    through = functools.partial(loss, implicit_diff=False)
    forward = jax.jit(lambda *p: jax.jvp(through, p, change)[1])(*point)
    along = sum(np.vdot(g, d) for g, d in zip(expected, change, strict=True))
    np.testing.assert_allclose(forward, along, rtol=1e-6)
    with pytest.raises(ValueError, match="forward mode only"):
        jax.grad(through)(*point)
    with pytest.raises(ValueError, match="implicit_solve"):
        LBFGSB(distance, implicit_diff_solve="cg")


def test_update_goes_on_beyond_tol_and_maxiter_until_nothing_can_be_done(dtype):
    solver = LBFGSB(rosenbrock, maxiter=3, tol=1e-1)
    params, state = solver.run(X0.astype(dtype), BOX)
    assert state.reason == Reason.MAXITER
    assert state.status == 1
    for _ in range(60):
        params, state = solver.update(params, state, BOX)
    assert state.error < (1e-2 if dtype == np.float32 else 1e-8)
    assert state.iter_num > 10
    assert state.status == 0
    for _ in range(3):
        before = params, state
        params, state = solver.update(*before, BOX)
    assert_same((params, state), before)
    assert solver.update(params, state, BOX).state.num_fun_eval == state.num_fun_eval


def test_update_starts_anew_where_the_parameters_or_the_bounds_are_others():
    solver = LBFGSB(rosenbrock, tol=1e-6)
    state = solver.init_state(X0, BOX)
    _, state = solver.update(X0, state, BOX)
    elsewhere = jnp.full(4, 0.3)
    moved, after = solver.update(elsewhere, state, BOX)
    assert after.value < rosenbrock(elsewhere)
    assert after.num_fun_eval >= state.num_fun_eval + 2  # the new start, and a step

    seen = []

    def noted(x):
        jax.debug.callback(lambda x: seen.append(np.array(x)), x)
        return rosenbrock(x)

    # The point stays inside; the one that would come next does not.
    planned = after.run.tree.trial
    assert (planned > moved).any()
    tighter = (BOX[0], jnp.where(planned > moved, (planned + moved) / 2, BOX[1]))
    update = jax.jit(LBFGSB(noted).update)
    while after.error > 1e-6:
        moved, after = update(moved, after, tighter)
    jax.effects_barrier()
    assert len(seen) > 5
    assert (np.array(seen) <= tighter[1]).all()
    expected = minimize(rosenbrock, X0, bounds=tighter, gtol=1e-6, ftol=0.0)
    np.testing.assert_allclose(moved, expected.x, atol=1e-5)


def test_a_run_goes_on_where_bounds_come_and_go():
    """The memory of a run without bounds lacks what one with bounds needs."""
    solver = LBFGSB(distances, tol=1e-6)
    params = jnp.zeros(MANY)
    state = solver.init_state(params, None)

    def updated(params, state, bounds, times):
        pairs = int(state.run.tree.memory.count)
        for _ in range(times):
            params, state = solver.update(params, state, bounds)
        assert state.run.tree.memory.count > pairs
        return params, state

    params, state = updated(params, state, None, 3)
    params, state = updated(jnp.minimum(params, BOUNDED[1]), state, BOUNDED, 2)
    params, state = updated(params, state, None, 1)
    params = jnp.minimum(params, BOUNDED[1])
    while state.reason == Reason.NOT_FINISHED:
        params, state = solver.update(params, state, BOUNDED)
    expected = scipy.optimize.minimize(
        jax.jit(jax.value_and_grad(distances)),
        np.zeros(MANY),
        jac=True,
        method="L-BFGS-B",
        bounds=[BOUNDED] * MANY,
        options={"gtol": 1e-8, "ftol": 0.0},
    ).x
    np.testing.assert_allclose(params, expected, atol=1e-5)


class ForeignStep(NamedTuple):
    params: Any
    state: Any


def test_a_run_goes_on_with_the_pairs_of_another():
    solver = LBFGSB(rosenbrock, maxiter=15, tol=1e-8)
    step = solver.run(X0, BOX)
    assert step.state.reason == Reason.MAXITER
    cold = solver.run(step.params, BOX)
    warm = solver.run(step, BOX)
    again = solver.run(ForeignStep(*step), BOX)
    assert_same(tuple(again), tuple(warm))
    assert warm.state.reason == Reason.PROJECTED_GRADIENT
    assert warm.state.iter_num - 15 < cold.state.iter_num
    updated = step
    for _ in range(int(warm.state.iter_num) - 15):
        updated = solver.update(*updated, BOX)
    np.testing.assert_allclose(updated.params, warm.params, rtol=1e-12)
    assert updated.state.num_fun_eval == warm.state.num_fun_eval
    started = solver.init_state(step, BOX)
    assert started.iter_num == 15
    updates = solver.update(step.params, started, BOX), solver.update(*step, BOX)
    np.testing.assert_allclose(updates[0].params, updates[1].params, rtol=1e-12)
    with pytest.raises(ValueError, match="history_size"):
        LBFGSB(rosenbrock, history_size=3).run(step, BOX)


def test_optimality_is_that_of_the_paper():
    solver = LBFGSB(distance, tol=1e-8)
    data, x = jnp.array([0.5, -1.0, 3.0]), {"a": jnp.array([0.1, 0.2, 0.3]), "b": jnp.asarray(0.9)}
    gradient = jax.grad(distance)(x, data)
    assert_same(solver.optimality_fun(x, None, data), gradient)
    lower, upper = -0.5, 1.0
    found = solver.optimality_fun(x, (lower, upper), data)
    expected = jax.tree.map(lambda x, g: jnp.clip(x - g, lower, upper) - x, x, gradient)
    jax.tree.map(np.testing.assert_allclose, found, expected)
    norm = np.linalg.norm([*expected["a"], expected["b"]])
    np.testing.assert_allclose(solver.l2_optimality_error(x, (lower, upper), data), norm)
    error = solver.init_state(x, (lower, upper), data).error
    np.testing.assert_allclose(error, max(np.abs(expected["a"]).max(), np.abs(expected["b"])))


def test_verbose_prints_each_iteration(capfd):
    quiet = LBFGSB(rosenbrock, maxiter=5).run(X0, BOX)
    capfd.readouterr()
    talking = LBFGSB(rosenbrock, maxiter=5, verbose=True)
    step = talking.run(X0, BOX)
    np.testing.assert_allclose(step.params, quiet.params, rtol=1e-9)
    assert step.state.reason == quiet.state.reason == Reason.MAXITER
    jax.effects_barrier()
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[4].startswith("iteration 5: value ")
    assert talking.run(step, BOX).state.iter_num == 10
    with pytest.raises(ValueError, match="eager call"):
        jax.jit(talking.run)(X0, BOX)


def test_endings_are_told():
    @jax.custom_jvp
    def wrong(x):
        return x @ x

    wrong.defjvp(lambda p, t: (p[0] @ p[0], -2 * (p[0] @ t[0])))
    state = LBFGSB(wrong).run(X0).state
    assert state.reason == Reason.INCONSISTENT_GRADIENT
    assert state.failed_linesearch
    assert state.status == 2
    state = LBFGSB(rosenbrock).run(X0 * 1e200).state
    assert state.reason == Reason.NONFINITE_AT_X0
    solver = LBFGSB(rosenbrock)

    @jax.jit
    def crossed(lower):
        step = solver.run(X0, (lower, 0.0))
        return step, solver.update(*step, (lower, 0.0))

    for step in crossed(1.0):
        assert step.state.reason == Reason.INVALID_BOUNDS
        assert step.state.status == 2


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"fun": 3}, TypeError, "callable"),
        ({"linesearch": "zoom"}, TypeError, "Leave linesearch out"),
        ({"increase_factor": 1.5}, TypeError, "Moré and Thuente"),
        ({"stepsize": 0.1}, ValueError, "line search"),
        ({"stepsize": lambda i: 0.1}, ValueError, "line search"),
        ({"jit": False}, ValueError, "AskTell"),
        ({"unroll": True}, ValueError, "implicit_diff=True"),
        ({"use_gamma": False}, ValueError, "scaled"),
        ({"theta": 2.0}, ValueError, "scaled"),
        ({"stop_if_linesearch_fails": "no"}, ValueError, "True or False"),
        ({"implicit_diff_solve": lambda matvec, b: b}, TypeError, "'dense' or 'iterative'"),
        ({"implicit_diff": "yes"}, ValueError, "implicit_diff"),
        ({"history_size": 0}, ValueError, "maxcor"),
        ({"maximum": 3}, TypeError, "no option 'maximum'"),
        ({"tol": -1.0}, ValueError, "gtol"),
    ],
)
def test_errors_teach(options, error, text):
    with pytest.raises(error, match=text):
        LBFGSB(**{"fun": rosenbrock, **options}).run(X0)


def test_options_of_jaxopt_that_ask_for_what_happens_anyway():
    settled = {"jit": True, "unroll": "auto", "use_gamma": True, "theta": 1.0, "stepsize": -1.0}
    solver = LBFGSB(rosenbrock, stop_if_linesearch_fails=True, **settled)
    assert_same(tuple(solver.run(X0, BOX)), tuple(LBFGSB(rosenbrock).run(X0, BOX)))


def test_the_suite_asks_for_a_checkout(tmp_path, capsys):
    assert jaxopt_suite([str(tmp_path)]) == 2
    assert "git clone" in capsys.readouterr().out
