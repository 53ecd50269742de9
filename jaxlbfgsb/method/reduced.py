"""The sums over the free and over the active variables, and the system made of them.

Notation as in `model.py`; ``A`` the active variables; ``K`` the matrix of (5.9)-(5.11).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.method.chunks import positions
from jaxlbfgsb.method.memory import Memory, ages, dot
from jaxlbfgsb.types import Boolean, Coefficients, Integer, Mask, MiddleMatrix, PairRows, Scalar
from jaxlbfgsb.xla import small
from jaxlbfgsb.xla.kernel import FEW_VARIABLES

BLOCK = 2048
"""Variables at a time in the densest pass: so many stay in a cache."""
LEAST_SHARE = 0.1
"""Of the free variables in the square of a pair, for a difference that keeps its digits."""
FEW = 512
"""Columns that are gathered, at least, where they tell all."""
FEW_SHARE = 16
"""With very many variables ``n / FEW_SHARE`` of them."""


def order(place: Integer, count: Integer, m: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which places are used, which pairs of them, and where row is newer than column."""
    age = ages(place, m)
    used = age < count
    return used, used[:, None] & used[None, :], age[:, None] < age[None, :]


def without_pairs(memory: Memory) -> Memory:
    """All but the history itself, which a kernel would copy."""
    return memory._replace(pairs=memory.pairs[:, :0])


def restricted_products(
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
    used, _, _ = order(memory.place, memory.count, m)
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

    def measure_there(pairs: PairRows) -> MiddleMatrix:
        if n <= BLOCK:
            return measure(pairs, free)
        on_cpu = _by_blocks if n < 8 * FEW else _by_few_or_by_blocks
        return lax.platform_dependent(
            memory, free, cpu=on_cpu, default=lambda memory, free: measure(memory.pairs, free)
        )

    all_free = memory.products.at[m:].set(0)
    return lax.cond(jnp.all(free), lambda pairs: all_free, measure_there, memory.pairs)


def _by_blocks(memory: Memory, free: Mask) -> MiddleMatrix:
    """Block by block, so that no masked copy leaves the cache."""
    pairs = memory.pairs
    rows, n = pairs.shape

    def add(i: Integer, total: MiddleMatrix) -> MiddleMatrix:
        start = jnp.minimum(i * BLOCK, n - BLOCK)
        block = lax.dynamic_slice_in_dim(pairs, start, BLOCK, axis=1)
        is_free = lax.dynamic_slice_in_dim(free, start, BLOCK)
        is_new = start + jnp.arange(BLOCK) >= i * BLOCK
        is_y = jnp.arange(rows)[:, None] < rows // 2
        return total + dot(jnp.where((is_y == is_free) & is_new, block, 0), block.T)

    return lax.fori_loop(0, -(-n // BLOCK), add, jnp.zeros_like(memory.products))


def _by_few_or_by_blocks(memory: Memory, free: Mask) -> MiddleMatrix:
    """From few columns where those tell all.

    Either all others are active and did not move in any step stored, so that they add
    nothing; or all others are free, and what they add is the whole less what few active
    ones would, unless little would be left of it.
    """
    pairs = memory.pairs
    rows, n = pairs.shape
    m = rows // 2
    few = max(FEW, n // FEW_SHARE)
    is_y = jnp.arange(rows)[:, None] < m
    free_ones = jnp.sum(free)
    by_free = free_ones <= n - free_ones

    def measure_few() -> tuple[MiddleMatrix, Boolean]:
        adds = jnp.where(by_free, free | jnp.any(pairs[m:] != 0, axis=0), ~free)
        index = positions(adds, few)
        columns = jnp.where(index < n, jnp.take(pairs, index, axis=1, mode="clip"), 0)
        is_free = jnp.take(free, index, mode="clip")
        both = dot(jnp.where((is_y == is_free) | (is_y & ~by_free), columns, 0), columns.T)
        rest = jnp.where(is_y, memory.products - both, both)
        left, whole = jnp.diagonal(rest)[:m], jnp.diagonal(memory.products)[:m]
        used, _, _ = order(memory.place, memory.count, m)
        keeps_digits = by_free | jnp.all((left >= LEAST_SHARE * whole) | ~used)
        return jnp.where(by_free, both, rest), keeps_digits & (jnp.sum(adds) <= few)

    nothing = jnp.zeros_like(memory.products), jnp.zeros_like(by_free)
    may_be_few = jnp.minimum(free_ones, n - free_ones) <= few
    from_few, is_whole = lax.cond(may_be_few, measure_few, lambda: nothing)
    return lax.cond(is_whole, lambda: from_few, lambda: _by_blocks(memory, free))


def solve_K(memory: Memory, by_side: MiddleMatrix, v: Coefficients) -> Coefficients:
    """``inv(K) v`` given the inner products of `products_by_side`.

    ``K = inv(M) - W'ZZ'W / theta = [[-D - Y'ZZ'Y / theta, L_a' - R_z'],
    [L_a - R_z, theta S'AA'S]]``, where ``L_a`` is the part of ``S'AA'Y`` below the diagonal
    by age and ``R_z`` the rest of ``S'ZZ'Y``.  ``-D - ...`` is negative definite and its
    Schur complement positive definite: two Cholesky factorisations, which fail (NaN) where
    ``B`` lost definiteness.
    """
    m = memory.pairs.shape[0] // 2
    used, both_used, is_newer = order(memory.place, memory.count, m)
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
