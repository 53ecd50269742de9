"""A new search direction (BLNZ sections 4 and 5): the heavy half.

It depends on ``(x, g, memory)`` alone; `sums` only save what was summed before.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.method.box import Box, infinity_norm, largest_feasible_step, project
from jaxlbfgsb.method.cauchy import generalized_cauchy_point
from jaxlbfgsb.method.inverse import compact_inverse_times, inverse_times
from jaxlbfgsb.method.memory import Memory
from jaxlbfgsb.method.model import Compact, model
from jaxlbfgsb.method.subspace import into_the_box, subspace_minimizer, subspace_step
from jaxlbfgsb.method.sums import Sums, WithGradient, sums_of
from jaxlbfgsb.types import Boolean, Scalar, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.kernel import replaced
from jaxlbfgsb.xla.platform import by_platform
from jaxlbfgsb.xla.products import dot, total

ROWS_FOR_A_VARIABLE = 3
"""Of the history.  Where it has more, to factorise B takes no longer than to multiply with them."""


class Direction(NamedTuple):
    xhat: Vector
    """The end of the new search line, ``x + d``."""
    slope: Scalar
    dd: Scalar
    largest: Scalar
    """``g'd``, ``d'd``, and the largest step along d that stays in the box."""
    forgets: Boolean
    """True if the memory is forgotten."""
    sums: Sums | None
    """For the next one to carry on; None where each sums all that it needs."""


def no_direction(xhat: Vector, sums: Sums | None, turns: Boolean) -> Direction:
    """Where `turns` is False the line goes on to where it went, and the numbers are not read."""
    zero = jnp.zeros_like(xhat[0])
    return Direction(xhat, zero, zero, zero, jnp.zeros_like(turns), sums)


def new_direction(
    x: Vector,
    g: Vector,
    box: Box,
    pairs: Memory,
    sums: Sums | None,
    constrained: Boolean,
    is_new: Boolean,
) -> Direction:
    """The direction, and for the next one what it summed.

    With nothing stored ``B = I``, and the Cauchy point is ``P(x - g)``.  The same step
    stands in, in the same call, where the factorisations break down or the direction is
    no descent.  A gradient whose square nearly overflows is scaled: its length means
    nothing.

    Parameters
    ----------
    sums
        What the last direction summed.
    constrained
        True if the box bounds anything.
    is_new
        True if a pair was stored since the last direction.
    """
    stored = pairs.count > 0
    if box.is_everything:
        xhat, sums = _newton_point(x, g, pairs, sums, is_new)
        slope = dot(g, xhat - x)
    elif sums is not None:
        xhat, slope, sums = _with_sums(x, g, box, pairs, sums, is_new)
    elif len(pairs.pairs) < ROWS_FOR_A_VARIABLE * len(x):
        xhat, slope = by_platform(
            *(x, g, box, pairs, constrained),
            cpu=_newton_where_all_are_free,
            default=_in_the_box,
        )
    else:
        xhat, slope = _in_the_box(x, g, box, pairs, constrained)

    def steepest_descent() -> tuple[Vector, Scalar]:
        limits = np.finfo(x.dtype)
        tame = dot(g, g) < limits.eps * limits.max
        xhat = project(x - g / where(tame, 1, infinity_norm(g)), box)
        return xhat, dot(g, xhat - x)

    usable = stored & (slope < 0) & jnp.isfinite(slope)  # and so is every number in xhat
    xhat, slope = replaced(~usable, (xhat, slope), steepest_descent, many=sums is not None)
    d = xhat - x
    largest = largest_feasible_step(x, d, box)
    return Direction(xhat, slope, dot(d, d), largest, stored & ~usable, sums)


def _newton_point(
    x: Vector, g: Vector, pairs: Memory, sums: Sums | None, is_new: Boolean
) -> tuple[Vector, Sums | None]:
    """``x - inv(B) g``: where nothing is bounded, the original starts from x as well."""
    if sums is None:
        return x - inverse_times(pairs, g), None
    with_g = dot(pairs.pairs, g)
    sums = sums_of(pairs, g, WithGradient(with_g, dot(g, g)), None, sums, is_new)
    return x - compact_inverse_times(pairs, sums.products, g, with_g), sums


def _newton_where_all_are_free(
    x: Vector, g: Vector, box: Box, pairs: Memory, constrained: Boolean
) -> tuple[Vector, Scalar]:
    """Where no bound is met on the way to the Cauchy point, the subspace is all of space.

    The model is least at the Newton point then: two products with each pair, and no system of
    the free variables to be made and factorised.  Lanes in step would do both.
    """
    nothing, none = jnp.zeros_like(x), jnp.zeros_like(x[0])

    def from_cauchy_point() -> tuple[Vector, Vector, Scalar, Boolean]:
        B = model(pairs)
        cauchy = generalized_cauchy_point(x, g, box, B)
        free = total(cauchy.free.astype(jnp.int32))
        all_free, some_free = free == len(x), (free > 0) & (free < len(x))
        step = lax.cond(some_free, lambda: subspace_step(x, g, B, cauchy), lambda: nothing)
        return cauchy.xc, step, cauchy.fall, all_free

    xc, step, fall, is_newton = lax.cond(
        constrained & (pairs.count > 0),
        from_cauchy_point,
        lambda: (x, nothing, none, jnp.ones_like(constrained)),
    )
    step = lax.cond(is_newton, lambda: (x - xc) - inverse_times(pairs, g), lambda: step)
    return into_the_box(x, g, box, xc, step, fall, many=False)


def _in_the_box(
    x: Vector, g: Vector, box: Box, pairs: Memory, constrained: Boolean
) -> tuple[Vector, Scalar]:
    """By the system of the free variables, however many they are: one way for all lanes."""

    def constrained_step() -> tuple[Vector, Scalar]:
        B = model(pairs)
        return subspace_minimizer(x, g, box, B, generalized_cauchy_point(x, g, box, B))

    def newton_step() -> tuple[Vector, Scalar]:
        xhat = x - inverse_times(pairs, g)
        return xhat, dot(g, xhat - x)

    # Many lanes in one box all take the same one of the outer branches.
    return lax.cond(
        constrained,
        lambda: lax.cond(pairs.count > 0, constrained_step, lambda: (x, jnp.zeros_like(x[0]))),
        newton_step,
    )


def _with_sums(
    x: Vector, g: Vector, box: Box, pairs: Memory, sums: Sums, is_new: Boolean
) -> tuple[Vector, Scalar, Sums]:
    """The same in many variables, where what was summed before is carried on."""

    def step() -> tuple[Vector, Scalar, Sums]:
        B = model(pairs)
        assert isinstance(B, Compact)
        cauchy = generalized_cauchy_point(x, g, box, B)
        gradient = B.with_gradient(cauchy.p, cauchy.square)
        summed = sums_of(pairs, g, gradient, cauchy.free, sums, is_new)
        return *subspace_minimizer(x, g, box, B, cauchy, summed), summed

    nothing = jnp.zeros_like(x[0])
    xhat, slope, summed = lax.cond(pairs.count > 0, step, lambda: (x, nothing, sums))
    # With nothing stored there is nothing to know.  Said out here: in a branch a constant is a
    # kernel more.
    return xhat, slope, summed._replace(known=jnp.ones_like(is_new))
