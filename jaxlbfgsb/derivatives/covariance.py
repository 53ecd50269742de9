"""The covariance of fitted parameters: the inverse Hessian on the variables that are free.

Notation: ``H`` the Hessian at the solution, ``P`` an estimate of its inverse on all variables;
``F`` the free variables, ``A`` those on a bound.  Wanted is ``(H_FF)^-1``, with zeros in the
rows and columns of A.  That is not the block of the inverse: from ``P`` it is

    P_FF - P_FA (P_AA)^-1 P_AF
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlbfgsb.derivatives.linear_solve import inverse_on
from jaxlbfgsb.method.inverse import InverseHessian
from jaxlbfgsb.types import Mask, Vector
from jaxlbfgsb.xla.products import dot


def inverse_of_hessian(gradient: Callable[[Vector], Vector], x: Vector, free: Mask) -> jax.Array:
    """``(H_FF)^-1`` with zeros elsewhere; NaN where H_FF is not positive definite."""
    return _of_free_block(jax.jacfwd(gradient)(x), free)


@jax.jit
def _of_free_block(H: jax.Array, free: Mask) -> jax.Array:
    inverse, regular = _inverse_on((H + H.T) / 2, free)
    return jnp.where(_both(free), jnp.where(regular, inverse, jnp.nan), 0)


@jax.jit
def inverse_by_pairs(hess_inv: InverseHessian, free: Mask) -> jax.Array:
    """The same from the pairs that the solver kept."""
    P = hess_inv.todense()
    on_bounds, _ = _inverse_on(P, ~free)
    schur = P - dot(P, dot(on_bounds, P))
    return jnp.where(_both(free), (schur + schur.T) / 2, 0)


def _inverse_on(H: jax.Array, members: Mask) -> tuple[jax.Array, jax.Array]:
    return inverse_on(jnp.where(_both(members), H, 0), members)


def _both(free: Mask) -> jax.Array:
    return free[:, None] & free[None, :]
