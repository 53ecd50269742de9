"""The default device of JAX: an iteration against reading the history once; batches; peers.

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
from benchmarks.measure import Effort, Row, compare, seconds
from benchmarks.peers import JAXOPT, SCIPY
from benchmarks.solver import Limits, Solve, start
from benchmarks.suites import Options
from benchmarks.suites.batch import BATCH, VMAP, batched, of_jaxopt, of_ours, problems, vmapped

BY_ITSELF = "minimize"
M, MORE, REPEATS = 10, 60, 5
UNTIL = Limits(m=M, ftol=0.0, gtol=0.0, maxiter=MORE)
SCIPY_UP_TO, JAXOPT_UP_TO = 10**6, 1000
EFFORT = Effort(limit=5, most=3)
COLUMNS = (
    "device problem n B dtype solver nit per_iteration history_read iteration_in_reads "
    "per_evaluation seconds us_per_problem ratio mean_nfev note"
).split()
SETTINGS = {
    "per_iteration": f"a run of {MORE} iterations, or of as many as its noise lets it do, less one "
    f"of a third of them, over the difference; medians of {REPEATS}; no tolerances, m = {M}",
    "history_read": "seconds to read (2 m, n) numbers at the bandwidth of a large sum",
    "ratio": f"time over that of this package ({BATCH}); {SCIPY.name}: median of at most "
    f"{EFFORT.most} pairs, float64 only, n <= {SCIPY_UP_TO}; {JAXOPT.name}: B <= {JAXOPT_UP_TO}",
}


def on_accelerator() -> bool:
    return jax.default_backend() != "cpu"


def tasks(options: Options) -> list[Task]:
    sizes, batches = [10_000, 100_000], [1000]
    if options.quick:
        sizes, batches = [10], [16]
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
    chosen += [
        (f"{SCIPY.name} on {device}: n = {n}", functools.partial(_against_scipy, n, bounded))
        for n in sizes
        if n <= SCIPY_UP_TO
        for bounded in ([True] if options.quick else [True, False])
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
    times: list[float] = []
    while not times or (len(times) < REPEATS and sum(times) < EFFORT.limit):
        times.append(seconds(call)[0])
    return statistics.median(times)


def _one(n: int, dtype: type, bounded: bool) -> list[Row]:
    problem = rosenbrock(n, bounded, dtype)
    x0, bounds = start(problem)

    def solve(maxiter: int) -> Any:
        return jaxlbfgsb.minimize(
            problem.fun, x0, bounds=bounds, maxcor=M, maxiter=maxiter, ftol=0.0, gtol=0.0
        )

    more = jax.block_until_ready(solve(MORE))
    third = max(1, int(more.nit) // 3)
    few = jax.block_until_ready(solve(third))
    long = _median(lambda: solve(MORE))
    row = _place() | {"problem": problem.name, "n": n, "dtype": dtype.__name__, "seconds": long}
    row |= {"solver": BY_ITSELF, "nit": int(more.nit), "per_evaluation": long / int(more.nfev)}
    iterations = int(more.nit) - int(few.nit)
    if iterations <= 0:
        return [row | {"note": "too few iterations for a difference"}]
    row["per_iteration"] = (long - _median(lambda: solve(third))) / iterations
    row["history_read"] = 2 * M * n * np.dtype(dtype).itemsize / bandwidth()
    row["bandwidth"] = bandwidth()
    row["iteration_in_reads"] = row["per_iteration"] / row["history_read"]
    return [row]


def _against_scipy(n: int, bounded: bool) -> list[Row]:
    rows = compare(rosenbrock(n, bounded), [SCIPY], UNTIL, EFFORT, judge=False)
    return [_place() | row | {"dtype": "float64"} for row in rows[1:]]


def _many(n: int, B: int, dtype: type) -> list[Row]:
    lanes = problems(n, B, dtype)
    ways: dict[str, Solve] = {BATCH: batched(lanes), VMAP: vmapped(of_ours, lanes)}
    if JAXOPT.installed and B <= JAXOPT_UP_TO:
        ways[f"vmap({JAXOPT.name})"] = vmapped(of_jaxopt, lanes)
    rows: list[Row] = []
    for name, way in ways.items():
        outcome = jax.block_until_ready(way())
        took = _median(way)
        row = _place() | {"problem": "batch", "n": n, "B": B, "dtype": dtype.__name__}
        row |= {"solver": name, "seconds": took, "us_per_problem": 1e6 * took / B}
        row["mean_nfev"] = float(np.mean(np.asarray(outcome.nfev)))
        rows.append(row | {"ratio": took / (rows[0]["seconds"] if rows else took)})
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
        "SciPy's time over ours": {
            f"{row['problem']}, n = {row['n']}": row["ratio"]
            for row in rows
            if row["solver"] == SCIPY.name and "ratio" in row
        },
        "microseconds a problem, and over minimize_batch": {
            f"n = {row['n']}, B = {row['B']}, {row['solver']}": [
                row["us_per_problem"],
                row["ratio"],
            ]
            for row in rows
            if "us_per_problem" in row
        },
    }
