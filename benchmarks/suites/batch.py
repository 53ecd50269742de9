"""Many small problems at once: B = 100, 1000, 10000 Rosenbrock problems of n = 2 and 10."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import fmin_l_bfgs_b

import jaxlbfgsb
from benchmarks.collection import Task
from benchmarks.measure import Effort, Row, failed, median_ratio, pair_times, seconds
from benchmarks.peers import JAXOPT, SCIPY, jaxopt_lbfgsb
from benchmarks.solver import Limits, Outcome, quiet
from benchmarks.suites import Options

SIZES, BATCHES = (2, 10), (100, 1000, 10_000)
LIMITS = Limits()
EFFORT = Effort(limit=30, most=9)
SCIPY_LANES = 200
"""The loop over SciPy solves so many lanes, and its time is scaled to all."""
SINGLE = 20
"""Lanes that are solved once more, each by itself."""
BATCH, VMAP = "minimize_batch", "jit(vmap(minimize))"
COLUMNS = (
    "n B solver lanes seconds us_per_problem ratio pairs failed mean_nfev same_bits "
    "largest_difference note"
).split()
SETTINGS = {
    "function": "sum of b (x[i+1] - x[i]^2)^2 + (a - x[i])^2; x0, a and b of each lane random",
    "limits": LIMITS._asdict(),
    "effort": EFFORT._asdict(),
    "ratio": f"time over that of {BATCH} ({VMAP} where there is none), median of pairs",
    "loop over SciPy": f"timed on {SCIPY_LANES} lanes, scaled to B",
    "failed": f"lanes of the first {SCIPY_LANES} whose f is worse than the best solver's",
    "same_bits, largest_difference": f"of x to that of single solves, {SINGLE} lanes",
}


class Lanes(NamedTuple):
    """The problems: starts, one row each, the data of each, and bounds for all."""

    x0: Any
    args: tuple[Any, Any]
    bounds: tuple[Any, Any]


def problems(n: int, B: int, dtype: type = np.float64) -> Lanes:
    rng = np.random.default_rng(0)
    lower, upper = np.full(n, -2.0), np.where(np.arange(n) % 2, 0.5, 2.0)
    x0 = rng.uniform(lower, upper, (B, n))
    args = rng.uniform(0.5, 1.5, B), np.exp(rng.uniform(0, np.log(100), B))
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), Lanes(x0, args, (lower, upper)))


def function(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(b * (x[1:] - x[:-1] ** 2) ** 2 + (a - x[:-1]) ** 2)


def of_ours(x0: Any, args: Any, bounds: Any) -> Outcome:
    result = jaxlbfgsb.minimize(function, x0, args, bounds=bounds, maxiter=LIMITS.maxiter)
    return Outcome(result.x, result.nit, result.nfev)


def vmapped(solve: Callable[..., Outcome], lanes: Lanes) -> Callable[[], Outcome]:
    with quiet():
        compiled = jax.jit(jax.vmap(solve, in_axes=(0, 0, None))).lower(*lanes).compile()
    return lambda: compiled(*lanes)


def batched(lanes: Lanes) -> Callable[[], Outcome]:
    def solve() -> Outcome:
        result = jaxlbfgsb.minimize_batch(
            function, lanes.x0, lanes.args, in_axes=(0, 0, None), bounds=lanes.bounds,
            maxiter=LIMITS.maxiter,
        )  # fmt: skip
        return Outcome(result.x, result.nit, result.nfev)

    return solve


def of_jaxopt(x0: Any, args: Any, bounds: Any) -> Outcome:
    return jaxopt_lbfgsb(lambda x: function(x, *args), x0, bounds, LIMITS)


def _scipy_loop(lanes: Lanes) -> Callable[[], Outcome]:
    """A Python loop over the first lanes."""
    compiled = jax.jit(jax.value_and_grad(function))
    x0, args, bounds = jax.tree.map(np.asarray, lanes)
    pairs = list(zip(*bounds, strict=True))

    def fun(x: np.ndarray, a: Any, b: Any) -> tuple[float, np.ndarray]:
        value, gradient = compiled(x, a, b)
        return float(value), np.asarray(gradient, np.float64)

    def solve() -> Outcome:
        ends = [
            fmin_l_bfgs_b(fun, x, args=(a, b), bounds=pairs, maxiter=LIMITS.maxiter)
            for x, a, b in zip(x0[:SCIPY_LANES], *(arg[:SCIPY_LANES] for arg in args), strict=True)
        ]
        nit, nfev = (np.array([end[2][key] for end in ends]) for key in ("nit", "funcalls"))
        return Outcome(np.array([end[0] for end in ends]), nit, nfev)

    return solve


def tasks(options: Options) -> list[Task]:
    if options.quick:
        return [("n = 2, B = 8", functools.partial(_measure, 2, 8, Effort(0.2, 3)))]
    effort = EFFORT if options.limit is None else EFFORT._replace(limit=options.limit)
    sizes = [(n, B) for n in SIZES for B in BATCHES][: options.problems]
    return [(f"n = {n}, B = {B}", functools.partial(_measure, n, B, effort)) for n, B in sizes]


def _measure(n: int, B: int, effort: Effort) -> list[Row]:
    lanes = problems(n, B)
    makers = {
        BATCH: batched,
        VMAP: functools.partial(vmapped, of_ours),
        f"loop over {SCIPY.name}": _scipy_loop,
        f"vmap({JAXOPT.name})": functools.partial(vmapped, of_jaxopt),
    }
    notes = {}
    if not hasattr(jaxlbfgsb, "minimize_batch"):
        notes[BATCH] = "not in this version of jaxlbfgsb"
    if not JAXOPT.installed:
        notes[f"vmap({JAXOPT.name})"] = "not installed"
    rows: list[Row] = [{"n": n, "B": B, "solver": k, "note": v} for k, v in notes.items()]
    solves = {key: make(lanes) for key, make in makers.items() if key not in notes}
    ours = next(iter(solves.values()))
    outcomes = {}
    for key, solve in solves.items():
        outcomes[key] = seconds(solve)[1]
        times = pair_times(ours, solve, effort)
        rows.append(_row(n, B, key, outcomes[key], times))
    _judge(lanes, rows, outcomes)
    for key in (BATCH, VMAP):
        if key in outcomes:
            next(r for r in rows if r["solver"] == key).update(_like_single(lanes, outcomes[key]))
    return rows


def _row(n: int, B: int, key: str, outcome: Outcome, times: list[tuple[float, float]]) -> Row:
    solved = len(np.asarray(outcome.nit))
    took = statistics.median(theirs for _, theirs in times) * B / solved
    return {
        "n": n,
        "B": B,
        "solver": key,
        "lanes": solved,
        "seconds": took,
        "us_per_problem": 1e6 * took / B,
        "ratio": median_ratio(times) * B / solved,
        "pairs": len(times),
        "mean_nfev": float(np.mean(np.asarray(outcome.nfev))),
    }


def _judge(lanes: Lanes, rows: list[Row], outcomes: dict[str, Outcome]) -> None:
    """Count the lanes that ended worse than another solver's, among those that all solved."""
    common = min(SCIPY_LANES, len(lanes.x0))
    args = tuple(arg[:common] for arg in lanes.args)
    compiled = jax.jit(jax.vmap(function))
    values = {
        key: np.asarray(compiled(jnp.asarray(outcome.x)[:common], *args))
        for key, outcome in outcomes.items()
    }
    best = np.nanmin(np.array(list(values.values())), axis=0)
    for row in rows:
        if row["solver"] in values:
            own = values[row["solver"]]
            row["failed"] = sum(failed(*pair) for pair in zip(own, best, strict=True))


def _like_single(lanes: Lanes, outcome: Outcome) -> Row:
    count = min(SINGLE, len(lanes.x0))
    singles = np.array(
        [np.asarray(of_ours(*jax.tree.map(lambda a, i=i: a[i], lanes[:2]), lanes.bounds).x)
         for i in range(count)]
    )  # fmt: skip
    x = np.asarray(outcome.x)[:count]
    same = int(np.sum(np.all(x == singles, axis=1)))
    difference = float(np.max(np.abs(x - singles)))
    return {"same_bits": f"{same} of {count}", "largest_difference": difference}


def summarise(rows: list[Row]) -> dict[str, Any]:
    """For each n and B: microseconds for one problem, and ratios."""
    summary: dict[str, Any] = {}
    for row in rows:
        entry = summary.setdefault(f"n = {row['n']}, B = {row['B']}", {})
        figures = [row["us_per_problem"], row["ratio"]] if "ratio" in row else row["note"]
        entry[f"{row['solver']}, us a problem and ratio"] = figures
    return summary
