"""A first look at speed: warm solves against SciPy, in one process, by turns.

``python -m benchmarks.speed``: for n = 2, 20, 200 and 10000, bounded and not, the time of
a warm solve of the Rosenbrock sum with `minimize` and with SciPy given the same function
as a jitted ``value_and_grad``, and the time of the first call.  Printed are medians and the
median of the ratios of pairs; ``--save`` writes them to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from datetime import date
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # SciPy's small solves are slow on more

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from scipy.optimize import fmin_l_bfgs_b

import jaxlbfgsb

RESULTS = Path(__file__).parent / "results" / "speed.json"


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def seconds(call) -> tuple[float, object]:
    start = time.perf_counter()
    out = jax.block_until_ready(call())
    return time.perf_counter() - start, out


def measure(n: int, bounded: bool, pairs: int, maxiter: int) -> dict:
    x0 = np.resize([-1.2, 1.0], n)
    box = (np.full(n, -2.0), np.where(np.arange(n) % 2, 0.5, 2.0)) if bounded else None
    scipy_bounds = None if box is None else list(zip(*box, strict=True))
    value_and_grad = jax.jit(jax.value_and_grad(rosenbrock))

    def fun(x):
        value, gradient = value_and_grad(x)
        return float(value), np.asarray(gradient)

    def ours():
        return jaxlbfgsb.minimize(rosenbrock, x0, bounds=box, maxiter=maxiter)

    def theirs():
        return fmin_l_bfgs_b(fun, x0, bounds=scipy_bounds, maxiter=maxiter)

    jaxlbfgsb.clear_cache()
    jax.clear_caches()
    first, result = seconds(ours)
    _, (_, scipy_fun, details) = seconds(theirs)
    times = [(seconds(ours)[0], seconds(theirs)[0]) for _ in range(pairs)]
    return {
        "n": n,
        "bounded": bounded,
        "nit": [int(result.nit), details["nit"]],
        "nfev": [int(result.nfev), details["funcalls"]],
        "fun": [float(result.fun), float(scipy_fun)],
        "seconds": [statistics.median(t[i] for t in times) for i in (0, 1)],
        "ratio": statistics.median(b / a for a, b in times),
        "first_call": first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--maxiter", type=int, default=300)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(
        f"{'n':>6} {'bounds':<6} {'nit':>9} {'nfev':>9} {'ours ms':>9} {'SciPy ms':>9} "
        f"{'ratio':>6} {'first s':>8}"
    )
    rows = []
    for n in (2, 20, 200, 10_000):
        for bounded in (True, False):
            row = measure(n, bounded, options.pairs, options.maxiter)
            rows.append(row)
            ours, theirs = (1e3 * t for t in row["seconds"])
            nit, nfev = ("/".join(map(str, row[name])) for name in ("nit", "nfev"))
            print(
                f"{n:>6} {'yes' if bounded else 'no':<6} {nit:>9} {nfev:>9} {ours:>9.3f} "
                f"{theirs:>9.3f} {row['ratio']:>6.2f} {row['first_call']:>8.2f}",
                flush=True,
            )
    if options.save:
        record = {
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {platform.system()}",
            "jax": jax.__version__,
            "scipy": scipy.__version__,
            "jaxlbfgsb": jaxlbfgsb.__version__,
            "command": "python -m benchmarks.speed --save",
            "rows": rows,
        }
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
