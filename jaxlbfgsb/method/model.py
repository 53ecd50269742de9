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
the columns of the identity in F.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.method.memory import Memory, ages, pair_at, wants_brief, without_products
from jaxlbfgsb.method.reduced import restricted_products, solve_K
from jaxlbfgsb.method.sums import Sums, WithGradient, products_by_side
from jaxlbfgsb.types import (
    Coefficients,
    Integer,
    Mask,
    MiddleMatrix,
    Scalar,
    SquareMatrix,
    Vector,
)
from jaxlbfgsb.xla import small
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import at, modulo, taken
from jaxlbfgsb.xla.kernel import repeated, small_kernel
from jaxlbfgsb.xla.products import dot


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
        reduced = where(both, self.matrix, jnp.eye(n, dtype=r.dtype))
        return small.solve(reduced, where(free, r, 0))


def dense(memory: Memory) -> Dense:
    """One BFGS update of ``theta I`` for each pair, oldest first."""
    m, n = memory.pairs.shape[0] // 2, memory.pairs.shape[1]

    def update(age: Integer, B: SquareMatrix) -> SquareMatrix:
        place = modulo(memory.place - memory.count + age, m)
        s, y, sy = pair_at(memory, place)
        Bs = dot(s, B)  # which is symmetric
        sBs = dot(s, Bs)
        return B - Bs[:, None] * (Bs / sBs)[None, :] + y[:, None] * (y / sy)[None, :]

    B = memory.theta * jnp.eye(n, dtype=memory.theta.dtype)
    return Dense(repeated(memory.count, m, update, B), memory.theta)


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
    PT: jax.Array
    """``P'``: a vector is multiplied from the left, which takes the fewest operations."""
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
        if c.ndim == 1:
            return dot(dot(c, self.PT), self.P) - self.invD * c
        return dot(self.PT, dot(self.P, c)) - self.invD[:, None] * c

    def with_gradient(self, p: Coefficients, square: Scalar) -> WithGradient:
        """``[Y; S] g`` over the free variables, where ``p = -W'ZZ'g``."""
        unscaled = p / where(self.scale == 0, 1, self.scale)
        return WithGradient(-unscaled, square)

    def row(self, b: Integer) -> Coefficients:
        return self.scale * at(self.memory.pairs, b, axis=1)

    def rows(self, b: jax.Array) -> jax.Array:
        return self.scale[:, None] * taken(self.memory.pairs, b, axis=1)

    def solve_free(self, free: Mask, r: Vector) -> Vector:
        """By Sherman, Morrison and Woodbury (5.11).

        The inverse of ``theta I - Z'W M W'Z`` is ``I / theta + Z'W inv(K) W'Z / theta^2``.
        """
        r = where(free, r, 0)
        solve = small_kernel(solve_K, *self.memory.pairs.shape, large=3)
        by_side = products_by_side(self.memory, free)
        with_r = self.W_transposed_times(r)
        v = solve(self.memory.products, by_side, with_r, without_products(self.memory))
        return where(free, (r + self.W_times(v) / self.theta) / self.theta, 0)

    def solve_free_on_path(
        self, sums: Sums, g: Vector, t: Scalar, c: Coefficients, p: Coefficients
    ) -> Vector:
        """`solve_free` for ``r = (theta t - 1) g + W M c`` where ``p = -W'ZZ'g``.

        That is minus the gradient of the model at ``x - t g`` in F.  Then
        ``W'ZZ'r = (1 - theta t) p + W'ZZ'W M c`` takes no pass over the history, and the
        two products with ``W`` in the solution are one.
        """
        shape, ring = self.memory.pairs.shape, without_products(self.memory)
        free, by_side, whole = sums.free, sums.products, self.memory.products
        assert free is not None
        along = self.theta * t - 1
        estimate = small_kernel(restricted_products, *shape, large=7)
        Mc, with_r, is_accurate = estimate(
            whole, by_side, self.P, self.scale, self.invD, c, p, along, ring
        )

        def measure() -> Coefficients:
            return self.W_transposed_times(where(free, along * g + self.W_times(Mc), 0))

        with_r = lax.cond(is_accurate, lambda: with_r, measure)
        v = small_kernel(solve_K, *shape, large=3)(whole, by_side, with_r, ring)
        step = (along * g + self.W_times(Mc + v / self.theta)) / self.theta
        return where(free, step, 0)


def compact(memory: Memory) -> Compact:
    """The compact form of the pairs in use; NaN where a factorisation breaks down."""
    middle = small_kernel(_middle, *memory.pairs.shape, large=1)
    scale, P, invD = middle(memory.products, memory.theta, memory.place, memory.count)
    return Compact(memory=memory, scale=scale, P=P, PT=P.T, invD=invD)


def _middle(
    products: MiddleMatrix, theta: Scalar, place: Integer, count: Integer
) -> tuple[Coefficients, jax.Array, Coefficients]:
    m = products.shape[0] // 2
    age = ages(place, m)
    used = age < count
    both_used, is_newer = used[:, None] & used[None, :], age[:, None] < age[None, :]
    identity = jnp.eye(m, dtype=theta.dtype)
    sy, ys, ss = products[m:, :m], products[:m, m:], products[m:, m:]
    invD = 1 / where(used, jnp.diagonal(sy), 1)
    nothing = jnp.zeros_like(identity)
    # Elimination in [inv(M), I]: its first rows are known, since -D is diagonal.
    LT = where(both_used & is_newer.T, ys, 0)
    above = jnp.concatenate([LT, identity, nothing], axis=1), -invD
    S_block = where(both_used, theta * ss, identity)
    below = jnp.concatenate([nothing, identity], axis=1)
    P, inverses = small.eliminated(S_block, below, above)
    P = jnp.sqrt(inverses)[:, None] * P
    scale = jnp.concatenate([used.astype(theta.dtype), where(used, theta, 0)])
    return scale, P, jnp.pad(invD, (0, m))


Model: TypeAlias = Dense | Compact


def model(memory: Memory) -> Model:
    """The form that is cheaper to work with."""
    return dense(memory) if wants_brief(*memory.pairs.shape, bounded=True) else compact(memory)
