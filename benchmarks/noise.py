"""SciPy against itself: where does it end if f and its gradient change in the last place?

    python -m benchmarks.noise [--runs 20] [--save] [NAME ...]

The problems are those whose final f is worse here than with SciPy, from the table of
`benchmarks.fidelity`.  In each run every value and every entry of a gradient is changed by one eps,
up, down or not at all, at random.  What is counted: runs whose f is worse than SciPy's own by the
measure of that table.
"""

from __future__ import annotations

import argparse
import json

import jax
import numpy as np

from benchmarks import fidelity
from benchmarks.problems import load

EPS = np.finfo(float).eps


def noisy(fun: fidelity.Function, seed: int) -> fidelity.Function:
    rng = np.random.default_rng(seed)

    def changed(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = fun(x)
        factors = 1 + EPS * rng.integers(-1, 2, size=1 + gradient.size)
        return value * factors[0], gradient * factors[1:]

    return changed


def against_itself(name: str, runs: int) -> dict[str, object]:
    problem = load(name)
    fun = fidelity.host_function(problem)
    own = fidelity.run_scipy(problem, fun)
    others = [fidelity.run_scipy(problem, noisy(fun, seed)) for seed in range(runs)]
    return {
        "problem": name,
        "runs": runs,
        "f": own.fun,
        "lowest f": min(run.fun for run in others),
        "highest f": max(run.fun for run in others),
        "f worse": sum(not fidelity.no_worse(run.fun, own.fun) for run in others),
        "same nfev": sum(run.nfev == own.nfev for run in others),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.noise", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help="problems instead of those")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--save", action="store_true", help="write results/noise.json")
    chosen = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    table = json.loads((fidelity.RESULTS / "fidelity-bounded.json").read_text())
    rows = [against_itself(n, chosen.runs) for n in chosen.names or table["summary"]["f worse"]]
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    if chosen.save:
        command = f"python -m benchmarks.noise --runs {chosen.runs} --save"
        record = {"environment": fidelity.environment(), "command": command, "rows": rows}
        (fidelity.RESULTS / "noise.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
