"""Honest ends: every reason is reached by a real run, and the best finite point is kept."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb import AskTell, Reason, fmin_l_bfgs_b, minimize
from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.core import advance
from jaxlbfgsb.method.state import Event, Phase, init
from jaxlbfgsb.options import checked_options, strict_options
from jaxlbfgsb.status import TABLE

both_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["f64", "f32"])


class End(NamedTuple):
    name: str
    pair: Callable[[jax.Array], tuple[Any, Any]]
    """Value and gradient in one variable."""
    x0: float
    reason: Reason
    box: tuple[float, float] = (-np.inf, np.inf)
    options: Mapping[str, Any] = {}


def square(x):
    return (x - 1) ** 2, 2 * (x - 1)


def quartic(x):
    return (x - 1) ** 4, 4 * (x - 1) ** 3


def steep_quartic(x):
    return 1e4 * x**4, 4e4 * x**3


def finite_at_2_only(x):
    return jnp.where(x == 2, 4.0, jnp.nan), 2 * x


EXACT = {"ftol": 0, "gtol": 0}

ENDS = [
    # [scipy 4793, 5161, 9640]
    End("f NaN everywhere", lambda x: (x * jnp.nan, x), 2, Reason.NONFINITE_AT_X0),
    End("gradient NaN", lambda x: (x**2, x * jnp.nan), 2, Reason.NONFINITE_AT_X0),
    End("f inf everywhere", lambda x: (jnp.inf, 2 * x), 2, Reason.NONFINITE_AT_X0),
    End("-x^3", lambda x: (-(x**3), -3 * x**2), 1, Reason.UNBOUNDED),
    End("-x", lambda x: (-x, -1.0), 0, Reason.UNBOUNDED),
    End("wrong sign", lambda x: (x**2, -2 * x), 2, Reason.INCONSISTENT_GRADIENT),
    # The other reasons.
    End("flat slope", square, 3, Reason.PROJECTED_GRADIENT),
    End("small reduction", quartic, 3, Reason.RELATIVE_REDUCTION, options={"gtol": 0}),
    End("quartic to the last", quartic, 3, Reason.NOISE_FLOOR, options=EXACT),
    End(
        "steps below the spacing of x",
        lambda x: (x, 1.0),
        1e17,
        Reason.NOISE_FLOOR_NOT_CONVERGED,
        (0, 1e18),
    ),
    End("one trial, too far", steep_quartic, 0.1, Reason.LINE_SEARCH_FAILED, options={"maxls": 1}),
    End("finite at x0 only", finite_at_2_only, 2, Reason.NONFINITE_TRIALS),
    End("one iteration", steep_quartic, 3, Reason.MAXITER, options={"maxiter": 1}),
    End("two evaluations", steep_quartic, 3, Reason.MAXFUN, options={"maxfun": 2}),
]
SUCCESSES = {Reason.PROJECTED_GRADIENT, Reason.RELATIVE_REDUCTION, Reason.NOISE_FLOOR}
LIMITS = {Reason.MAXITER, Reason.MAXFUN}


def scipy_status(reason):
    return 0 if reason in SUCCESSES else 1 if reason in LIMITS else 2


def evaluate(x, which):
    def of(end):
        def pair(x):
            value, slope = end.pair(x[0])
            return jnp.asarray(value, x.dtype), jnp.asarray(slope, x.dtype).reshape(1)

        return pair

    return jax.lax.switch(which, [of(end) for end in ENDS], x)


@functools.cache
def compiled():
    return jax.jit(evaluate)


def by_ask_and_tell(end, dtype):
    """The result, and all finite values with their points."""
    bounds = None if np.isinf(end.box).all() else end.box
    solver = AskTell(np.array([end.x0], dtype), bounds=bounds, **end.options)
    seen = []
    while not solver.done:
        x = solver.ask()
        value, slope = compiled()(x, np.int32(ENDS.index(end)))
        if np.isfinite(value) and np.isfinite(slope).all():
            seen.append((value.item(), x.item()))
        solver.tell(value, slope)
    return solver.result(), seen


def check(end, result, seen):
    assert Reason(int(result.reason)) == end.reason
    assert result.status == scipy_status(end.reason)
    assert result.success == (end.reason in SUCCESSES)
    assert result.message == TABLE[end.reason].message
    if seen:
        assert (result.fun, result.x.item()) == min(seen)


@both_dtypes
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name.replace(" ", "_"))
def test_end(end, dtype):
    """On the host and compiled: the reason, and the best finite point of all that were seen."""
    host, seen = by_ask_and_tell(end, dtype)
    check(end, host, seen)
    x0, which = np.array([end.x0], dtype), np.int32(ENDS.index(end))
    result = minimize(evaluate, x0, (which,), bounds=end.box, value_and_grad=True, **end.options)
    check(end, result, seen)
    assert (result.nit, result.nfev) == (host.nit, host.nfev)


def test_scipy_face():
    for end in ENDS:
        bounds = [end.box]
        factr = end.options.get("ftol", 2.220446049250313e-9) / np.finfo(float).eps
        limits = {k: v for k, v in end.options.items() if k not in ("ftol", "gtol")}

        def pair(x, end=end):
            value, slope = compiled()(x, np.int32(ENDS.index(end)))
            return float(value), np.asarray(slope)

        pgtol = end.options.get("gtol", 1e-5)
        _, _, d = fmin_l_bfgs_b(pair, [end.x0], bounds=bounds, factr=factr, pgtol=pgtol, **limits)
        assert d["warnflag"] == scipy_status(end.reason), end.name
        assert d["task"] == TABLE[end.reason].scipy_message, end.name


@both_dtypes
def test_callback_stops(dtype):
    def stop(x):
        raise StopIteration

    result = minimize(lambda x: jnp.sum((x - 1) ** 4), np.array([3], dtype), callback=stop)
    assert (result.reason, result.status, result.nit) == (Reason.CALLBACK, 2, 1)


@both_dtypes
@pytest.mark.parametrize(
    ("lower", "ftol", "maxls", "reason"),
    [
        (2.0, 0.0, 20, Reason.INVALID_BOUNDS),
        (np.nan, 0.0, 20, Reason.INVALID_BOUNDS),
        (np.inf, 0.0, 20, Reason.INVALID_BOUNDS),
        (0.0, -1.0, 20, Reason.INVALID_OPTIONS),
        (0.0, np.nan, 20, Reason.INVALID_OPTIONS),
        (0.0, 0.0, 0, Reason.INVALID_OPTIONS),
    ],
)
def test_invalid_values_that_are_traced(lower, ftol, maxls, reason, dtype):
    result = solve_traced(dtype(lower), dtype(1), ftol, maxls)
    assert (result.reason, result.status, result.nfev) == (reason, 2, 0)
    assert not result.success


@jax.jit
def solve_traced(lower, upper, ftol, maxls):
    x0 = jnp.full(1, 0.5, lower.dtype)
    bounds = (lower.reshape(1), upper.reshape(1))
    return minimize(lambda x: x[0] ** 2, x0, bounds=bounds, ftol=ftol, maxls=maxls)


def test_every_reason_is_reached():
    elsewhere = {
        Reason.NOT_FINISHED,
        Reason.CALLBACK,
        Reason.INVALID_BOUNDS,
        Reason.INVALID_OPTIONS,
    }
    assert {end.reason for end in ENDS} | elsewhere == set(Reason)


def test_a_run_that_goes_on_is_not_finished():
    solver = AskTell(np.zeros(1))
    assert solver.result().reason == Reason.NOT_FINISHED
    assert not solver.result().success


@both_dtypes
def test_progress_is_kept_when_a_search_fails(dtype):
    """A cliff: NaN beyond x = 1, where f still falls."""

    def cliff(x):
        return -x if x < 1 else np.nan

    solver = AskTell(np.zeros(1, dtype), ftol=0, gtol=0)
    values = []
    while not solver.done:
        x = solver.ask().item()
        value = cliff(x)
        values.append(value)
        solver.tell(value, np.array([-1.0]))
    result = solver.result()
    assert not result.success
    assert result.fun == np.nanmin(values)


def test_a_finished_run_keeps_its_state_whatever_it_is_told():
    box, told = Box(None, None), jax.jit(advance)
    options = strict_options(checked_options(np.float64, None, None, 0.0, 100, 100, 20), np.float64)
    evaluate = jax.jit(jax.value_and_grad(lambda x: jnp.sum((x - 1) ** 4 + x)))
    state = init(jnp.array([3.0, -2.0, 0.5]), box, 2)
    while state.phase != Phase.DONE:
        state = told(state, *evaluate(state.trial), box, options)
    after = state
    for value in (state.value - 1, -jnp.inf, state.value):
        after = told(after, value, -state.gradient + 1, box, options)
    stopped = state._replace(event=after.event)
    jax.tree.map(np.testing.assert_array_equal, after, stopped)


@pytest.mark.parametrize("box", [Box(None, None), Box(np.full(600, -3.0), np.full(600, 3.0))])
@pytest.mark.parametrize("n", [4, 600])
def test_the_curvature_is_that_of_the_last_step(n, box):
    """Also where the search took more than one evaluation: what rounding explains depends on it."""
    box, told = Box(*(side if side is None else side[:n] for side in box)), jax.jit(advance)
    options = strict_options(checked_options(np.float64, None, None, 0.0, 100, 100, 20), np.float64)
    evaluate = jax.jit(
        jax.value_and_grad(lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))
    )
    state = init(jnp.asarray(np.resize([-1.2, 1.0, 0.5, 2.0], n)), box, 3)
    evaluations = []
    while state.phase != Phase.DONE:
        before, state = state, told(state, *evaluate(state.trial), box, options)
        if state.event == Event.ACCEPTED:
            s, y = state.x - before.x, state.gradient - before.gradient
            np.testing.assert_allclose(state.curvature, s @ y / (s @ s), rtol=1e-6)
            evaluations.append(int(before.search.evaluations) + 1)
    assert max(evaluations) > 1
