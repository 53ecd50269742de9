"""Many variables: a given number of iterations at n = 1e3 ... 1e6, and what one costs.

Every run is made twice, with few and with more iterations: the difference is the time of an
iteration without the start-up, of which SciPy has much (its bounds are a list of pairs).
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.collection import Task
from benchmarks.fresh import PROBLEMS
from benchmarks.measure import Effort, Row, compare, geometric_mean, median_ratio, seconds
from benchmarks.peers import JAXOPT, NLOPT, OPTAX, OURS, SCIPY
from benchmarks.peers import SETTINGS as SOLVERS
from benchmarks.problems import Problem
from benchmarks.solver import Limits, Solver
from benchmarks.suites import Options

SIZES = (1_000, 10_000, 100_000, 1_000_000)
FEW, MORE = Limits(maxiter=10, ftol=0.0, gtol=0.0), Limits(maxiter=30, ftol=0.0, gtol=0.0)
EFFORT = Effort(limit=30, most=9)
OTHERS_UP_TO = 100_000
"""Variables up to which solvers other than SciPy are measured."""
COLUMNS = (
    "problem n solver nit nfev fun pg_norm seconds per_evaluation per_iteration ratio "
    "ratio_per_iteration pairs crossed note"
).split()
SETTINGS = {
    "limits": {"few": FEW._asdict(), "more": MORE._asdict()},
    "solvers": SOLVERS,
    "effort": EFFORT._asdict(),
    "seconds, ratio": "the whole run with more iterations",
    "per_iteration": "(more - few) / difference of nit; medians over rounds of all four runs",
    "crossed": "variables that the first step of a bounded problem takes to a bound",
}


def tasks(options: Options) -> list[Task]:
    chosen = [("quadratic", 100)] if options.quick else itertools.product(PROBLEMS, SIZES)
    return [
        (f"{name}, n = {n}", functools.partial(_measure, name, n, options))
        for name, n in itertools.islice(chosen, options.problems)
    ]


def _measure(name: str, n: int, options: Options) -> list[Row]:
    problem = PROBLEMS[name](n)
    effort = EFFORT if options.limit is None else EFFORT._replace(limit=options.limit)
    effort = Effort(0.2, 3) if options.quick else effort
    peers: list[Solver] = [SCIPY]
    if n <= OTHERS_UP_TO and not options.quick:
        peers += [JAXOPT, NLOPT] if problem.lower is not None else [JAXOPT, OPTAX, NLOPT]
    rows = compare(problem, peers, MORE, effort, judge=False)
    for row in rows:
        if "seconds" in row:
            row["per_evaluation"] = row["seconds"] / row["nfev"]
    rows[0]["crossed"] = crossed_at_first(problem)
    if rows[0]["nit"] > FEW.maxiter and rows[1]["nit"] > FEW.maxiter:
        _iterations(problem, rows[0], rows[1], effort)
    return rows


def _iterations(problem: Problem, ours: Row, theirs: Row, effort: Effort) -> None:
    """Time of an iteration, the start-up left out: ours and SciPy's, by turns."""
    solves = [s.prepare(problem, limits) for s in (OURS, SCIPY) for limits in (FEW, MORE)]
    nits = [int(solve().nit) for solve in solves]
    ours_more, theirs_more = nits[1] - nits[0], nits[3] - nits[2]
    rounds: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while not rounds or (len(rounds) < effort.most and time.perf_counter() - begin < effort.limit):
        took = [seconds(solve)[0] for solve in solves]
        rounds.append(((took[1] - took[0]) / ours_more, (took[3] - took[2]) / theirs_more))
    ours["per_iteration"] = statistics.median(a for a, _ in rounds)
    theirs["per_iteration"] = statistics.median(b for _, b in rounds)
    theirs["ratio_per_iteration"] = median_ratio(rounds)


def crossed_at_first(problem: Problem) -> int | None:
    """Breakpoints met by the first step: variables on a bound after it, and not before."""
    if problem.lower is None or problem.upper is None:
        return None
    outcome = OURS.prepare(problem, FEW._replace(maxiter=1))()
    x0 = np.clip(problem.x0, problem.lower, problem.upper)
    x = np.asarray(jnp.asarray(outcome.x))
    on_bound = [(v == problem.lower) | (v == problem.upper) for v in (x0, x)]
    return int(np.sum(on_bound[1] & ~on_bound[0]))


def summarise(rows: list[Row]) -> dict[str, Any]:
    """Ratios to SciPy by n, and how the time of an iteration grows with n."""
    summary: dict[str, Any] = {}
    scipy = [row for row in rows if row["solver"] == SCIPY.name]
    for n in dict.fromkeys(row["n"] for row in scipy):
        of_size = [row for row in scipy if row["n"] == n]
        summary[f"ratio to SciPy, n = {n}"] = {
            row["problem"]: [row["ratio"], row.get("ratio_per_iteration")] for row in of_size
        } | {"geometric mean": geometric_mean(row["ratio"] for row in of_size)}
    for problem in dict.fromkeys(row["problem"] for row in rows):
        costs = {
            row["n"]: row["per_iteration"]
            for row in rows
            if row["problem"] == problem and row.get("per_iteration", 0) > 0
            if row["solver"] == OURS.name
        }
        largest = sorted(costs)[-2:]
        if len(largest) == 2:
            a, b = largest
            power = math.log(costs[b] / costs[a]) / math.log(b / a)
            summary[f"power of n in an iteration, {problem}, {a} to {b}"] = power
    return summary
