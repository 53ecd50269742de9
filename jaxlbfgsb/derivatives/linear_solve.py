"""Symmetric linear systems in the free variables, differentiable in both modes.

Notation: ``H`` the Hessian, given as a product; ``F`` the free set; ``H_FF`` the rows and
columns of F.  Vectors keep their length n, with zeros outside of F: shapes never depend
on how many variables are free.

Few variables: a dense Cholesky factorisation and one step of refinement, so that the
relative residual is of the order of eps.  Where H_FF is singular to rounding or not
positive definite: the pseudo-inverse, in which eigenvalues below ``n eps`` times the largest
count as zero.

Many variables: conjugate residuals with Hessian-vector products and O(n) memory, to a residual
of `tolerance` times the right-hand side; on a singular H_FF the pseudo-inverse, to the
same tolerance.  Reverse mode needs that: its right-hand sides may well have no solution.
Not preconditioned: the limited-memory estimate of a solver saves few iterations
and makes each of them slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.types import Mask, Scalar, Vector
from jaxlbfgsb.xla.products import dot
from jaxlbfgsb.xla.varying import vary_over, varying_axes

DENSE = 256
"""The largest n that 'auto' solves densely."""
MOST_ITERATIONS = 10_000
"""Of conjugate residuals; at most 10 n in small problems."""

Product = Callable[[Vector], Vector]


def tolerance(dtype: np.dtype) -> float:
    """Relative residual at which conjugate residuals stop: 1e-10 in float64, 1e-5 in float32."""
    return 1e-10 if np.finfo(dtype).eps < 1e-12 else 1e-5


def solve_symmetric(hessian: Product, b: Vector, free: Mask, solver: str) -> Vector:
    """``v`` with ``H_FF v_F = b_F`` and zeros elsewhere.

    Parameters
    ----------
    hessian
        ``v`` to ``H v``, linear, symmetric to rounding.
    b, free
        Right-hand side and free set.
    solver
        "dense", "iterative", or "auto": dense up to `DENSE` variables.
    """
    axes = varying_axes(b, free)

    def reduced(v: Vector) -> Vector:
        return jnp.where(free, hessian(jnp.where(free, v, 0)), 0)

    if solver == "dense" or (solver == "auto" and b.size <= DENSE):
        inverse = _pseudo_inverse(lax.stop_gradient(_dense(reduced, b)), free)

        def solve(matvec: Product, b: Vector) -> Vector:
            v = dot(inverse, b)
            return v + dot(inverse, b - matvec(v))
    else:

        def solve(matvec: Product, b: Vector) -> Vector:
            return conjugate_residuals(matvec, b)

    # Masked on both sides: in reverse mode what comes in is what went out.
    b = vary_over(axes, jnp.where(free, b, 0))
    return jnp.where(free, lax.custom_linear_solve(reduced, b, solve, symmetric=True), 0)


def _dense(product: Product, like: Vector) -> jax.Array:
    identity = vary_over(varying_axes(like), jnp.eye(like.size, dtype=like.dtype))
    H = jax.vmap(product)(identity)
    return (H + H.T) / 2


def _pseudo_inverse(H: jax.Array, free: Mask) -> jax.Array:
    """Of the free block, zero elsewhere; NaN for a matrix that is not finite."""
    inverse, regular = inverse_on(H, free)
    finite = jnp.all(jnp.isfinite(H))
    start = _Attempt(finite & ~regular, jnp.where(finite, inverse, jnp.nan))
    # A loop and not a branch: under vmap both branches would run, in every batch, and the
    # eigenvalues cost far more than the factorisation.
    return lax.while_loop(
        lambda attempt: attempt.failed,
        lambda attempt: _Attempt(jnp.zeros_like(attempt.failed), _by_eigenvalues(H)),
        start,
    ).inverse


def inverse_on(H: jax.Array, free: Mask) -> tuple[jax.Array, jax.Array]:
    """The inverse of the free block, zero elsewhere, and whether it is one.

    It is one where the block is positive definite and not singular to rounding.
    Cholesky works on H scaled to a unit diagonal: there a small pivot means dependence, not
    units in which a variable is small.
    """
    n, eps = H.shape[0], np.finfo(H.dtype).eps
    diagonal = jnp.diagonal(H)
    scale = jnp.where(free & (diagonal > 0), 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1)), 1)
    unit = H * scale[:, None] * scale[None, :] + jnp.diag((~free).astype(H.dtype))
    L = lax.linalg.cholesky(unit, symmetrize_input=False)
    regular = jnp.min(jnp.diagonal(L)) ** 2 > n * eps  # False with NaN
    half = lax.linalg.triangular_solve(L, jnp.diag(scale * free), left_side=True, lower=True)
    return dot(half.T, half), regular


class _Attempt(NamedTuple):
    failed: jax.Array
    inverse: jax.Array


def _by_eigenvalues(H: jax.Array) -> jax.Array:
    values, vectors = jnp.linalg.eigh(H, symmetrize_input=False)
    size = jnp.abs(values)
    counts = size > H.shape[0] * np.finfo(H.dtype).eps * jnp.max(size)
    inverses = jnp.where(counts, 1 / jnp.where(counts, values, 1), 0)
    return dot(vectors * inverses, vectors.T)


class _Iterate(NamedTuple):
    """Of conjugate residuals: ``v``, its residual ``r``, the direction ``p``."""

    k: jax.Array
    v: Vector
    r: Vector
    Hr: Vector
    p: Vector
    Hp: Vector
    norm: Scalar
    """Estimate of the norm of H from below, squared."""


def conjugate_residuals(product: Product, b: Vector) -> Vector:
    """``H v = b``, or the pseudo-inverse of H times b where H is singular, from products alone.

    Conjugate gradients in the variant that makes the residual least (Hestenes and Stiefel's
    conjugate residuals): on a singular H it tends to a least-squares solution, where
    ``H r = 0``.  As v is a polynomial in H times b, its part in the null space is then
    parallel to r, and taking it away leaves the solution of least norm.
    """
    limit = min(10 * b.size, MOST_ITERATIONS)
    small = tolerance(np.dtype(b.dtype)) ** 2
    bb = dot(b, b)

    def unsolved(i: _Iterate) -> jax.Array:
        return dot(i.r, i.r) > small * bb

    def goes_on(i: _Iterate) -> jax.Array:
        can_gain = dot(i.Hr, i.Hr) > small * i.norm * dot(i.r, i.r)
        return unsolved(i) & can_gain & (dot(i.Hp, i.Hp) > 0) & (i.k < limit)

    def step(i: _Iterate) -> _Iterate:
        HpHp, rHr = dot(i.Hp, i.Hp), dot(i.r, i.Hr)
        alpha = rHr / HpHp
        r = i.r - alpha * i.Hp
        Hr = product(r)
        beta = jnp.where(rHr == 0, 0, dot(r, Hr) / jnp.where(rHr == 0, 1, rHr))
        return _Iterate(
            k=i.k + 1,
            v=i.v + alpha * i.p,
            r=r,
            Hr=Hr,
            p=r + beta * i.p,
            Hp=Hr + beta * i.Hp,
            norm=jnp.maximum(i.norm, HpHp / dot(i.p, i.p)),
        )

    Hb = product(b)
    start = _Iterate(jnp.int32(0), jnp.zeros_like(b), b, Hb, b, Hb, jnp.zeros_like(bb))
    start = vary_over(varying_axes(b), start)
    end = lax.while_loop(goes_on, step, start)
    rr = dot(end.r, end.r)
    in_null_space = unsolved(end) & (end.k < limit)
    v = end.v - jnp.where(in_null_space, dot(end.v, end.r) / jnp.where(rr == 0, 1, rr), 0) * end.r
    return jnp.where(jnp.all(jnp.isfinite(Hb)), v, jnp.nan)
