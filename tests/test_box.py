"""The box against its definitions, one variable at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from jaxlbfgsb.method import box as boxes
from jaxlbfgsb.method.box import Box

EVERYTHING = Box(None, None)


def corners(dtype):
    """Every kind of bound, of point in it, and of gradient there, combined."""
    inf = np.inf
    rows = [
        (x, g, l, u)
        for l, u, points in [
            (-1.0, 2.0, (-1.0, -0.75, 0.5, 2.0)),
            (-inf, 2.0, (-3.0, 2.0)),
            (-1.0, inf, (-1.0, 7.0)),
            (-inf, inf, (0.0, -4.0)),
            (0.3, 0.3, (0.3,)),
            (0.0, 0.0, (0.0,)),
        ]
        for x in points
        for g in (0.0, -0.0, 1.0, -1.0, 0.1, -0.1, 30.0, -30.0)
    ]
    x, g, l, u = np.array(rows, dtype).T
    return np.clip(x, l, u), g, l, u


def random_case(rng, n, dtype):
    l, x, u = np.sort(rng.normal(size=(3, n)) * 10 ** rng.uniform(-3, 3, n), axis=0)
    g = rng.normal(size=n) * 10 ** rng.uniform(-3, 3, n)
    l = np.where(rng.random(n) < 0.2, -np.inf, l)
    u = np.where(rng.random(n) < 0.2, np.inf, u)
    x, g, l, u = (v.astype(dtype) for v in (x, g, l, u))
    x = np.where((rng.random(n) < 0.2) & np.isfinite(l), l, x)
    x = np.where((rng.random(n) < 0.2) & np.isfinite(u), u, x)
    return x, g, l, u


def cases(dtype):
    rng = np.random.default_rng(1)
    return [corners(dtype), *(random_case(rng, 120, dtype) for _ in range(20))]


def test_projection_is_the_nearest_point_bit_for_bit(dtype):
    rng = np.random.default_rng(2)
    project = jax.jit(boxes.project)
    for x, _, l, u in cases(dtype):
        away = (rng.normal(size=x.size) * 10 ** rng.uniform(-8, 8, x.size)).astype(dtype)
        got = np.asarray(project(jnp.asarray(away), Box(jnp.asarray(l), jnp.asarray(u))))
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, np.clip(away, l, u))
        np.testing.assert_array_equal(
            project(jnp.asarray(x), Box(jnp.asarray(l), jnp.asarray(u))), x
        )


def test_projected_gradient_is_that_of_scipy(dtype):
    projected_gradient = jax.jit(boxes.projected_gradient)
    for x, g, l, u in cases(dtype):
        got = projected_gradient(*map(jnp.asarray, (x, g)), Box(*map(jnp.asarray, (l, u))))
        np.testing.assert_array_equal(got, oracles.projected_gradient(x, g, l, u))


def test_norm_of_the_projected_gradient_is_that_of_its_entries(dtype):
    """Bit for bit, though it is computed in another way."""
    norm = jax.jit(boxes.projected_gradient_norm)
    for x, g, l, u in cases(dtype):
        box = Box(jnp.asarray(l), jnp.asarray(u))
        assert norm(x, g, box) == np.abs(oracles.projected_gradient(x, g, l, u)).max()
        assert norm(x, g, EVERYTHING) == np.abs(g).max()
        assert np.isnan(norm(x, np.where(np.arange(len(g)) == len(g) // 2, np.nan, g), box))


def test_projected_gradient_of_a_wide_gradient_reaches_the_bound(dtype):
    x, l, u = (jnp.asarray([v], dtype) for v in (0.25, 0.0, 1.0))
    box = Box(l, u)
    assert boxes.projected_gradient(x, jnp.asarray([1e30], dtype), box)[0] == 0.25
    assert boxes.projected_gradient(x, jnp.asarray([-1e30], dtype), box)[0] == -0.75


def test_breakpoints_and_held_variables(dtype):
    breakpoints, is_held = jax.jit(boxes.breakpoints), jax.jit(boxes.is_held)
    for x, g, l, u in cases(dtype):
        args = (*map(jnp.asarray, (x, g)), Box(*map(jnp.asarray, (l, u))))
        held = np.asarray(is_held(*args))
        np.testing.assert_array_equal(
            held,
            (l == u)
            | (np.asarray(g == 0) & ((x == l) | (x == u)))
            | ((x == l) & (g > 0))
            | ((x == u) & (g < 0)),
        )
        got, expected = np.asarray(breakpoints(*args)), oracles.breakpoints(x, g, l, u)
        np.testing.assert_array_equal(got, expected)
        assert (got >= 0).all()
        assert not np.isnan(got).any()


def test_held_is_what_the_projected_path_does_not_move():
    for x, g, l, u in cases(np.float64):
        args = (*map(jnp.asarray, (x, g)), Box(*map(jnp.asarray, (l, u))))
        np.testing.assert_array_equal(boxes.is_held(*args), oracles.held(x, g, l, u))


def test_largest_feasible_step(dtype):
    largest = jax.jit(boxes.largest_feasible_step)
    for x, d, l, u in cases(dtype):
        for mask in (np.ones(x.size, bool), d > 0, (x > l) & (x < u), np.isinf(l) & np.isinf(u)):
            d_masked = np.where(mask, d, 0)
            got = largest(*map(jnp.asarray, (x, d_masked)), Box(*map(jnp.asarray, (l, u))))
            expected = oracles.largest_step(x, d_masked, l, u, dtype(boxes.LARGEST_STEP))
            assert got == expected
            assert got.dtype == dtype


def test_largest_feasible_step_leads_to_the_edge():
    x, d = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, -1.0, 0.0])
    box = Box(jnp.array([0.0, 0.0, 0.0]), jnp.array([1.0, 1.0, 0.0]))
    assert boxes.largest_feasible_step(x, d, box) == 0.5
    assert boxes.largest_feasible_step(x, -d, box) == 0.5
    assert boxes.largest_feasible_step(x, jnp.zeros(3), box) == 1e10
    assert boxes.largest_feasible_step(x, 1e-30 * d, box) == 1e10


def test_active_bounds(dtype):
    for x, g, l, u in cases(dtype):
        got = boxes.active_bounds(*map(jnp.asarray, (x, g)), Box(*map(jnp.asarray, (l, u))))
        expected = [
            (1 if gi < 0 else -1) if xi == li == ui else -1 if xi == li else 1 if xi == ui else 0
            for xi, gi, li, ui in zip(x, g, l, u, strict=True)
        ]
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == jnp.int32


def test_points_on_the_line_stay_inside_bit_for_bit(dtype):
    rng = np.random.default_rng(3)
    point_on_line = jax.jit(boxes.point_on_line)
    rounding_left_the_box = False
    for x, g, l, u in cases(dtype):
        box = Box(jnp.asarray(l), jnp.asarray(u))
        xhat = np.clip(x - g, l, u)
        for step in (0.0, 1.0, *rng.uniform(0, 2, 20)):
            a = dtype(step)
            got = np.asarray(point_on_line(jnp.asarray(x), jnp.asarray(xhat), jnp.asarray(a), box))
            assert ((l <= got) & (got <= u)).all()
            np.testing.assert_array_equal(got[l == u], l[l == u])
            raw = x + a * (xhat - x)
            np.testing.assert_allclose(
                got,
                np.clip(raw, l, u),
                rtol=4 * np.finfo(dtype).eps,
                atol=4 * np.finfo(dtype).eps * np.abs(xhat - x).max(),
            )
            if step == 1:
                np.testing.assert_array_equal(got, xhat)
                rounding_left_the_box |= bool(((raw < l) | (raw > u) | (raw != xhat)).any())
    assert rounding_left_the_box  # else nothing was tested


def test_kinds_of_boxes():
    inf = jnp.inf
    for l, u, constrained, boxed in [
        ([-inf, -inf], [inf, inf], False, False),
        ([-inf, 0.0], [inf, inf], True, False),
        ([-inf, -inf], [inf, 1.0], True, False),
        ([0.0, 0.0], [inf, 1.0], True, False),
        ([0.0, 0.0], [1.0, 0.0], True, True),
    ]:
        box = Box(jnp.array(l), jnp.array(u))
        assert boxes.is_constrained(box) == constrained
        assert boxes.is_boxed(box) == boxed
        assert boxes.is_nonempty(box)
        assert not box.is_everything


@pytest.mark.parametrize(
    ("l", "u"), [(1, 0), (np.nan, 1), (0, np.nan), (np.inf, np.inf), (-np.inf, -np.inf)]
)
def test_empty_boxes(l, u, dtype):
    box = Box(jnp.asarray([0, l], dtype), jnp.asarray([1, u], dtype))
    assert not boxes.is_nonempty(box)


def test_no_box_at_all(dtype):
    x, g = jnp.asarray([1.0, -2.0], dtype), jnp.asarray([0.0, 3.0], dtype)
    assert EVERYTHING.is_everything
    assert not boxes.is_constrained(EVERYTHING)
    assert not boxes.is_boxed(EVERYTHING)
    assert boxes.is_nonempty(EVERYTHING)
    assert boxes.project(x, EVERYTHING) is x
    assert boxes.projected_gradient(x, g, EVERYTHING) is g
    assert not boxes.is_held(x, g, EVERYTHING).any()
    assert not boxes.active_bounds(x, g, EVERYTHING).any()
    assert jnp.isinf(boxes.breakpoints(x, g, EVERYTHING)).all()
    assert boxes.largest_feasible_step(x, g, EVERYTHING) == dtype(1e10)
    got = boxes.point_on_line(x, x + g, jnp.asarray(0.5, dtype), EVERYTHING)
    np.testing.assert_array_equal(got, [1.0, -0.5])


def test_infinity_norm(dtype):
    assert boxes.infinity_norm(jnp.asarray([1.0, -3.0, 2.0], dtype)) == 3
    assert jnp.isnan(boxes.infinity_norm(jnp.asarray([1.0, jnp.nan, 2.0], dtype)))
