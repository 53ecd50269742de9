"""The matrix ``B`` of the quadratic model, in two forms (BLNZ section 3).

``B = theta I - W M W'`` (3.2) with ``W = [Y, theta S]`` (3.3) is the compact form: cheap
in many variables.  In few variables ``B`` itself is cheaper; it is written in the same
letters, with ``theta = 0``, ``W = I`` and ``M = -B``, so that the algorithms are the same
for both.  Each form also solves the system of the free variables in its own way.

Both forms offer: ``theta``; ``scaling``, which is ``y'y / s'y`` of the newest pair;
``W_transposed_times``, ``W_times`` and ``M_times`` (a vector, or the columns of a matrix);
``row(b)``, which is ``w_b``, row b of ``W``, and ``rows(b)``, several of them as columns;
``solve_free(free, r)``, which is ``Z inv(Z'BZ) Z'r``, NaN where the reduced matrix is not
positive definite.

Notation: ``D`` the diagonal of ``S'Y`` (3.6); ``L`` its part below the diagonal by age
(3.5); ``M`` the middle matrix (3.4); ``F`` the free variables, ``A`` the others; ``Z``
the columns of the identity in F; ``K`` the matrix of (5.9)-(5.11).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb import small
from jaxlbfgsb.kernel import FEW_VARIABLES, kernel_within
from jaxlbfgsb.memory import Memory, ages, dot
from jaxlbfgsb.types import (
    Boolean,
    Coefficients,
    Integer,
    Mask,
    MiddleMatrix,
    PairRows,
    Scalar,
    SquareMatrix,
    Vector,
)

BLOCK = 2048
"""Variables at a time in the densest pass: so many stay in a cache."""
LEAST_SHARE = 0.1
"""Of the free variables in the square of a pair, for a difference that keeps its digits."""


class Dense(NamedTuple):
    """``B`` itself."""

    matrix: SquareMatrix
    scaling: Scalar

    @property
    def theta(self) -> float:
        return 0.0

    def W_transposed_times(self, v: Vector) -> Vector:
        return v

    def W_times(self, c: Vector) -> Vector:
        return c

    def M_times(self, c: jax.Array) -> jax.Array:
        return -dot(self.matrix, c)

    def row(self, b: Integer) -> Vector:
        n = self.matrix.shape[0]
        return (jnp.arange(n) == b).astype(self.matrix.dtype)

    def rows(self, b: jax.Array) -> jax.Array:
        n = self.matrix.shape[0]
        return (jnp.arange(n)[:, None] == b[None, :]).astype(self.matrix.dtype)

    def solve_free(self, free: Mask, r: Vector) -> Vector:
        n = self.matrix.shape[0]
        both = free[:, None] & free[None, :]
        C = small.cholesky(jnp.where(both, self.matrix, jnp.eye(n, dtype=r.dtype)))
        half = small.solve_lower(C, jnp.where(free, r, 0)[:, None])
        return small.solve_lower_transposed(C, half)[:, 0]


def dense(memory: Memory) -> Dense:
    """One BFGS update of ``theta I`` for each pair, oldest first."""
    m, n = memory.pairs.shape[0] // 2, memory.pairs.shape[1]

    def update(age: Integer, B: SquareMatrix) -> SquareMatrix:
        place = (memory.place - memory.count + age) % m
        y = lax.dynamic_index_in_dim(memory.pairs, place, keepdims=False)
        s = lax.dynamic_index_in_dim(memory.pairs, m + place, keepdims=False)
        sy = lax.dynamic_slice(memory.products, (m + place, place), (1, 1))[0, 0]
        Bs = dot(B, s)
        sBs = dot(s, Bs)
        return B - Bs[:, None] * (Bs / sBs)[None, :] + y[:, None] * (y / sy)[None, :]

    B = memory.theta * jnp.eye(n, dtype=memory.theta.dtype)
    return Dense(lax.fori_loop(0, memory.count, update, B), memory.theta)


class Compact(NamedTuple):
    """The compact form.

    ``M`` is the inverse of ``[[-D, L'], [L, theta S'S]]``.  With ``J J' = theta S'S +
    L inv(D) L'`` and ``P = inv(J) [L inv(D), I]`` it is ``P'P - [[inv(D), 0], [0, 0]]``;
    it stays in this form, since the subtraction would lose digits where pairs are nearly
    parallel.
    """

    memory: Memory
    scale: Coefficients
    """Turns ``[Y, S]`` into ``W = [Y, theta S]``; zero for empty places."""
    P: jax.Array
    """Shape (m, 2m)."""
    invD: Coefficients
    """The diagonal of ``inv(D)``, then m zeros."""

    @property
    def theta(self) -> Scalar:
        return self.memory.theta

    @property
    def scaling(self) -> Scalar:
        return self.memory.theta

    def W_transposed_times(self, v: Vector) -> Coefficients:
        """One pass over the history."""
        return self.scale * dot(self.memory.pairs, v)

    def W_times(self, c: Coefficients) -> Vector:
        """One pass over the history."""
        return dot(self.scale * c, self.memory.pairs)

    def M_times(self, c: jax.Array) -> jax.Array:
        return dot(self.P.T, dot(self.P, c)) - (self.invD * c.T).T

    def row(self, b: Integer) -> Coefficients:
        return self.scale * lax.dynamic_index_in_dim(self.memory.pairs, b, axis=1, keepdims=False)

    def rows(self, b: jax.Array) -> jax.Array:
        return self.scale[:, None] * jnp.take(self.memory.pairs, b, axis=1)

    def solve_free(self, free: Mask, r: Vector) -> Vector:
        """By Sherman, Morrison and Woodbury (5.11).

        The inverse of ``theta I - Z'W M W'Z`` is ``I / theta + Z'W inv(K) W'Z / theta^2``.
        """
        r = jnp.where(free, r, 0)
        solve = kernel_within(solve_K, r.shape[0])
        by_side = products_by_side(self.memory, free)
        v = solve(_without_pairs(self.memory), by_side, self.W_transposed_times(r))
        return jnp.where(free, (r + self.W_times(v) / self.theta) / self.theta, 0)

    def solve_free_on_path(
        self, free: Mask, g: Vector, t: Scalar, c: Coefficients, p: Coefficients
    ) -> Vector:
        """`solve_free` for ``r = (theta t - 1) g + W M c`` where ``p = -W'ZZ'g``.

        That is minus the gradient of the model at ``x - t g`` in F.  Then
        ``W'ZZ'r = (1 - theta t) p + W'ZZ'W M c`` takes no pass over the history, and the
        two products with ``W`` in the solution are one.
        """
        n = g.shape[0]
        small_memory = _without_pairs(self.memory)
        by_side = products_by_side(self.memory, free)
        along = self.theta * t - 1
        estimate = kernel_within(_restricted_products, n)
        Mc, with_r, is_accurate = estimate(
            small_memory, self.scale, self.P, self.invD, by_side, c, along, p
        )

        def measure() -> Coefficients:
            return self.W_transposed_times(jnp.where(free, along * g + self.W_times(Mc), 0))

        with_r = lax.cond(is_accurate, lambda: with_r, measure)
        v = kernel_within(solve_K, n)(small_memory, by_side, with_r)
        step = (along * g + self.W_times(Mc + v / self.theta)) / self.theta
        return jnp.where(free, step, 0)


def compact(memory: Memory) -> Compact:
    """The compact form of the pairs in use; NaN where a factorisation breaks down."""
    middle = kernel_within(_middle, memory.pairs.shape[1])
    scale, P, invD = middle(memory.products, memory.theta, memory.place, memory.count)
    return Compact(memory=memory, scale=scale, P=P, invD=invD)


def _middle(
    products: MiddleMatrix, theta: Scalar, place: Integer, count: Integer
) -> tuple[Coefficients, jax.Array, Coefficients]:
    m = products.shape[0] // 2
    used, both_used, is_newer = _order(place, count, m)
    identity = jnp.eye(m, dtype=theta.dtype)
    sy, ss = products[m:, :m], products[m:, m:]
    invD = 1 / jnp.where(used, jnp.diagonal(sy), 1)
    L = jnp.where(both_used & is_newer, sy, 0)
    L_invD = L * invD
    T = jnp.where(both_used, theta * ss, identity) + small.product(L_invD, L.T)
    P = small.solve_lower(small.cholesky(T), jnp.concatenate([L_invD, identity], axis=1))
    scale = jnp.concatenate([used.astype(theta.dtype), jnp.where(used, theta, 0)])
    return scale, P, jnp.concatenate([invD, jnp.zeros_like(invD)])


def _order(place: Integer, count: Integer, m: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which places are used, which pairs of them, and where row is newer than column."""
    age = ages(place, m)
    used = age < count
    return used, used[:, None] & used[None, :], age[:, None] < age[None, :]


Model: TypeAlias = Dense | Compact


def model(memory: Memory) -> Model:
    """The form that is cheaper to work with."""
    rows, n = memory.pairs.shape
    return dense(memory) if n <= rows else compact(memory)


def _without_pairs(memory: Memory) -> Memory:
    """All but the history itself, which a kernel would copy."""
    return memory._replace(pairs=memory.pairs[:, :0])


def _restricted_products(
    memory: Memory,
    scale: Coefficients,
    P: jax.Array,
    invD: Coefficients,
    by_side: MiddleMatrix,
    c: Coefficients,
    along: Scalar,
    p: Coefficients,
) -> tuple[Coefficients, Coefficients, Boolean]:
    """``M c``, ``W'ZZ'W M c - along p``, and whether the second has all its digits.

    ``S'ZZ'S`` is a difference; it has lost digits where the free variables have a small
    share in a pair.
    """
    m = P.shape[0]
    Mc = dot(dot(P, c), P) - invD * c
    ss = memory.products[m:, m:]
    free_ss = ss - by_side[m:, m:]
    of_y, of_s = (scale * Mc)[:m], (scale * Mc)[m:]
    with_y = dot(by_side[:m, :m], of_y) + dot(by_side[:m, m:], of_s)
    with_s = dot(of_y, by_side[:m, m:]) + dot(free_ss, of_s)
    share = jnp.diagonal(free_ss) >= LEAST_SHARE * jnp.diagonal(ss)
    used, _, _ = _order(memory.place, memory.count, m)
    is_accurate = jnp.all(share | ~used)
    return Mc, scale * jnp.concatenate([with_y, with_s]) - along * p, is_accurate


def products_by_side(memory: Memory, free: Mask) -> MiddleMatrix:
    """``[Y'ZZ'Y, Y'ZZ'S; S'AA'Y, S'AA'S]``: y summed over the free, s over the active variables.

    These are the sums that K is made of; none is a difference of others, which would lose
    digits where one side dominates.  The densest pass of an iteration, left out where
    nothing is active.
    """
    rows, n = memory.pairs.shape
    m = rows // 2

    def measure(pairs: PairRows, free: Mask) -> MiddleMatrix:
        is_y = jnp.arange(rows)[:, None] < m
        product = small.product if n <= FEW_VARIABLES else dot
        return product(jnp.where(is_y == free, pairs, 0), pairs.T)

    def measure_by_blocks(pairs: PairRows, free: Mask) -> MiddleMatrix:
        """Block by block, so that no masked copy leaves the cache."""

        def add(i: Integer, total: MiddleMatrix) -> MiddleMatrix:
            start = jnp.minimum(i * BLOCK, n - BLOCK)
            block = lax.dynamic_slice_in_dim(pairs, start, BLOCK, axis=1)
            is_free = lax.dynamic_slice_in_dim(free, start, BLOCK)
            is_new = start + jnp.arange(BLOCK) >= i * BLOCK
            is_y = jnp.arange(rows)[:, None] < m
            return total + dot(jnp.where((is_y == is_free) & is_new, block, 0), block.T)

        return lax.fori_loop(0, -(-n // BLOCK), add, jnp.zeros_like(memory.products))

    def measure_there(pairs: PairRows) -> MiddleMatrix:
        if n <= BLOCK:
            return measure(pairs, free)
        return lax.platform_dependent(pairs, free, cpu=measure_by_blocks, default=measure)

    all_free = memory.products.at[m:].set(0)
    return lax.cond(jnp.all(free), lambda pairs: all_free, measure_there, memory.pairs)


def solve_K(memory: Memory, by_side: MiddleMatrix, v: Coefficients) -> Coefficients:
    """``inv(K) v`` given the inner products of `products_by_side`.

    ``K = inv(M) - W'ZZ'W / theta = [[-D - Y'ZZ'Y / theta, L_a' - R_z'],
    [L_a - R_z, theta S'AA'S]]``, where ``L_a`` is the part of ``S'AA'Y`` below the diagonal
    by age and ``R_z`` the rest of ``S'ZZ'Y``.  ``-D - ...`` is negative definite and its
    Schur complement positive definite: two Cholesky factorisations, which fail (NaN) where
    ``B`` lost definiteness.
    """
    m = memory.pairs.shape[0] // 2
    used, both_used, is_newer = _order(memory.place, memory.count, m)
    identity = jnp.eye(m, dtype=v.dtype)
    theta = memory.theta

    D = jnp.where(used, jnp.diagonal(memory.products[m:, :m]), 1)
    K11 = jnp.where(both_used, by_side[:m, :m] / theta, 0) + D * identity  # its negative
    R_z = by_side[:m, m:].T
    K21 = jnp.where(both_used, jnp.where(is_newer, by_side[m:, :m], -R_z), 0)
    K22 = jnp.where(both_used, theta * by_side[m:, m:], identity)

    C1 = small.cholesky(K11)
    E = small.solve_lower(C1, jnp.concatenate([K21.T, v[:m, None]], axis=1))
    E, e = E[:, :m], E[:, m]
    C2 = small.cholesky(K22 + small.product(E.T, E))
    half = small.solve_lower(C2, (v[m:] + dot(e, E))[:, None])
    b = small.solve_lower_transposed(C2, half)[:, 0]
    a = small.solve_lower_transposed(C1, (dot(E, b) - e)[:, None])[:, 0]
    return jnp.concatenate([a, b])
