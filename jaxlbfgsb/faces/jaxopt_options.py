"""Which options of jaxopt's L-BFGS-B ask for what happens here, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxlbfgsb.derivatives.implicit import Rule, checked_rule


def checked_jaxopt_rule(implicit_diff: Any, implicit_diff_solve: Any) -> Rule:
    if callable(implicit_diff_solve):
        raise TypeError(
            "implicit_diff_solve takes no function here: the linear system is symmetric, on the "
            "free variables, and solved inside. Leave it out, or give 'dense' or 'iterative'."
        )
    solver = "auto" if implicit_diff_solve is None else implicit_diff_solve
    return checked_rule(implicit_diff, solver, False)


_OF_ANOTHER_LINE_SEARCH = (
    "linesearch",
    "linesearch_init",
    "condition",
    "decrease_factor",
    "increase_factor",
    "max_stepsize",
    "min_stepsize",
)

_ONE_WAY: dict[str, tuple[Callable[[Any], bool], str]] = {
    "jit": (
        lambda jit: jit is True,
        "fun is traced and compiled in any case. For a function that can't be traced use "
        "jaxlbfgsb.fmin_l_bfgs_b or jaxlbfgsb.AskTell; to debug, jax.debug.print",
    ),
    "unroll": (
        lambda unroll: unroll in ("auto", False),
        "the loop is never unrolled. Reverse mode comes from implicit_diff=True",
    ),
    "use_gamma": (
        lambda use_gamma: use_gamma is True,
        "the first matrix is always scaled by the newest pair (theta = y'y / s'y)",
    ),
    "theta": (lambda theta: theta == 1, "the first matrix is always scaled by the newest pair"),
    "stepsize": (
        lambda stepsize: not callable(stepsize) and stepsize <= 0,
        "steps come from a line search, always: a fixed step or a schedule would make it another "
        "method",
    ),
    "stop_if_linesearch_fails": (lambda stop: stop in (True, False), "it must be True or False"),
}
"""Options of jaxopt that leave one way here: the values that ask for it, and why no others."""


def check_others(others: dict[str, Any]) -> None:
    for name, value in others.items():
        if name in _OF_ANOTHER_LINE_SEARCH:
            raise TypeError(
                f"{name} belongs to a line search of jaxopt; here it is always that of Moré and "
                f"Thuente. Leave {name} out; maxls limits the evaluations of a search."
            )
        if name not in _ONE_WAY:
            raise TypeError(f"LBFGSB has no option {name!r}; see help(jaxlbfgsb.LBFGSB).")
        is_fine, why = _ONE_WAY[name]
        if not is_fine(value):
            raise ValueError(f"{name}={value!r} can't be had: {why}. Leave {name} out.")
