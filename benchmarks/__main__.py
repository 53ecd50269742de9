"""The one entry point: ``python -m benchmarks SUITE ...``.

    python -m benchmarks --list                what there is
    python -m benchmarks small batch --save    measure, and write benchmarks/results/*.json
    python -m benchmarks all --quick           does everything run?
    python -m benchmarks plots                 draw the figures from the JSON files

Install the extra `bench` for the solvers to compare with; one that is missing is reported
as "not installed".  Measure on a quiet machine.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import jaxlbfgsb
from benchmarks import plots
from benchmarks.report import RESULTS, environment, save, show
from benchmarks.suites import NAMES, Options

WIDTH = 200
"""Of tables that go to a file."""


def load(name: str) -> Any:
    return importlib.import_module(f"benchmarks.suites.{name}")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    choices = [*NAMES, "all", "plots"]
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(choices))
    parser.add_argument("--list", action="store_true", help="say what the suites measure")
    parser.add_argument("--save", action="store_true", help="write results/SUITE.json")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument(
        "--lists", choices=("bounded", "unconstrained"), default="bounded",
        help="which CUTEst list, for small, medium and fidelity",
    )  # fmt: skip
    parser.add_argument("--problems", type=int, help="no more than so many problems of a suite")
    parser.add_argument("--limit", type=float, help="seconds to repeat one pair of solvers")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.suites) - set(choices))
    if unknown:
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(choices)}")
    if not chosen.suites and not chosen.list:
        parser.print_help()
    return chosen


def measure(
    name: str, options: Options, console: Console, keep: Callable[[dict[str, Any]], None]
) -> None:
    """Run one suite, with progress; what there is after each task is kept, then all of it."""
    suite = load(name)
    tasks = suite.tasks(options)
    rows: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task(name, total=len(tasks))
        for label, task in tasks:
            progress.update(bar, description=f"{name}: {label}")
            rows += task()
            progress.advance(bar)
            done = f"{int(progress.tasks[bar].completed)} of {len(tasks)} tasks"
            keep({"unfinished": done, "settings": suite.SETTINGS, "rows": rows})
            if not options.quick:  # the next problem has no use for what this one compiled
                jaxlbfgsb.clear_cache()
                jax.clear_caches()
        progress.update(bar, description=name)
    summary = suite.summarise(rows)
    show(console, suite.__doc__.splitlines()[0], suite.COLUMNS, rows, summary)
    keep({"settings": suite.SETTINGS, "summary": summary, "rows": rows})


def main(arguments: Sequence[str], results: pathlib.Path = RESULTS) -> int:
    chosen = parsed(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if chosen.list:
        for name in NAMES:
            console.print(f"{name:<9} {load(name).__doc__.splitlines()[0]}", highlight=False)
    jax.config.update("jax_enable_x64", True)
    options = Options(chosen.quick, chosen.lists, chosen.problems, chosen.limit)
    names = NAMES if "all" in chosen.suites else [s for s in chosen.suites if s != "plots"]
    for name in names:
        suite = load(name)
        file = f"{suite.stem(options) if hasattr(suite, 'stem') else name}.json"
        command = " ".join(["python -m benchmarks", *arguments])
        head = {"suite": name, "command": command, "environment": environment()}

        def keep(record: dict[str, Any], head: Any = head, file: str = file) -> None:
            if chosen.save:
                save(results / file, head | record)

        measure(name, options, console, keep)
        if chosen.save:
            console.print(f"written: {file}")
    if {"plots", "all"} & set(chosen.suites):
        for path in plots.draw_all(results):
            console.print(f"drawn: {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
