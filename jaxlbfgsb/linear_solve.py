"""Symmetric linear systems in the free variables, differentiable in both modes.

Notation: ``H`` the Hessian, given as a product; ``F`` the free set; ``H_FF`` the rows and
columns of F.  Vectors keep their length n, with zeros outside of F: shapes never depend
on how many variables are free.

Few variables: a dense Cholesky factorisation and one step of refinement, so that the
relative residual is of the order of eps.  Where H_FF is singular to rounding or not
positive definite: the pseudo-inverse, in which eigenvalues below ``n eps`` times the largest
count as zero.

Many variables: conjugate gradients to a residual of `TOLERANCE` times the right-hand side,
with O(n) memory.  From zero, on a singular system that has a solution, they too end at the
one of least norm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.types import Mask, Scalar, Vector
from jaxlbfgsb.varying import vary_over, varying_axes

DENSE = 256
"""The largest n that 'auto' solves densely."""
MOST_ITERATIONS = 10_000
"""Of conjugate gradients; at most 10 n in small problems."""

Product = Callable[[Vector], Vector]


def tolerance(dtype: np.dtype) -> float:
    """Relative residual at which conjugate gradients stop: 1e-10 in float64, 1e-5 in float32."""
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
        "dense", "cg", or "auto": dense up to `DENSE` variables.
    """
    axes = varying_axes(b, free)

    def reduced(v: Vector) -> Vector:
        return jnp.where(free, hessian(jnp.where(free, v, 0)), 0)

    if solver == "dense" or (solver == "auto" and b.size <= DENSE):
        inverse = _pseudo_inverse(lax.stop_gradient(_dense(reduced, b)), free)

        def solve(matvec: Product, b: Vector) -> Vector:
            v = _times(inverse, b)
            return v + _times(inverse, b - matvec(v))
    else:

        def solve(matvec: Product, b: Vector) -> Vector:
            return conjugate_gradients(matvec, b)

    # Masked on both sides: in reverse mode what comes in is what went out.
    b = vary_over(axes, jnp.where(free, b, 0))
    return jnp.where(free, lax.custom_linear_solve(reduced, b, solve, symmetric=True), 0)


def _dense(product: Product, like: Vector) -> jax.Array:
    identity = vary_over(varying_axes(like), jnp.eye(like.size, dtype=like.dtype))
    H = jax.vmap(product)(identity)
    return (H + H.T) / 2


def _times(matrix: jax.Array, v: Vector) -> Vector:
    return jnp.dot(matrix, v, precision=lax.Precision.HIGHEST)


def _pseudo_inverse(H: jax.Array, free: Mask) -> jax.Array:
    """Of the free block, zero elsewhere; NaN for a matrix that is not finite.

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
    inverse = jnp.dot(half.T, half, precision=lax.Precision.HIGHEST)

    finite = jnp.all(jnp.isfinite(H))
    start = _Attempt(finite & ~regular, jnp.where(finite, inverse, jnp.nan))
    # A loop and not a branch: under vmap both branches would run, in every batch, and the
    # eigenvalues cost far more than the factorisation.
    return lax.while_loop(
        lambda attempt: attempt.failed,
        lambda attempt: _Attempt(jnp.zeros_like(attempt.failed), _by_eigenvalues(H)),
        start,
    ).inverse


class _Attempt(NamedTuple):
    failed: jax.Array
    inverse: jax.Array


def _by_eigenvalues(H: jax.Array) -> jax.Array:
    values, vectors = jnp.linalg.eigh(H, symmetrize_input=False)
    size = jnp.abs(values)
    counts = size > H.shape[0] * np.finfo(H.dtype).eps * jnp.max(size)
    inverses = jnp.where(counts, 1 / jnp.where(counts, values, 1), 0)
    return jnp.dot(vectors * inverses, vectors.T, precision=lax.Precision.HIGHEST)


class _Iterate(NamedTuple):
    k: jax.Array
    v: Vector
    r: Vector
    p: Vector
    rr: Scalar
    best: Vector
    best_rr: Scalar
    curved: jax.Array
    """False once a direction had no curvature: nothing more can be gained."""


def conjugate_gradients(product: Product, b: Vector) -> Vector:
    """The ``v`` of smallest residual ``b - H v`` that conjugate gradients from zero come by."""
    dot = functools.partial(jnp.vdot, precision=lax.Precision.HIGHEST)
    limit = min(10 * b.size, MOST_ITERATIONS)
    enough = tolerance(np.dtype(b.dtype)) ** 2 * dot(b, b)

    def goes_on(i: _Iterate) -> jax.Array:
        return (i.rr > enough) & (i.k < limit) & i.curved

    def step(i: _Iterate) -> _Iterate:
        q = product(i.p)
        pq = dot(i.p, q)
        curved = (pq != 0) & jnp.isfinite(pq)
        alpha = jnp.where(curved, i.rr / jnp.where(curved, pq, 1), 0)
        v, r = i.v + alpha * i.p, i.r - alpha * q
        rr = dot(r, r)
        better = rr < i.best_rr
        return _Iterate(
            k=i.k + 1,
            v=v,
            r=r,
            p=r + rr / i.rr * i.p,
            rr=rr,
            best=jnp.where(better, v, i.best),
            best_rr=jnp.where(better, rr, i.best_rr),
            curved=curved,
        )

    bb = dot(b, b)
    zero = jnp.zeros_like(b)
    start = _Iterate(jnp.int32(0), zero, b, b, bb, zero, bb, jnp.asarray(True))
    start = vary_over(varying_axes(b), start)
    best = lax.while_loop(goes_on, step, start).best
    return jnp.where(jnp.isfinite(bb), best, jnp.nan)
