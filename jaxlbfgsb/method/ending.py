"""Why a run ends: the tests of an iterate, the failure of a search, and what SciPy calls it."""

from __future__ import annotations

import jax.numpy as jnp

from jaxlbfgsb.method.line_search import LineSearch
from jaxlbfgsb.method.state import Options, Phase, State
from jaxlbfgsb.method.stopping import gradient_noise, observed_noise, value_noise
from jaxlbfgsb.status import Reason, scipy_statuses
from jaxlbfgsb.types import Boolean, Integer, Scalar
from jaxlbfgsb.xla.choice import where

CAPPED_LIMIT = 3
"""Accepted steps in a row at the cap of 1e10 that tell that f is unbounded below."""
SHORT_STEP = 1e-2
"""A shorter step that changes f little tells of a bad direction, not of convergence."""
STALLED_LIMIT = 8
"""Accepted steps in a row that change f by at most two units in its last place."""


def why_stop(
    state: State,
    moved: State,
    accepts: Boolean,
    small_reduction: Boolean,
    failure: Integer,
    options: Options,
) -> Integer:
    """Why to stop, or NOT_FINISHED: the first test that holds, in SciPy's order.

    Parameters
    ----------
    state, moved
        Before and after the trial; they differ where it was accepted.
    accepts
        Whether it was.
    small_reduction
        Whether it reduced f by so little that the run has converged.
    failure
        The reason of a search that failed, else NOT_FINISHED.
    """
    moves = accepts & (state.phase != Phase.START)
    gtol = jnp.maximum(options.gtol, options.gtol_rel * moved.pg_norm_at_x0)
    noise = noise_reason(moved, value_noise(moved.value))
    reason = failure
    for holds, code in (  # from the last to the first
        (moves & (moved.stalled >= STALLED_LIMIT), noise),
        (moves & (moved.capped >= CAPPED_LIMIT), Reason.UNBOUNDED),
        (small_reduction, Reason.RELATIVE_REDUCTION),
        (accepts & (moved.pg_norm <= gtol), Reason.PROJECTED_GRADIENT),
        (moves & (moved.nfev > options.maxfun), Reason.MAXFUN),
        (moves & (moved.nit >= options.maxiter), Reason.MAXITER),
        (moves & (moved.pending != Reason.NOT_FINISHED), moved.pending),
    ):
        reason = where(holds, code, reason)
    return reason


def is_doubtful(state: State) -> Boolean:
    """True if a reduction that is small is so because the step is: along a bad direction.

    The test for a small reduction does not count then; the memory that gave the direction
    is forgotten, and the next step is projected steepest descent, where it does count.
    """
    return (state.search.step < SHORT_STEP) & (state.memory.count > 0)


def noise_reason(state: State, noise: Scalar) -> Integer:
    """Whether the rounding error of f, `noise`, explains what is left of the gradient."""
    explained = state.pg_norm <= gradient_noise(state.x_norm, noise, state.curvature)
    return where(
        explained | (state.decrement <= noise),
        Reason.NOISE_FLOOR,
        Reason.NOISE_FLOOR_NOT_CONVERGED,
    )


def why_search_failed(state: State, search: LineSearch, value: Scalar, rises: Boolean) -> Integer:
    """The reason of a search with nothing stored that found no good trial."""
    predicted = state.search.step * state.search.initial_slope
    noise = observed_noise(state.value, value, predicted)
    rises = rises & (noise <= value_noise(state.value))
    at_floor = noise_reason(state, noise)
    converged = at_floor == Reason.NOISE_FLOOR
    reason = where(rises, Reason.INCONSISTENT_GRADIENT, Reason.LINE_SEARCH_FAILED)
    reason = where(converged | ((-predicted <= noise) & ~rises), at_floor, reason)
    nowhere_finite = search.nonfinite >= search.evaluations
    return where(nowhere_finite, Reason.NONFINITE_TRIALS, reason)


def status_of(state: State, options: Options) -> Integer:
    """SciPy's status: 0 converged, else 1 at a limit, else 2."""
    of_reason = jnp.asarray(scipy_statuses(), jnp.int32)[state.reason]
    at_limit = (state.nfev > options.maxfun) | (state.nit >= options.maxiter)
    no_run = (state.reason == Reason.INVALID_BOUNDS) | (state.reason == Reason.INVALID_OPTIONS)
    return where((of_reason == 2) & at_limit & ~no_run, 1, of_reason)


def halt(state: State) -> State:
    """The run, ended on request at its current iterate; a limit reached there comes first."""
    at_limit = (state.reason == Reason.MAXITER) | (state.reason == Reason.MAXFUN)
    reason = where(at_limit, state.reason, Reason.CALLBACK).astype(jnp.int32)
    return state._replace(reason=reason, phase=jnp.full_like(state.phase, Phase.DONE))
