"""Algebra of matrices of a few rows, as loops that a compiler keeps inside one kernel.

LAPACK and the library products of XLA are calls, and a call can't stand inside a kernel
(see `kernel.py`).  For some 20 rows a loop over them is as fast.  On an accelerator,
where a call costs many launches, the loops are unrolled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.types import AnyMatrix, Coefficients, SquareMatrix
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import at, put
from jaxlbfgsb.xla.kernel import UNROLLED
from jaxlbfgsb.xla.platform import by_platform
from jaxlbfgsb.xla.products import dot

_Out = TypeVar("_Out")
_Rows: TypeAlias = tuple[jax.Array, jax.Array]
"""Rows of a matrix after elimination, and the inverses of their pivots."""


def solve(A: SquareMatrix, b: Coefficients, negative: int = 0) -> Coefficients:
    """``inv(A) b`` for a symmetric A whose pivots are negative in the first `negative` places and
    positive after them; NaN for any other, and where the inverse of one is no number.

    So are those where that block on the diagonal is negative definite, and the other one, or its
    Schur complement, positive definite.
    """
    return _for_platform(functools.partial(_solve, negative=negative))(A, b)


def eliminated(A: SquareMatrix, B: AnyMatrix, above: _Rows | None = None) -> _Rows:
    """The rows to which elimination without pivoting brings B, and the inverses of the pivots.

    With ``A = L D L'`` these are ``inv(L) B``, and ``inv(D)``, NaN where D is not positive or its
    inverse no number.  `above` are rows of a larger ``[A, B]`` that came first, with the inverses
    of their pivots.
    """
    eliminate = functools.partial(_eliminated, above=above)
    rows, inverses = _for_platform(eliminate)(jnp.concatenate([A, B], axis=1))
    return rows[:, len(A) :], inverses


def solve_lower(C: SquareMatrix, B: AnyMatrix) -> AnyMatrix:
    """``inv(C) B`` for a lower triangular C."""
    return _for_platform(_substitute)(C, B)


def solve_lower_transposed(C: SquareMatrix, B: AnyMatrix) -> AnyMatrix:
    """``inv(C') B`` for a lower triangular C."""
    return _for_platform(_substitute_back)(C, B)


def _for_platform(algorithm: Callable[..., _Out]) -> Callable[..., _Out]:
    unrolled = functools.partial(algorithm, unroll=UNROLLED)
    return functools.partial(by_platform, cpu=algorithm, default=unrolled)


def _eliminated(
    M: AnyMatrix, negative: int = 0, above: _Rows | None = None, unroll: int | None = None
) -> _Rows:
    """Row after row of M, less its combination of the rows before it.

    Below the diagonal rounding leaves what should be zero.
    """
    n = len(M)
    start = jnp.zeros_like(M), jnp.zeros_like(M[:, 0])
    if above is not None:
        start = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), above, start)
    first = len(start[0]) - n

    def eliminate(j: jax.Array, carry: _Rows) -> _Rows:
        rows, inverses = carry
        row = at(M, j) - dot(at(rows, j, axis=1) * inverses, rows)
        if unroll is None:
            row = lax.optimization_barrier(row)  # else XLA computes it twice, number by number
        inverse = 1 / at(row, j)
        # Of a pivot that is too large it is zero, of one that is too small it is infinite.
        is_good = (where(j < negative, -inverse, inverse) > 0) & jnp.isfinite(inverse)
        inverse = where(is_good, inverse, jnp.nan)
        return put(rows, row, first + j), put(inverses, inverse, first + j)

    rows, inverses = lax.fori_loop(0, n, eliminate, start, unroll=unroll)
    return rows[first:], inverses[first:]


def _solve(
    A: SquareMatrix, b: Coefficients, negative: int = 0, unroll: int | None = None
) -> Coefficients:
    n = len(A)
    M = jnp.concatenate([A, b[:, None]], axis=1)
    rows, inverses = _eliminated(M, negative, unroll=unroll)

    # What stands before the pivot in a row meets zeros.
    def substitute(k: jax.Array, x: Coefficients) -> Coefficients:
        j = n - 1 - k
        row = at(rows, j)
        return put(x, at(inverses, j) * (row[n] - dot(row[:n], x)), j)

    return lax.fori_loop(0, n, substitute, jnp.zeros_like(b), unroll=unroll)


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
