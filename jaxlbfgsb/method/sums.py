"""The products of the pairs with each other, summed over the free or over the active variables.

Many variables take long to sum over: what one direction summed the next one carries on.  Notation
as in `memory.py`; ``A`` the active variables, ``F`` the free ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxlbfgsb.method.memory import (
    Memory,
    ages_of_rows,
    own_products,
    rows_with_rows,
    with_all_products,
    without_products,
)
from jaxlbfgsb.types import (
    Boolean,
    Coefficients,
    Integer,
    Mask,
    MiddleMatrix,
    PairRows,
    Scalar,
    Vector,
)
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import GROUP, at, grouped, modulo, put
from jaxlbfgsb.xla.kernel import one_kernel
from jaxlbfgsb.xla.platform import by_platform
from jaxlbfgsb.xla.products import all_hold, counted, dot

LEAST_LEFT = 1e-3
"""Of a sum from which variables were taken away, before it is summed anew."""
LEAST_CHANGE = 0.01
"""Of the square of the gradient in that of its change, for a difference of products with it."""
LARGEST_CHANGE = 8
"""Where more than ``n / LARGEST_CHANGE`` change sides, to sum anew is as fast."""
FEW_MOVED = 64
"""Where more than ``n / FEW_MOVED`` active variables moved, a pass over the history is as fast."""

_Changed: TypeAlias = tuple[Integer, Coefficients, tuple[MiddleMatrix, Coefficients, Coefficients]]
"""The next variable, its column of the history, and the sums so far."""


class WithGradient(NamedTuple):
    products: Coefficients
    """``[Y; S] g`` of the pairs in use, with g where variables are free and zero elsewhere."""
    square: Scalar
    """Of the gradient that the products were made of, at least that of this g."""


class Sums(NamedTuple):
    """What the last direction summed."""

    products: MiddleMatrix
    """Of ``[Y; S] [Y; S]'``: ``y_i'y_j`` over F, ``s_i's_j`` over A; ``s_i'y_j`` over A where pair
    i is newer, else over F.  None is a difference of others, which would lose digits where one
    side dominates."""
    gradient: WithGradient
    known: Boolean
    """False where pairs may have been stored that the products are not of."""
    free: Mask | None
    """The variables in F; None where no variable has a bound."""
    largest: Coefficients | None
    """What each entry of the diagonal was at most since it was last summed as a whole; on an
    accelerator, what it is."""


def unknown_sums(n: int, m: int, dtype: jnp.dtype, *, bounded: bool) -> Sums:
    """Nothing to carry on."""
    zero, zeros = jnp.zeros((), dtype), jnp.zeros(2 * m, dtype)
    return Sums(
        products=jnp.zeros((2 * m, 2 * m), dtype),
        gradient=WithGradient(zeros, zero),
        known=jnp.asarray(False),
        free=jnp.zeros(n, bool) if bounded else None,
        largest=zeros if bounded else None,
    )


def are_used(memory: Memory) -> Mask:
    """Which rows of ``[Y; S]`` are of pairs in use."""
    return ages_of_rows(memory) < memory.count


def are_over_free(memory: Memory) -> jax.Array:
    """Which entries of `Sums.products` are sums over the free variables."""
    age, is_y = ages_of_rows(memory), are_of_y(memory)
    with_y = is_y[None, :] | (age[:, None] <= age[None, :])
    with_s = is_y[None, :] & (age[:, None] >= age[None, :])
    return where(is_y[:, None], with_y, with_s)


def are_of_y(memory: Memory) -> Mask:
    """Which rows of ``[Y; S]`` are a y."""
    rows = memory.pairs.shape[0]
    return jnp.arange(rows) < rows // 2


def products_by_side(memory: Memory, free: Mask) -> MiddleMatrix:
    """`Sums.products`, summed as a whole: the densest pass of an iteration."""
    half = rows_with_rows(memory.pairs, free)  # of rows over F if they are a y, and else over A
    return where(are_over_free(memory) == are_of_y(memory)[:, None], half, half.T)


def sums_of(
    memory: Memory,
    g: Vector,
    gradient: WithGradient,
    free: Mask | None,
    last: Sums,
    is_new: Boolean,
) -> Sums:
    """The sums for a new gradient and a new free set.

    On a CPU those of the newest pair are summed and the others carried on, as L-BFGS-B 3.0 does
    (formk), as long as few variables change sides and the digits last; on an accelerator only
    where all variables stay free.

    Parameters
    ----------
    g, gradient
        The gradient at x, and the products of the pairs with it.
    free
        The free set; None where no variable has a bound.
    last
        Those of the last direction.
    is_new
        True if y of the newest pair is how the gradient changed since.
    """
    known = jnp.ones_like(last.known)
    if free is None:
        products = lax.cond(
            last.known | (memory.count == 0),
            lambda: _with_newest_pair(memory, gradient, last, is_new),
            lambda: with_all_products(memory).products,
        )
        return Sums(products, gradient, known, None, None)

    def anew(memory: Memory, free: Mask) -> tuple[MiddleMatrix, Coefficients]:
        products = products_by_side(memory, free)
        return products, jnp.diagonal(products)

    def on_cpu(memory: Memory, free: Mask, last: Sums) -> tuple[MiddleMatrix, Coefficients]:
        nothing = last.products, last.largest, jnp.zeros_like(last.known)
        products, largest, is_good = lax.cond(
            last.known,
            lambda: _carried_on(memory, g, gradient, free, last, is_new),
            lambda: nothing,
        )
        return lax.cond(is_good, lambda: (products, largest), lambda: anew(memory, free))

    def on_accelerator(memory: Memory, free: Mask, last: Sums) -> tuple[MiddleMatrix, Coefficients]:
        assert last.free is not None
        stay_free = last.known & jnp.all(free & last.free)
        products = lax.cond(
            stay_free,
            lambda: _with_newest_pair(memory, gradient, last, is_new),
            lambda: products_by_side(memory, free),
        )
        return products, jnp.diagonal(products)

    products, largest = by_platform(memory, free, last, cpu=on_cpu, default=on_accelerator)
    return Sums(products, gradient, known, free, largest)


def newest(memory: Memory) -> Integer:
    """The place of the newest pair."""
    return modulo(memory.place - 1, memory.pairs.shape[0] // 2)


def _with_newest_pair(
    memory: Memory, gradient: WithGradient, last: Sums, is_new: Boolean
) -> MiddleMatrix:
    """The products where all variables are free: only those of y are over some."""
    place = newest(memory)

    def y() -> Vector:
        return at(memory.pairs, place)

    own = own_products(memory, place)
    with_y = _with_newest_y(memory, gradient, last.gradient, own, y, is_new)
    return _put_newest(last.products, place, with_y, jnp.zeros_like(with_y))


def _put_newest(
    products: MiddleMatrix, place: Integer, with_y: Coefficients, with_s: Coefficients
) -> MiddleMatrix:
    s_place = len(products) // 2 + place
    with_s = put(with_s, at(with_y, s_place), place)  # a pair is not newer than itself
    for row, values in ((place, with_y), (s_place, with_s)):
        products = put(put(products, values, row), values, row, axis=1)
    return products


def _with_newest_y(
    memory: Memory,
    gradient: WithGradient,
    before: WithGradient,
    own: tuple[Scalar, Scalar],
    y: Callable[[], Vector],
    is_new: Boolean,
) -> Coefficients:
    """``[Y; S] y`` over F of the newest pair, given its own ``y'y`` and ``s'y`` there.

    y is the change of the gradient, and so are its products (Byrd, Nocedal and Schnabel 1994),
    but for digits where the change is small.  To measure is a pass over the history.
    """
    place = newest(memory)
    yy, sy = own

    def measured() -> Coefficients:
        return dot(memory.pairs, y())

    def on_cpu() -> Coefficients:
        keeps_digits = yy >= LEAST_CHANGE * (gradient.square + before.square)
        return lax.cond(
            is_new & keeps_digits, lambda: gradient.products - before.products, measured
        )

    with_y = by_platform(cpu=on_cpu, default=measured)
    return put(put(with_y, yy, place), sy, len(memory.pairs) // 2 + place)


def _carried_on(
    memory: Memory,
    g: Vector,
    gradient: WithGradient,
    free: Mask,
    last: Sums,
    is_new: Boolean,
) -> tuple[MiddleMatrix, Coefficients, Boolean]:
    """The products and their largest diagonals so far, and whether they can be relied on."""
    assert last.free is not None
    assert last.largest is not None
    rows, n = memory.pairs.shape
    y_place = newest(memory)
    s_place = rows // 2 + y_place
    y, s = at(memory.pairs, y_place), at(memory.pairs, s_place)
    # Of a pair that is not in use the products mean nothing.
    changed = (free != last.free) & (memory.count > 1)
    moved = ~free & (s != 0)
    many_moved = counted(moved) > n // FEW_MOVED
    looked_at = changed | (moved & ~many_moved)
    count = counted(looked_at)
    are_few = count <= n // LARGEST_CHANGE
    groups = jnp.append(jnp.any(grouped(looked_at), axis=1), True)  # and those that are in none
    entered, with_entered_g, with_s = one_kernel(_over_changed, large=6)(
        *(memory.pairs, looked_at, groups, changed, free, g),
        *(y_place, are_few & (count > 0)),
    )
    with_s = lax.cond(
        many_moved & are_few, lambda: dot(memory.pairs, where(free, 0, s)), lambda: with_s
    )
    any_active = counted(~free) > 0
    own = lax.cond(
        any_active,
        lambda: (jnp.sum(where(free, y * y, 0)), jnp.sum(where(free, s * y, 0))),
        lambda: own_products(memory, y_place),
    )
    before = last.gradient._replace(products=last.gradient.products + with_entered_g)
    with_y = _with_newest_y(memory, gradient, before, own, lambda: where(free, y, 0), is_new)
    ring = without_products(memory)
    products, largest, keeps_digits = one_kernel(_put_together, large=5)(
        last.products, entered, with_y, with_s, last.largest, ring, any_active
    )
    return products, largest, are_few & keeps_digits


def _put_together(
    products: MiddleMatrix,
    entered: MiddleMatrix,
    with_y: Coefficients,
    with_s: Coefficients,
    largest: Coefficients,
    ring: Memory,
    any_active: Boolean,
) -> tuple[MiddleMatrix, Coefficients, Boolean]:
    """The products, their largest diagonals so far, and whether these keep their digits."""
    over_free = are_over_free(ring)
    products = products + where(over_free, entered, -entered)
    products = where(over_free | any_active, products, 0)
    products = _put_newest(products, newest(ring), with_y, with_s)

    diagonal = jnp.diagonal(products)
    is_newest = ages_of_rows(ring) == 0
    is_first = is_newest | ~(are_of_y(ring) | any_active)
    largest = where(is_first, diagonal, jnp.maximum(largest, diagonal))
    keeps_digits = (diagonal >= LEAST_LEFT * largest) | ~are_used(ring)
    return products, largest, all_hold(keeps_digits)


def _over_changed(
    pairs: PairRows,
    looked_at: Mask,
    groups: jax.Array,
    changed: Mask,
    free: Mask,
    g: Vector,
    y_place: Integer,
    some: Boolean,
) -> tuple[MiddleMatrix, Coefficients, Coefficients]:
    """Sums over the variables that are looked at, one after the other; only in `groups` is any.

    ``[Y; S] [Y; S]'`` and ``[Y; S] (g - y)`` over those that changed to free, less those that
    changed to active; and ``[Y; S] s`` over the active ones.
    """
    n = looked_at.shape[0]
    s_place = len(pairs) // 2 + y_place

    def next_one(i: Integer) -> Integer:
        def step(i: Integer) -> Integer:
            group = i // GROUP
            return where(at(groups, group), i + 1, (group + 1) * GROUP)

        return lax.while_loop(lambda i: (i < n) & ~at(looked_at, i), step, i)

    # The column of the next one is carried: it stands in one place then, not along the history.
    def add(carry: _Changed) -> _Changed:
        i, column, (entered, with_g, with_s) = carry
        is_free = at(free, i)
        sign = where(is_free, 1.0, -1.0).astype(column.dtype)

        def changes() -> tuple[MiddleMatrix, Coefficients]:
            g_before = at(g, i) - at(column, y_place)
            return entered + sign * jnp.outer(column, column), with_g + sign * g_before * column

        with_s = with_s + where(is_free, 0, at(column, s_place)) * column
        sums = *lax.cond(at(changed, i), changes, lambda: (entered, with_g)), with_s
        following = next_one(i + 1)
        return following, at(pairs, following, axis=1), sums

    first = next_one(where(some, 0, n).astype(jnp.int32))
    column = at(pairs, first, axis=1)
    # Zeros of the type that the sums have inside of `shard_map`.
    zeros = jnp.zeros_like(column)
    start = first, column, (jnp.zeros_like(jnp.outer(column, column)), zeros, zeros)
    return lax.while_loop(lambda carry: carry[0] < n, add, start)[2]
