"""Measurements that need a process of their own; each prints one line of JSON.

python -m benchmarks.fresh first-call SOLVER N
python -m benchmarks.fresh first-call-synchronous SOLVER N
python -m benchmarks.fresh memory PROBLEM N
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import functions
from benchmarks.measure import seconds
from benchmarks.peers import ALL, OURS
from benchmarks.solver import Limits, start

PROBLEMS: Mapping[str, Callable[[int], functions.Problem]] = {
    "rosenbrock": functions.rosenbrock,
    "rosenbrock-free": lambda n: functions.rosenbrock(n, bounded=False),
    "quadratic": functions.quadratic,
    "logistic": functions.logistic,
}
WARM = 50
"""Calls after the first, of which the median is told."""
MEMORY_LIMITS = Limits(maxiter=12)
"""Enough iterations to fill the memory of ten pairs."""


def spawn(*arguments: Any, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run this module in a new process: what it printed, or a note on how it died."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fresh", *map(str, arguments)],
        capture_output=True, text=True, check=False,
        cwd=pathlib.Path(__file__).parent.parent, env={**os.environ, **(env or {})},
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"note": f"exit {done.returncode}: {last[:120]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


@dataclasses.dataclass
class Counted:
    """A function that counts how often Python runs it: once for each trace."""

    fun: Callable[..., Any]
    traces: int = 0

    def __call__(self, *args: Any) -> Any:
        self.traces += 1
        return self.fun(*args)


def first_call(solver: str, n: int) -> dict[str, Any]:
    """Trace, compile and run, with JAX itself awake; then the same call again and again."""
    chosen = next(s for s in ALL if s.name == solver)
    if not chosen.installed:
        return {"note": "not installed"}
    problem = functions.rosenbrock(n)
    counted = Counted(problem.fun)
    jax.block_until_ready(jnp.asarray(problem.x0))

    def first() -> Any:
        solve = chosen.prepare(problem._replace(fun=lambda x: counted(x)), Limits())
        return solve, solve()

    if solver != OURS.name:
        __import__(chosen.needs)  # the import is no part of the first call, for anyone
    took, (solve, _) = seconds(first)
    warm = statistics.median(seconds(solve)[0] for _ in range(WARM))
    return {"first_call": took, "traces": counted.traces, "warm": warm}


def synchronous_first_call(solver: str, n: int) -> dict[str, Any]:
    """The same where JAX runs programs in the thread that calls them."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return first_call(solver, n)


def peak_memory(problem_name: str, n: int) -> dict[str, Any]:
    """The highest resident memory of a solve above that of one evaluation, in numbers."""
    problem = PROBLEMS[problem_name](n)
    x0, _ = start(problem)
    value_and_grad = jax.jit(jax.value_and_grad(problem.fun))
    jax.block_until_ready(value_and_grad(x0, *problem.args))
    OURS.prepare(problem, MEMORY_LIMITS._replace(maxiter=0))()  # compiles, with all its waste
    if not _forget_peak():
        return {"note": "no /proc/self/clear_refs here"}
    jax.block_until_ready(value_and_grad(x0, *problem.args))
    function_alone = _peak()
    _forget_peak()
    outcome = jax.block_until_ready(OURS.prepare(problem, MEMORY_LIMITS)())
    above = _peak() - function_alone
    return {"rss_numbers": above / (n * np.dtype(x0.dtype).itemsize), "nit": int(outcome.nit)}


def _forget_peak() -> bool:
    """Let Linux count the highest resident memory anew."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


MODES: Mapping[str, Callable[[str, int], dict[str, Any]]] = {
    "first-call": first_call,
    "first-call-synchronous": synchronous_first_call,
    "memory": peak_memory,
}


def main(mode: str, name: str, n: str) -> None:
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(MODES[mode](name, int(n))))


if __name__ == "__main__":
    main(*sys.argv[1:])
