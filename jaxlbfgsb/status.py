"""The one table of the ways a run can end.

`reason` is the fine code, one for each way to end; `status` is SciPy's 0, 1 or 2.
Everything that is said about an end is said here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Reason(enum.IntEnum):
    """Why a run ended; ``NOT_FINISHED`` while it has not."""

    NOT_FINISHED = 0
    PROJECTED_GRADIENT = 1
    RELATIVE_REDUCTION = 2
    NOISE_FLOOR = 3
    MAXITER = 4
    MAXFUN = 5
    CALLBACK = 6
    NOISE_FLOOR_NOT_CONVERGED = 7
    LINE_SEARCH_FAILED = 8
    NONFINITE_AT_X0 = 9
    NONFINITE_TRIALS = 10
    UNBOUNDED = 11
    INCONSISTENT_GRADIENT = 12
    INVALID_BOUNDS = 13
    INVALID_OPTIONS = 14


@dataclass(frozen=True)
class Ending:
    """One row of the table.

    Attributes
    ----------
    sentence
        What happened.
    advice
        What the user can do about it; empty after a plain success.
    scipy_status
        0 converged, 1 limit reached, 2 anything else.
    scipy_message
        The text of SciPy's L-BFGS-B for the same event.
    """

    sentence: str
    advice: str
    scipy_status: int
    scipy_message: str

    @property
    def message(self) -> str:
        return f"{self.sentence} {self.advice}".strip()


TABLE: dict[Reason, Ending] = {
    Reason.NOT_FINISHED: Ending("The run has not ended.", "Go on with ask and tell.", 2, "START: "),
    Reason.PROJECTED_GRADIENT: Ending(
        "Converged: the projected gradient is within gtol.",
        "",
        0,
        "CONVERGENCE: NORM OF PROJECTED GRADIENT <= PGTOL",
    ),
    Reason.RELATIVE_REDUCTION: Ending(
        "Converged: the relative reduction of the function is within ftol.",
        "",
        0,
        "CONVERGENCE: RELATIVE REDUCTION OF F <= FACTR*EPSMCH",
    ),
    Reason.NOISE_FLOOR: Ending(
        "Converged to the precision of the dtype: the projected gradient is within the "
        "rounding error of the function and its gradient.",
        "",
        0,
        "CONVERGENCE: NORM OF PROJECTED GRADIENT WITHIN ROUNDING ERROR",
    ),
    Reason.MAXITER: Ending(
        "Stopped: maxiter iterations were made.",
        "Raise maxiter, or go on from x.",
        1,
        "STOP: TOTAL NO. OF ITERATIONS REACHED LIMIT",
    ),
    Reason.MAXFUN: Ending(
        "Stopped: more than maxfun evaluations were made.",
        "Raise maxfun, or go on from x.",
        1,
        "STOP: TOTAL NO. OF F,G EVALUATIONS EXCEEDS LIMIT",
    ),
    Reason.CALLBACK: Ending(
        "Stopped: the callback raised StopIteration or returned True.",
        "",
        2,
        "STOP: CALLBACK REQUESTED HALT",
    ),
    Reason.NOISE_FLOOR_NOT_CONVERGED: Ending(
        "Stopped: the function changes by less than its rounding error, but the projected "
        "gradient is larger than that explains.",
        "Use float64, rescale the variables, or remove noise or cancellation from the function.",
        2,
        "ABNORMAL: rounding errors prevent progress",
    ),
    Reason.LINE_SEARCH_FAILED: Ending(
        "Stopped: the line search found no acceptable step, not even along the projected "
        "steepest descent.",
        "Check the gradient, rescale the variables, or raise maxls.",
        2,
        "ABNORMAL: the line search found no acceptable step",
    ),
    Reason.NONFINITE_AT_X0: Ending(
        "Stopped: the function or its gradient is not finite at x0.",
        "Start from a point where both are finite, or tighten the bounds.",
        2,
        "ABNORMAL: the function or its gradient is not finite at x0",
    ),
    Reason.NONFINITE_TRIALS: Ending(
        "Stopped: the function or its gradient is not finite wherever the line search looked.",
        "Bound the variables to the domain of the function, or rescale them.",
        2,
        "ABNORMAL: the function or its gradient is not finite near x",
    ),
    Reason.UNBOUNDED: Ending(
        "Stopped: the function seems unbounded below.",
        "Add bounds, or check the sign of the function.",
        2,
        "ABNORMAL: the function seems unbounded below",
    ),
    Reason.INCONSISTENT_GRADIENT: Ending(
        "Stopped: the function rises where its gradient says that it falls.",
        "Check the gradient (its sign first) and that the function is smooth.",
        2,
        "ABNORMAL: the gradient is inconsistent with the function",
    ),
    Reason.INVALID_BOUNDS: Ending(
        "Nothing was done: a lower bound is above its upper bound, or a bound is NaN.",
        "Correct the bounds that were computed under tracing.",
        2,
        "ERROR: NO FEASIBLE SOLUTION",
    ),
    Reason.INVALID_OPTIONS: Ending(
        "Nothing was done: a tolerance is negative or NaN, or maxls is not positive.",
        "Correct the options that were computed under tracing.",
        2,
        "ERROR: INVALID OPTION",
    ),
}


def scipy_statuses() -> tuple[int, ...]:
    """SciPy's status of each reason, in the order of the codes."""
    return tuple(TABLE[reason].scipy_status for reason in Reason)
