"""Loops in Python, which let the solver go step by step: a callback, optax, jaxopt's `update`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import scipy.optimize

import jaxlbfgsb
from benchmarks.collection import Task, effort_of
from benchmarks.functions import rosenbrock
from benchmarks.measure import Effort, Row, compare
from benchmarks.problems import Problem
from benchmarks.solver import Limits, Outcome, Solve, Solver, host_function, quiet, start
from benchmarks.suites import Options

SIZES = (2, 20, 2000)
LIMITS = Limits(maxiter=100)
EFFORT = Effort(limit=4, most=31)
COLUMNS = "loop n solver nit nfev fun pg_norm seconds us_a_step ratio pairs note".split()
SETTINGS = {
    "function": "the Rosenbrock sum, with bounds but for optax",
    "limits": LIMITS._asdict(),
    "effort": EFFORT._asdict(),
    "ratio": "time of the whole loop over that of this package, median of pairs",
    "step": "an iteration; of the optax face an evaluation",
}


def _seen(x: Any) -> None:
    """A callback that does nothing."""


def _ours_with_callback(problem: Problem, limits: Limits) -> Solve:
    x0, bounds = start(problem)
    options = limits._asdict()
    options["maxcor"] = options.pop("m")

    def solve() -> Outcome:
        result = jaxlbfgsb.minimize(problem.fun, x0, bounds=bounds, callback=_seen, **options)
        return Outcome(result.x, result.nit, result.nfev)

    return solve


def _scipy_with_callback(problem: Problem, limits: Limits) -> Solve:
    fun, options = host_function(problem), limits._asdict()
    options["maxcor"] = options.pop("m")
    bounds = scipy.optimize.Bounds(problem.lower, problem.upper)

    def solve() -> Outcome:
        result = scipy.optimize.minimize(
            fun, problem.x0, jac=True, method="L-BFGS-B", bounds=bounds, callback=_seen,
            options=options,
        )  # fmt: skip
        return Outcome(result.x, result.nit, result.nfev)

    return solve


def _by_optax(optimizer: Any, is_done: Callable[[Any, Any], Any]) -> Any:
    """A loop as optax's documentation writes it, its step compiled."""

    def prepare(problem: Problem, limits: Limits) -> Solve:
        chosen = optimizer(limits)
        value_and_grad = jax.value_and_grad(problem.fun)

        @jax.jit
        def step(x: Any, state: Any) -> Any:
            value, grad = value_and_grad(x)
            updates, state = chosen.update(
                grad, state, x, value=value, grad=grad, value_fn=problem.fun
            )
            return optax.apply_updates(x, updates), state, is_done(grad, state)

        def solve() -> Outcome:
            x, steps, done = start(problem)[0], 0, False
            state = chosen.init(x)
            while not done and steps < limits.maxiter:
                x, state, done = step(x, state)
                steps += 1
            return Outcome(x, steps, None)

        return solve

    return prepare


def _by_update(solver: Callable[[], Any]) -> Any:
    """A loop of jaxopt's `update`."""

    def prepare(problem: Problem, limits: Limits) -> Solve:
        x0, bounds = start(problem)
        with quiet():
            chosen = solver()(
                problem.fun, maxiter=limits.maxiter, tol=limits.gtol, history_size=limits.m
            )

        def solve() -> Outcome:
            x, state = x0, chosen.init_state(x0, bounds)
            steps = 0
            while state.error > limits.gtol and steps < limits.maxiter:
                x, state = chosen.update(x, state, bounds)
                steps += 1
            return Outcome(x, steps, None)

        return solve

    return prepare


def _jaxopt() -> Any:
    import jaxopt

    return jaxopt.LBFGSB


_OURS = "jaxlbfgsb"
LOOPS = {
    "callback": (
        Solver(_OURS, _OURS, True, _ours_with_callback, "minimize(callback=...)"),
        Solver("SciPy", "scipy", True, _scipy_with_callback, "minimize(callback=...)"),
    ),
    "optax": (
        Solver(
            _OURS, _OURS, False,
            _by_optax(
                lambda limits: jaxlbfgsb.lbfgsb(maxcor=limits.m, gtol=limits.gtol),
                lambda _, state: state.done,
            ),
            "lbfgsb",
        ),
        Solver(
            "optax lbfgs", "optax", False,
            _by_optax(
                lambda limits: optax.lbfgs(memory_size=limits.m),
                lambda grad, _: jnp.max(jnp.abs(grad)) <= LIMITS.gtol,
            ),
            "lbfgs",
        ),
    ),
    "update": (
        Solver(_OURS, _OURS, True, _by_update(lambda: jaxlbfgsb.LBFGSB), "LBFGSB.update"),
        Solver("jaxopt LBFGSB", "jaxopt", True, _by_update(_jaxopt), "LBFGSB.update"),
    ),
}  # fmt: skip


def tasks(options: Options) -> list[Task]:
    sizes = SIZES[:1] if options.quick else SIZES
    return [
        (f"{loop}, n = {n}", functools.partial(_measure, loop, n, options))
        for loop in LOOPS
        for n in sizes
    ]


def _measure(loop: str, n: int, options: Options) -> list[Row]:
    ours, theirs = LOOPS[loop]
    problem = rosenbrock(n, bounded=ours.bounded)
    limits = LIMITS._replace(maxiter=5) if options.quick else LIMITS
    with quiet():
        effort = effort_of(options, EFFORT)
        rows = compare(problem, (theirs,), limits, effort, judge=False, ours=ours)
    for row in rows:
        row["loop"] = loop
        if "seconds" in row:
            row["us_a_step"] = 1e6 * row["seconds"] / row["nit"]
    return rows


def summarise(rows: list[Row]) -> dict[str, Any]:
    """For each loop the microseconds of a step, and how many times longer the whole takes."""
    summary: dict[str, Any] = {}
    for row in rows:
        told = {"us a step": row.get("us_a_step"), "ratio": row.get("ratio")}
        summary.setdefault(f"{row['loop']}, n = {row['n']}", {})[row["solver"]] = told
    return summary
