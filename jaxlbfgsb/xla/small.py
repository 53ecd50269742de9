"""Algebra of matrices of a few rows, as loops that a compiler keeps inside one kernel.

LAPACK and the library products of XLA are calls, and a call can't stand inside a kernel
(see `kernel.py`).  For some 20 rows a loop over the columns is as fast.  On an accelerator,
where a call costs many launches, the loops are unrolled.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.types import AnyMatrix, SquareMatrix
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import at, part, put
from jaxlbfgsb.xla.kernel import UNROLLED
from jaxlbfgsb.xla.platform import by_platform
from jaxlbfgsb.xla.products import dot

_Out = TypeVar("_Out")

MANY_TERMS = 32
"""From so many on a few terms are added at once."""
FEW_TERMS = 4
"""So many: to load and store the sum takes as long as to multiply."""


def product(A: AnyMatrix, B: AnyMatrix) -> AnyMatrix:
    """``A B`` in the full precision of the dtype."""
    return by_platform(A, B, cpu=_product_by_terms, default=dot)


def cholesky(A: SquareMatrix, B: AnyMatrix) -> tuple[SquareMatrix, AnyMatrix]:
    """The upper triangular R with ``R'R = A``, and ``inv(R') B``.

    NaN where A is not positive definite.
    """
    return _for_platform(_cholesky_by_rows)(A, B)


def solve_upper(R: SquareMatrix, B: AnyMatrix) -> AnyMatrix:
    """``inv(R) B`` for an upper triangular R."""
    return solve_lower_transposed(R.T, B)


def solve_lower(C: SquareMatrix, B: AnyMatrix) -> AnyMatrix:
    """``inv(C) B`` for a lower triangular C."""
    return _for_platform(_substitute)(C, B)


def solve_lower_transposed(C: SquareMatrix, B: AnyMatrix) -> AnyMatrix:
    """``inv(C') B`` for a lower triangular C."""
    return _for_platform(_substitute_back)(C, B)


def _for_platform(algorithm: Callable[..., _Out]) -> Callable[[jax.Array, jax.Array], _Out]:
    unrolled = functools.partial(algorithm, unroll=UNROLLED)
    return functools.partial(by_platform, cpu=algorithm, default=unrolled)


def _product_by_terms(A: jax.Array, B: jax.Array) -> jax.Array:
    """The sum of the outer products of the columns of A and the rows of B, a few at a time."""
    n = A.shape[1]
    few = FEW_TERMS if n >= MANY_TERMS else 1
    rest = (n - 1) % few + 1

    def terms(start: jax.Array | int, count: int) -> jax.Array:
        columns = part(A, start, count, axis=1)
        rows = part(B, start, count)
        return functools.reduce(
            operator.add, (columns[:, k, None] * rows[k, None, :] for k in range(count))
        )

    def add(k: jax.Array, total: jax.Array) -> jax.Array:
        return total + terms(rest + few * k, few)

    return lax.fori_loop(0, (n - rest) // few, add, terms(0, rest))


def _cholesky_by_rows(
    A: jax.Array, B: jax.Array, unroll: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Row after row of ``[R, inv(R') B]``: one product with the rows before it for each."""
    n = A.shape[0]
    M = jnp.concatenate([A, B], axis=1)
    index = jnp.arange(M.shape[1])

    def eliminate(j: jax.Array, R: jax.Array) -> jax.Array:
        row = at(M, j) - dot(at(R, j, axis=1), R)
        row = where(index >= j, row / jnp.sqrt(at(row, j)), 0)
        return put(R, row, j)

    R = lax.fori_loop(0, n, eliminate, jnp.zeros_like(M), unroll=unroll)
    return R[:, :n], R[:, n:]


def _substitute(C: jax.Array, B: jax.Array, unroll: int | None = None) -> jax.Array:
    index = jnp.arange(C.shape[0])

    def eliminate(j: jax.Array, X: jax.Array) -> jax.Array:
        column = at(C, j, axis=1)
        x = at(X, j) / at(column, j)
        X = X - where(index > j, column, 0)[:, None] * x[None, :]
        return put(X, x, j)

    return lax.fori_loop(0, C.shape[0], eliminate, B, unroll=unroll)


def _substitute_back(C: jax.Array, B: jax.Array, unroll: int | None = None) -> jax.Array:
    last = C.shape[0] - 1
    index = jnp.arange(C.shape[0])

    def eliminate(k: jax.Array, X: jax.Array) -> jax.Array:
        j = last - k
        row = at(C, j)
        x = at(X, j) / at(row, j)
        X = X - where(index < j, row, 0)[:, None] * x[None, :]
        return put(X, x, j)

    return lax.fori_loop(0, C.shape[0], eliminate, B, unroll=unroll)
