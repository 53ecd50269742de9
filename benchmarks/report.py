"""What comes out of a suite: a table on the terminal and a JSON file."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

RESULTS = pathlib.Path(__file__).parent / "results"
PACKAGES = (
    "jaxlbfgsb jax jaxlib numpy scipy jaxopt optax optimistix nlopt sif2jax matplotlib".split()
)


def environment() -> dict[str, Any]:
    """Versions and machine; nothing that tells whose machine it was."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(package: str) -> str | None:
    if package == "jaxlbfgsb":  # may run from a checkout
        import jaxlbfgsb

        return jaxlbfgsb.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), None)


def plain(value: Any) -> Any:
    """As JSON has it: Python's numbers, and null for what is not finite."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def save(path: pathlib.Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(plain(record), indent=1) + "\n")


def show(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]],
    summary: dict[str, Any],
) -> None:  # fmt: skip
    """The rows as a table, then the summary."""
    shown = [c for c in columns if any(row.get(c) is not None for row in rows)]
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1))
    for column in shown:
        cells = [text(row.get(column)) for row in rows]
        justify = "left" if all(isinstance(row.get(column, ""), str) for row in rows) else "right"
        longest = max(len(cell) for cell in cells)  # headers wrap, cells do not
        table.add_column(column.replace("_", " "), justify=justify, min_width=longest)
    for row in rows:
        table.add_row(*(text(row.get(column)) for column in shown))
    console.print(table)
    show_summary(console, summary)


def show_summary(console: Console, summary: dict[str, Any], indent: str = "") -> None:
    for key, value in summary.items():
        if isinstance(value, dict) and value:
            console.print(f"{indent}{key}:", highlight=False, markup=False)
            show_summary(console, value, indent + "  ")
        else:
            console.print(f"{indent}{key}: {text(value)}", highlight=False, markup=False)


def text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple | dict):
        return ", ".join(text(entry) for entry in value) or "none"
    return str(value)
