"""The limited-memory matrix ``B = theta I - W M W'`` (BLNZ section 3).

Notation: ``s = x_new - x``, ``y = g_new - g``, a pair; ``S, Y`` the stacks of the pairs
kept; ``theta = y'y / s'y``; ``W = [Y, theta S]`` (3.3); ``D`` the diagonal of ``S'Y``
(3.6); ``L`` its part below the diagonal (3.5); ``M`` the middle matrix (3.4).

Order.  Pairs live in a ring: the new pair takes the place of the oldest.  ``L`` is
"below the diagonal" *by age*: ``L_ij = s_i' y_j`` where pair i is newer than pair j.
All else is indifferent to a permutation of the pairs, so nothing is ever moved or
sorted: `is_newer` states the order once, and everything stays in ring order.

Empty places are masked in ``W`` and hold an identity in ``M``, so that shapes never
change.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.types import (
    Ages,
    Boolean,
    Coefficients,
    Integer,
    MiddleMatrix,
    PairRows,
    Scalar,
    SmallMatrix,
    Vector,
)


class Memory(NamedTuple):
    """Up to ``m`` correction pairs, with all their inner products."""

    pairs: PairRows
    """``[Y; S]``: m rows of y, then m rows of s, both in ring order."""
    products: MiddleMatrix
    """``[Y; S] [Y; S]'``, with ``s'y`` of each pair as the line search measured it."""
    theta: Scalar
    count: Integer  # type: ignore[assignment]
    """Pairs in use, at most m."""
    place: Integer
    """Where the next pair goes: the oldest one's place once the ring is full."""


class Compact(NamedTuple):
    """The factors of ``B = theta I - W M W'``."""

    pairs: PairRows
    scale: Coefficients
    """Turns ``[Y, S]`` into ``W = [Y, theta S]``; zero for empty places."""
    J: SmallMatrix
    """The Cholesky factor of ``theta S'S + L inv(D) L'``."""
    L_invD: SmallMatrix
    D: jax.Array
    """The diagonal, shape (m,)."""
    theta: Scalar


def empty(n: int, m: int, dtype: jnp.dtype) -> Memory:
    """A memory for m pairs of n variables with nothing stored: ``B = I``."""
    return Memory(
        pairs=jnp.zeros((2 * m, n), dtype),
        products=jnp.zeros((2 * m, 2 * m), dtype),
        theta=jnp.ones((), dtype),
        count=jnp.asarray(0, jnp.int32),
        place=jnp.asarray(0, jnp.int32),
    )


def forget(memory: Memory) -> Memory:
    """Back to ``B = I``; the rows stay where they are, unused."""
    return memory._replace(theta=jnp.ones_like(memory.theta), count=jnp.zeros_like(memory.count))


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product in the full precision of the dtype, on every backend."""
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def update(memory: Memory, s: Vector, y: Vector, sy: Scalar, store: Boolean) -> Memory:
    """Store the pair ``(s, y)`` with ``s'y = sy > 0`` where `store` is True.

    The rows are written in any case, the old ones again where nothing is stored: a
    branch would make XLA copy the whole history.
    """
    m = memory.pairs.shape[0] // 2
    place = memory.place
    old_y = lax.dynamic_index_in_dim(memory.pairs, place, keepdims=False)
    old_s = lax.dynamic_index_in_dim(memory.pairs, m + place, keepdims=False)
    pairs = memory.pairs
    pairs = lax.dynamic_update_index_in_dim(pairs, jnp.where(store, y, old_y), place, 0)
    pairs = lax.dynamic_update_index_in_dim(pairs, jnp.where(store, s, old_s), m + place, 0)

    with_y, with_s = dot(pairs, y), dot(pairs, s)
    rows = jnp.arange(2 * m)
    with_s = jnp.where(rows == place, sy, with_s)
    with_y = jnp.where(rows == m + place, sy, with_y)
    is_y, is_s = rows == place, rows == m + place
    products = jnp.where(is_y[:, None], with_y[None, :], memory.products)
    products = jnp.where(is_y[None, :], with_y[:, None], products)
    products = jnp.where(is_s[:, None], with_s[None, :], products)
    products = jnp.where(is_s[None, :], with_s[:, None], products)
    yy = jnp.sum(jnp.where(is_y, with_y, 0))

    return Memory(
        pairs=pairs,
        products=jnp.where(store, products, memory.products),
        theta=jnp.where(store, yy / jnp.where(store, sy, 1), memory.theta),
        count=jnp.where(store, jnp.minimum(memory.count + 1, m), memory.count),
        place=jnp.where(store, (place + 1) % m, place),
    )


def ages(place: Integer, m: int) -> Ages:
    """Of the pair in each place of the ring: 0 the newest, ``m - 1`` the oldest."""
    return (place - 1 - jnp.arange(m, dtype=jnp.int32)) % m


def compact(memory: Memory) -> Compact:
    """``theta``, ``W`` and the factors of ``M`` (3.3)-(3.4) of the pairs in use.

    ``M`` is the inverse of ``[[-D, L'], [L, theta S'S]]``.  With ``J J' = theta S'S +
    L inv(D) L'`` it is ``[L inv(D), I]' inv(J J') [L inv(D), I] - [[inv(D), 0], [0, 0]]``;
    it stays in this form, since the subtraction would lose digits where pairs are nearly
    parallel.  A factorisation that breaks down leaves NaN in ``J``.
    """
    m = memory.pairs.shape[0] // 2
    age = ages(memory.place, m)
    used = age < memory.count
    both_used = used[:, None] & used[None, :]
    is_newer = age[:, None] < age[None, :]
    identity = jnp.eye(m, dtype=memory.theta.dtype)

    sy = memory.products[m:, :m]
    ss = memory.products[m:, m:]
    D = jnp.where(used, jnp.diagonal(sy), 1)
    L_invD = jnp.where(both_used & is_newer, sy, 0) / D[None, :]
    T = jnp.where(both_used, memory.theta * ss, identity) + dot(L_invD * D[None, :], L_invD.T)
    J = lax.linalg.cholesky(T, symmetrize_input=False)
    scale = jnp.concatenate([used.astype(D.dtype), jnp.where(used, memory.theta, 0)])
    return Compact(pairs=memory.pairs, scale=scale, J=J, L_invD=L_invD, D=D, theta=memory.theta)


def M_times(B: Compact, c: jax.Array) -> jax.Array:
    """``M c`` for a vector of shape (k,) or the columns of a matrix (k, any)."""
    m = B.D.shape[0]
    columns = c[:, None] if c.ndim == 1 else c
    half = lax.linalg.triangular_solve(
        B.J, columns[m:] + dot(B.L_invD, columns[:m]), left_side=True, lower=True
    )
    lower = lax.linalg.triangular_solve(B.J, half, left_side=True, lower=True, transpose_a=True)
    upper = dot(B.L_invD.T, lower) - columns[:m] / B.D[:, None]
    return jnp.concatenate([upper, lower]).reshape(c.shape)


def W_transposed_times(B: Compact, v: Vector) -> Coefficients:
    """``W'v``: one pass over the history."""
    return B.scale * dot(B.pairs, v)


def W_times(B: Compact, c: Coefficients) -> Vector:
    """``W c``: one pass over the history."""
    return dot(B.scale * c, B.pairs)
