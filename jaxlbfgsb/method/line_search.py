"""The line search of Moré and Thuente (ACM TOMS 20, 1994), one evaluation at a time.

`start` opens a search along a direction; each `advance` takes the value and the
slope at `search.step` and either says that the search is over or holds the next
step. `back_off` is for a trial where the function is not finite.

Notation of the paper: ``phi(a) = f(x + a d)``; ``mu`` sufficient decrease (1.1);
``eta`` curvature (1.2); ``psi(a) = phi(a) - phi(0) - mu phi'(0) a`` (2.1);
``(stx, fx, gx)`` the best step so far with its value and slope, ``(sty, fy, gy)``
the other end of the interval of uncertainty.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxlbfgsb.types import Boolean, Integer, Scalar
from jaxlbfgsb.xla.choice import where

SUFFICIENT_DECREASE = 1e-3  # mu; L-BFGS-B 3.0, lnsrlb
CURVATURE = 0.9  # eta; L-BFGS-B 3.0, lnsrlb
INTERVAL_TOLERANCE = 0.1  # xtol, relative width of the interval; L-BFGS-B 3.0, lnsrlb
EXTRAPOLATION = (1.1, 4.0)  # bounds of the next step while nothing is bracketed; section 4
MUST_SHRINK = 0.66  # of the interval in two steps, else it is bisected; section 4


class Point(NamedTuple):
    """A step with the value and the slope there."""

    step: Scalar
    value: Scalar
    slope: Scalar


class LineSearch(NamedTuple):
    """State of a search; scalars of one dtype, counters int32."""

    step: Scalar
    """Step of the trial to evaluate next, in (0, largest]."""
    largest: Scalar
    initial_value: Scalar
    initial_slope: Scalar
    """phi(0) and phi'(0) < 0."""
    best: Point
    """stx, fx, gx"""
    other: Point
    """sty, fy, gy"""
    low: Scalar
    high: Scalar
    """Bounds of the next step (stmin, stmax)."""
    width: Scalar
    earlier_width: Scalar
    bracketed: Boolean
    uses_psi: Boolean
    """Stage 1 of section 3: work on psi until it is <= 0 where phi' >= 0."""
    evaluations: Integer
    nonfinite: Integer
    """Trials so far, and how many of them were not finite."""


def start(value: Scalar, slope: Scalar, step: Scalar, largest: Scalar) -> LineSearch:
    """Open a search at phi(0) = value, phi'(0) = slope < 0 with a first step <= largest."""
    zero = jnp.zeros_like(value)
    origin = Point(zero, value, slope)
    return LineSearch(
        step=step,
        largest=largest,
        initial_value=value,
        initial_slope=slope,
        best=origin,
        other=origin,
        low=zero,
        high=step + EXTRAPOLATION[1] * step,
        width=largest,
        earlier_width=2 * largest,
        bracketed=jnp.asarray(False),
        uses_psi=jnp.asarray(True),
        evaluations=jnp.asarray(0, jnp.int32),
        nonfinite=jnp.asarray(0, jnp.int32),
    )


def decreases_enough(search: LineSearch, value: Scalar) -> Boolean:
    """Sufficient decrease (1.1) at `search.step`."""
    allowed = SUFFICIENT_DECREASE * search.step * search.initial_slope
    return value <= search.initial_value + allowed


def advance(search: LineSearch, value: Scalar, slope: Scalar) -> tuple[LineSearch, Boolean]:
    """Take phi and phi' at `search.step`; return the next state and whether it is over.

    It is over where the strong Wolfe conditions hold, at the largest step while phi
    still falls, and where rounding or a narrow interval leaves nothing to gain.
    """
    s = search
    limit_slope = SUFFICIENT_DECREASE * s.initial_slope
    enough = decreases_enough(s, value)
    uses_psi = s.uses_psi & ~(enough & (slope >= 0))

    no_room = s.bracketed & (
        (s.step <= s.low) | (s.step >= s.high) | (s.high - s.low <= INTERVAL_TOLERANCE * s.high)
    )
    at_largest = (s.step == s.largest) & enough & (slope <= limit_slope)
    at_zero = (s.step == 0) & (~enough | (slope >= limit_slope))
    wolfe = enough & (jnp.abs(slope) <= CURVATURE * -s.initial_slope)
    over = no_room | at_largest | at_zero | wolfe

    # Section 3: psi takes the place of phi where phi fell, but not enough.
    tilt = where(uses_psi & (value <= s.best.value) & ~enough, limit_slope, 0)
    best, other, step, bracketed = _next_step(
        _tilted(s.best, -tilt),
        _tilted(s.other, -tilt),
        _tilted(Point(s.step, value, slope), -tilt),
        s.bracketed,
        s.low,
        s.high,
    )
    best, other = _tilted(best, tilt), _tilted(other, tilt)

    length = jnp.abs(other.step - best.step)
    bisect = bracketed & (length >= MUST_SHRINK * s.earlier_width)
    step = where(bisect, best.step + 0.5 * (other.step - best.step), step)
    low = where(
        bracketed,
        jnp.minimum(best.step, other.step),
        step + EXTRAPOLATION[0] * (step - best.step),
    )
    high = where(
        bracketed,
        jnp.maximum(best.step, other.step),
        step + EXTRAPOLATION[1] * (step - best.step),
    )
    step = jnp.clip(step, 0, s.largest)
    narrow = (step <= low) | (step >= high) | (high - low <= INTERVAL_TOLERANCE * high)
    step = where(bracketed & narrow, best.step, step)

    return s._replace(
        step=step,
        best=best,
        other=other,
        low=low,
        high=high,
        width=where(bracketed, length, s.width),
        earlier_width=where(bracketed, s.width, s.earlier_width),
        bracketed=bracketed,
        uses_psi=uses_psi,
        evaluations=s.evaluations + 1,
    ), over


def back_off(search: LineSearch) -> LineSearch:
    """After a trial that is not finite: a shorter step, and never a longer one again.

    The factors 1/2, 1/4, 1/8, ... of successive failures stay near a boundary of the
    domain at first and still span ten orders of magnitude in eight evaluations.
    Not in the paper, which assumes a function that is finite everywhere.
    """
    s = search
    # By a shift, as far as int32 goes, and so exactly: XLA makes exp2 of exp.
    parts = (2 << jnp.minimum(s.nonfinite, 29)).astype(s.step.dtype)
    step = s.best.step + (s.step - s.best.step) / parts
    return s._replace(
        step=step,
        largest=jnp.maximum(step, s.best.step),
        evaluations=s.evaluations + 1,
        nonfinite=s.nonfinite + 1,
    )


def _tilted(point: Point, tilt: Scalar) -> Point:
    """The point on ``phi(a) + tilt a``: from phi to psi with ``-mu phi'(0)`` and back."""
    return Point(point.step, point.value + point.step * tilt, point.slope + tilt)


def _next_step(
    best: Point, other: Point, trial: Point, bracketed: Boolean, low: Scalar, high: Scalar
) -> tuple[Point, Point, Scalar, Boolean]:
    """Section 4: the four cases of the trial step, and the updating of the interval."""
    (stx, fx, dx), (sty, _, _), (stp, fp, dp) = best, other, trial
    opposite = dp * jnp.sign(dx) < 0
    case1 = fp > fx
    case2 = ~case1 & opposite
    case3 = ~case1 & ~opposite & (jnp.abs(dp) < jnp.abs(dx))
    case4 = ~case1 & ~case2 & ~case3

    # The cubic through the trial and the best point; in case 4 through the other end.
    end = Point(*(where(case4, b, a) for a, b in zip(best, other, strict=True)))
    gap = stp - end.step
    safe_gap = where(gap == 0, 1, gap)
    theta = 3 * (end.value - fp) / safe_gap + end.slope + dp
    s = jnp.maximum(jnp.abs(theta), jnp.maximum(jnp.abs(end.slope), jnp.abs(dp)))
    s = where(s == 0, 1, s)
    gamma = s * jnp.sqrt(jnp.maximum(0, (theta / s) ** 2 - (end.slope / s) * (dp / s)))
    gamma = where(where(case1, gap < 0, gap > 0), -gamma, gamma)
    p = (gamma - where(case1, dx, dp)) + theta
    q = where(
        case3,
        (gamma + (dx - dp)) + gamma,
        ((gamma - where(case1, dx, dp)) + gamma) + where(case1, dp, end.slope),
    )
    r = p / where(q == 0, 1, q)
    cubic = where(case1, stx + r * (stp - stx), stp + r * (end.step - stp))
    beyond = where(stp > stx, high, low)
    cubic = where(case3 & ~((r < 0) & (gamma != 0)), beyond, cubic)

    # The quadratic step of case 1; the secant step of cases 2 and 3.
    chord = (fx - fp) / where(stp == stx, 1, stp - stx) + dx
    quadratic = stx + ((dx / where(chord == 0, 1, chord)) / 2) * (stp - stx)
    secant = stp + (dp / where(dp == dx, 1, dp - dx)) * (stx - stp)

    step1 = where(
        jnp.abs(cubic - stx) < jnp.abs(quadratic - stx), cubic, cubic + (quadratic - cubic) / 2
    )
    farther = where(jnp.abs(cubic - stp) > jnp.abs(secant - stp), cubic, secant)
    nearer = where(jnp.abs(cubic - stp) < jnp.abs(secant - stp), cubic, secant)
    inside = stp + MUST_SHRINK * (sty - stp)
    step3_in = where(stp > stx, jnp.minimum(inside, nearer), jnp.maximum(inside, nearer))
    step3 = where(bracketed, step3_in, jnp.maximum(jnp.minimum(high, farther), low))
    step4 = where(bracketed, cubic, beyond)
    step = where(case1, step1, where(case2, farther, where(case3, step3, step4)))

    def pick(condition: Boolean, a: Point, b: Point) -> Point:
        return Point(*(where(condition, i, j) for i, j in zip(a, b, strict=True)))

    new_other = pick(case1, trial, pick(case2, best, other))
    new_best = pick(case1, best, trial)
    return new_best, new_other, step, bracketed | case1 | case2
