"""The figures, drawn from the JSON files of the suites: ``python -m benchmarks plots``.

Performance profile (Dolan and Moré 2002): for each solver the share of problems that it
solved within a factor of the fastest solver's time.  Data profile (Moré and Wild 2009): the
share that it solved within so many evaluations for each ``n + 1``.  Solved is what
`measure.failed` does not call failed.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.peers import ALL, OURS
from benchmarks.suites.batch import BATCH, VMAP
from jaxlbfgsb.plot import COLOURS, LINES, STYLE, profile

Rows = Sequence[Mapping[str, Any]]

MARKERS = "osDv^P*X"
ORDER = tuple(solver.name for solver in ALL)
TITLES = {
    "small": "CUTEst, bounded, n ≤ 100",
    "small-unconstrained": "CUTEst, unconstrained, n ≤ 100",
    "medium": "CUTEst, bounded, 1e3 ≤ n ≤ 2e4",
    "medium-unconstrained": "CUTEst, unconstrained, 1e3 ≤ n ≤ 2e4",
}


def draw_all(results: pathlib.Path) -> Iterator[pathlib.Path]:
    """One SVG for each figure that there are results for, next to them."""
    for stem, title in TITLES.items():
        rows = _rows(results / f"{stem}.json")
        if not rows:
            continue
        rows = [row for row in rows if row.get("set", "CUTEst") == "CUTEst"]
        path = results / f"{stem}-performance-profile.svg"
        yield _profile(path, times(rows), title, "time / time of the fastest")
        path = results / f"{stem}-data-profile.svg"
        yield _profile(path, evaluations(rows), title, "evaluations / (n + 1)", relative=False)
    for stem, draw in (("large", _against_n), ("batch", _against_batch)):
        rows = _rows(results / f"{stem}.json")
        if rows:
            yield draw(results, rows)


def _rows(path: pathlib.Path) -> Rows:
    return json.loads(path.read_text())["rows"] if path.exists() else []


def costs(rows: Rows, cost: Callable[[Mapping[str, Any]], float | None]) -> dict[str, np.ndarray]:
    """For each solver, what each problem took; infinite where it failed."""
    names = sorted({row["problem"] for row in rows})
    table = {solver: np.full(len(names), np.inf) for solver in ORDER if _has(rows, solver, cost)}
    for row in rows:
        value = cost(row)
        if value is not None and row["solver"] in table and not row.get("failed", True):
            table[row["solver"]][names.index(row["problem"])] = value
    return table


def _has(rows: Rows, solver: str, cost: Callable[[Mapping[str, Any]], float | None]) -> bool:
    return any(row["solver"] == solver and cost(row) is not None for row in rows)


def times(rows: Rows) -> dict[str, np.ndarray]:
    """Of the solvers: seconds."""
    return costs(rows, lambda row: row.get("seconds"))


def evaluations(rows: Rows) -> dict[str, np.ndarray]:
    """Of the solvers: evaluations for each n + 1."""
    return costs(
        rows, lambda row: None if row.get("nfev") is None else row["nfev"] / (row["n"] + 1)
    )


def _profile(
    path: pathlib.Path,
    table: Mapping[str, np.ndarray],
    title: str,
    label: str,
    relative: bool = True,
) -> pathlib.Path:
    looks = {solver: _look(solver, ORDER, False) for solver in table}

    def draw(axes: Any) -> None:
        profile(table, relative=relative, xlabel=label, looks=looks, ax=axes)

    return _figure(path, title, draw)


def _against_n(results: pathlib.Path, rows: Rows) -> pathlib.Path:
    """Time of an evaluation, with all that the solver does about it; one panel a problem."""
    names = list(dict.fromkeys(row["problem"] for row in rows))

    def draw(axes: Any, name: str) -> None:
        for solver in ORDER:
            points = [
                (row["n"], row["per_evaluation"])
                for row in rows
                if (row["problem"], row["solver"]) == (name, solver) and row.get("per_evaluation")
            ]
            if points:
                axes.plot(*zip(*points, strict=True), label=solver, **_look(solver, ORDER))
        axes.set(xscale="log", yscale="log", xlabel="n", ylabel="seconds per evaluation")
        axes.set_title(name, fontsize=17)

    with plt.rc_context(STYLE):
        across = min(2, len(names))
        down = -(-len(names) // across)
        figure, grid = plt.subplots(down, across, figsize=(7 * across, 5 * down), squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            draw(axes, name)
            axes.legend()
        for axes in grid.flat[len(names) :]:
            axes.remove()
        return _written(figure, results / "time-against-n.svg")


def _against_batch(results: pathlib.Path, rows: Rows) -> pathlib.Path:
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    sizes = sorted({row["n"] for row in rows})

    def draw(axes: Any) -> None:
        for solver in solvers:
            for n in sizes:
                points = [
                    (row["B"], row["us_per_problem"])
                    for row in rows
                    if (row["solver"], row["n"]) == (solver, n) and row.get("us_per_problem")
                ]
                if points:
                    look = _look(solver, solvers) | {"linestyle": LINES[sizes.index(n)]}
                    label = f"{solver}, n = {n}"
                    axes.plot(*zip(*points, strict=True), label=label, **look)
        axes.set(xscale="log", yscale="log", xlabel="problems", ylabel="µs per problem")

    return _figure(results / "time-against-batch.svg", "Many problems at once", draw)


def _look(solver: str, order: Sequence[str], marked: bool = True) -> dict[str, Any]:
    place = order.index(solver) % len(COLOURS)
    look = {"color": COLOURS[place], "linestyle": LINES[place]}
    if solver in (OURS.name, BATCH, VMAP):
        look["linewidth"] = 4.5
    return look | ({"marker": MARKERS[place]} if marked else {})


def _figure(path: pathlib.Path, title: str, draw: Callable[[Any], None]) -> pathlib.Path:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(11, 5.5))
        draw(axes)
        axes.set_title(title, fontsize=17)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _written(figure, path)


def _written(figure: Any, path: pathlib.Path) -> pathlib.Path:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
