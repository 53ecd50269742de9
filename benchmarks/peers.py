"""The solvers that are compared.

Those written with JAX are compiled ahead of time, which gives them the cheapest call there
is; this package is called through its front door.  All stop by the same rules as far as
they can; what a solver cannot be told is said in its `settings`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import fmin_l_bfgs_b

import jaxlbfgsb
from benchmarks.problems import Problem
from benchmarks.solver import Limits, Outcome, Solve, Solver, host_function, quiet, start


def _ours(problem: Problem, limits: Limits) -> Solve:
    x0, bounds = start(problem)
    options = limits._asdict()
    options["maxcor"] = options.pop("m")

    def solve() -> Outcome:
        result = jaxlbfgsb.minimize(problem.fun, x0, problem.args, bounds=bounds, **options)
        return Outcome(result.x, result.nit, result.nfev)

    return solve


# Written with JAX: solve(fun, x0, bounds, limits), to be compiled.


def jaxopt_lbfgsb(fun: Any, x0: Any, bounds: Any, limits: Limits) -> Outcome:
    with quiet():
        import jaxopt

        if bounds is None:
            bounds = jnp.full_like(x0, -jnp.inf), jnp.full_like(x0, jnp.inf)
        solver = jaxopt.LBFGSB(
            fun, maxiter=limits.maxiter, tol=limits.gtol, history_size=limits.m,
            maxls=limits.maxls, stop_if_linesearch_fails=True,
        )  # fmt: skip
        x, state = solver.run(x0, bounds=bounds)
    return Outcome(x, state.iter_num, state.num_fun_eval)


def _optax_lbfgs(fun: Any, x0: Any, bounds: Any, limits: Limits) -> Outcome:
    import optax

    solver = optax.lbfgs(memory_size=limits.m)
    value_and_grad = optax.value_and_grad_from_state(fun)
    get = optax.tree_utils.tree_get

    def goes_on(carry: Any) -> Any:
        _, state, before, nit, _ = carry
        value, gradient = get(state, "value"), get(state, "grad")
        scale = jnp.maximum(jnp.maximum(jnp.abs(value), jnp.abs(before)), 1)
        converged = (jnp.max(jnp.abs(gradient)) <= limits.gtol) | (
            before - value <= limits.ftol * scale
        )
        return (nit == 0) | ((nit < limits.maxiter) & ~converged)

    def step(carry: Any) -> Any:
        x, state, _, nit, nfev = carry
        value, gradient = value_and_grad(x, state=state)
        updates, state = solver.update(gradient, state, x, value=value, grad=gradient, value_fn=fun)
        nfev = nfev + jnp.asarray(get(state, "num_linesearch_steps"), jnp.int32)
        return optax.apply_updates(x, updates), state, value, nit + 1, nfev

    first = (x0, solver.init(x0), jnp.asarray(jnp.inf, x0.dtype), jnp.int32(0), jnp.int32(1))
    x, _, _, nit, nfev = jax.lax.while_loop(goes_on, step, first)
    return Outcome(x, nit, nfev)


def _optimistix(method: str) -> Callable[[Any, Any, Any, Limits], Outcome]:
    def solve(fun: Any, x0: Any, bounds: Any, limits: Limits) -> Outcome:
        import optimistix

        solver = getattr(optimistix, method)(rtol=1e-6, atol=1e-6)
        steps = limits.maxiter * 4
        found = optimistix.minimise(lambda x, _: fun(x), solver, x0, max_steps=steps, throw=False)
        return Outcome(found.value, None, found.stats["num_steps"])

    return solve


def _compiled(solve: Callable[[Any, Any, Any, Limits], Outcome]) -> Any:
    def prepare(problem: Problem, limits: Limits) -> Solve:
        x0, bounds = start(problem)

        def run(x0: Any, bounds: Any, args: Any) -> Outcome:
            return solve(lambda x: problem.fun(x, *args), x0, bounds, limits)

        with quiet():
            executable = jax.jit(run).lower(x0, bounds, problem.args).compile()
        return lambda: executable(x0, bounds, problem.args)

    return prepare


# Driven from Python: solve(value_and_grad, problem, limits).


def _fmin(front_door: Any) -> Any:
    """SciPy's function, or one with its signature."""

    def solver(fun: Any, problem: Problem, limits: Limits) -> Solve:
        bounds = None
        if problem.lower is not None and problem.upper is not None:
            bounds = list(zip(problem.lower, problem.upper, strict=True))
        factr = limits.ftol / np.finfo(np.float64).eps

        def solve() -> Outcome:
            x, _, details = front_door(
                fun, problem.x0, bounds=bounds, m=limits.m, factr=factr, pgtol=limits.gtol,
                maxiter=limits.maxiter, maxfun=limits.maxfun, maxls=limits.maxls,
            )  # fmt: skip
            return Outcome(x, details["nit"], details["funcalls"])

        return solve

    return solver


def _nlopt(fun: Any, problem: Problem, limits: Limits) -> Solve:
    import nlopt

    x0 = problem.x0
    if problem.lower is not None and problem.upper is not None:
        x0 = np.clip(x0, problem.lower, problem.upper)

    def solve() -> Outcome:
        best = [np.inf, x0, 0]  # NLopt raises where rounding stops it, and keeps its point

        def record(x: np.ndarray, gradient: np.ndarray) -> float:
            value, gradient[:] = fun(x)
            best[2] += 1
            if value < best[0]:
                best[:2] = value, x.copy()
            return value

        solver = nlopt.opt(nlopt.LD_LBFGS, problem.n)
        solver.set_min_objective(record)
        if problem.lower is not None and problem.upper is not None:
            solver.set_lower_bounds(problem.lower)
            solver.set_upper_bounds(problem.upper)
        solver.set_vector_storage(limits.m)
        solver.set_ftol_rel(limits.ftol)
        solver.set_maxeval(min(limits.maxfun, 2 * limits.maxiter))
        with contextlib.suppress(RuntimeError, nlopt.RoundoffLimited):
            solver.optimize(x0)
        return Outcome(best[1], None, best[2])

    return solve


def _hosted(solver: Any, numpy: bool = False) -> Any:
    def prepare(problem: Problem, limits: Limits) -> Solve:
        fun = problem.numpy if numpy else host_function(problem)
        fun(problem.x0)
        return solver(fun, problem, limits)

    return prepare


_SAME = "m, ftol, gtol, maxiter, maxfun, maxls"
OURS = Solver("jaxlbfgsb", "jaxlbfgsb", True, _ours, f"minimize, eager; {_SAME}")
_OF_NUMPY = "(NumPy function)"
OURS_NUMPY = Solver(
    f"jaxlbfgsb {_OF_NUMPY}", "jaxlbfgsb", True,
    _hosted(_fmin(jaxlbfgsb.fmin_l_bfgs_b), numpy=True), f"the drop-in, NumPy; {_SAME}",
)  # fmt: skip
SCIPY = Solver(
    "SciPy", "scipy", True, _hosted(_fmin(fmin_l_bfgs_b)), f"jitted value_and_grad; {_SAME}"
)
SCIPY_NUMPY = Solver(
    f"SciPy {_OF_NUMPY}", "scipy", True, _hosted(_fmin(fmin_l_bfgs_b), numpy=True),
    f"NumPy; {_SAME}",
)  # fmt: skip
JAXOPT = Solver(
    "jaxopt LBFGSB", "jaxopt", True, _compiled(jaxopt_lbfgsb),
    "m, gtol, maxiter, maxls; stops where its line search fails; has no ftol",
)  # fmt: skip
NLOPT = Solver(
    "NLopt LD_LBFGS", "nlopt", True, _hosted(_nlopt),
    "jitted value_and_grad; m, ftol, at most 2 maxiter evaluations; has no gtol",
)  # fmt: skip
OPTAX = Solver(
    "optax lbfgs", "optax", False, _compiled(_optax_lbfgs),
    "while_loop; m, ftol, gtol, maxiter; its own zoom line search",
)  # fmt: skip
_STEPS = "rtol = atol = 1e-6 for x and f, at most 4 maxiter steps; has no gtol"
OPTIMISTIX = tuple(
    Solver(f"optimistix {name}", "optimistix", False, _compiled(_optimistix(name)), _STEPS)
    for name in ("BFGS", "LBFGS")
)
BOUNDED = (SCIPY, JAXOPT, NLOPT)
FREE = (SCIPY, JAXOPT, OPTAX, *OPTIMISTIX, NLOPT)
ALL = (OURS, SCIPY, SCIPY_NUMPY, JAXOPT, NLOPT, OPTAX, *OPTIMISTIX, OURS_NUMPY)
SETTINGS = {solver.name: solver.settings for solver in ALL}
