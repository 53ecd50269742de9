"""The CUTEst lists as tasks, for the suites that differ only in the size of the problems."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.measure import Effort, Row, compare, summary_by_peer
from benchmarks.peers import BOUNDED, FREE, SCIPY, SETTINGS
from benchmarks.problems import LISTS, load
from benchmarks.solver import Limits
from benchmarks.suites import Options

Task = tuple[str, Callable[[], list[Row]]]
LIMITS = Limits()
SMALL = 100
COLUMNS = (
    "problem n solver nit nfev fun pg_norm failed seconds ratio pairs overhead_us note"
).split()


def settings(effort: Effort) -> dict[str, Any]:
    return {"limits": LIMITS._asdict(), "solvers": SETTINGS, "effort": effort._asdict()}


def effort_of(options: Options, effort: Effort) -> Effort:
    if options.quick:
        return Effort(0.5, 3)
    return effort if options.limit is None else effort._replace(limit=options.limit)


def tasks(options: Options, sizes: tuple[int, int], effort: Effort, quick: str) -> list[Task]:
    """The problems of the list chosen with so many variables; the quick one alone, if quick."""
    chosen = [quick] if options.quick else itertools.islice(names(options, sizes), options.problems)
    return [(name, functools.partial(_measure, name, options, effort)) for name in chosen]


def names(options: Options, sizes: tuple[int, int]) -> Iterator[str]:
    least, largest = sizes
    return (name for name in LISTS[options.lists] if least <= load(name).n <= largest)


def _measure(name: str, options: Options, effort: Effort) -> list[Row]:
    peers = BOUNDED if options.lists == "bounded" else FREE
    if options.quick and load(name).n > SMALL:  # what compiles for long is tried on one problem
        peers = (SCIPY,)
    rows = compare(load(name), peers, LIMITS, effort_of(options, effort))
    return [row | {"set": "CUTEst"} for row in rows]


def summarise(rows: list[Row]) -> dict[str, Any]:
    return summary_by_peer([row for row in rows if row["set"] == "CUTEst"])


def stem(suite: str, options: Options) -> str:
    return suite if options.lists == "bounded" else f"{suite}-{options.lists}"
