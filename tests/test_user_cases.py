"""Cases from users of other solvers; the issue or source is in brackets.

`fun == f(x)` is tested on the function compiled on its own.  XLA may fuse it in another
way than inside the loop, so a few units in the last place are allowed; on the CPU the
values have been equal.
"""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from cases import MORE_CASES, USER_CASES, rosen
from scipy.special import expit

from jaxlbfgsb import AskTell, Reason, fmin_l_bfgs_b, minimize
from jaxlbfgsb.method import core
from jaxlbfgsb.method import model as model_of
from jaxlbfgsb.method import state as run_state
from jaxlbfgsb.method.box import Box

DTYPES = [np.float64, np.float32]
TOLERANCE = {np.float64: 1e-6, np.float32: 1e-4}
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])


def named(case):
    return case.name.replace(" ", "_")


def check(case, result, dtype):
    x, fun = np.asarray(result.x), np.asarray(result.fun)
    assert x.dtype == fun.dtype == dtype
    assert np.isfinite(x).all()
    assert np.isfinite(fun)
    if case.is_bounded:
        lower, upper = case.bounds(dtype)
        assert (lower <= x).all()
        assert (x <= upper).all()
    np.testing.assert_array_max_ulp(fun, cases.value(case, x), 4)
    assert result.success, Reason(int(result.reason)).name
    assert fun <= case.minimum + TOLERANCE[dtype] * max(1, abs(case.minimum))
    if dtype == np.float32 and case.limit:
        assert result.nit < case.limit
    if case.solution is not None:
        error = np.abs(x[: len(case.x0)] - case.solution) / np.maximum(1, np.abs(case.solution))
        assert error.max() <= case.x_tol


@both_dtypes
@pytest.mark.parametrize("case", USER_CASES + MORE_CASES, ids=named)
def test_front_door(case, dtype):
    check(case, cases.solve(case, dtype), dtype)


HOST_CASES = [case for case in USER_CASES + MORE_CASES if case.size <= 5]


@both_dtypes
@pytest.mark.parametrize("case", HOST_CASES, ids=named)
def test_host_path_stays_in_the_box(case, dtype):
    """With NumPy arrays by ask and tell, where every point asked for is seen."""
    solver = AskTell(case.start(dtype), bounds=case.bounds(dtype), **case.options)
    asked = []
    while not solver.done:
        asked.append(solver.ask())
        solver.tell(*cases.value_and_grad(case, asked[-1]))
    result = solver.result()
    check(case, result, dtype)
    assert result.nfev == len(asked)
    if case.is_bounded:
        lower, upper = case.bounds(dtype)
        assert all(((lower <= x) & (x <= upper)).all() for x in asked)


def case_named(start):
    return next(case for case in USER_CASES if case.name.startswith(start))


@both_dtypes
def test_a_bound_is_met_bit_for_bit(dtype):  # sep20 [Optim.jl]
    result = cases.solve(case_named("sep20"), dtype)
    c = np.linspace(-3, 3, 20)
    active = np.abs(c) > 1
    np.testing.assert_array_equal(np.asarray(result.x)[active], np.sign(c[active]))
    np.testing.assert_allclose(np.asarray(result.x)[~active], c[~active], atol=1e-4)
    np.testing.assert_array_equal(result.active, np.where(active, np.sign(c), 0))


@both_dtypes
def test_fixed_variables_keep_their_bits(dtype):  # [scipy 12502]
    result = cases.solve(case_named("all_fixed"), dtype)
    np.testing.assert_array_equal(result.x, np.array([0.5, 2, 0, 0, 0], dtype))
    assert result.nfev == 1


def test_driver1_counts():  # [Algorithm 778]
    result = cases.solve(case_named("driver1"), np.float64)
    assert (result.nit, result.nfev) == (23, 28)
    np.testing.assert_allclose(result.fun, 1.0834900834e-09, rtol=1e-6)


def test_driver1_in_numpy():  # [Algorithm 778]
    def driver1(x):
        t = x[1:] - x[:-1] ** 2
        gradient = np.zeros_like(x)
        gradient[0] = 2 * (x[0] - 1)
        gradient[1:] += 8 * t
        gradient[:-1] -= 16 * x[:-1] * t
        return (x[0] - 1) ** 2 + 4 * t @ t, gradient

    bounds = [(1, 100) if i % 2 == 0 else (-100, 100) for i in range(25)]
    _, f, d = fmin_l_bfgs_b(driver1, np.full(25, 3.0), bounds=bounds, m=5, factr=1e7, pgtol=1e-5)
    assert (d["nit"], d["funcalls"], d["warnflag"]) == (23, 28, 0)
    np.testing.assert_allclose(f, 1.0834900834e-09, rtol=1e-6)


def test_linreg_in_numpy():  # [SciPy's documentation]
    t = np.arange(10.0)

    def linreg(p):
        e = 2 * t + 3 - (p[0] * t + p[1])
        return e @ e, np.array([-2 * e @ t, -2 * e.sum()])

    x, f, d = fmin_l_bfgs_b(linreg, [0, 1], bounds=[(0, 5), (5, 10)])
    assert d["warnflag"] == 0
    assert f <= 220 / 19 + 1e-6
    np.testing.assert_allclose(x, [480 / 285, 5], rtol=1e-5)


def test_the_sign_of_f_does_not_matter():  # quad60_neg [tfp 1391]
    """The same iterates with f - 0.1 and with f + 0.1, up to the rounding of f."""
    weights = np.arange(1.0, 61)
    paths = []
    for offset in (-0.1, 0.1):
        solver = AskTell(np.arange(60.0, 0, -1))
        path = []
        while not solver.done:
            x = solver.ask()
            path.append(x)
            solver.tell(weights @ (x - 1) ** 2 + offset, 2 * weights * (x - 1))
        assert solver.result().success
        paths.append(path)
    assert len(paths[0]) == len(paths[1])
    np.testing.assert_allclose(paths[0], paths[1], rtol=0, atol=1e-6)


@both_dtypes
def test_moved_starts_as_one_batch(dtype):  # rosen10 [scipy 23161, cuml 6210]
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((200, 2))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    starts = np.array([-1, 1]) + np.logspace(-15, -8, 200)[:, None] * directions

    @jax.jit
    def batch(starts, ftol):
        return jax.vmap(lambda x0: minimize(cases.rosen10, x0, ftol=ftol))(starts)

    for ftol in (0, 1e7 * np.finfo(float).eps):
        result = batch(starts.astype(dtype), ftol)
        assert result.success.all()
        assert result.fun.max() < (1e-10 if dtype == np.float64 else 1e-4)
        assert (result.nit < 1000).all()


class TestOutsideIsForbidden:  # [jaxopt 590]
    lower, upper = np.array([-1.5, -0.5]), np.array([0.5, 2])

    def guarded(self, x):
        inside = jnp.all((self.lower.astype(x.dtype) <= x) & (x <= self.upper.astype(x.dtype)))
        return jnp.where(inside, rosen(x), jnp.nan)

    @both_dtypes
    def test_rosen(self, dtype):
        x0 = np.array([-1.2, 1], dtype)
        result = minimize(self.guarded, x0, bounds=(self.lower, self.upper))
        assert result.success
        np.testing.assert_allclose(result.x, [0.5, 0.25], rtol=1e-4)
        assert result.fun <= 0.25 + TOLERANCE[dtype]

        solver = AskTell(x0, bounds=(self.lower, self.upper))
        fun = jax.jit(jax.value_and_grad(self.guarded))
        while not solver.done:
            value, gradient = fun(solver.ask())
            assert np.isfinite(value)
            solver.tell(value, gradient)
        assert solver.result().success

    @both_dtypes
    def test_quadratics_in_boxes_of_inexact_sums(self, dtype):
        """300 boxes [k/10, k/10 + w]: the width is not what a difference of bounds gives."""
        rng = np.random.default_rng(1)
        lower = rng.integers(-9, 10, (300, 5)) / 10
        upper = (lower + rng.choice([0.1, 0.3, 0.7, 1 / 3], (300, 5))).astype(dtype)
        lower = lower.astype(dtype)
        roots = rng.standard_normal((300, 5, 5))
        Q = (roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(5)).astype(dtype)
        p = rng.standard_normal((300, 5)).astype(dtype)
        starts = rng.uniform(-1, 1, (300, 5)).astype(dtype)

        @jax.jit
        @jax.vmap
        def batch(x0, l, u, Q, p):
            def fun(x):
                inside = jnp.all((l <= x) & (x <= u))
                return jnp.where(inside, x @ Q @ x / 2 - p @ x, jnp.nan)

            return minimize(fun, x0, bounds=(l, u))

        result = batch(starts, lower, upper, Q, p)
        assert result.success.all()
        assert (result.nit < 1000).all()
        for i in range(300):
            solver = AskTell(starts[i], bounds=(lower[i], upper[i]))
            while not solver.done:
                x = solver.ask()
                assert ((lower[i] <= x) & (x <= upper[i])).all()
                gradient = Q[i] @ x - p[i]
                solver.tell((gradient - p[i]) @ x / 2, gradient)
            host = solver.result()
            assert host.success
            gap = abs(host.fun - result.fun[i])
            assert gap <= TOLERANCE[dtype] * max(1, abs(host.fun))


def logit_nll(b, z, y):
    eta = b[0] + b[1] * z
    return jnp.sum(jnp.logaddexp(0, eta) - y * eta)


@both_dtypes
def test_logit(dtype):  # [jaxopt 409]
    rng = np.random.default_rng(409)
    z = rng.standard_normal(1000)
    y = (rng.uniform(size=1000) < expit(0.5 + 0.5 * z)).astype(float)
    fun = jax.jit(jax.value_and_grad(logit_nll))
    expected = scipy.optimize.minimize(
        fun, np.zeros(2), (z, y), jac=True, method="L-BFGS-B", options={"ftol": 1e-14}
    )
    data = z.astype(dtype), y.astype(dtype)
    for start in ([0, 0], [10, 10]):
        result = minimize(logit_nll, np.array(start, dtype), data)
        assert result.success
        assert result.nit > 0
        np.testing.assert_allclose(result.fun, expected.fun, rtol=TOLERANCE[dtype])
        np.testing.assert_allclose(result.x, expected.x, atol=1e-4 if dtype == np.float64 else 2e-3)


def test_secant_equation_beyond_m_updates():  # [jaxopt 620]
    n, m = 6, 3
    fun = jax.jit(jax.value_and_grad(rosen))
    box = Box(jnp.full(n, -2.0), jnp.full(n, 2.0))
    options = run_state.Options(
        *(jnp.asarray(v) for v in (0.0, 1e-5, 0.0)), *(jnp.int32(v) for v in (200, 500, 20))
    )
    advance = jax.jit(core.advance)

    @jax.jit
    def dense(pairs):
        return model_of.dense(pairs).matrix

    state = run_state.init(jnp.array([-1.2, 1.0] * 3), box, m)
    updates = 0
    while state.phase != run_state.Phase.DONE:
        before = state
        state = advance(state, *fun(state.trial), box, options)
        if state.event == run_state.Event.ACCEPTED and state.memory.place != before.memory.place:
            updates += 1
            s, y = state.x - before.x, state.gradient - before.gradient
            matrix = np.asarray(dense(state.memory))
            assert np.linalg.norm(matrix @ s - y) <= 1e-8 * np.linalg.norm(y)
            assert np.linalg.eigvalsh((matrix + matrix.T) / 2)[0] > 0
    assert updates > 5 * m


@both_dtypes
def test_scan_with_traced_bounds(dtype):  # [jaxopt 403]
    grid = jnp.linspace(1e-3, 10, 50, dtype=dtype)
    values = jnp.log(grid)

    def best(wealth):
        def loss(c):
            return -(jnp.log(c) + 0.95 * jnp.interp(wealth - c, grid, values))

        return minimize(loss, wealth / 2, bounds=(jnp.full_like(wealth, 1e-5), wealth))

    one = jax.jit(best)
    _, scanned = jax.lax.scan(lambda carry, wealth: (carry, best(wealth)), None, grid)
    loop = [one(wealth) for wealth in grid]
    fun, x = np.array([r.fun for r in loop]), np.array([r.x for r in loop])
    # Equal but for the rounding of another fusion, which the kinks of `interp` amplify in x.
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(scanned.fun, fun, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(scanned.x, x, rtol=4 * np.sqrt(eps))
    assert (scanned.x >= dtype(1e-5)).all()
    assert (scanned.x <= grid).all()
    assert np.isfinite(scanned.fun).all()


def garch_nll(p, returns):
    omega, alpha, beta = p[0], p[1], p[2]

    def step(variance, r):
        following = omega + alpha * r**2 + beta * variance
        return following, 0.5 * (jnp.log(variance) + r**2 / variance)

    return jnp.sum(jax.lax.scan(step, jnp.var(returns), returns)[1])


def garch_series():
    """200 series of length 500, all with (0.05, 0.1, 0.85)."""
    z = np.random.default_rng(0).standard_normal((500, 200))
    returns, variance = np.empty((500, 200)), np.ones(200)
    for t in range(500):
        returns[t] = np.sqrt(variance) * z[t]
        variance = 0.05 + 0.1 * returns[t] ** 2 + 0.85 * variance
    return returns.T


def test_garch_as_one_vmap():  # [jax 36793]
    returns = garch_series()
    x0 = np.array([0.1, 0.1, 0.8])
    lower, upper = np.array([1e-6, 0, 0]), np.ones(3)

    @jax.jit
    @jax.vmap
    def batch(series):
        return minimize(garch_nll, x0.astype(series.dtype), (series,), bounds=(lower, upper))

    fun = jax.jit(jax.value_and_grad(garch_nll))
    bounds = list(zip(lower, upper, strict=True))
    expected = np.array(
        [
            scipy.optimize.minimize(
                fun, x0, (series,), jac=True, bounds=bounds, method="L-BFGS-B"
            ).fun
            for series in returns
        ]
    )
    for dtype in DTYPES:
        result = batch(returns.astype(dtype))
        close = result.fun <= expected + TOLERANCE[dtype] * np.maximum(1, np.abs(expected))
        assert np.count_nonzero(result.success & close) >= 198
        assert (result.nit < 1000).all()


@both_dtypes
def test_batch_of_64(dtype):
    """Own starts, bounds and data; lane 7 is NaN, lane 11 starts at its optimum."""
    rng = np.random.default_rng(64)
    centers = rng.uniform(-2, 2, (64, 4)).astype(dtype)
    starts = rng.uniform(-1, 1, (64, 4)).astype(dtype)
    lower = rng.uniform(-3, 0, (64, 4)).astype(dtype)
    upper = lower + rng.uniform(0.5, 4, (64, 4)).astype(dtype)
    centers[7] = np.nan
    starts[11] = np.clip(centers[11], lower[11], upper[11])

    def best(x0, l, u, center):
        def fun(x):
            return jnp.sum((x - center) ** 2) + jnp.sum((x - center) ** 4)

        return minimize(fun, x0, bounds=(l, u))

    batch = jax.jit(jax.vmap(best))(starts, lower, upper, centers)
    single = jax.jit(best)
    others = [single(*lane) for lane in zip(starts, lower, upper, centers, strict=True)]
    for name in ("status", "reason", "nit", "nfev"):
        np.testing.assert_array_equal(
            getattr(batch, name), np.array([getattr(r, name) for r in others]), err_msg=name
        )
    few = 16 * np.finfo(dtype).eps  # all but a few lanes are equal bit for bit
    for name in ("x", "fun"):
        expected = np.array([getattr(r, name) for r in others])
        np.testing.assert_allclose(getattr(batch, name), expected, few, few, err_msg=name)
    assert batch.reason[7] == Reason.NONFINITE_AT_X0
    assert batch.status[7] == 2
    assert (batch.nit[11], batch.nfev[11]) == (0, 1)
    assert np.delete(batch.success, 7).all()
    assert len(np.unique(batch.nit)) > 3
