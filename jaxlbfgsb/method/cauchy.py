"""The generalized Cauchy point (BLNZ section 4, Algorithm CP).

The first local minimiser of the model ``q(z) = g'z + z'Bz / 2`` along the path
``x(t) = P(x - t g)``, ``z = x(t) - x``.

Notation: ``t`` breakpoints (4.1); ``d`` the direction of the current segment;
``f1, f2`` the derivatives of the model along it (the paper's f', f''); ``p = W'd``;
``c = W'(xc - x)``; ``b`` the variable whose breakpoint is crossed; ``G = d'd``.  With these
``f2 = theta G - p'Mp`` and ``f1 = (theta t - 1) G - p'Mc``.

On a CPU they are crossed one at a time: in few variables each is found by a minimum over those
not yet crossed, in many a heap holds them, as in the original.  An accelerator, and lanes in step,
take the segments in chunks, which `soonest` finds without sorting all of them: ``p`` and ``c`` are
running sums, so all segments of a chunk are known at once, and ``f1`` and ``f2`` follow from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.method.box import Box, breakpoints, is_held, project
from jaxlbfgsb.method.chunks import TILE, prefix_sums, soonest
from jaxlbfgsb.method.heap import Entries, Entry, Heap, heaped, without_first
from jaxlbfgsb.method.memory import without_products
from jaxlbfgsb.method.model import Compact, Dense, Model
from jaxlbfgsb.types import Boolean, Coefficients, Integer, Mask, PairRows, Scalar, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import GROUP, at, grouped, taken
from jaxlbfgsb.xla.kernel import SOME_VARIABLES, one_kernel, step_is_one_kernel
from jaxlbfgsb.xla.platform import by_platform
from jaxlbfgsb.xla.products import counted, dot, least

CHUNK = 512
"""Breakpoints crossed together, at least."""
CHUNKS_SHARE = 64
"""With very many variables about ``n / CHUNKS_SHARE`` of them, which bounds the memory, after a
first chunk that is small."""

HORIZON = 4
"""How far breakpoints are put in order, in steps to where the model would be least if none came."""

_Search: TypeAlias = Callable[..., "_Segment"]
"""From a segment as far as the model falls, given t, the first d, B and the least f2; in many
variables also the first breakpoint of each group of them, and the square of its d."""


class CauchyPoint(NamedTuple):
    xc: Vector
    """The point; variables that met their bound equal it bit for bit."""
    c: Coefficients
    """``W'(xc - x)``."""
    free: Mask
    """The free set F: variables that can move and whose breakpoint was not met."""
    t: Scalar
    """Where on the path: ``xc - x = -t g`` in F, to rounding."""
    p: Coefficients
    """``W'd`` of the last segment, whose d is ``-g`` in F and zero elsewhere."""
    square: Scalar
    """``d'd`` of the first segment, whose d is ``-g`` wherever a variable can move."""

    @property
    def fall(self) -> Scalar:
        """An upper bound of ``g'(x - xc)``: no variable went farther than ``t |g_i|``."""
        return self.t * self.square


class _Segment(NamedTuple):
    """The segment that starts at `t`, where variable `crossed` met its bound."""

    t: Scalar
    crossed: Integer
    next_t: Scalar
    f1: Scalar
    f2: Scalar
    p: Coefficients
    c: Coefficients
    """At the start of the segment."""


def generalized_cauchy_point(x: Vector, g: Vector, box: Box, B: Model) -> CauchyPoint:
    """Algorithm CP for a feasible ``x`` and at least one variable that can move."""
    n = x.shape[0]
    held = is_held(x, g, box)
    t = where(held, -1, breakpoints(x, g, box))  # before all others, as if it had been crossed
    d = where(held, 0, -g)
    some_unbounded = counted(jnp.isinf(t) & (d != 0)) > 0

    p = B.W_transposed_times(d)
    f1 = -dot(d, d)
    f2_start = -B.theta * f1
    floor = -np.finfo(x.dtype).eps * B.scaling * f1
    first = _Segment(
        t=jnp.zeros_like(f1),
        crossed=jnp.full_like(f1, -1, jnp.int32),
        next_t=least(where(held, jnp.inf, t)),
        f1=f1,
        f2=f2_start - dot(p, B.M_times(p)),
        p=p,
        c=jnp.zeros_like(p),
    )

    if n <= SOME_VARIABLES:
        in_a_kernel = isinstance(B, Dense) or step_is_one_kernel(*B.memory.pairs.shape)
        walk = _walk if in_a_kernel else _in_a_kernel(_walk, elsewhere=_walk)
        last = by_platform(
            cpu=lambda: walk(first, t, d, B, floor),
            # Each turn of a loop would wait for the host.
            default=lambda: lax.cond(
                _goes_on(first), lambda: _cross_chunk(first, n, t, d, B, floor), lambda: first
            ),
        )
    else:
        # A branch, since XLA would prepare constants in every search.
        last = lax.cond(_goes_on(first), lambda: _cross_many(first, t, d, B, floor), lambda: first)

    dt = jnp.maximum(-last.f1 / last.f2, 0)
    assert box.lower is not None
    assert box.upper is not None
    bound_met = where(g < 0, box.upper, where(g > 0, box.lower, x))
    any_left = some_unbounded | jnp.isfinite(last.next_t)
    dt = where(any_left, dt, 0)
    met = (t < last.t) | ((t == last.t) & (jnp.arange(n, dtype=jnp.int32) <= last.crossed))
    xc = where(met, bound_met, project(x + (last.t + dt) * d, box))
    return CauchyPoint(
        xc=xc,
        c=last.c + dt * last.p,
        free=~met,
        t=last.t + dt,
        p=last.p,
        square=-f1,
    )


def _goes_on(s: _Segment) -> jax.Array:
    """True if the model still falls where the segment ends."""
    return -s.f1 / s.f2 >= s.next_t - s.t


def _crossed(
    s: _Segment, G: Scalar, next_t: Scalar, d: Vector, B: Model, floor: Scalar, b: Integer
) -> _Segment:
    """The next segment, beyond the breakpoint of variable b and up to `next_t`; G is its own."""
    c = s.c + (s.next_t - s.t) * s.p
    p = s.p - at(d, b) * B.row(b)
    Mp = B.M_times(p)
    return _Segment(
        t=s.next_t,
        crossed=b,
        next_t=next_t,
        f1=(B.theta * s.next_t - 1) * G - dot(Mp, c),
        f2=jnp.maximum(B.theta * G - dot(Mp, p), floor),
        p=p,
        c=c,
    )


def _walk(start: _Segment, t: Vector, d: Vector, B: Model, floor: Scalar) -> _Segment:
    """Breakpoint after breakpoint, each found by a minimum; ties in the order of index."""
    n = t.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)

    def cross(carry: tuple[_Segment, Scalar]) -> tuple[_Segment, Scalar]:
        s, G = carry
        b = least(where((t == s.next_t) & ((t > s.t) | (index > s.crossed)), index, n))
        G = G - at(d, b) ** 2
        next_t = least(where((t > s.next_t) | ((t == s.next_t) & (index > b)), t, jnp.inf))
        return _crossed(s, G, next_t, d, B, floor, b), G

    return lax.while_loop(lambda carry: _goes_on(carry[0]), cross, (start, -start.f1))[0]


def _in_a_kernel(search: _Search, elsewhere: _Search) -> _Search:
    """A search as one kernel, without a copy of the vectors and of the history.

    `elsewhere` is what takes its place on an accelerator, or where lanes go in step.
    """

    def unpacked(search: _Search) -> Callable[..., _Segment]:
        def call(pairs: PairRows, t: Vector, d: Vector, *rest: Any) -> _Segment:
            *groups, (start, B, floor) = rest
            B = B._replace(memory=B.memory._replace(pairs=pairs), PT=B.P.T)
            return search(start, t, d, B, floor, *groups)

        return call

    def call(
        start: _Segment, t: Vector, d: Vector, B: Model, floor: Scalar, *groups: jax.Array
    ) -> _Segment:
        assert isinstance(B, Compact)
        large = B.memory.pairs, t, d, *groups
        rest = start, B._replace(memory=without_products(B.memory), PT=B.PT[:0]), floor
        kernel = one_kernel(unpacked(search), large=len(large), elsewhere=unpacked(elsewhere))
        return kernel(*large, rest)

    return call


def _cross_many(start: _Segment, t: Vector, d: Vector, B: Model, floor: Scalar) -> _Segment:
    """As far as the search goes in many variables."""
    walk = _in_a_kernel(_walk_by_heap, elsewhere=_cross_chunks)
    first = jnp.min(grouped(where(t < 0, jnp.inf, t)), axis=1)
    squares = jnp.sum(grouped(d) ** 2, axis=1)
    return walk(start, t, d, B, floor, first, squares)


def _walk_by_heap(
    start: _Segment,
    t: Vector,
    d: Vector,
    B: Model,
    floor: Scalar,
    first: jax.Array,
    squares: jax.Array,
) -> _Segment:
    """The same in many variables, without a look at all of them for each breakpoint.

    Of each group of variables the first breakpoint is known, and the square of its d.
    """

    def goes_on(s: _Segment) -> Boolean:
        return _goes_on(s) & jnp.isfinite(s.next_t)

    def cross(carry: tuple[_Segment, _Ahead]) -> tuple[_Segment, _Ahead]:
        s, ahead = carry
        b, heap = ahead.heap.first.index, without_first(ahead.heap)
        G = ahead.G - at(d, b) ** 2
        next_t = where(heap.size > 0, heap.first.number, ahead.later)
        return _crossed(s, G, next_t, d, B, floor, b), ahead._replace(heap=heap, G=G)

    def cross_near(carry: tuple[_Segment, Entries]) -> tuple[_Segment, Entries]:
        s, room = carry
        s, ahead = lax.while_loop(
            lambda carry: goes_on(carry[0]) & (carry[1].heap.size > 0),
            cross,
            (s, _breakpoints_ahead(s, t, d, first, squares, room)),
        )
        return s, ahead.heap.entries

    room = Entries(jnp.zeros_like(t), jnp.zeros_like(t, jnp.int32))
    return lax.while_loop(lambda carry: goes_on(carry[0]), cross_near, (start, room))[0]


class _Ahead(NamedTuple):
    """What is ahead of a segment: the next breakpoints, when the others begin, and ``d'd``."""

    heap: Heap
    later: Scalar
    G: Scalar


def _breakpoints_ahead(
    s: _Segment, t: Vector, d: Vector, first: jax.Array, squares: jax.Array, room: Entries
) -> _Ahead:
    """In order those that come before the model, as it is now, has long risen again.

    Into most groups it need not look.
    """
    horizon = jnp.maximum(s.t - HORIZON * s.f1 / s.f2, s.next_t)

    def look(i: Integer, carry: tuple[Entries, Integer, Scalar, Scalar]) -> Any:
        entries, size, later, G = carry
        entry = Entry(at(t, i), i)
        is_ahead = Entry(s.t, s.crossed).comes_before(entry)
        is_near = is_ahead & (entry.number <= horizon) & (entry.number < jnp.inf)
        later = where(is_ahead & ~is_near, jnp.minimum(later, entry.number), later)
        G = G + where(is_ahead, at(d, i) ** 2, 0)
        return entries.put(entry, size), size + is_near, later, G

    def look_into(group: Integer, carry: tuple[Entries, Integer, Scalar, Scalar]) -> Any:
        entries, size, later, G = carry
        is_near = at(first, group) <= horizon
        later = where(is_near, later, jnp.minimum(later, at(first, group)))
        G = where(is_near, G, G + at(squares, group))
        begin, end = group * GROUP, where(is_near, (group + 1) * GROUP, group * GROUP)
        return lax.fori_loop(begin, end, look, (entries, size, later, G))

    none, zero = jnp.zeros_like(s.crossed), jnp.zeros_like(s.t)
    groups = none + len(first)
    found = lax.fori_loop(none, groups, look_into, (room, none, zero + jnp.inf, zero))
    # Those that are in no group.
    entries, size, later, G = lax.fori_loop(groups * GROUP, none + len(t), look, found)
    return _Ahead(heaped(entries, size), later, G)


def _cross_chunks(
    start: _Segment, t: Vector, d: Vector, B: Model, floor: Scalar, *_: jax.Array
) -> _Segment:
    """The same without a heap and groups: often no further than one small chunk."""
    n = t.shape[0]
    size = min(CHUNK, n)
    share = n // CHUNKS_SHARE // TILE**2 * TILE**2  # of tiles, so that sums need no copy

    def goes_on(s: _Segment) -> jax.Array:
        return _goes_on(s) & jnp.isfinite(s.next_t)

    def cross(size: int, s: _Segment) -> _Segment:
        return lax.while_loop(goes_on, lambda s: _cross_chunk(s, size, t, d, B, floor), s)

    if share <= size:
        return cross(size, start)
    first = _cross_chunk(start, size, t, d, B, floor)
    return lax.cond(goes_on(first), lambda: cross(share, first), lambda: first)


def _cross_chunk(s: _Segment, size: int, t: Vector, d: Vector, B: Model, floor: Scalar) -> _Segment:
    """All breakpoints from `s` to the minimiser, at most `size` of them."""
    n = t.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    ahead = (t > s.t) | ((t == s.t) & (index > s.crossed))
    b, left = soonest(t, ahead, s.next_t, s.t - HORIZON * s.f1 / s.f2, size)
    real = b < n
    times, b = lax.sort((where(real, taken(t, b), jnp.inf), b), num_keys=1, is_stable=True)
    real = b < n
    later = jnp.min(where(left, t, jnp.inf))
    next_times = jnp.append(times[1:], jnp.inf)
    next_times = where(jnp.isfinite(next_times), next_times, later)

    d_b = where(real, taken(d, b), 0)
    dt = where(real, times - s.t, 0)
    step_p = -d_b * where(real, B.rows(b), 0)
    steps = jnp.concatenate([step_p, dt * step_p, (d_b**2)[None, :]])
    sums = prefix_sums(lax.optimization_barrier(steps))
    rows = s.p.shape[0]
    p = s.p[:, None] + sums[:rows]
    c = s.c[:, None] + dt * p - sums[rows : 2 * rows]
    ahead_d = where(ahead, d, 0)
    G = dot(ahead_d, ahead_d) - sums[2 * rows]
    p, c = lax.optimization_barrier((p, c))
    Mp = lax.optimization_barrier(B.M_times(p))
    ones = jnp.ones(rows, p.dtype)  # XLA sums columns many times slower than it multiplies
    f2 = jnp.maximum(B.theta * G - dot(ones, Mp * p), floor)
    f1 = (B.theta * times - 1) * G - dot(ones, Mp * c)

    stops = ~(-f1 / f2 >= next_times - times) | ~jnp.isfinite(next_times)
    position = jnp.arange(size, dtype=jnp.int32)
    last = jnp.sum(real, dtype=jnp.int32) - 1
    k = jnp.min(where(stops, position, last))

    def at_k(values: jax.Array) -> jax.Array:
        return at(values, k, axis=-1)

    return _Segment(
        t=at_k(times),
        crossed=at_k(b),
        next_t=at_k(next_times),
        f1=at_k(f1),
        f2=at_k(f2),
        p=at_k(p),
        c=at_k(c),
    )
