"""A new search direction from ``(x, g, memory)`` alone (BLNZ sections 4 and 5): the heavy half."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.method.box import Box, infinity_norm, is_constrained, project
from jaxlbfgsb.method.cauchy import generalized_cauchy_point
from jaxlbfgsb.method.inverse import inverse_times
from jaxlbfgsb.method.memory import Memory, dot
from jaxlbfgsb.method.model import model
from jaxlbfgsb.method.subspace import subspace_minimizer
from jaxlbfgsb.types import Boolean, Vector
from jaxlbfgsb.xla.kernel import part_kernel


def new_direction(x: Vector, g: Vector, box: Box, pairs: Memory) -> tuple[Vector, Boolean]:
    """``xhat``, the end of the new search line, and whether the memory is forgotten.

    With nothing stored ``B = I``, and the Cauchy point is ``P(x - g)``.  The same step
    stands in, in the same call, where the factorisations break down or the direction is
    no descent.  A gradient whose square nearly overflows is scaled: its length means
    nothing.
    """
    limits = np.finfo(x.dtype)
    tame = dot(g, g) < limits.eps * limits.max
    steepest = project(x - g / jnp.where(tame, 1, infinity_norm(g)), box)

    stored = pairs.count > 0
    if box.is_everything:
        xhat = _newton_step(x, g, pairs)
    else:
        xhat = lax.cond(
            is_constrained(box) & stored,
            lambda: _constrained_step(x, g, box, pairs),
            lambda: _newton_step(x, g, pairs),
        )
    usable = (dot(g, xhat - x) < 0) & jnp.all(jnp.isfinite(xhat)) & jnp.any(xhat != x)
    return jnp.where(stored & usable, xhat, steepest), stored & ~usable


def _newton_step(x: Vector, g: Vector, pairs: Memory) -> Vector:
    """``x - inv(B) g``: where nothing is bounded, the original starts from x as well."""
    return x - part_kernel(inverse_times, *pairs.pairs.shape)(pairs, g)


def _constrained_step(x: Vector, g: Vector, box: Box, pairs: Memory) -> Vector:
    shape = pairs.pairs.shape
    B = part_kernel(model, *shape)(pairs)
    cauchy = part_kernel(generalized_cauchy_point, *shape)(x, g, box, B)
    xhat = part_kernel(subspace_minimizer, *shape)(x, g, box, B, cauchy)
    return jnp.where(jnp.any(cauchy.free), xhat, cauchy.xc)
