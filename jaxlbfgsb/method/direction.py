"""A new search direction (BLNZ sections 4 and 5): the heavy half.

It depends on ``(x, g, memory)`` alone; `sides` only saves it sums that it made before.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.method.box import Box, infinity_norm, project
from jaxlbfgsb.method.cauchy import generalized_cauchy_point
from jaxlbfgsb.method.inverse import inverse_times
from jaxlbfgsb.method.memory import Memory
from jaxlbfgsb.method.model import model
from jaxlbfgsb.method.reduced import Sides, sides_of
from jaxlbfgsb.method.subspace import into_the_box, subspace_minimizer, subspace_step
from jaxlbfgsb.types import Boolean, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.platform import by_platform
from jaxlbfgsb.xla.products import dot

ROWS_FOR_A_VARIABLE = 3
"""Of the history.  Where it has more, to factorise B takes no longer than to multiply with them."""


class Direction(NamedTuple):
    xhat: Vector
    """The end of the new search line."""
    forgets: Boolean
    """True if the memory is forgotten."""
    sides: Sides | None
    """The sums for the next one to carry on; None where there are none."""


def new_direction(
    x: Vector, g: Vector, box: Box, pairs: Memory, sides: Sides | None, constrained: Boolean
) -> Direction:
    """The direction, and for the next one what it summed over the free variables.

    `constrained` is True if the box bounds anything.

    With nothing stored ``B = I``, and the Cauchy point is ``P(x - g)``.  The same step
    stands in, in the same call, where the factorisations break down or the direction is
    no descent.  A gradient whose square nearly overflows is scaled: its length means
    nothing.
    """
    limits = np.finfo(x.dtype)
    tame = dot(g, g) < limits.eps * limits.max
    steepest = project(x - g / where(tame, 1, infinity_norm(g)), box)

    stored = pairs.count > 0
    if box.is_everything:
        xhat = _newton_point(x, g, pairs)
    elif sides is None and len(pairs.pairs) < ROWS_FOR_A_VARIABLE * len(x):
        xhat, sides = by_platform(
            *(x, g, box, pairs, constrained),
            cpu=_newton_where_all_are_free,
            default=functools.partial(_in_the_box, sides=None),
        )
    else:
        xhat, sides = _in_the_box(x, g, box, pairs, constrained, sides)
    d = xhat - x
    length = infinity_norm(d)
    usable = (dot(g, d) < 0) & jnp.isfinite(length) & (length > 0)
    return Direction(where(stored & usable, xhat, steepest), stored & ~usable, sides)


def _newton_point(x: Vector, g: Vector, pairs: Memory) -> Vector:
    """``x - inv(B) g``: where nothing is bounded, the original starts from x as well."""
    return x - inverse_times(pairs, g)


def _newton_where_all_are_free(
    x: Vector, g: Vector, box: Box, pairs: Memory, constrained: Boolean
) -> tuple[Vector, None]:
    """Where no bound is met on the way to the Cauchy point, the subspace is all of space.

    The model is least at the Newton point then: two products with each pair, and no system of
    the free variables to be made and factorised.  Lanes in step would do both.
    """
    nothing = jnp.zeros_like(x)

    def from_cauchy_point() -> tuple[Vector, Vector, Boolean]:
        B = model(pairs)
        cauchy = generalized_cauchy_point(x, g, box, B)
        all_free = jnp.all(cauchy.free)
        some_free = jnp.any(cauchy.free) & ~all_free
        step = lax.cond(some_free, lambda: subspace_step(x, g, B, cauchy), lambda: nothing)
        return cauchy.xc, step, all_free

    xc, step, is_newton = lax.cond(
        constrained & (pairs.count > 0),
        from_cauchy_point,
        lambda: (x, nothing, jnp.ones_like(constrained)),
    )
    step = lax.cond(is_newton, lambda: (x - xc) - inverse_times(pairs, g), lambda: step)
    return into_the_box(x, g, box, xc, step), None


def _in_the_box(
    x: Vector, g: Vector, box: Box, pairs: Memory, constrained: Boolean, sides: Sides | None
) -> tuple[Vector, Sides | None]:
    """By the system of the free variables, however many they are: one way for all lanes."""
    stored = pairs.count > 0
    # Many lanes in one box all take the same one of the outer branches.
    xhat, sides = lax.cond(
        constrained,
        lambda: lax.cond(
            stored,
            lambda: _constrained_step(x, g, box, pairs, sides),
            lambda: (x, sides),
        ),
        lambda: (_newton_point(x, g, pairs), sides),
    )
    # A Newton step sums nothing.  Said out here: in a branch a constant is a kernel more.
    return xhat, sides and sides._replace(known=constrained & stored)


def _constrained_step(
    x: Vector, g: Vector, box: Box, pairs: Memory, sides: Sides | None
) -> tuple[Vector, Sides | None]:
    B = model(pairs)
    cauchy = generalized_cauchy_point(x, g, box, B)
    if sides is not None:
        sides = sides_of(pairs, cauchy.free, sides)
    xhat = subspace_minimizer(x, g, box, B, cauchy, sides)
    return where(jnp.any(cauchy.free), xhat, cauchy.xc), sides
