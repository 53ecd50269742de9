"""SciPy's own tests of L-BFGS-B with SciPy's solver and with ours, side by side.

    python -m tests.scipy_suite [-n 4] [-k bfgs] [--files test_optimize.py ...] [-v]

from the root of the repository.  The first pass runs SciPy's tests as they are, and notes
which of them call the solver.  The second runs exactly these with ours.  The exit code is
1 if a test that passes with SciPy does not pass with ours, 2 if a pass could not be made.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "scipy.optimize.tests"

EXCLUDED = {
    "test_lbfgsb_setulb.py::test_setulb_floatround": (
        "drives the private routine setulb and its workspace by hand; no solver is called"
    ),
}
"""Tests that pass with SciPy and need not pass with ours, each with its reason."""


def main(argv=None):
    arguments = _parsed(argv)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        theirs = _run("scipy", arguments, work, only=None)
        concerned = {name: t for name, t in theirs.items() if t["solver"] or t["workspace"]}
        passing = {name: t for name, t in concerned.items() if t["outcome"] == "passed"}
        ours = _run("jaxlbfgsb", arguments, work, only=sorted(concerned))
    return _report(theirs, concerned, passing, ours, arguments.verbose)


def _parsed(argv):
    parser = argparse.ArgumentParser(prog="python -m tests.scipy_suite", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-n", default="0", help="processes (pytest-xdist); 0 is none")
    parser.add_argument("-k", default="", help="only tests whose names match, as in pytest")
    parser.add_argument("--files", nargs="*", default=[], help="only these of SciPy's test files")
    parser.add_argument("-v", "--verbose", action="store_true", help="list every test")
    return parser.parse_args(argv)


def _run(solver, arguments, work, only):
    """The outcome of each test; none of this project's settings of pytest apply."""
    (work / "pytest.ini").write_text("[pytest]\n")
    report = work / f"{solver}.json"
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=no", "-c", "pytest.ini"]
    command += ["-p", "no:cacheprovider", "-p", "tests.scipy_suite.plugin"]
    command += [f"--lbfgsb-solver={solver}", f"--lbfgsb-report={report}", "--pyargs"]
    command += [f"{PACKAGE}.{Path(name).stem}" for name in arguments.files] or [PACKAGE]
    if arguments.k:
        command += ["-k", arguments.k]
    if arguments.n != "0":
        command += ["-n", arguments.n]
    if only is not None:
        (work / "only.json").write_text(json.dumps(only))
        command += [f"--lbfgsb-only={work / 'only.json'}"]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # One BLAS thread: on few cores those of OpenBLAS and of XLA hold each other up.
    settings = {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"}
    environment = os.environ | settings
    environment.pop("PYTEST_ADDOPTS", None)
    start = time.perf_counter()
    run = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    if run.returncode not in (0, 1) or not report.exists():
        print(run.stdout, run.stderr, sep="\n")
        raise SystemExit(2)
    seconds = time.perf_counter() - start
    tests = json.loads(report.read_text())
    print(f"{solver}: {len(tests)} tests in {seconds:.0f} s")
    return tests


def _report(theirs, concerned, passing, ours, verbose):
    """Print the comparison; 1 if something is missing."""
    never_run = {"outcome": "not run", "why": "", "solver": 0}
    mine = {name: ours.get(name, never_run) for name in concerned}
    if verbose:
        for name in sorted(concerned):
            print(f"  {concerned[name]['outcome']:8} {mine[name]['outcome']:8} {name}")
    good = [name for name in passing if mine[name]["outcome"] == "passed"]
    idle = [name for name in good if not mine[name]["solver"] and name not in EXCLUDED]
    lost = [name for name in passing if mine[name]["outcome"] != "passed"]
    bad = [name for name in lost if name not in EXCLUDED]
    outcomes = collections.Counter(t["outcome"] for t in concerned.values())

    print(f"run with SciPy                     {len(theirs)}")
    print(f"concern L-BFGS-B                   {len(concerned)}  {dict(outcomes)}")
    print(f"pass with SciPy                    {len(passing)}")
    print(f"of these pass with jaxlbfgsb       {len(good)}")
    for name in sorted(lost):
        why = EXCLUDED.get(name)
        print(f"  {'excluded' if why else 'LOST'}: {name}")
        print(f"    {why or mine[name]['why'].strip()[-600:]}")
    for name in sorted(idle):
        print(f"  NEVER CALLED OURS: {name}")
    for name in sorted(concerned.keys() - passing.keys()):
        if mine[name]["outcome"] == "passed":
            print(f"  gained: {name} ({concerned[name]['outcome']} with SciPy)")
    print("the same" if not (bad or idle) else f"{len(bad) + len(idle)} differences")
    return int(bool(bad or idle))


if __name__ == "__main__":
    raise SystemExit(main())
