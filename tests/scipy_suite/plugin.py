"""A pytest plugin for SciPy's tests: notes which of them solve, and swaps the solver.

It writes one JSON file: for each test its outcome, its time, how often it called L-BFGS-B,
and how often the private workspace by hand.  Tests are named without the folder that they
are installed in, ``test_optimize.py::test_name[parameter]``.
"""

from __future__ import annotations

import collections
import functools
import json
import sys
from pathlib import Path

import pytest
import scipy.optimize
from scipy.optimize import _lbfgsb, _lbfgsb_py, _minimize

calls = collections.Counter()
"""Of the running test: calls of the "solver", and of the "workspace" directly."""
_inside = False


def pytest_addoption(parser):
    group = parser.getgroup("lbfgsb")
    group.addoption("--lbfgsb-solver", choices=("scipy", "jaxlbfgsb"), default="scipy")
    group.addoption("--lbfgsb-report", help="the JSON file to write")
    group.addoption("--lbfgsb-only", help="a JSON file with the names of the tests to run")


def pytest_configure(config):
    if config.getoption("--lbfgsb-solver") == "jaxlbfgsb":
        _swap_solver()
    else:
        _watch_scipy()
    config.pluginmanager.register(_Recorder(config), "lbfgsb-recorder")


def _watch_scipy():
    """Count the calls of SciPy's solver, and those of its workspace from anywhere else."""
    solver, setulb = _lbfgsb_py._minimize_lbfgsb, _lbfgsb.setulb

    @functools.wraps(solver)
    def counted(*args, **kwargs):
        global _inside
        calls["solver"] += 1
        before, _inside = _inside, True
        try:
            return solver(*args, **kwargs)
        finally:
            _inside = before

    def watched(*args):
        calls["workspace"] += not _inside
        return setulb(*args)

    _lbfgsb_py._minimize_lbfgsb = _minimize._minimize_lbfgsb = counted
    _lbfgsb.setulb = watched


def _swap_solver():
    """Ours in the place of SciPy's, wherever scipy.optimize holds a reference to it."""
    import jaxlbfgsb

    @functools.wraps(scipy.optimize.fmin_l_bfgs_b)
    def fmin_l_bfgs_b(*args, **kwargs):
        calls["solver"] += 1
        return jaxlbfgsb.fmin_l_bfgs_b(*args, **kwargs)

    def _minimize_lbfgsb(fun, x0, args=(), jac=None, bounds=None, callback=None, **options):
        calls["solver"] += 1
        return jaxlbfgsb.scipy_method(
            fun, x0, args=args, jac=jac, bounds=bounds, callback=_public(callback), **options
        )

    replacements = {
        _lbfgsb_py.fmin_l_bfgs_b: fmin_l_bfgs_b,
        _lbfgsb_py._minimize_lbfgsb: _minimize_lbfgsb,
    }
    for name, module in list(sys.modules.items()):
        if name.startswith("scipy.optimize"):
            for original, ours in replacements.items():
                if vars(module).get(original.__name__) is original:
                    setattr(module, original.__name__, ours)


def _public(callback):
    """The callback that SciPy wrapped for its solvers, in the form that users write.

    `scipy.optimize.minimize` hands its solvers a function of one OptimizeResult, and reads
    from the attribute ``stop_iteration`` whether they stopped.
    """
    if callback is None:
        return None

    def call(intermediate_result):
        try:
            callback(intermediate_result)
        except StopIteration:
            callback.stop_iteration = True
            raise

    return call


class _Recorder:
    def __init__(self, config):
        self.config = config
        self.tests = {}

    def pytest_collection_modifyitems(self, config, items):
        for item in items:  # the properties of an item reach the controller of pytest-xdist
            name = f"{item.path.name}::{item.nodeid.partition('::')[2]}"
            item.user_properties.append(("lbfgsb-name", name))
        if only := config.getoption("--lbfgsb-only"):
            wanted = set(json.loads(Path(only).read_text()))
            chosen = [item for item in items if dict(item.user_properties)["lbfgsb-name"] in wanted]
            config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
            items[:] = chosen

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        calls.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item, call):
        if call.when == "teardown":
            item.user_properties.append(("lbfgsb-calls", dict(calls)))

    def pytest_runtest_logreport(self, report):
        properties = dict(report.user_properties)
        entry = self.tests.setdefault(
            properties["lbfgsb-name"],
            {"outcome": "passed", "why": "", "solver": 0, "workspace": 0, "seconds": 0.0},
        )
        entry["seconds"] += report.duration
        if entry["outcome"] == "passed":
            entry["outcome"] = "xfailed" if hasattr(report, "wasxfail") else report.outcome
            entry["why"] = "" if report.passed else str(report.longrepr)[-2000:]
        entry.update(properties.get("lbfgsb-calls", {}))

    def pytest_sessionfinish(self):
        path = self.config.getoption("--lbfgsb-report")
        if path and not hasattr(self.config, "workerinput"):
            Path(path).write_text(json.dumps(self.tests, indent=1))
