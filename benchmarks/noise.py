"""SciPy against itself: what of the table of fidelity does rounding alone change?

    python -m benchmarks.noise [--runs 20] [--save] [NAME ...]

In each run every value and every entry of a gradient is changed by one eps, up, down or not at
all, at random, and SciPy's solution of the bounded list is compared with the one that it finds
without, line by line as in `benchmarks.fidelity`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import jax
import numpy as np

from benchmarks import fidelity
from benchmarks.problems import Problem, load

EPS = np.finfo(float).eps


def noisy(fun: fidelity.Function, seed: int) -> fidelity.Function:
    rng = np.random.default_rng(seed)

    def changed(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = fun(x)
        factors = 1 + EPS * rng.integers(-1, 2, size=1 + gradient.size)
        return value * factors[0], gradient * factors[1:]

    return changed


def against_itself(problem: Problem, runs: int) -> list[dict[str, Any]]:
    """A row of the table for each run."""
    fun = fidelity.host_function(problem)
    own = fidelity.run_scipy(problem, fun)
    others = (fidelity.run_scipy(problem, noisy(fun, seed)) for seed in range(runs))
    return [fidelity.judged(problem, other, own) for other in others]


def line(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs of one problem came to."""
    values = [row["fun"][0] for row in rows]
    return {
        "problem": rows[0]["problem"],
        "f": rows[0]["fun"][1],
        "lowest f": min(values),
        "highest f": max(values),
        "f worse": sum(row["no_worse"] is False for row in rows),
        "same nit and nfev": sum(bool(row["same_counts"]) for row in rows),
    }


def summarise(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each line of the table the least, the median and the most hits of all runs."""
    lines = {}
    for key, entry in tables[0].items():
        if isinstance(entry, dict):
            hits = sorted(table[key]["hits"] for table in tables)
            lines[key] = {
                "of": entry["of"],
                "least": hits[0],
                "median": statistics.median(hits),
                "most": hits[-1],
            }
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.noise", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help="problems instead of the list")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--max-n", type=int, default=20000, help="leave out larger problems")
    parser.add_argument("--save", action="store_true", help="write results/noise.json")
    chosen = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    problems = [load(name) for name in chosen.names or fidelity.LISTS["bounded"]]
    found = [against_itself(p, chosen.runs) for p in problems if p.n <= chosen.max_n]
    lines = [line(rows) for rows in found]
    for entry in lines:
        if entry["f worse"] or entry["same nit and nfev"] < chosen.runs:
            print(", ".join(f"{key} {value}" for key, value in entry.items()))
    tables = [fidelity.summarise(rows) for rows in zip(*found, strict=True)]
    summary = summarise(tables)
    for key, hits in summary.items():
        print(f"{key}: " + ", ".join(f"{name} {value}" for name, value in hits.items()))
    if chosen.save:
        command = f"python -m benchmarks.noise --runs {chosen.runs} --save"
        record = {
            "environment": fidelity.environment(),
            "command": command,
            "runs": chosen.runs,
            "summary": summary,
            "f no worse in each run": [table["final f no worse"]["hits"] for table in tables],
            "rows": lines,
        }
        (fidelity.RESULTS / "noise.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
