"""Subspace minimisation: the direct primal method (BLNZ section 5.1) with the
projection of Morales and Nocedal (2011).

Notation: ``xc`` Cauchy point; ``F`` the variables free there, ``A`` the others;
``Z`` the columns of the identity in F; ``r = -Z'(g + theta (xc - x) - W M c)`` minus
the reduced gradient (5.4); ``K`` the matrix of (5.9)-(5.11).

The inverse of the reduced matrix ``theta I - Z'W M W'Z`` is, by Sherman, Morrison and
Woodbury, ``I / theta + Z'W inv(K) W'Z / theta^2`` with

    ``K = inv(M) - W'ZZ'W / theta = [[-D - Y'ZZ'Y / theta, L_a' - R_z'],
                                     [L_a - R_z,           theta S'AA'S]]``

where ``L_a`` is the part of ``S'AA'Y`` below the diagonal by age and ``R_z`` the rest of
``S'ZZ'Y``.  ``-D - ...`` is negative definite and its Schur complement positive
definite: two Cholesky factorisations, which fail (NaN) where ``B`` lost definiteness.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.box import Box, project
from jaxlbfgsb.cauchy import CauchyPoint
from jaxlbfgsb.memory import Compact, M_times, Memory, W_times, W_transposed_times, ages, dot
from jaxlbfgsb.types import Coefficients, Mask, MiddleMatrix, PairRows, SmallMatrix, Vector

LEAST_SLOPE = 1e-3
"""The projected step must descend at least this fraction as fast as the Cauchy step.

L-BFGS-B 3.0 only asks that it does not ascend.  On a quadratic the line search then ends
where the gradient is orthogonal to the same projected step, which is taken again, and the
run stalls away from the solution: the bounded example of SciPy's documentation does.
"""


def subspace_minimizer(
    x: Vector, g: Vector, box: Box, memory: Memory, B: Compact, cauchy: CauchyPoint
) -> Vector:
    """``xhat``: where the model is least over the free variables, pulled into the box."""
    xc, c, free = cauchy
    r = jnp.where(free, W_times(B, M_times(B, c)) - B.theta * (xc - x) - g, 0)
    v = solve_K(memory, products_by_side(memory, free), W_transposed_times(B, r))
    step = jnp.where(free, (r + W_times(B, v) / B.theta) / B.theta, 0)
    return _into_the_box(x, g, box, xc, step)


def products_by_side(memory: Memory, free: Mask) -> MiddleMatrix:
    """``[Y'ZZ'Y, Y'ZZ'S; S'AA'Y, S'AA'S]``: y summed over the free, s over the active variables.

    These are the sums that K is made of; none is a difference of others, which would lose
    digits where one side dominates.  The densest pass of an iteration, left out where
    nothing is active.
    """
    m = memory.pairs.shape[0] // 2

    def measure(pairs: PairRows) -> MiddleMatrix:
        is_y = jnp.arange(2 * m)[:, None] < m
        return dot(jnp.where(is_y == free, pairs, 0), pairs.T)

    all_free = memory.products.at[m:].set(0)
    return lax.cond(jnp.all(free), lambda pairs: all_free, measure, memory.pairs)


def solve_K(memory: Memory, by_side: MiddleMatrix, v: Coefficients) -> Coefficients:
    """``inv(K) v`` given the inner products of `products_by_side`."""
    m = memory.pairs.shape[0] // 2
    age = ages(memory.place, m)
    used = age < memory.count
    both_used = used[:, None] & used[None, :]
    is_newer = age[:, None] < age[None, :]
    identity = jnp.eye(m, dtype=v.dtype)
    theta = memory.theta

    D = jnp.where(used, jnp.diagonal(memory.products[m:, :m]), 1)
    K11 = jnp.where(both_used, by_side[:m, :m] / theta, 0) + jnp.diag(D)  # its negative
    R_z = by_side[:m, m:].T
    K21 = jnp.where(both_used, jnp.where(is_newer, by_side[m:, :m], -R_z), 0)
    K22 = jnp.where(both_used, theta * by_side[m:, m:], identity)

    C1 = lax.linalg.cholesky(K11, symmetrize_input=False)
    E = lax.linalg.triangular_solve(
        C1, jnp.concatenate([K21.T, v[:m, None]], axis=1), left_side=True, lower=True
    )
    E, e = E[:, :m], E[:, m]
    C2 = lax.linalg.cholesky(K22 + dot(E.T, E), symmetrize_input=False)
    b = _cholesky_solve(C2, v[m:] + dot(E.T, e))
    a = lax.linalg.triangular_solve(
        C1, (dot(E, b) - e)[:, None], left_side=True, lower=True, transpose_a=True
    )[:, 0]
    return jnp.concatenate([a, b])


def _cholesky_solve(C: SmallMatrix, v: jax.Array) -> jax.Array:
    half = lax.linalg.triangular_solve(C, v[:, None], left_side=True, lower=True)
    return lax.linalg.triangular_solve(C, half, left_side=True, lower=True, transpose_a=True)[:, 0]


def _into_the_box(x: Vector, g: Vector, box: Box, xc: Vector, step: Vector) -> Vector:
    """The projection of 2011, and the truncation of 1995 where that gives too little descent."""
    if box.lower is None or box.upper is None:
        return xc + step
    projected = project(xc + step, box)
    least = LEAST_SLOPE * jnp.minimum(dot(g, xc - x), 0)
    ascends = dot(g, projected - x) > least

    to_bound = jnp.where(step < 0, box.lower - xc, box.upper - xc)
    alphas = jnp.where(step == 0, jnp.inf, to_bound / jnp.where(step == 0, 1, step))
    alpha = jnp.minimum(jnp.maximum(jnp.min(alphas), 0), 1)
    at_bound = (alphas <= alpha) & (alpha < 1)
    bound = jnp.where(step < 0, box.lower, box.upper)
    truncated = jnp.where(at_bound, bound, project(xc + alpha * step, box))
    return jnp.where(ascends, truncated, projected)
