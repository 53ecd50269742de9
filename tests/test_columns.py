"""A program with its long arrays as columns computes what it computed without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxlbfgsb.xla import columns
from jaxlbfgsb.xla.columns import FEW, LONG, WINDOW, in_columns

LENGTHS = [
    (LONG, np.float32),
    (FEW, np.float64),
    (FEW + 1, np.float32),
    (WINDOW - 1, np.float32),
    (WINDOW, np.float64),
    (WINDOW + 1, np.float32),
    (4 * WINDOW + 3, np.float64),
]


def mixed(x, A, k):
    """Long and short arrays, scalars, loops, branches and what holds programs."""
    n = len(x)
    short = lax.dynamic_slice(x, (k,), (3,))
    y = lax.dynamic_update_slice(x, 2 * short, (k,))
    B = lax.dynamic_update_slice(A, y[None], (k, 0)) + (jnp.arange(n)[None] / n).astype(x.dtype)
    row = lax.dynamic_index_in_dim(B, k, keepdims=False)
    total, steps = lax.scan(lambda c, a: (0.5 * c + a, (c, c * y)), x[0], x)
    swapped, rows = lax.scan(lambda c, a: (c + a, c * a[0]), y, B)
    products = lax.scan(lambda c, a: (c + jnp.sum(a), a @ y), 0 * x[0], A)
    outer = y[:, None] * x[None, :]
    _, looped = lax.while_loop(
        lambda c: c[0] < k, lambda c: (c[0] + 1, jnp.cos(c[1]) * jnp.max(c[1])), (0, y)
    )
    written = lax.fori_loop(
        0, k, lambda i, c: (lax.dynamic_update_slice(c[0], y[None], (i, 0)), 2 * c[1]), (A, B)
    )
    in_turn = lax.fori_loop(0, k, lambda i, c: (c[1], c[0].at[:, i].set(i)), (A, B))
    either = lax.cond(k > 1, lambda: 3 * A, lambda: A)
    branched = lax.cond(k > 1, lambda v: v - jnp.mean(v), lambda v: v[::-1], y)
    switched = lax.switch(k, [jnp.sin, jnp.cos, lambda v: jnp.ones_like(v)], y)
    return [
        *(written, in_turn, either, jnp.zeros_like(A)),
        *(short, y, B, row, total, steps, swapped, rows, products),
        *(outer, looped, branched, switched),
        *(jnp.concatenate([x, short]), jnp.pad(x, (1, 2)), jnp.stack([x, y], axis=1), jnp.flip(y)),
        *(A.T, A.reshape(-1)[1:-1:2], A[:, 1:-1], x[None], jnp.squeeze(x[None]), B @ x, x @ B.T),
        *(jnp.sum(A, axis=1), jnp.max(A, axis=0), jnp.min(A), jnp.prod(x, axis=0), x[k], k * x),
        *(jnp.cumsum(x), jnp.argmin(x), jnp.clip(x, -0.1, 0.1), jax.nn.softplus(x), x > 0),
        jax.checkpoint(jnp.sin)(x),
        jax.grad(lambda x: jnp.sum(jax.nn.relu(x) ** 2) + x[2] ** 3)(x),
    ]


def reductions(x):
    inside = jnp.abs(x) < 10
    return [
        *(f(x) for f in (jnp.sum, jnp.max, jnp.min, jnp.prod)),
        *(f(inside) for f in (jnp.all, jnp.any, jnp.sum)),
        *(f(~inside) for f in (jnp.all, jnp.any)),
        *(jnp.all(inside.at[-1].set(False)), jnp.any((~inside).at[-1].set(True))),
        *(x @ x, x @ x[::-1], jnp.linalg.norm(x)),
        jnp.dot(x, x, preferred_element_type=np.float64),
        *(f(x.at[i].set(jnp.nan)) for f in (jnp.max, jnp.min, jnp.sum) for i in (0, -1)),
        *(f(x.at[i].set(v)) for f, v in ((jnp.max, 9.0), (jnp.min, -9.0)) for i in (0, 7, -1)),
    ]


def assert_same(got, expected, dtype):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        tolerance = 1e-12 if dtype == np.float64 else 1e-5
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("n", "dtype"), LENGTHS)
@pytest.mark.parametrize("rows", [3, -1])
def test_columns_change_nothing(n, rows, dtype):
    """Also with a row for each number but one: such a matrix is none of columns."""
    rng = np.random.default_rng(n)
    x, A = (jnp.asarray(rng.uniform(-1, 1, shape), dtype) for shape in ((n,), (rows % n, n)))
    as_columns, as_it_stands = jax.jit(in_columns(mixed)), jax.jit(mixed)
    for k in range(3):
        args = x, A, jnp.asarray(k)
        assert_same(as_columns(*args), as_it_stands(*args), dtype)
    assert_same(jax.jit(in_columns(reductions))(x), jax.jit(reductions)(x), dtype)


def shapes_in(function, *args):
    closed = jax.make_jaxpr(function)(*args)
    return {v.aval.shape for eqn in columns.equations(closed.jaxpr) for v in eqn.outvars}


def test_which_arrays_are_columns():
    def function(v):
        return lax.fori_loop(0, 3, lambda _, v: jnp.sin(v), v)

    long, short = jnp.ones(LONG), jnp.ones(LONG - 1)
    assert (LONG, 1) in shapes_in(in_columns(function), long)
    assert (LONG,) not in shapes_in(in_columns(function), long) - {long.shape}
    assert shapes_in(in_columns(function), short) == shapes_in(function, short)


def test_a_matrix_of_rows_that_are_written_and_multiplied_is_none():
    def function(rows, v):
        def write(i, rows):
            row = jnp.sin((rows @ v) @ rows)
            return lax.dynamic_update_index_in_dim(rows, row, i, 0)

        return lax.fori_loop(0, 3, write, rows)

    rows, v = jnp.ones((4, LONG)), jnp.ones(LONG)
    shapes = shapes_in(in_columns(function), rows, v)
    assert (4, LONG, 1) not in shapes
    assert (LONG, 1) in shapes


def test_no_reduction_is_left_to_windows():
    n = 4 * WINDOW + 3
    text = jax.jit(in_columns(reductions)).lower(jnp.ones(n)).compile().as_text()
    assert "reduce-window" not in text


@pytest.mark.usefixtures("beside_an_accelerator")
def test_of_programs_for_platforms_only_that_for_a_cpu_is_left():
    def function(v):
        return lax.platform_dependent(v, cpu=jnp.sin, default=jnp.cos)

    v = jnp.linspace(0, 1, LONG)
    names = {
        eqn.primitive.name
        for eqn in columns.equations(jax.make_jaxpr(in_columns(function))(v).jaxpr)
    }
    assert "sin" in names
    assert "cos" not in names
    np.testing.assert_array_equal(in_columns(function)(v), jnp.sin(v))
