"""Paired timing: two solvers by turns in one process, and how good their ends are."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.peers import OURS
from benchmarks.problems import Problem
from benchmarks.solver import Limits, Outcome, Solver, host_function

FAILED_BY = 1e-6
"""A solver failed if its f is above the best one by more than this, relative to
``max(|f|, 1)``: the scale that L-BFGS-B measures its own progress on."""

Row = dict[str, Any]


class Effort(NamedTuple):
    """How long to measure one pair of solvers."""

    limit: float
    """Seconds, after which no new pair begins."""
    most: int
    """Pairs at most."""


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """The time of one call, with all that it returns computed, and what it returned."""
    begin = time.perf_counter()
    out = jax.block_until_ready(call())
    return time.perf_counter() - begin, out


def pair_times(
    ours: Callable[[], Any], theirs: Callable[[], Any], effort: Effort
) -> list[tuple[float, float]]:
    """Seconds of both, by turns; which goes first changes each time.

    The first pair warms up and is left out, unless there are fewer than three.
    """
    times = []
    begin = time.perf_counter()
    gc.collect()
    while not times or (len(times) <= effort.most and time.perf_counter() - begin < effort.limit):
        if len(times) % 2:
            theirs_took = seconds(theirs)[0]
            times.append((seconds(ours)[0], theirs_took))
        else:
            ours_took = seconds(ours)[0]
            times.append((ours_took, seconds(theirs)[0]))
    return times[1:] if len(times) > 2 else times


def median_ratio(times: Sequence[tuple[float, float]]) -> float:
    """Their time over ours, the median over the pairs."""
    return statistics.median(theirs / ours for ours, theirs in times)


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


def failed(value: float, best: float) -> bool:
    """Whether a final value is worse than the best one of all solvers; see `FAILED_BY`."""
    return not value - best <= FAILED_BY * max(abs(best), 1)


def quality(problem: Problem, fun: Any, x: Any) -> tuple[float, float]:
    """f and the largest entry of the projected gradient, the same way for every solver."""
    x = np.asarray(x)
    value, gradient = fun(x)
    target = x - gradient
    if problem.lower is not None and problem.upper is not None:
        target = np.clip(target, problem.lower, problem.upper)
    return value, float(np.max(np.abs(target - x)))


def compare(
    problem: Problem,
    peers: Sequence[Solver],
    limits: Limits,
    effort: Effort,
    judge: bool = True,
    ours: Solver = OURS,
) -> list[Row]:
    """One row for this package and one for each peer.

    Without `judge` no one fails: for runs that are cut short by their limits.
    """
    fun = host_function(problem)
    ours_solve = ours.prepare(problem, limits)
    rows = [_described(problem, ours, fun, ours_solve())]
    for peer in peers:
        if not peer.installed:
            rows.append(_named(problem, peer) | {"note": "not installed"})
            continue
        try:
            solve = peer.prepare(problem, limits)
            row = _described(problem, peer, fun, solve())
            times = pair_times(ours_solve, solve, effort)
        except Exception as error:  # a peer that breaks is a result, not the end of the suite
            rows.append(_named(problem, peer) | {"note": f"raised {type(error).__name__}"})
            continue
        row["seconds"] = statistics.median(theirs for _, theirs in times)
        row["ratio"] = median_ratio(times)
        row["pairs"] = len(times)
        rows[0].setdefault("seconds", statistics.median(ours for ours, _ in times))
        rows.append(row)
    if judge:
        judge_rows(rows)
    return rows


def judge_rows(rows: Sequence[Row]) -> None:
    """Say of each solver of one problem whether it failed."""
    values = [row["fun"] for row in rows if "fun" in row]
    best = min((value for value in values if math.isfinite(value)), default=math.inf)
    for row in rows:
        if "fun" in row:
            row["failed"] = failed(row["fun"], best)


def _named(problem: Problem, solver: Solver) -> Row:
    bounded = problem.lower is not None
    return {"problem": problem.name, "n": problem.n, "bounded": bounded, "solver": solver.name}


def _described(problem: Problem, solver: Solver, fun: Any, outcome: Outcome) -> Row:
    value, pg_norm = quality(problem, fun, outcome.x)
    counts = {
        name: None if count is None else int(count)
        for name, count in (("nit", outcome.nit), ("nfev", outcome.nfev))
    }
    return _named(problem, solver) | counts | {"fun": value, "pg_norm": pg_norm}


def summary_by_peer(rows: Sequence[Row]) -> dict[str, Any]:
    """For each peer: the geometric mean of the ratios where both solved it, and who did not."""
    ours = {row["problem"]: row for row in rows if row["solver"] == OURS.name}
    summary: dict[str, Any] = {"problems": len(ours)}
    summary["jaxlbfgsb failed"] = [name for name, row in ours.items() if row.get("failed")]
    for peer in dict.fromkeys(row["solver"] for row in rows if row["solver"] != OURS.name):
        theirs = [row for row in rows if row["solver"] == peer]
        timed = [row for row in theirs if "ratio" in row]
        both = [r for r in timed if not r.get("failed") and not ours[r["problem"]].get("failed")]
        slowest = min(timed, key=lambda row: row["ratio"], default={})
        summary[peer] = {
            "geometric mean of ratios, both solved": geometric_mean(r["ratio"] for r in both),
            "both solved": len(both),
            "geometric mean of ratios, all": geometric_mean(row["ratio"] for row in timed),
            "smallest ratio": [slowest.get("problem"), slowest.get("ratio")],
            "jaxlbfgsb slower": [row["problem"] for row in timed if row["ratio"] < 1],
            "failed": [row["problem"] for row in theirs if row.get("failed")],
            "not run": {row["problem"]: row["note"] for row in theirs if "note" in row},
        }
    return summary
