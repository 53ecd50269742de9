"""The system of the free variables: ``K`` of (5.9)-(5.11), from sums over the two sides.

Notation as in `model.py`; ``A`` the active variables.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxlbfgsb.method.memory import Memory
from jaxlbfgsb.method.sums import are_of_y, are_over_free, are_used
from jaxlbfgsb.types import Boolean, Coefficients, MiddleMatrix, Scalar
from jaxlbfgsb.xla import small
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.products import all_hold, dot

LEAST_SHARE = 0.1
"""Of the free variables in the square of a pair, for a difference that keeps its digits."""


def restricted_products(
    whole: MiddleMatrix,
    by_side: MiddleMatrix,
    P: jax.Array,
    scale: Coefficients,
    invD: Coefficients,
    c: Coefficients,
    p: Coefficients,
    along: Scalar,
    ring: Memory,
) -> tuple[Coefficients, Coefficients, Boolean]:
    """``M c``, ``W'ZZ'W M c - along p``, and whether the second has all its digits.

    What is known over the active variables is taken from the whole; that has lost digits
    where the free variables have a small share in a pair.

    Parameters
    ----------
    whole, by_side
        The products of the memory, and `Sums.products`.
    ring
        The memory, of which neither pairs nor products are read.
    """
    Mc = dot(dot(P, c), P) - invD * c
    used = are_used(ring)
    free = where(are_over_free(ring), by_side, whole - by_side)
    free = where(used[:, None] & used[None, :], free, 0)
    share = jnp.diagonal(free) >= LEAST_SHARE * jnp.diagonal(whole)
    is_accurate = all_hold(share | ~used)
    return Mc, scale * dot(free, scale * Mc) - along * p, is_accurate


def solve_K(
    whole: MiddleMatrix, by_side: MiddleMatrix, v: Coefficients, ring: Memory
) -> Coefficients:
    """``inv(K) v`` given the products of the memory, and `Sums.products`.

    ``K = inv(M) - W'ZZ'W / theta = [[-D - Y'ZZ'Y / theta, L_a' - R_z'],
    [L_a - R_z, theta S'AA'S]]``, where ``L_a`` is the part of ``S'AA'Y`` below the diagonal
    by age and ``R_z`` the rest of ``S'ZZ'Y``.  ``-D - ...`` is negative definite and its
    Schur complement positive definite: one factorisation, which fails (NaN) where ``B`` lost
    definiteness.
    """
    m = ring.pairs.shape[0] // 2
    used, is_y = are_used(ring), are_of_y(ring)
    identity = jnp.eye(2 * m, dtype=v.dtype)
    theta = ring.theta

    signed = where(are_over_free(ring), -by_side, by_side)
    weights = where(
        is_y[:, None], where(is_y[None, :], 1 / theta, 1), where(is_y[None, :], 1, theta)
    )
    D = jnp.pad(where(identity[:m, :m] == 1, whole[m:, :m], 0), (0, m))
    unused = where(is_y, -identity, identity)
    K = where(used[:, None] & used[None, :], weights * signed - D, unused)
    return small.solve(K, v, negative=m)
