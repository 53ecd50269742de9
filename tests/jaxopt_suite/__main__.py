"""jaxopt's own tests of L-BFGS-B, with our class in the place of theirs.

    git clone https://github.com/google/jaxopt
    python -m tests.jaxopt_suite jaxopt [-k rosenbrock]

from the root of the repository, with the extras ``bench`` and ``test``.  The checkout's
jaxopt is the one that is imported.  Options that our class refuses are left out, as its
errors ask for: `plugin` does that.  The exit code is 1 if a test fails that is not listed
below, or if one passes that is, and 2 without a checkout.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = Path("tests/lbfgsb_test.py")

EXPECTED_FAILURES = {
    "test_correct_dtypes": (
        "asks for iter_num in int64 and for the fields s_history and y_history; ours counts in "
        "int32 and holds the pairs in state.hess_inv"
    ),
    "test_n_calls": (
        "counts how often the Python function is called with jit=False and a fixed step; ours is "
        "traced, once, and has no fixed steps"
    ),
}
"""Tests that concern no result, each with what it asks for."""


def main(argv=None):
    arguments = _parsed(argv)
    tests = arguments.checkout / TESTS
    if not tests.is_file():
        print(
            f"{arguments.checkout} is no checkout of jaxopt: it has no {TESTS}. Get one with\n"
            "    git clone https://github.com/google/jaxopt\n"
            "and give its folder."
        )
        return 2
    outcomes, report = _run(tests, arguments)
    listed = {name for name in outcomes if _kind(name) in EXPECTED_FAILURES}
    for name, outcome in sorted(outcomes.items()):
        why = EXPECTED_FAILURES.get(_kind(name), "") if outcome != "PASSED" else ""
        print(f"{outcome:8}{name}{': ' * bool(why)}{why}")
    passed = {name for name, outcome in outcomes.items() if outcome == "PASSED"}
    surprising = (outcomes.keys() - passed - listed) | (passed & listed)
    if surprising:
        print(report)
    print(f"{len(passed)} of {len(outcomes)} pass; {len(surprising)} surprises")
    return int(bool(surprising) or not passed)


def _parsed(argv):
    parser = argparse.ArgumentParser(prog="python -m tests.jaxopt_suite", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkout", type=Path, help="the folder of a clone of jaxopt")
    parser.add_argument("-k", default="", help="only tests whose names match, as in pytest")
    return parser.parse_args(argv)


def _kind(name):
    """The name of a test without the number of its parameters."""
    return re.sub(r"\d+$", "", name)


def _run(tests, arguments):
    """The outcome of each test by its name, and pytest's report; with none of our settings."""
    paths = (arguments.checkout.resolve(), ROOT, os.environ.get("PYTHONPATH"))
    settings = {"PYTHONPATH": os.pathsep.join(str(p) for p in paths if p), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-rA", "--tb=short", "--no-header"]
    command += ["-c", "pytest.ini", "-p", "no:cacheprovider", "-p", "tests.jaxopt_suite.plugin"]
    command += [str(tests.resolve())] + ["-k", arguments.k] * bool(arguments.k)
    environment = os.environ | settings
    environment.pop("PYTEST_ADDOPTS", None)
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "pytest.ini").write_text("[pytest]\n")
        run = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    if run.returncode not in (0, 1):
        print(run.stdout, run.stderr, sep="\n")
        raise SystemExit(2)
    found = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) \S+::(\w+)", run.stdout, re.MULTILINE)
    return {name: outcome for outcome, name in found}, run.stdout


if __name__ == "__main__":
    raise SystemExit(main())
