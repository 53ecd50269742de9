"""The generalized Cauchy point (BLNZ section 4, Algorithm CP).

The first local minimiser of the model ``q(z) = g'z + z'Bz / 2`` along the path
``x(t) = P(x - t g)``, ``z = x(t) - x``.

Notation: ``t`` breakpoints (4.1); ``d`` the direction of the current segment;
``f1, f2`` the derivatives of the model along it (the paper's f', f''); ``p = W'd``;
``c = W'(xc - x)``; ``b`` the variable whose breakpoint is crossed; ``z_b`` how far it
moved; ``w_b`` its row of ``W``.

Most searches cross few breakpoints: those are walked one at a time, each found by a
minimum over the breakpoints not yet crossed.  In many variables a search that goes on, and
on an accelerator every one in few, takes the segments in chunks, which `soonest` finds without
sorting all of them: ``p`` and ``c`` are running sums, so all segments of a chunk are known at
once, and ``f1`` and ``f2`` follow from them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.method.box import Box, breakpoints, is_held, project
from jaxlbfgsb.method.chunks import TILE, prefix_sums, soonest
from jaxlbfgsb.method.model import Compact, Dense, Model
from jaxlbfgsb.method.reduced import without_pairs
from jaxlbfgsb.types import Coefficients, Integer, Mask, PairRows, Scalar, Vector
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import at, taken
from jaxlbfgsb.xla.kernel import MANY_VARIABLES, SOME_VARIABLES, one_kernel, step_is_one_kernel
from jaxlbfgsb.xla.platform import by_platform
from jaxlbfgsb.xla.products import dot

WALKED = 16
FEW_WALKED = 2
"""Breakpoints crossed one at a time before chunks are, in many variables and in very many."""
CHUNK = 512
"""Breakpoints crossed together, at least."""
CHUNKS_SHARE = 64
"""With very many variables about ``n / CHUNKS_SHARE`` of them, which bounds the memory, after a
first chunk that is small."""


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
    walked: Integer


def generalized_cauchy_point(x: Vector, g: Vector, box: Box, B: Model) -> CauchyPoint:
    """Algorithm CP for a feasible ``x`` and at least one variable that can move."""
    n = x.shape[0]
    held = is_held(x, g, box)
    t = where(held, -1, breakpoints(x, g, box))  # before all others, as if it had been crossed
    d = where(held, 0, -g)
    some_unbounded = jnp.any(jnp.isinf(t) & (d != 0))

    p = B.W_transposed_times(d)
    f1 = -dot(d, d)
    f2_start = -B.theta * f1
    floor = -np.finfo(x.dtype).eps * B.scaling * f1
    first = _Segment(
        t=jnp.zeros_like(f1),
        crossed=jnp.full_like(f1, -1, jnp.int32),
        next_t=jnp.min(where(held, jnp.inf, t)),
        f1=f1,
        f2=f2_start - dot(p, B.M_times(p)),
        p=p,
        c=jnp.zeros_like(p),
        walked=jnp.zeros_like(f1, jnp.int32),
    )

    if n <= SOME_VARIABLES:
        in_a_kernel = isinstance(B, Dense) or step_is_one_kernel(*B.memory.pairs.shape)
        walk = _walk if in_a_kernel else _walk_in_a_kernel
        last = by_platform(
            cpu=lambda: walk(first, t, x, g, box, B, floor),
            # Each turn of a loop would wait for the host.
            default=lambda: lax.cond(
                _goes_on(first), lambda: _cross_chunk(first, n, t, d, B, floor), lambda: first
            ),
        )
    else:
        walked = by_platform(
            cpu=lambda: jnp.int32(WALKED if n <= MANY_VARIABLES else FEW_WALKED),
            default=lambda: jnp.int32(FEW_WALKED if n > CHUNK else 0),
        )
        last = _walk(first, t, x, g, box, B, floor, walked)
        # A branch, since XLA would prepare the constants of the chunks in every search.
        last = lax.cond(_goes_on(last), lambda: _cross_chunks(last, t, d, B, floor), lambda: last)

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


def _walk(
    start: _Segment,
    t: Vector,
    x: Vector,
    g: Vector,
    box: Box,
    B: Model,
    floor: Scalar,
    most: Integer | None = None,
) -> _Segment:
    """Breakpoint after breakpoint, at most so many."""
    n = t.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)

    def goes_on(s: _Segment) -> jax.Array:
        return _goes_on(s) if most is None else _goes_on(s) & (s.walked < most)

    def cross(s: _Segment) -> _Segment:
        """Steps of Algorithm CP for the next breakpoint; ties in the order of index."""
        b = jnp.min(where((t == s.next_t) & ((t > s.t) | (index > s.crossed)), index, n))

        def at_b(v: Vector | None) -> Scalar:
            assert v is not None
            return at(v, b)

        w = B.row(b)
        g_b = at_b(g)
        z_b = where(g_b < 0, at_b(box.upper), at_b(box.lower)) - at_b(x)
        dt = s.next_t - s.t
        c = s.c + dt * s.p
        Mw = B.M_times(w)
        f1 = s.f1 + dt * s.f2 + g_b**2 + B.theta * g_b * z_b - g_b * dot(Mw, c)
        f2 = s.f2 - B.theta * g_b**2 - 2 * g_b * dot(Mw, s.p) - g_b**2 * dot(Mw, w)
        return _Segment(
            t=s.next_t,
            crossed=b,
            next_t=jnp.min(where((t > s.next_t) | ((t == s.next_t) & (index > b)), t, jnp.inf)),
            f1=f1,
            f2=jnp.maximum(f2, floor),
            p=s.p + g_b * w,
            c=c,
            walked=s.walked + 1,
        )

    return lax.while_loop(goes_on, cross, start)


def _walk_in_a_kernel(
    start: _Segment, t: Vector, x: Vector, g: Vector, box: Box, B: Model, floor: Scalar
) -> _Segment:
    """The same, without a copy of the vectors and of the history."""
    assert isinstance(B, Compact)

    def walk(
        pairs: PairRows, t: Vector, x: Vector, g: Vector, l: Vector, u: Vector, rest: Any
    ) -> Any:
        start, B, floor = rest
        B = B._replace(memory=B.memory._replace(pairs=pairs))
        return _walk(start, t, x, g, Box(l, u), B, floor)

    rest = start, B._replace(memory=without_pairs(B.memory)), floor
    return one_kernel(walk, large=6)(B.memory.pairs, t, x, g, box.lower, box.upper, rest)


def _cross_chunks(start: _Segment, t: Vector, d: Vector, B: Model, floor: Scalar) -> _Segment:
    """As far as the search goes from `start`: often no further than one small chunk."""
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
    """All breakpoints from `s` to the minimiser, at most `size` of them.

    With ``G`` the square of the direction, ``f2 = theta G - p'Mp`` and
    ``f1 = (theta t - 1) G - p'Mc``.
    """
    n = t.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    ahead = (t > s.t) | ((t == s.t) & (index > s.crossed))
    b, left = soonest(t, ahead, s.next_t, s.t - 4 * s.f1 / s.f2, size)
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
        walked=s.walked + k + 1,
    )
