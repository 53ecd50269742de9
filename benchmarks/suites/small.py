"""One small problem: CUTEst with n <= 100, cheap functions, and what an eager call costs."""

from __future__ import annotations

import functools
import statistics
from typing import Any

import jax

import jaxlbfgsb
from benchmarks import collection
from benchmarks.collection import COLUMNS, LIMITS, Task, effort_of
from benchmarks.functions import rosenbrock
from benchmarks.measure import Effort, Row, compare, pair_times, summary_by_peer
from benchmarks.peers import OURS_NUMPY, SCIPY, SCIPY_NUMPY
from benchmarks.solver import start
from benchmarks.suites import Options

__all__ = ["COLUMNS", "SETTINGS", "stem", "summarise", "tasks"]

SIZES = (1, collection.SMALL)
QUICK = {"bounded": "HS4", "unconstrained": "ROSENBR"}
CHEAP = (2, 20, 100)
"""Variables of the Rosenbrock sum, whose evaluation costs next to nothing."""
EFFORT = Effort(limit=2, most=31)
DISPATCH_PAIRS = 200
SETTINGS = collection.settings(EFFORT) | {"dispatch": f"medians of {DISPATCH_PAIRS} pairs"}


def tasks(options: Options) -> list[Task]:
    cheap = [
        (f"Rosenbrock, n = {n}", functools.partial(_cheap, n, options))
        for n in (CHEAP[:1] if options.quick else CHEAP)
    ]
    listed = collection.tasks(options, SIZES, EFFORT, QUICK[options.lists])
    return (listed + cheap)[: options.problems]


def _cheap(n: int, options: Options) -> list[Row]:
    """With a NumPy function, too, which such problems would be written with."""
    problem = rosenbrock(n, bounded=options.lists == "bounded")
    problem = problem._replace(name=f"{problem.name}, n = {n}")
    rows = compare(problem, (OURS_NUMPY, SCIPY_NUMPY, SCIPY), LIMITS, effort_of(options, EFFORT))
    x0, bounds = start(problem)
    call = functools.partial(jaxlbfgsb.minimize, problem.fun, bounds=bounds)
    solve = jax.jit(lambda x, bounds: jaxlbfgsb.minimize(problem.fun, x, bounds=bounds))
    ahead = solve.lower(x0, bounds).compile()  # the program of the eager call
    call(x0)
    effort = Effort(10, 5 if options.quick else DISPATCH_PAIRS)
    times = pair_times(lambda: ahead(x0, bounds), lambda: call(x0), effort)
    rows.append({
        "problem": problem.name,
        "n": n,
        "solver": "compiled ahead of time",
        "seconds": statistics.median(ahead for ahead, _ in times),
        "pairs": len(times),
        "overhead_us": 1e6 * statistics.median(eager - ahead for ahead, eager in times),
    })  # fmt: skip
    return [row | {"set": "cheap"} for row in rows]


def summarise(rows: list[Row]) -> dict[str, Any]:
    cheap = [row for row in rows if row["set"] == "cheap"]
    overheads = [row["overhead_us"] for row in cheap if "overhead_us" in row]
    return {
        "CUTEst": collection.summarise(rows),
        "cheap functions": summary_by_peer([row for row in cheap if "overhead_us" not in row]),
        "eager call above the compiled solve, us": overheads,
    }


stem = functools.partial(collection.stem, "small")
