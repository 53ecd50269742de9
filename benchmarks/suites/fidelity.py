"""Are the steps those of SciPy's L-BFGS-B?  As ``python -m benchmarks.fidelity``."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from benchmarks import fidelity
from benchmarks.collection import Task, names
from benchmarks.measure import Row
from benchmarks.suites import Options

SIZES = (1, 20000)
SECONDS = 60
COLUMNS = "problem n nit nfev split fun verdict".split()
SETTINGS = {"two numbers": "this package, SciPy", "limit": SECONDS}


def tasks(options: Options) -> list[Task]:
    most = 1 if options.quick else options.problems
    return [
        (name, functools.partial(_measure, name, options.limit or SECONDS))
        for name in itertools.islice(names(options, SIZES), most)
    ]


def _measure(name: str, limit: float) -> list[Row]:
    return [fidelity.compare(name, limit)]


def summarise(rows: list[Row]) -> dict[str, Any]:
    return fidelity.summarise(rows)


def stem(options: Options) -> str:
    return f"fidelity-{options.lists}"
