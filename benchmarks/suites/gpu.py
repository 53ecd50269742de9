"""The default device of JAX: an iteration against reading the history once; small batches.

Meant for an accelerator; runs anywhere, at smaller sizes on a CPU, and says where it ran.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlbfgsb
from benchmarks.collection import Task
from benchmarks.functions import rosenbrock
from benchmarks.measure import Row, seconds
from benchmarks.solver import start
from benchmarks.suites import Options
from benchmarks.suites.batch import BATCH, VMAP, function, problems

M, FEW, MORE, REPEATS = 10, 20, 60, 5
COLUMNS = (
    "device problem n B dtype solver per_iteration history_read iteration_in_reads "
    "per_evaluation seconds us_per_problem mean_nfev note"
).split()
SETTINGS = {
    "per_iteration": f"(time of {MORE} - time of {FEW} iterations) / difference, medians of "
    f"{REPEATS}; no tolerances, m = {M}",
    "history_read": "seconds to read (2 m, n) numbers at the bandwidth of a large sum",
}


def on_accelerator() -> bool:
    return jax.default_backend() != "cpu"


def tasks(options: Options) -> list[Task]:
    sizes, batches = [10_000, 100_000], [1000]
    if options.quick:
        sizes, batches = [100], [16]
    elif on_accelerator():
        sizes, batches = [10**4, 10**5, 10**6, 10**7], [10**3, 10**4, 10**5]
    device = jax.devices()[0].device_kind
    kinds = [(dtype, bounded) for dtype in (np.float32, np.float64) for bounded in (True, False)]
    chosen: list[Task] = [
        (f"on {device}: n = {n}, {dtype.__name__}", functools.partial(_one, n, dtype, bounded))
        for n in sizes
        for dtype, bounded in kinds[: 1 if options.quick else None]
    ]
    chosen += [
        (f"on {device}: B = {B}, n = {n}", functools.partial(_many, n, B, np.float32))
        for B in batches
        for n in ([2] if options.quick else [2, 10])
    ]
    return chosen[: options.problems]


@functools.cache
def bandwidth() -> float:
    """Bytes a second that a sum over a large array reads; the best of several."""
    size = 1 << (28 if on_accelerator() else 25)
    array = jnp.ones(size, np.float32)
    total = jax.jit(lambda a: jnp.sum(a))
    jax.block_until_ready(total(array))
    return array.nbytes / min(seconds(lambda: total(array))[0] for _ in range(10))


def _median(call: Callable[[], Any]) -> float:
    return statistics.median(seconds(call)[0] for _ in range(REPEATS))


def _one(n: int, dtype: type, bounded: bool) -> list[Row]:
    problem = rosenbrock(n, bounded, dtype)
    x0, bounds = start(problem)

    def solve(maxiter: int) -> Any:
        return jaxlbfgsb.minimize(
            problem.fun, x0, bounds=bounds, maxcor=M, maxiter=maxiter, ftol=0.0, gtol=0.0
        )

    few, more = (jax.block_until_ready(solve(maxiter)) for maxiter in (FEW, MORE))
    long = _median(lambda: solve(MORE))
    row = _place() | {"problem": problem.name, "n": n, "dtype": dtype.__name__, "seconds": long}
    iterations = int(more.nit) - int(few.nit)
    if iterations <= 0:
        return [row | {"note": f"ended after {int(more.nit)} iterations"}]
    row["per_iteration"] = (long - _median(lambda: solve(FEW))) / iterations
    row["per_evaluation"] = long / int(more.nfev)
    row["history_read"] = 2 * M * n * np.dtype(dtype).itemsize / bandwidth()
    row["bandwidth"] = bandwidth()
    row["iteration_in_reads"] = row["per_iteration"] / row["history_read"]
    return [row]


def _many(n: int, B: int, dtype: type) -> list[Row]:
    lanes = problems(n, B, dtype)

    def single(x0: Any, args: Any, bounds: Any) -> Any:
        result = jaxlbfgsb.minimize(function, x0, args, bounds=bounds)
        return result.x, result.nfev

    def batch() -> Any:
        result = jaxlbfgsb.minimize_batch(
            function, lanes.x0, lanes.args, in_axes=(0, 0, None), bounds=lanes.bounds
        )
        return result.x, result.nfev

    vmapped = jax.jit(jax.vmap(single, in_axes=(0, 0, None)))
    ways: dict[str, Callable[[], Any]] = {VMAP: lambda: vmapped(*lanes)}
    if hasattr(jaxlbfgsb, "minimize_batch"):
        ways[BATCH] = batch
    rows = []
    for name, way in ways.items():
        _, nfev = jax.block_until_ready(way())
        took = _median(way)
        row = _place() | {"problem": "batch", "n": n, "B": B, "dtype": dtype.__name__}
        row |= {"solver": name, "seconds": took, "us_per_problem": 1e6 * took / B}
        rows.append(row | {"mean_nfev": float(np.mean(np.asarray(nfev)))})
    return rows


def _place() -> Row:
    return {"device": jax.devices()[0].device_kind}


def summarise(rows: list[Row]) -> dict[str, Any]:
    reads = {
        f"{row['problem']}, n = {row['n']}, {row['dtype']}": row["iteration_in_reads"]
        for row in rows
        if "iteration_in_reads" in row
    }
    return {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "bandwidth, GB/s": bandwidth() / 1e9,
        "an iteration in reads of the history": reads,
    }
