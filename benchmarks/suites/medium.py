"""CUTEst problems with 1e3 <= n <= 2e4."""

from __future__ import annotations

import functools

from benchmarks import collection
from benchmarks.collection import COLUMNS, Task, summarise
from benchmarks.measure import Effort
from benchmarks.suites import Options

__all__ = ["COLUMNS", "SETTINGS", "stem", "summarise", "tasks"]

SIZES = (1000, 20000)
QUICK = {"bounded": "QUDLIN", "unconstrained": "POWER"}
EFFORT = Effort(limit=10, most=15)
SETTINGS = collection.settings(EFFORT)


def tasks(options: Options) -> list[Task]:
    return collection.tasks(options, SIZES, EFFORT, QUICK[options.lists])


stem = functools.partial(collection.stem, "medium")
