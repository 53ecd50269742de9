"""The generalized Cauchy point (BLNZ section 4, Algorithm CP).

The first local minimiser of the model ``q(z) = g'z + z'Bz / 2`` along the path
``x(t) = P(x - t g)``, ``z = x(t) - x``.

Notation: ``t`` breakpoints (4.1); ``d`` the direction of the current segment;
``f1, f2`` the derivatives of the model along it (the paper's f', f''); ``p = W'd``;
``c = W'(xc - x)``; ``b`` the variable whose breakpoint is crossed; ``z_b`` how far it
moved; ``w_b`` its row of ``W``.

Most searches cross few breakpoints: those are walked one at a time, each found by a
minimum over the breakpoints not yet crossed.  A search that goes on sorts what is left,
once, and then takes the segments in chunks: the recurrences of Algorithm CP are running
sums, so all segments of a chunk are known at once.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.box import Box, breakpoints, is_held, project
from jaxlbfgsb.kernel import FEW_VARIABLES
from jaxlbfgsb.memory import dot
from jaxlbfgsb.model import Model
from jaxlbfgsb.types import Coefficients, Integer, Mask, Scalar, Vector

WALKED = 16
"""Breakpoints crossed one at a time before the rest is sorted, in many variables."""
CHUNK = 512
"""Breakpoints crossed together after that; bounds the memory to CHUNK rows of W."""


class CauchyPoint(NamedTuple):
    xc: Vector
    """The point; variables that met their bound equal it bit for bit."""
    c: Coefficients
    """``W'(xc - x)``."""
    free: Mask
    """The free set F: variables whose breakpoint was not met."""


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
    t = jnp.where(held, jnp.inf, breakpoints(x, g, box))
    d = jnp.where(held, 0, -g)
    index = jnp.arange(n, dtype=jnp.int32)
    some_unbounded = jnp.any(jnp.isinf(t) & (d != 0))

    p = B.W_transposed_times(d)
    f1 = -dot(d, d)
    f2_start = -B.theta * f1
    floor = -np.finfo(x.dtype).eps * B.scaling * f1
    first = _Segment(
        t=jnp.zeros_like(f1),
        crossed=jnp.full_like(f1, -1, jnp.int32),
        next_t=jnp.min(t),
        f1=f1,
        f2=f2_start - dot(p, B.M_times(p)),
        p=p,
        c=jnp.zeros_like(p),
        walked=jnp.zeros_like(f1, jnp.int32),
    )

    def goes_on(segment: _Segment) -> jax.Array:
        return -segment.f1 / segment.f2 >= segment.next_t - segment.t

    def cross(s: _Segment) -> _Segment:
        """Steps of Algorithm CP for the next breakpoint; ties in the order of index."""
        b = jnp.min(jnp.where((t == s.next_t) & ((t > s.t) | (index > s.crossed)), index, n))
        w = B.row(b)
        g_b = g[b]
        z_b = _bound_met(g_b, b, box) - x[b]
        dt = s.next_t - s.t
        c = s.c + dt * s.p
        Mw = B.M_times(w)
        f1 = s.f1 + dt * s.f2 + g_b**2 + B.theta * g_b * z_b - g_b * dot(Mw, c)
        f2 = s.f2 - B.theta * g_b**2 - 2 * g_b * dot(Mw, s.p) - g_b**2 * dot(Mw, w)
        return _Segment(
            t=s.next_t,
            crossed=b,
            next_t=jnp.min(jnp.where((t > s.next_t) | ((t == s.next_t) & (index > b)), t, jnp.inf)),
            f1=f1,
            f2=jnp.maximum(f2, floor),
            p=s.p + g_b * w,
            c=c,
            walked=s.walked + 1,
        )

    if n <= FEW_VARIABLES:
        last = lax.while_loop(goes_on, cross, first)
    else:
        last = lax.while_loop(lambda s: goes_on(s) & (s.walked < WALKED), cross, first)
        # A loop of at most one turn instead of a branch: under vmap a branch would
        # sort in every lane and every iteration.
        last = lax.while_loop(goes_on, lambda s: _cross_sorted(s, t, x, g, box, B, floor), last)

    dt = jnp.maximum(-last.f1 / last.f2, 0)
    any_left = some_unbounded | jnp.isfinite(last.next_t)
    dt = jnp.where(any_left, dt, 0)
    met = (t < last.t) | ((t == last.t) & (index <= last.crossed))
    xc = jnp.where(met, _bound_met(g, index, box), project(x + (last.t + dt) * d, box))
    return CauchyPoint(xc=xc, c=last.c + dt * last.p, free=~(held | met))


def _bound_met(g: jax.Array, index: jax.Array, box: Box) -> jax.Array:
    """The bound that ``-g`` leads to, for the variables of `index`."""
    assert box.lower is not None
    assert box.upper is not None
    return jnp.where(g < 0, box.upper[index], box.lower[index])


def _cross_sorted(
    start: _Segment, t: Vector, x: Vector, g: Vector, box: Box, B: Model, floor: Scalar
) -> _Segment:
    """All breakpoints after `start`, sorted once and crossed a chunk at a time."""
    n = t.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    ahead = (t > start.t) | ((t == start.t) & (index > start.crossed))
    sorted_t, order = lax.sort((jnp.where(ahead, t, jnp.inf), index), num_keys=1, is_stable=True)
    padding = (0, CHUNK + 1)
    sorted_t = jnp.pad(sorted_t, padding, constant_values=jnp.inf)
    order = jnp.pad(order, padding)

    def cross_chunk(carry: tuple[_Segment, Integer]) -> tuple[_Segment, Integer]:
        s, done = carry
        times = lax.dynamic_slice(sorted_t, (done,), (CHUNK + 1,))
        b = lax.dynamic_slice(order, (done,), (CHUNK,))
        real = jnp.isfinite(times[:-1])
        w = jnp.where(real, B.rows(b), 0)
        g_b = jnp.where(real, g[b], 0)
        z_b = jnp.where(real, _bound_met(g[b], b, box) - x[b], 0)
        dt = jnp.where(real, times[:-1] - jnp.append(s.t, times[:-2]), 0)

        step_p = g_b * w
        p = s.p[:, None] + jnp.cumsum(step_p, axis=1)
        p_before = p - step_p
        c = s.c[:, None] + jnp.cumsum(dt * p_before, axis=1)
        Mw = B.M_times(w)
        change = -B.theta * g_b**2 - 2 * g_b * jnp.sum(Mw * p_before, axis=0)
        change = change - g_b**2 * jnp.sum(Mw * w, axis=0)
        f2_free = s.f2 + jnp.cumsum(change)
        f2 = jnp.maximum(f2_free, floor)
        f2_before = jnp.append(s.f2, f2[:-1])
        change = dt * f2_before + g_b**2 + B.theta * g_b * z_b - g_b * jnp.sum(Mw * c, axis=0)
        f1 = s.f1 + jnp.cumsum(change)

        stops = ~(-f1 / f2 >= times[1:] - times[:-1]) | ~jnp.isfinite(times[1:])
        position = jnp.arange(CHUNK, dtype=jnp.int32)
        k = jnp.min(jnp.where(stops, position, CHUNK - 1))

        def at_k(values: jax.Array) -> jax.Array:
            return lax.dynamic_index_in_dim(values, k, axis=-1, keepdims=False)

        segment = _Segment(
            t=at_k(times[:-1]),
            crossed=at_k(b),
            next_t=at_k(times[1:]),
            f1=at_k(f1),
            f2=at_k(f2),
            p=at_k(p),
            c=at_k(c),
            walked=s.walked + k + 1,
        )
        return segment, done + CHUNK

    def goes_on(carry: tuple[_Segment, Integer]) -> jax.Array:
        s, _ = carry
        return -s.f1 / s.f2 >= s.next_t - s.t

    last, _ = lax.while_loop(goes_on, cross_chunk, (start, jnp.zeros_like(start.walked)))
    return last
