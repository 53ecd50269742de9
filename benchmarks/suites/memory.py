"""Peak memory of a solve beyond the function's own, in numbers of the dtype per variable."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlbfgsb
from benchmarks.collection import Task
from benchmarks.fresh import MEMORY_LIMITS, PROBLEMS, spawn
from benchmarks.measure import Row
from benchmarks.suites import Options

SIZES = (100_000, 1_000_000)
M = MEMORY_LIMITS.m
BAR = 2 * M + 14
COLUMNS = "problem n temporaries output function numbers bar rss_numbers nit note".split()
SETTINGS = {
    "numbers": "temporaries and outputs of the compiled solve, less the temporaries of "
    "value_and_grad, by memory_analysis(); x0 and bounds are not counted",
    "rss_numbers": "peak resident memory of a solve above that of one value_and_grad, "
    "in a fresh process; includes what the allocator keeps",
    "limits": MEMORY_LIMITS._asdict(),
}


def tasks(options: Options) -> list[Task]:
    if options.quick:
        return [("rosenbrock", functools.partial(_measure, "rosenbrock", 100))]
    return [
        (f"{name}, n = {n}", functools.partial(_measure, name, n))
        for n in SIZES
        for name in PROBLEMS
    ]


def _measure(name: str, n: int) -> list[Row]:
    problem = PROBLEMS[name](n)
    bounds = None
    if problem.lower is not None:
        bounds = (jnp.asarray(problem.lower), jnp.asarray(problem.upper))

    def solve(x0: Any, bounds: Any, args: Any) -> Any:
        return jaxlbfgsb.minimize(problem.fun, x0, args, bounds=bounds, maxcor=M)

    x0 = jnp.asarray(problem.x0)
    whole = jax.jit(solve).lower(x0, bounds, problem.args).compile().memory_analysis()
    function = jax.jit(jax.value_and_grad(problem.fun)).lower(x0, *problem.args).compile()
    alone = function.memory_analysis().temp_size_in_bytes
    per_variable = n * np.dtype(x0.dtype).itemsize
    row = {
        "problem": name,
        "n": n,
        "temporaries": whole.temp_size_in_bytes / per_variable,
        "output": whole.output_size_in_bytes / per_variable,
        "function": alone / per_variable,
        "numbers": (whole.temp_size_in_bytes + whole.output_size_in_bytes - alone) / per_variable,
        "bar": BAR,
    }
    return [row | spawn("memory", name, n)]


def summarise(rows: list[Row]) -> dict[str, Any]:
    largest = max(rows, key=lambda row: row["n"])["n"]
    return {
        f"numbers per variable, n = {largest}": {
            row["problem"]: row["numbers"] for row in rows if row["n"] == largest
        },
        "bar, 2 m + 14": BAR,
    }
