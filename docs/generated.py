"""What the documentation takes from elsewhere, when MkDocs builds it.

- A line with ``<!-- made: NAME -->`` becomes what is made under that name: the endings from
  `jaxlbfgsb.status`, figures from ``benchmarks/results``, all public names with their
  docstrings.
- The notebooks become pages.
"""

import functools
import inspect
import json
import re
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

import jaxlbfgsb
from jaxlbfgsb.status import TABLE, Reason

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@event_priority(100)  # before the notebooks are converted
def on_files(files, config):
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown, page, config, files):
    line = re.compile(r"^[^<\n]*<!-- made: (\w+) -->", re.MULTILINE)
    return line.sub(lambda match: MADE[match[1]](), markdown)


def _table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _endings():
    rows = [
        (
            f"`{reason.name}`",
            int(reason),
            ending.scipy_status,
            ending.sentence,
            ending.advice or "-",
        )
        for reason, ending in sorted(TABLE.items(), key=lambda item: item[1].scipy_status)
        if reason != Reason.NOT_FINISHED
    ]
    return _table(("`reason`", "code", "`status`", "what happened", "what to do"), rows)


def _record(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def _origin(record, command):
    environment = record["environment"]
    packages = environment.get("packages", environment)
    machine = environment.get("machine") or "{cores} cores, {cpu}".format(**environment)
    return (
        f"`{command}`, {environment['date'][:10]}: {machine}, "
        f"JAX {packages['jax']}, SciPy {packages['scipy']}, Python {environment['python']}."
    )


def _batch():
    record = _record("batch")
    sizes = sorted({(row["n"], row["B"]) for row in record["rows"]})
    names = list(dict.fromkeys(row["solver"] for row in record["rows"]))
    times = {(r["n"], r["B"], r["solver"]): r.get("us_per_problem") for r in record["rows"]}

    def cell(n, lanes, name):
        time = times.get((n, lanes, name))
        return "-" if time is None else f"{time:,.0f}" if time > 100 else f"{time:.1f}"

    rows = [(n, lanes, *(cell(n, lanes, name) for name in names)) for n, lanes in sizes]
    return _table(("n", "problems", *names), rows) + "\n\n" + _origin(record, record["command"])


def _collection(suite):
    record = _record(suite)
    summary = record["summary"]
    summary = summary.get("CUTEst", summary)
    rows = []
    for name, entry in summary.items():
        if not isinstance(entry, dict):
            continue
        rows.append(
            (
                name,
                f"{entry['geometric mean of ratios, all']:.1f}",
                f"{entry['geometric mean of ratios, both solved']:.1f} ({entry['both solved']})",
                "{} ({:.2f})".format(*entry["smallest ratio"]),
                ", ".join(entry["jaxlbfgsb slower"]) or "none",
            )
        )
    columns = ("solver", "times slower", "where both solved", "smallest ratio", "faster on")
    return _table(columns, rows) + "\n\n" + _origin(record, record["command"])


def _fidelity(problems):
    record = _record(f"fidelity-{problems}")
    rows = [
        (name, f"{entry['hits']} of {entry['of']}" if isinstance(entry, dict) else entry)
        for name, entry in record["summary"].items()
        if not isinstance(entry, list)
    ]
    for name in ("splits early", "f worse"):
        rows.append((name, ", ".join(record["summary"][name]) or "none"))
    command = f"python -m benchmarks.fidelity --list {problems}"
    return _table(("against SciPy", ""), rows) + "\n\n" + _origin(record, command)


def _noise():
    record = _record("noise")
    ours = _record("fidelity-bounded")["summary"]
    rows = [
        (name, f"{ours[name]['hits']} of {hits['of']}", hits["least"], hits["median"], hits["most"])
        for name, hits in record["summary"].items()
    ]
    columns = ("against SciPy", "here", "SciPy: least", "median", "most")
    return _table(columns, rows) + "\n\n" + _origin(record, record["command"])


def _large():
    record = _record("large")
    rows = []
    for row in record["rows"]:
        if row["solver"] == "SciPy" and "ratio" in row:
            ours = next(
                r
                for r in record["rows"]
                if (r["problem"], r["n"], r["solver"]) == (row["problem"], row["n"], "jaxlbfgsb")
            )
            times = (f"{1e3 * r['seconds']:,.1f}" for r in (ours, row))
            rows.append((row["problem"], f"{row['n']:,}", *times, f"{row['ratio']:.1f}"))
    columns = ("problem", "n", "here, ms", "SciPy, ms", "times slower")
    return _table(columns, rows) + "\n\n" + _origin(record, record["command"])


def _compile():
    record = _record("compile")
    rows = [
        (
            row["way"],
            row["n"],
            row["solver"],
            f"{row['first_call']:.2f}",
            f"{1e6 * row['warm']:.0f}",
        )
        for row in record["rows"]
        if "first_call" in row
    ]
    columns = ("way", "n", "solver", "first call, s", "later calls, us")
    return _table(columns, rows) + "\n\n" + _origin(record, record["command"])


def _steps():
    record = _record("steps")
    rows = [
        (
            *(row["loop"] if "ratio" not in row else "", row["n"], row["solver"]),
            f"{row['us_a_step']:.0f}",
            f"{row['ratio']:.1f}" if "ratio" in row else "",
        )
        for row in record["rows"]
        if "us_a_step" in row
    ]
    columns = ("loop", "n", "solver", "us a step", "times slower")
    return _table(columns, rows) + "\n\n" + _origin(record, record["command"])


def _memory():
    record = _record("memory")
    rows = [
        (row["problem"], f"{row['n']:,}", f"{row['numbers']:.1f}", row["bar"])
        for row in record["rows"]
    ]
    columns = ("problem", "n", "numbers for each variable", "2 m + 14")
    return _table(columns, rows) + "\n\n" + _origin(record, record["command"])


def _derivatives():
    record = _record("implicit")
    rows = [(name, *outcomes) for name, outcomes in record["jaxopt"].items()]
    origin = f"`{record['command']}`, {record['date']}: {record['machine']}, JAX {record['jax']}."
    return _table(("derivative", "here", "jaxopt"), rows) + "\n\n" + origin


def _api():
    """`minimize` first, then functions, then classes, each where it is written."""
    things = [getattr(jaxlbfgsb, name) for name in jaxlbfgsb.__all__]
    things.sort(key=lambda t: (inspect.isclass(t), not t.__name__.startswith("minimize")))
    things += [getattr(jaxlbfgsb.plot, name) for name in jaxlbfgsb.plot.__all__]
    return "\n\n".join(f"::: {thing.__module__}.{thing.__qualname__}" for thing in things)


MADE = {
    "api": _api,
    "endings": _endings,
    "batch": _batch,
    "small": functools.partial(_collection, "small"),
    "medium": functools.partial(_collection, "medium"),
    "large": _large,
    "compile": _compile,
    "memory": _memory,
    "steps": _steps,
    "fidelity_bounded": functools.partial(_fidelity, "bounded"),
    "noise": _noise,
    "fidelity_unconstrained": functools.partial(_fidelity, "unconstrained"),
    "derivatives": _derivatives,
}
