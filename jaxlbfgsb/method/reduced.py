"""The sums over the free and over the active variables, and the system made of them.

Notation as in `model.py`; ``A`` the active variables; ``K`` the matrix of (5.9)-(5.11).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.method.memory import Memory, ages
from jaxlbfgsb.types import Boolean, Coefficients, Integer, Mask, MiddleMatrix, PairRows, Scalar
from jaxlbfgsb.xla import small
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import at, modulo, part, put
from jaxlbfgsb.xla.kernel import one_kernel, step_is_one_kernel
from jaxlbfgsb.xla.platform import by_platform
from jaxlbfgsb.xla.products import dot

BLOCK = 2048
"""Variables at a time in the densest pass: so many stay in a cache."""
LEAST_SHARE = 0.1
"""Of the free variables in the square of a pair, for a difference that keeps its digits."""
LEAST_LEFT = 1e-3
"""Of a sum from which variables were taken away, before it is summed anew."""
LARGEST_CHANGE = 8
"""Where more than ``n / LARGEST_CHANGE`` change sides, to sum anew is as fast."""


class Sides(NamedTuple):
    """The inner products of the pairs that K is made of, each summed over one side.

    ``y_i'y_j`` over the free variables, ``s_i's_j`` over the active ones; ``s_i'y_j`` over
    the active ones where pair i is newer, else over the free ones.  None is a difference of
    others, which would lose digits where one side dominates.
    """

    products: MiddleMatrix
    """Symmetric; y before s, as in `Memory.products`."""
    free: Mask
    largest: Coefficients
    """What each entry of the diagonal was at most since it was last summed as a whole."""
    known: Boolean
    """False where more than one pair may have been stored since."""


def unknown_sides(n: int, m: int, dtype: jnp.dtype) -> Sides:
    """Nothing to carry on."""
    return Sides(
        products=jnp.zeros((2 * m, 2 * m), dtype),
        free=jnp.zeros(n, bool),
        largest=jnp.zeros(2 * m, dtype),
        known=jnp.asarray(False),
    )


def order(place: Integer, count: Integer, m: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which places are used, which pairs of them, and where row is newer than column."""
    age = ages(place, m)
    used = age < count
    return used, used[:, None] & used[None, :], age[:, None] < age[None, :]


def without_pairs(memory: Memory) -> Memory:
    """All but the history itself, which a kernel would copy."""
    return memory._replace(pairs=memory.pairs[:, :0])


def _over_free(memory: Memory) -> jax.Array:
    """Which entries of `Sides.products` are sums over the free variables."""
    m = memory.products.shape[0] // 2
    _, _, is_newer = order(memory.place, memory.count, m)
    ones = jnp.ones((m, m), bool)
    return jnp.block([[ones, ~is_newer.T], [~is_newer, ~ones]])


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

    What is known over the active variables is taken from the whole; that has lost digits
    where the free variables have a small share in a pair.
    """
    m = P.shape[0]
    Mc = dot(dot(P, c), P) - invD * c
    whole = memory.products
    free = where(_over_free(memory), by_side, whole - by_side)
    share = jnp.diagonal(free) >= LEAST_SHARE * jnp.diagonal(whole)
    used, _, _ = order(memory.place, memory.count, m)
    is_accurate = jnp.all(share | ~jnp.append(used, used))
    return Mc, scale * dot(free, scale * Mc) - along * p, is_accurate


def products_by_side(memory: Memory, free: Mask) -> MiddleMatrix:
    """`Sides.products`, summed as a whole: the densest pass of an iteration."""
    rows, n = memory.pairs.shape
    m = rows // 2
    is_y = jnp.arange(rows)[:, None] < m
    if n <= BLOCK:
        product = small.product if step_is_one_kernel(rows, n) else dot
        half = product(where(is_y == free, memory.pairs, 0), memory.pairs.T)
    else:
        half = by_platform(
            memory.pairs,
            free,
            cpu=_by_blocks,
            default=lambda pairs, free: dot(where(is_y == free, pairs, 0), pairs.T),
        )
    _, _, is_newer = order(memory.place, memory.count, m)
    cross = where(is_newer, half[m:, :m], half[:m, m:].T)
    return jnp.block([[half[:m, :m], cross.T], [cross, half[m:, m:]]])


def _by_blocks(pairs: PairRows, free: Mask) -> MiddleMatrix:
    """Block by block, so that no masked copy leaves the cache."""
    rows, n = pairs.shape

    def add(i: Integer, total: MiddleMatrix) -> MiddleMatrix:
        start = jnp.minimum(i * BLOCK, n - BLOCK)
        block = part(pairs, start, BLOCK, axis=1)
        is_free = part(free, start, BLOCK)
        is_new = start + jnp.arange(BLOCK) >= i * BLOCK
        is_y = jnp.arange(rows)[:, None] < rows // 2
        return total + dot(where((is_y == is_free) & is_new, block, 0), block.T)

    return lax.fori_loop(0, -(-n // BLOCK), add, jnp.zeros((rows, rows), pairs.dtype))


def sides_of(memory: Memory, free: Mask, last: Sides) -> Sides:
    """The products for a new free set, after at most one pair more than `last` knows.

    Where nothing is active there is nothing to sum.  Else on a CPU those of the newest pair
    are summed and the others carried on, as L-BFGS-B 3.0 does (formk), as long as few
    variables change sides and the digits last.
    """

    def all_free() -> tuple[MiddleMatrix, Coefficients]:
        products = where(_over_free(memory), memory.products, 0)
        return products, jnp.diagonal(products)

    def anew(memory: Memory, free: Mask) -> tuple[MiddleMatrix, Coefficients]:
        products = products_by_side(memory, free)
        return products, jnp.diagonal(products)

    def on_cpu(memory: Memory, free: Mask, last: Sides) -> tuple[MiddleMatrix, Coefficients]:
        nothing = last.products, last.largest, jnp.zeros_like(last.known)
        products, largest, is_good = lax.cond(
            last.known, lambda: _carried_on(memory, free, last), lambda: nothing
        )
        return lax.cond(is_good, lambda: (products, largest), lambda: anew(memory, free))

    def summed() -> tuple[MiddleMatrix, Coefficients]:
        return by_platform(
            memory, free, last, cpu=on_cpu, default=lambda memory, free, last: anew(memory, free)
        )

    products, largest = lax.cond(jnp.all(free), all_free, summed)
    return Sides(products, free, largest, known=jnp.ones_like(last.known))


def _carried_on(
    memory: Memory, free: Mask, last: Sides
) -> tuple[MiddleMatrix, Coefficients, Boolean]:
    """The products and their largest diagonals so far, and whether they can be relied on."""
    m = memory.products.shape[0] // 2
    y_place = modulo(memory.place - 1, m)
    s_place = m + y_place
    products, is_whole = _with_sides_changed(memory, free, last)

    y, s = at(memory.pairs, y_place), at(memory.pairs, s_place)
    with_y = dot(memory.pairs, where(free, y, 0))
    with_s = dot(memory.pairs, where(free, 0, s))
    with_s = put(with_s, at(with_y, s_place), y_place)  # a pair is not newer than itself
    for place, values in ((y_place, with_y), (s_place, with_s)):
        products = put(put(products, values, place), values, place, axis=1)

    diagonal = jnp.diagonal(products)
    is_newest = modulo(jnp.arange(2 * m, dtype=jnp.int32), m) == y_place
    largest = where(is_newest, diagonal, jnp.maximum(last.largest, diagonal))
    used, _, _ = order(memory.place, memory.count, m)
    keeps_digits = (diagonal >= LEAST_LEFT * largest) | ~jnp.append(used, used)
    return products, largest, is_whole & jnp.all(keeps_digits)


def _with_sides_changed(memory: Memory, free: Mask, last: Sides) -> tuple[MiddleMatrix, Boolean]:
    """The products after some variables changed sides, and False if those are too many."""
    over_free = _over_free(memory)
    changed = free != last.free
    count = jnp.sum(changed, dtype=jnp.int32)
    are_few = count <= free.shape[0] // LARGEST_CHANGE
    some = are_few & (count > 0)
    entered = one_kernel(_products_of_changed, large=3)(memory.pairs, changed, free, some)
    return last.products + where(over_free, entered, -entered), are_few


def _products_of_changed(pairs: PairRows, changed: Mask, free: Mask, some: Boolean) -> MiddleMatrix:
    """The products over the variables that are free now, less those over the others that changed.

    One variable after the other, in one pass over the masks.
    """
    n = changed.shape[0]

    def next_one(i: Integer) -> Integer:
        return lax.while_loop(lambda i: (i < n) & ~at(changed, i), lambda i: i + 1, i)

    # The column of the next one is carried: it stands in one place then, not along the history.
    def add(
        carry: tuple[Integer, jax.Array, MiddleMatrix],
    ) -> tuple[Integer, jax.Array, MiddleMatrix]:
        i, column, total = carry
        sign = where(at(free, i), 1, -1).astype(total.dtype)
        following = next_one(i + 1)
        return following, at(pairs, following, axis=1), total + sign * jnp.outer(column, column)

    first = next_one(where(some, 0, n).astype(jnp.int32))
    column = at(pairs, first, axis=1)
    # Zeros of the type that the sums have inside of `shard_map`.
    start = first, column, jnp.zeros_like(jnp.outer(column, column))
    return lax.while_loop(lambda carry: carry[0] < n, add, start)[2]


def solve_K(memory: Memory, by_side: MiddleMatrix, v: Coefficients) -> Coefficients:
    """``inv(K) v`` given `Sides.products`.

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

    D = where(used, jnp.diagonal(memory.products[m:, :m]), 1)
    K11 = where(both_used, by_side[:m, :m] / theta, 0) + D * identity  # its negative
    cross = by_side[m:, :m]
    K21 = where(both_used, where(is_newer, cross, -cross), 0)
    K22 = where(both_used, theta * by_side[m:, m:], identity)

    R1, E = small.cholesky(K11, jnp.concatenate([K21.T, v[:m, None]], axis=1))
    E, e = E[:, :m], E[:, m]
    R2, half = small.cholesky(K22 + small.product(E.T, E), (v[m:] + dot(e, E))[:, None])
    b = small.solve_upper(R2, half)[:, 0]
    a = small.solve_upper(R1, (dot(E, b) - e)[:, None])[:, 0]
    return jnp.concatenate([a, b])
