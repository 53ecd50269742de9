"""The box ``l <= x <= u`` and what the method asks of it (BLNZ section 2 and (6.1)).

Notation: ``x`` point, ``g`` gradient, ``d`` direction, ``l, u`` bounds,
``P`` the projection onto the box.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlbfgsb.types import Boolean, Integer, Mask, Scalar, Sides, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.products import all_hold, greatest, least, total

LARGEST_STEP = 1e10
"""No step is longer than this many times the direction (L-BFGS-B 3.0, `stpmx`)."""


class Box(NamedTuple):
    """Bounds of each variable; an infinite entry is no bound on that side.

    `lower` and `upper` are both None where it is known before compilation that
    nothing is bounded: the code for bounds is then not compiled at all.
    """

    lower: Vector | None
    upper: Vector | None

    @property
    def is_everything(self) -> bool:
        """True if there is no bound, known while tracing."""
        return self.lower is None


def project(x: Vector, box: Box) -> Vector:
    """``P(x)``: the nearest point of the box, bit for bit inside it."""
    if box.lower is None or box.upper is None:
        return x
    return jnp.minimum(jnp.maximum(x, box.lower), box.upper)


def projected_gradient(x: Vector, g: Vector, box: Box) -> Vector:
    """The negative of ``P(x - g) - x`` (6.1); ``x`` must lie in the box."""
    if box.lower is None or box.upper is None:
        return g
    return where(g < 0, jnp.maximum(x - box.upper, g), jnp.minimum(x - box.lower, g))


def projected_gradient_norm(x: Vector, g: Vector, box: Box) -> Scalar:
    """The largest entry of the projected gradient in absolute value.

    Both numbers that (6.1) chooses from have the sign of g, so the lesser absolute value tells:
    XLA makes one fast pass of this, and three of the formula as it stands.
    """
    if box.lower is None or box.upper is None:
        return infinity_norm(g)
    to_bound = x - where(g < 0, box.upper, box.lower)
    return greatest(jnp.minimum(jnp.abs(to_bound), jnp.abs(g)))


def infinity_norm(v: Vector) -> Scalar:
    return greatest(jnp.abs(v))


def are_same(a: Vector, b: Vector) -> Boolean:
    """True if two finite points are; in one pass, where comparing would store every answer."""
    return infinity_norm(a - b) == 0


def is_constrained(box: Box) -> Boolean:
    """True if at least one variable has a finite bound."""
    if box.lower is None or box.upper is None:
        return jnp.asarray(False)
    return _finite_bounds(box.lower, box.upper) > 0


def is_boxed(box: Box) -> Boolean:
    """True if every variable has two finite bounds."""
    if box.lower is None or box.upper is None:
        return jnp.asarray(False)
    return _finite_bounds(box.lower, box.upper) == 2 * len(box.lower)


def _finite_bounds(lower: Vector, upper: Vector) -> Integer:
    """How many there are: XLA counts once for both questions."""
    each = jnp.isfinite(lower).astype(jnp.int32) + jnp.isfinite(upper).astype(jnp.int32)
    return total(each)


def is_nonempty(box: Box) -> Boolean:
    """True if some finite point satisfies every bound; False with a NaN among the bounds."""
    if box.lower is None or box.upper is None:
        return jnp.asarray(True)
    lower, upper = box.lower, box.upper
    return all_hold((lower <= upper) & (lower < jnp.inf) & (upper > -jnp.inf))


def breakpoints(x: Vector, g: Vector, box: Box) -> Vector:
    """``t_i`` of (4.1): where ``x - t g`` meets a bound, infinity where it never does."""
    if box.lower is None or box.upper is None:
        return jnp.full_like(x, jnp.inf)
    to_bound = where(g < 0, x - box.upper, x - box.lower)
    return _ratio_or(jnp.inf, to_bound, g)


def _ratio_or(missing: Scalar | float, distance: Vector, speed: Vector) -> Vector:
    """``distance / speed``, or `missing` where that is infinite.

    Infinite distances are kept from the division, whose derivative they would turn to NaN.
    """
    meets = (speed != 0) & jnp.isfinite(distance)
    ratio = where(meets, distance, 1) / where(meets, speed, 1)
    return where(meets, ratio, missing)


def is_held(x: Vector, g: Vector, box: Box) -> Mask:
    """Variables on a bound that ``-g`` does not leave; a zero ``g`` does not leave it."""
    if box.lower is None or box.upper is None:
        return jnp.zeros(x.shape, bool)
    return ((x <= box.lower) & (g >= 0)) | ((x >= box.upper) & (g <= 0)) | (box.lower == box.upper)


def largest_feasible_step(x: Vector, d: Vector, box: Box) -> Scalar:
    """The largest ``a`` with ``x + a d`` in the box, at most `LARGEST_STEP`."""
    cap = jnp.full_like(x[0], LARGEST_STEP)  # of the type of x inside of `shard_map`
    if box.lower is None or box.upper is None:
        return cap
    to_bound = where(d < 0, box.lower - x, box.upper - x)
    return jnp.minimum(least(_ratio_or(cap, to_bound, d)), cap)


def active_bounds(x: Vector, g: Vector, box: Box) -> Sides:
    """-1 where ``x`` is on its lower bound, +1 on its upper one, 0 between them.

    A fixed variable is on both: the sign of ``g`` tells which one holds it.
    """
    if box.lower is None or box.upper is None:
        return jnp.zeros(x.shape, jnp.int32)
    at_lower, at_upper = x == box.lower, x == box.upper
    side = where(at_lower & ~(at_upper & (g < 0)), -1, where(at_upper, 1, 0))
    return side.astype(jnp.int32)


def point_on_line(x: Vector, xhat: Vector, step: Scalar, box: Box) -> Vector:
    """``P(x + step (xhat - x))``, and ``xhat`` itself, bit for bit, at step 1."""
    return jax.lax.select(step == 1, xhat, project(x + step * (xhat - x), box))
