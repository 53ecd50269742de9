"""Where an iteration spends its time: python -m benchmarks.budget [N ...]

From JAX's profiler on whole solves of the bounded Rosenbrock sum: the time of each kernel of XLA
goes to the part of the solver whose line of Python it was made of, microseconds an evaluation.
The profiler adds to each kernel, so the parts sum to more than the time of a run without it,
which is the column "whole".  Where a solve is one kernel the parts are timed by themselves
instead, many times over in a loop, each with the history of a full memory.
"""

from __future__ import annotations

import collections
import gzip
import json
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich.console import Console

import jaxlbfgsb
from benchmarks import functions
from benchmarks.measure import seconds
from benchmarks.report import show
from benchmarks.solver import Limits, start
from jaxlbfgsb.method import box, core, direction, memory, model, state
from jaxlbfgsb.method.cauchy import generalized_cauchy_point
from jaxlbfgsb.method.inverse import inverse_times
from jaxlbfgsb.method.subspace import subspace_minimizer
from jaxlbfgsb.options import checked_options
from jaxlbfgsb.xla.kernel import one_kernel, step_is_one_kernel

SIZES = (2, 20, 10_000, 1_000_000)
LIMITS = Limits(maxiter=30)
REPEATS = 2000
PARTS = {
    "functions.py": "function",
    "memory.py": "update",
    "cauchy.py": "Cauchy point",
    "chunks.py": "Cauchy point",
    "heap.py": "Cauchy point",
    "subspace.py": "subspace",
    "reduced.py": "subspace",
    "sums.py": "sums",
    "direction.py": "direction",
    "inverse.py": "Newton step",
    "model.py": "model",
    "core.py": "line search and tests",
    "decisions.py": "line search and tests",
    "line_search.py": "line search and tests",
}
"""The part that a file stands for; the innermost of them counts."""
PRODUCTS = "products with the history"


def main(*sizes: str) -> None:
    jax.config.update("jax_enable_x64", True)
    rows = []
    for n in map(int, sizes or map(str, SIZES)):
        in_one = step_is_one_kernel(2 * LIMITS.m, n)
        rows.append({"n": n} | (parts_in_a_loop(n) if in_one else profiled(n)))
    columns = ["n", "whole", *dict.fromkeys([*PARTS.values(), PRODUCTS, "other"])]
    show(Console(), "microseconds an evaluation", columns, rows, {})


def solver(n: int) -> tuple[Callable[[], Any], str]:
    """A compiled solve, and the text of its program."""
    problem = functions.rosenbrock(n)
    x0, bounds = start(problem)
    solve = jax.jit(
        lambda x, bounds: jaxlbfgsb.minimize(problem.fun, x, bounds=bounds, maxiter=LIMITS.maxiter)
    )
    compiled = solve.lower(x0, bounds).compile()
    return lambda: compiled(x0, bounds), compiled.as_text()


def whole(solve: Callable[[], Any]) -> tuple[float, int]:
    """Microseconds an evaluation, the best of a few runs, and evaluations."""
    nfev = int(solve().nfev)
    return 1e6 * min(seconds(solve)[0] for _ in range(5)) / nfev, nfev


def profiled(n: int) -> dict[str, float]:
    """The time of the kernels of a solve, by part."""
    solve, program = solver(n)
    best, nfev = whole(solve)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(solve())
        found = next(pathlib.Path(folder).rglob("*.trace.json.gz"))
        events = json.loads(gzip.decompress(found.read_bytes()))["traceEvents"]
    part_of = parts_of_kernels(program)
    total: dict[str, float] = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and event["name"] in part_of:
            total[part_of[event["name"]]] += event["dur"] / nfev
    return {"whole": best} | total


def parts_of_kernels(program: str) -> dict[str, str]:
    """The part of each instruction, by the lines of Python that it comes from.

    Loops and branches are left out: they hold other kernels.  XLA forgets where a product with a
    matrix comes from.
    """
    files, frames, locations = (_numbered(program, title) for title in _TABLES)

    def parts(frame: int) -> Iterator[str]:
        while frame:
            location, after_parent = frames[frame]
            name = files[locations[location][0]].rsplit("/", 1)[-1]
            if name in PARTS:
                yield PARTS[name]
            frame = after_parent - 1

    kernel = re.compile(
        r"^\s*(?:ROOT )?%(\S+) = .*?\s(?!while|conditional|tuple|get-tuple)[\w-]+\(.*"
        r"stack_frame_id=(\d+)",
        re.MULTILINE,
    )
    product = re.compile(r"^\s*(?:ROOT )?%(\S+) = \S+ dot\(", re.MULTILINE)
    products = dict.fromkeys(product.findall(program), PRODUCTS)
    found = {name: next(parts(int(frame)), "other") for name, frame in kernel.findall(program)}
    return products | found


_TABLES = ("FileNames", "StackFrames", "FileLocations")


def _numbered(program: str, title: str) -> dict[int, Any]:
    """One of the tables at the head of a program of XLA: a name or numbers in each line."""
    lines = program[program.index(f"{title}\n") :].split("\n\n", 1)[0].splitlines()[1:]
    rows = (line.split(" ", 1) for line in lines)
    return {
        int(k): row.strip('"') if row[0] == '"' else [int(i) for i in re.findall(r"=(\d+)", row)]
        for k, row in rows
    }


def parts_in_a_loop(n: int) -> dict[str, float]:
    """The time of each part by itself, one kernel around a loop."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(n, n))
    brief = memory.wants_brief(2 * LIMITS.m, n, bounded=True)
    pairs = memory.empty(n, LIMITS.m, np.dtype(float), brief)
    for _ in range(LIMITS.m + 3):
        s = rng.normal(size=n)
        y = root.T @ (root @ s) + s
        given = (jnp.asarray(v) for v in (s, y, y @ y, s @ y))
        pairs = memory.update(pairs, *given, jnp.asarray(True))
    x, g = jnp.asarray(rng.uniform(size=n)), jnp.asarray(rng.normal(size=n))
    unit = box.Box(jnp.zeros(n), jnp.ones(n))
    B = model.model(pairs)
    cauchy = generalized_cauchy_point(x, g, unit, B)
    options = checked_options(np.dtype(float), None, None, 0.0, 15000, 15000, 20)
    run = state.init(x, unit, LIMITS.m)._replace(
        memory=pairs, phase=jnp.asarray(1, jnp.int32), value=jnp.asarray(1.0), xhat=0.9 * x
    )
    value = jnp.asarray(0.9)
    taken = core._take(run, value, g, unit, options, jnp.asarray(1))

    def judge(g: jax.Array) -> Any:
        stored = core._take(run, value, g, unit, options, jnp.asarray(1))
        end = direction.no_direction(x * g, None, stored.turns)
        moved = taken._replace(turns=stored.turns)
        return core._turn(moved, end, unit, box.is_constrained(unit)).search

    def subspace(g: jax.Array) -> Any:  # a matrix that changes, or its factor is made once
        numbers = "matrix" if isinstance(B, model.Dense) else "scale"
        changed = B._replace(**{numbers: getattr(B, numbers) * (1 + g[0])})
        return subspace_minimizer(x, g, unit, changed, cauchy)

    def renewed(g: jax.Array) -> model.Model:
        rows, products = (part * (1 + g[0]) for part in (pairs.pairs, pairs.products))
        return model.model(pairs._replace(pairs=rows, products=products))

    fun = functions.rosenbrock(n).fun
    times = {
        "function": _in_a_loop(jax.value_and_grad(fun), g),
        "update": _in_a_loop(lambda g: memory.update(pairs, x, g, g @ g, x @ x, g[0] < 1), g),
        "Cauchy point": _in_a_loop(lambda g: generalized_cauchy_point(x, g, unit, B), g),
        "subspace": _in_a_loop(subspace, g),
        "Newton step": _in_a_loop(lambda g: inverse_times(pairs, g), g),
        "model": _in_a_loop(renewed, g),
        "line search and tests": _in_a_loop(judge, g),
    }
    return {"whole": whole(solver(n)[0])[0]} | times


def _in_a_loop(part: Callable[[jax.Array], Any], g: jax.Array) -> float:
    """Microseconds; what it returns goes into the next turn, so that nothing is left out."""

    @jax.jit
    @one_kernel
    def repeated(g: jax.Array) -> jax.Array:
        def turn(_: Any, total: jax.Array) -> jax.Array:
            leaves = jax.tree.leaves(part(g * (1 + 1e-14 * total)))
            return 1e-300 * sum(jnp.sum(leaf).astype(g.dtype) for leaf in leaves)

        return lax.fori_loop(0, REPEATS, turn, jnp.zeros(()))

    jax.block_until_ready(repeated(g))
    return 1e6 * min(seconds(lambda: repeated(g))[0] for _ in range(5)) / REPEATS


if __name__ == "__main__":
    main(*sys.argv[1:])
