"""Does this package take the steps of SciPy's L-BFGS-B?  Measured on CUTEst problems.

    python -m benchmarks.fidelity [--list bounded|unconstrained] [--max-n 20000] [NAME ...]

Both solvers call one compiled value-and-gradient, so that equal points give equal bits,
with the defaults of SciPy: m = 10, factr = 1e7, pgtol = 1e-5, maxfun = maxiter = 15000.
Two points are equal if their largest difference is at most 1e-9 of the largest entry.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import math
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from scipy.optimize import fmin_l_bfgs_b

import jaxlbfgsb
from benchmarks.problems import LISTS, Problem, load
from jaxlbfgsb.method import core
from jaxlbfgsb.method import state as run_state
from jaxlbfgsb.method.box import Box
from jaxlbfgsb.status import Reason

M, FACTR, PGTOL, MAXFUN, MAXITER, MAXLS = 10, 1e7, 1e-5, 15000, 15000, 20
POINT_TOLERANCE = 1e-9
FIRST_POINTS = 15
SMALL = 100
KEPT_NUMBERS = 20_000_000
"""Of the evaluation points of a run, the first ones with this many entries are kept."""
RESULTS = pathlib.Path(__file__).parent / "results"

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]


class Run(NamedTuple):
    """What one solver did."""

    points: list[np.ndarray]
    """Where it evaluated, in order; not all of them in a long run of many variables."""
    nit: int
    nfev: int
    fun: float
    message: str
    seconds: float
    cut: bool
    """True if the time was up before the run ended by itself."""


class TimeIsUpError(Exception):
    """Raised inside the function to end a run."""


class Recorder:
    """A function that keeps the points it is called at, and gives up after a while."""

    def __init__(self, fun: Function, n: int, limit: float) -> None:
        self.fun = fun
        self.points: list[np.ndarray] = []
        self.kept = max(KEPT_NUMBERS // n, 2 * FIRST_POINTS)
        self.calls = 0
        self.best = math.inf
        self.start = time.perf_counter()
        self.limit = limit

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        if self.seconds > self.limit:
            raise TimeIsUpError
        if self.calls < self.kept:
            self.points.append(np.array(x))
        self.calls += 1
        value, gradient = self.fun(x)
        self.best = min(self.best, value)
        return value, gradient

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start


def host_function(problem: Problem) -> Function:
    """The value and the gradient, compiled once and called from Python."""
    compiled = jax.jit(jax.value_and_grad(problem.fun))

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = compiled(x)
        return float(value), np.array(gradient, np.float64)

    return fun


@functools.cache
def _machine() -> tuple[Callable[..., run_state.State], Callable[..., run_state.State]]:
    return jax.jit(run_state.init, static_argnums=2), jax.jit(core.advance)


def run_ours(problem: Problem, fun: Function, limit: float = math.inf) -> Run:
    """Drive this package's solver by hand, one evaluation at a time."""
    init, advance = _machine()
    box = Box(None, None)
    if problem.lower is not None and problem.upper is not None:
        box = Box(jnp.asarray(problem.lower), jnp.asarray(problem.upper))
    real, integer = functools.partial(jnp.asarray, dtype=np.float64), jnp.int32
    options = run_state.Options(
        ftol=real(FACTR * np.finfo(np.float64).eps),
        gtol=real(PGTOL),
        gtol_rel=real(0),
        maxiter=integer(MAXITER),
        maxfun=integer(MAXFUN),
        maxls=integer(MAXLS),
    )
    state = init(jnp.asarray(problem.x0), box, M)
    recorder = Recorder(fun, problem.n, limit)
    cut = False
    try:
        while int(state.phase) != run_state.Phase.DONE:
            value, gradient = recorder(np.asarray(state.trial))
            state = advance(state, real(value), jnp.asarray(gradient), box, options)
    except TimeIsUpError:
        cut = True
    return Run(
        points=recorder.points,
        nit=int(state.nit),
        nfev=int(state.nfev),
        fun=float(state.value),
        message="out of time" if cut else Reason(int(state.reason)).name,
        seconds=recorder.seconds,
        cut=cut,
    )


def run_scipy(problem: Problem, fun: Function, limit: float = math.inf) -> Run:
    """The same with the installed SciPy."""
    bounds = None
    if problem.lower is not None and problem.upper is not None:
        bounds = list(zip(problem.lower, problem.upper, strict=True))
    recorder = Recorder(fun, problem.n, limit)
    iterations = 0

    def count(_: np.ndarray) -> None:
        nonlocal iterations
        iterations += 1

    def result(nit: int, nfev: int, value: float, message: str, cut: bool) -> Run:
        return Run(recorder.points, nit, nfev, value, message, recorder.seconds, cut)

    try:
        _, value, info = fmin_l_bfgs_b(
            recorder, problem.x0.copy(), bounds=bounds, m=M, factr=FACTR, pgtol=PGTOL,
            maxfun=MAXFUN, maxiter=MAXITER, maxls=MAXLS, callback=count,
        )  # fmt: skip
    except TimeIsUpError:
        return result(iterations, recorder.calls, recorder.best, "out of time", True)
    return result(info["nit"], info["funcalls"], float(value), info["task"], False)


def first_split(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> int | None:
    """Index of the first evaluation point that differs; None if one is a prefix."""
    for k, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        with np.errstate(invalid="ignore"):
            equal = np.max(np.abs(a - b)) <= POINT_TOLERANCE * np.max(np.abs(b))
        if not equal and not np.array_equal(a, b, equal_nan=True):
            return k
    return None


def compare(name: str, limit: float = math.inf) -> dict[str, Any]:
    """One row of the table: a problem, solved by both."""
    problem = load(name)
    fun = host_function(problem)
    started = time.perf_counter()
    fun(problem.x0)
    compiled_in = time.perf_counter() - started
    theirs = run_scipy(problem, fun, limit)
    return judged(problem, run_ours(problem, fun, limit), theirs, compiled_in)


def judged(problem: Problem, ours: Run, theirs: Run, compiled_in: float = 0) -> dict[str, Any]:
    """The row of two runs."""
    cut = theirs.cut or ours.cut
    split = first_split(ours.points, theirs.points)
    if split is None and not cut and ours.nfev != theirs.nfev:
        split = min(ours.nfev, theirs.nfev)  # one goes on where the other stops
    row = {
        "problem": problem.name,
        "n": problem.n,
        "nit": [ours.nit, theirs.nit],
        "nfev": [ours.nfev, theirs.nfev],
        "split": split,
        "compared": min(len(ours.points), len(theirs.points)),
        "fun": [ours.fun, theirs.fun],
        "end": [ours.message, theirs.message],
        "seconds": [round(ours.seconds, 3), round(theirs.seconds, 3), round(compiled_in, 3)],
        "cut": cut,
    }
    row["same_counts"] = (
        None if cut else row["nit"][0] == row["nit"][1] and (row["nfev"][0] == row["nfev"][1])
    )
    row["same_start"] = split is None or split >= FIRST_POINTS
    row["no_worse"] = None if cut else no_worse(ours.fun, theirs.fun)
    row["verdict"] = verdict(row)
    return row


def no_worse(ours: float, theirs: float) -> bool:
    """Final values: 1e-6 relative, 1e-9 absolute."""
    if not math.isfinite(theirs):
        return math.isfinite(ours) or ours == theirs
    return ours - theirs <= 1e-9 + 1e-6 * abs(theirs)


def verdict(row: dict[str, Any]) -> str:
    """A row in words."""
    words = []
    if row["cut"]:
        words.append("out of time, not counted in nit, nfev and f")
    elif row["split"] is None:
        words.append("same points")
    elif row["same_counts"]:
        words.append("same counts")
    if not row["same_start"]:
        words.append("splits early")
    if row["no_worse"] is False:
        words.append("f WORSE")
    elif row["no_worse"] and not no_worse(row["fun"][1], row["fun"][0]):
        words.append("f better")
    return ", ".join(words)


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The four numbers of the table, with the counts behind them."""
    whole = [row for row in rows if not row["cut"]]
    small = [row for row in whole if row["n"] <= SMALL]

    def share(of: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
        hits = sum(bool(row[key]) for row in of)
        return {"hits": hits, "of": len(of), "percent": round(100 * hits / max(len(of), 1), 1)}

    logs = [math.log(row["nfev"][0] / row["nfev"][1]) for row in whole]
    return {
        f"same nit and nfev (n <= {SMALL})": share(small, "same_counts"),
        f"first {FIRST_POINTS} points equal": share(rows, "same_start"),
        "final f no worse": share(whole, "no_worse"),
        "geometric mean of nfev ratios": round(math.exp(sum(logs) / max(len(logs), 1)), 4),
        "out of time": [row["problem"] for row in rows if row["cut"]],
        "splits early": [row["problem"] for row in rows if not row["same_start"]],
        "f worse": [row["problem"] for row in rows if row["no_worse"] is False],
    }


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    counts = [f"{a}/{b}" for a, b in (row["nit"], row["nfev"])]
    split = "-" if row["split"] is None else str(row["split"])
    values = "  ".join(f"{value:18.11e}" for value in row["fun"])
    print(
        f"{row['problem']:<12}{row['n']:>6}  {counts[0]:>12}{counts[1]:>13}{split:>7}"
        f"  {values}  {row['verdict']}",
        flush=True,
    )


def environment() -> dict[str, str]:
    """What a saved table was measured with."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "jaxlbfgsb": jaxlbfgsb.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "backend": jax.default_backend(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.fidelity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help="problems instead of a list")
    parser.add_argument("--list", choices=sorted(LISTS), default="bounded")
    parser.add_argument("--max-n", type=int, default=20000, help="leave out larger problems")
    parser.add_argument("--limit", type=float, default=60, help="seconds for one run")
    parser.add_argument("--save", action="store_true", help="write results/fidelity-LIST.json")
    chosen = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)

    print("two numbers a/b: this package / SciPy; split: first evaluation that differs")
    print(
        f"{'problem':<12}{'n':>6}  {'nit':>12}{'nfev':>13}{'split':>7}"
        f"  {'f here':>18}  {'f of SciPy':>18}"
    )
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for name in chosen.names or LISTS[chosen.list]:
        if load(name).n > chosen.max_n:
            left_out.append(name)
            print(f"{name:<12}{load(name).n:>6}  left out: larger than --max-n", flush=True)
            continue
        rows.append(compare(name, chosen.limit))
        print_row(rows[-1])

    summary = summarise(rows)
    summary["left out"] = left_out
    print()
    for key, value in summary.items():
        if isinstance(value, dict):
            print(f"{key}: {value['hits']} of {value['of']} ({value['percent']} %)")
        else:
            print(f"{key}: {', '.join(value) or 'none' if isinstance(value, list) else value}")
    if chosen.save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"fidelity-{chosen.list}.json"
        table = {"environment": environment(), "summary": summary, "rows": rows}
        path.write_text(json.dumps(table, indent=1) + "\n")
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
