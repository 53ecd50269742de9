"""A new search direction from ``(x, g, memory)`` alone (BLNZ sections 4 and 5): the heavy half."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.box import Box, infinity_norm, is_constrained, project
from jaxlbfgsb.cauchy import CauchyPoint, generalized_cauchy_point
from jaxlbfgsb.memory import Memory, compact, dot
from jaxlbfgsb.subspace import subspace_minimizer
from jaxlbfgsb.types import Boolean, Vector


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

    B = compact(pairs)
    stored = pairs.count > 0
    if box.is_everything:
        free = jnp.ones(x.shape, bool)
        cauchy = CauchyPoint(xc=x, c=jnp.zeros_like(B.scale), free=free)
    else:
        cauchy = generalized_cauchy_point(x, g, box, B)
        # Traced bounds that are all infinite: the original starts from x, as above.
        constrained = is_constrained(box)
        cauchy = CauchyPoint(
            xc=jnp.where(constrained, cauchy.xc, x),
            c=jnp.where(constrained, cauchy.c, 0),
            free=cauchy.free | ~constrained,
        )
    xhat = subspace_minimizer(x, g, box, pairs, B, cauchy)
    xhat = jnp.where(jnp.any(cauchy.free), xhat, cauchy.xc)
    usable = (dot(g, xhat - x) < 0) & jnp.all(jnp.isfinite(xhat)) & jnp.any(xhat != x)
    return jnp.where(stored & usable, xhat, steepest), stored & ~usable
