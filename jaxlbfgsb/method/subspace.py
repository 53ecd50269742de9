"""Subspace minimisation: the direct primal method (BLNZ section 5.1) with the
projection of Morales and Nocedal (2011).

Notation: ``xc`` Cauchy point; ``F`` the variables free there; ``Z`` the columns of the
identity in F; ``r = -Z'(g + theta (xc - x) - W M c)`` minus the reduced gradient (5.4).
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxlbfgsb.method.box import Box, project
from jaxlbfgsb.method.cauchy import CauchyPoint
from jaxlbfgsb.method.model import Compact, Model
from jaxlbfgsb.method.sums import Sums
from jaxlbfgsb.types import Boolean, Scalar, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.kernel import replaced, unless
from jaxlbfgsb.xla.products import dot, least

LEAST_SLOPE = 1e-3
"""The projected step must descend at least this fraction as fast as the Cauchy step.

L-BFGS-B 3.0 only asks that it does not ascend.  On a quadratic the line search then ends
where the gradient is orthogonal to the same projected step, which is taken again, and the
run stalls away from the solution: the bounded example of SciPy's documentation does.
"""


def subspace_minimizer(
    x: Vector, g: Vector, box: Box, B: Model, cauchy: CauchyPoint, sums: Sums | None = None
) -> tuple[Vector, Scalar]:
    """``xhat``: where the model is least over the free variables, pulled into the box; and
    ``g'(xhat - x)``.

    `sums` for the compact form in many variables.
    """
    step = subspace_step(x, g, B, cauchy, sums)
    return into_the_box(x, g, box, cauchy.xc, step, cauchy.fall, many=sums is not None)


def subspace_step(
    x: Vector, g: Vector, B: Model, cauchy: CauchyPoint, sums: Sums | None = None
) -> Vector:
    """From ``xc`` to where the model is least over the free variables."""
    xc, c = cauchy.xc, cauchy.c
    if isinstance(B, Compact) and sums is not None:
        return B.solve_free_on_path(sums, g, cauchy.t, c, cauchy.p)
    r = B.W_times(B.M_times(c)) - B.theta * (xc - x) - g
    return B.solve_free(cauchy.free, r)


def into_the_box(
    x: Vector, g: Vector, box: Box, xc: Vector, step: Vector, fall: Scalar, *, many: bool
) -> tuple[Vector, Scalar]:
    """The projection of 2011, and the truncation of 1995 where that gives too little descent.

    Also ``g'(xhat - x)``.  `fall` is at least as large as ``g'(x - xc)``; `many` is True where the
    variables are many.
    """
    lower, upper = box.lower, box.upper
    assert lower is not None
    assert upper is not None
    projected = project(xc + step, box)
    slope = dot(g, projected - x)

    def descends() -> Boolean:
        return slope <= LEAST_SLOPE * jnp.minimum(dot(g, xc - x), 0)

    descends_enough = unless(slope <= -LEAST_SLOPE * fall, descends, many=many)

    def truncated() -> tuple[Vector, Scalar]:
        to_bound = where(step < 0, lower - xc, upper - xc)
        alphas = where(step == 0, jnp.inf, to_bound / where(step == 0, 1, step))
        alpha = jnp.minimum(jnp.maximum(least(alphas), 0), 1)
        at_bound = (alphas <= alpha) & (alpha < 1)
        bound = where(step < 0, lower, upper)
        xhat = where(at_bound, bound, project(xc + alpha * step, box))
        return xhat, dot(g, xhat - x)

    return replaced(~descends_enough, (projected, slope), truncated, many=many)
