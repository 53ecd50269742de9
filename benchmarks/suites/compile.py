"""The first call: trace, compile and run, each time in a fresh process."""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Mapping
from typing import Any

from benchmarks.collection import Task
from benchmarks.fresh import spawn
from benchmarks.measure import Row, median_ratio
from benchmarks.peers import JAXOPT, OURS
from benchmarks.solver import Limits
from benchmarks.suites import Options

SIZES = (2, 100, 10_000)
PAIRS = 9
"""Of first calls of ours and of jaxopt."""
OTHERS = 3
"""First calls in each other way."""
SYNCHRONOUS = "jax_cpu_enable_async_dispatch=False"
"""The setting of JAX with which programs run where they are called, not in another thread."""
FLAGS = (
    "--xla_backend_optimization_level=0",
    "--xla_backend_optimization_level=1",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1048576",
)
"""What XLA could be told; reported beside the figures of JAX as installed, in few variables."""
OTHER_WAYS = (SYNCHRONOUS, *FLAGS)
COLUMNS = "way n solver first_call traces warm ratio pairs note".split()
SETTINGS = {
    "function": "the bounded Rosenbrock sum",
    "first call": "seconds from Python function to result, imports and devices left out",
    "ratio": "first call of jaxopt over ours, median of pairs",
    "limits": Limits()._asdict(),
}
NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


def tasks(options: Options) -> list[Task]:
    sizes, pairs = (SIZES[:1], 1) if options.quick else (SIZES, PAIRS)
    others = min(pairs, OTHERS)
    chosen: list[Task] = []
    for n in sizes:
        chosen.append((f"as installed, n = {n}", functools.partial(_installed, n, pairs)))
        if not options.quick:
            chosen.append((f"cache, n = {n}", functools.partial(_cached, n, others)))
            ways = OTHER_WAYS if n <= SIZES[1] else ()
            chosen += [(f"{w}, n = {n}", functools.partial(_told, w, n, others)) for w in ways]
    return chosen


def _installed(n: int, pairs: int) -> list[Row]:
    """Ours and jaxopt's by turns."""
    found = [
        [spawn("first-call", solver.name, n, env=NO_CACHE) for solver in (OURS, JAXOPT)]
        for _ in range(pairs)
    ]
    ours, theirs = (list(runs) for runs in zip(*found, strict=True))
    rows = [_row("as installed", n, OURS.name, ours), _row("as installed", n, JAXOPT.name, theirs)]
    times = [
        (a["first_call"], b["first_call"])
        for a, b in found
        if "first_call" in a and "first_call" in b
    ]
    if times:
        rows[1]["ratio"] = median_ratio(times)
    return rows


def _cached(n: int, pairs: int) -> list[Row]:
    """With JAX's cache on disk: the process that fills it, and a later one."""
    empty, filled = [], []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            env = {
                "JAX_COMPILATION_CACHE_DIR": folder,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
            empty.append(spawn("first-call", OURS.name, n, env=env))
            filled.append(spawn("first-call", OURS.name, n, env=env))
    return [
        _row("persistent cache, empty", n, OURS.name, empty),
        _row("persistent cache, filled", n, OURS.name, filled),
    ]


def _told(way: str, n: int, pairs: int) -> list[Row]:
    mode = "first-call-synchronous" if way == SYNCHRONOUS else "first-call"
    env = NO_CACHE if way == SYNCHRONOUS else NO_CACHE | {"XLA_FLAGS": way}
    runs = [spawn(mode, OURS.name, n, env=env) for _ in range(pairs)]
    return [_row(way, n, OURS.name, runs)]


def _row(way: str, n: int, solver: str, runs: list[Mapping[str, Any]]) -> Row:
    row: Row = {"way": way, "n": n, "solver": solver}
    whole = [run for run in runs if "first_call" in run]
    if not whole:
        return row | {"note": runs[0]["note"]}
    for key in ("first_call", "warm"):
        row[key] = statistics.median(run[key] for run in whole)
    return row | {"pairs": len(whole), "traces": max(run["traces"] for run in whole)}


def summarise(rows: list[Row]) -> dict[str, Any]:
    """First calls in seconds, and ours as a share of jaxopt's."""
    summary: dict[str, Any] = {}
    for row in rows:
        key = f"{row['way']}, n = {row['n']}, {row['solver']}"
        summary[key] = row.get("first_call", row.get("note"))
        if "ratio" in row:
            summary[f"ours / {row['solver']}, n = {row['n']}"] = 1 / row["ratio"]
    return summary
