"""What is compiled into one kernel on CPU computes what it computes outside of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy import special

from jaxlbfgsb import minimize
from jaxlbfgsb.xla.fits import LARGEST_ARRAY, fits_one_kernel
from jaxlbfgsb.xla.kernel import AS_MANY_ROWS, MANY_VARIABLES, SHORT_HISTORY, one_kernel
from jaxlbfgsb.xla.lanes import lane_by_lane

X = jnp.linspace(0.1, 0.9, 24)
A = jnp.sin(jnp.arange(24.0 * 24).reshape(24, 24))


def elementwise(x):
    i = jnp.arange(24)
    return [
        *(f(x) for f in (jnp.abs, jnp.arccos, jnp.arcsin, jnp.arctan, jnp.arctanh, jnp.cbrt)),
        *(f(x) for f in (jnp.ceil, jnp.cos, jnp.cosh, jnp.exp, jnp.exp2, jnp.expm1, jnp.floor)),
        *(f(x) for f in (jnp.log, jnp.log1p, jnp.round, jnp.sign, jnp.sin, jnp.sinh, jnp.sqrt)),
        *(f(x) for f in (jnp.tan, jnp.tanh, jnp.square, lax.rsqrt, lax.logistic, jnp.isfinite)),
        *(f(x) for f in (lax.erf, lax.erfc, lax.erf_inv, lax.lgamma, lax.digamma)),
        *(f(x) for f in (lax.bessel_i0e, lax.bessel_i1e, jnp.arcsinh, jnp.negative)),
        jnp.arccosh(1 + x),
        jnp.arctan2(x, 1 - x),
        lax.igamma(x, x),
        lax.igammac(x, x),
        special.polygamma(1, x),
        special.zeta(1 + x, x),
        special.betainc(x, x, x),
        x**2.5,
        x**3,
        jnp.mod(x, 0.3),
        jnp.nextafter(x, 1.0),
        jnp.clip(x, 0.2, 0.5),
        jnp.where(x > 0.5, x, -x),
        (i << 1) ^ (i >> 1) & ~i | 1,
        x.astype(jnp.float32),
        lax.population_count(i),
    ]


def structural(x, a):
    return [
        jnp.argmax(x),
        jnp.argmin(x),
        jnp.concatenate([x, x]),
        *(f(x) for f in (jnp.cumsum, jnp.cumprod, lax.cummax, lax.cummin, lax.cumlogsumexp)),
        lax.dynamic_slice(x, (jnp.argmax(x) - 9,), (4,)),
        lax.dynamic_update_slice(x, x[:3], (jnp.argmax(x) - 5,)),
        x[jnp.array([3, 1, 3])],
        jnp.pad(x, 2),
        *(f(x) for f in (jnp.all, jnp.any, jnp.max, jnp.min, jnp.prod, jnp.sum)),
        jnp.flip(x),
        jnp.split(x, 3),
        a.T.reshape(12, 48)[:, ::2],
        a @ x,
        x @ a,
        x @ x,
        a[:4, :4] @ a[:4, :4],
        a[:0] @ x,
        a[:, :0] @ x[:0],
        jnp.sum(a * x, axis=1),
        jax.nn.logsumexp(x),
        jax.grad(lambda x: x[3] ** 2 * jnp.prod(x[:4]))(x),
    ]


def compound(x):
    @jax.custom_jvp
    def doubled(x):
        return 2 * x

    doubled.defjvp(lambda p, t: (2 * p[0], 2 * t[0]))
    return [
        lax.scan(lambda c, a: (0.9 * c + a, c), 0.0, x),
        lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
        lax.switch(jnp.argmax(x) % 2, [jnp.sin, jnp.cos], x),
        lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x)),
        jax.grad(lambda x: jnp.sum(doubled(x) ** 2))(x),
        jax.checkpoint(jnp.sin)(x),
        jax.jit(jnp.cos)(x),
    ]


@pytest.mark.parametrize(
    ("function", "args"), [(elementwise, (X,)), (structural, (X, A)), (compound, (X,))]
)
def test_inside_is_as_outside(function, args):
    assert fits_one_kernel(jax.make_jaxpr(function)(*args))
    compiled = jax.jit(one_kernel(function)).lower(*args).compile()
    if jax.default_backend() == "cpu":
        assert "xla_cpu_small_call" in compiled.as_text()
    inside, outside = compiled(*args), jax.jit(function)(*args)
    for a, b in zip(jax.tree.leaves(inside), jax.tree.leaves(outside), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-12 if a.dtype == np.float64 else 1e-6)


@pytest.mark.parametrize(
    "function",
    [
        jnp.sort,
        lambda x: jnp.abs(jnp.fft.fft(x)),
        lambda x: jnp.linalg.cholesky(jnp.diag(x)),
        lambda x: x.at[jnp.array([1, 5])].add(2.0),
        jax.grad(lambda x: jnp.sum(x[jnp.array([1, 5, 1])] ** 2)),
        lambda x: A @ A,
        lambda x: jnp.sum(A[:, None] * A[None], axis=2),
        lambda x: jnp.sum(jnp.ones(LARGEST_ARRAY)) * x,
        lambda x: x + jax.random.normal(jax.random.key(0), (24,)),
        lambda x: x.astype(jnp.bfloat16),
        lambda x: jnp.abs(jnp.exp(1j * x)),
        lambda x: jax.pure_callback(lambda x: x, X, x),
        lambda x: lax.cond(x[0] > 0, jnp.sort, jnp.sin, x),
    ],
)
def test_what_needs_a_library_stays_outside(function):
    assert not fits_one_kernel(jax.make_jaxpr(function)(X))


def test_arguments_that_nothing_uses():
    def function(x, unused, count, flag):
        return lax.while_loop(lambda c: c[0] < count, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))

    expected = np.sin(np.sin(np.ones(3)))
    for call in (one_kernel(function), jax.jit(one_kernel(function))):
        _, y = call(jnp.ones(3), jnp.zeros((5, 5)), 2, jnp.asarray(True))
        np.testing.assert_allclose(y, expected)
    _, y = jax.jit(lambda: one_kernel(function)(jnp.ones(3), jnp.zeros(7), 2, True))()
    np.testing.assert_allclose(y, expected)  # where XLA knows every argument


def test_large_arguments_are_not_copied():
    def function(history, index, unused):
        return lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + history[index, c[0]]), (0, 0.0)
        )[1]

    args = jnp.arange(2.0 * LARGEST_ARRAY).reshape(2, -1), jnp.asarray(1), jnp.ones(3)
    compiled = jax.jit(one_kernel(function, large=1)).lower(*args).compile()
    np.testing.assert_allclose(compiled(*args), 3.0 * LARGEST_ARRAY + 3)
    assert compiled.memory_analysis().temp_size_in_bytes < args[0].nbytes


@pytest.mark.parametrize("wrap", [one_kernel, lambda f: lane_by_lane(f, f)])
def test_lanes_of_tangents_alone(wrap):
    """As `jacfwd` has them: a map over a tangent whose point is the same for all lanes."""
    function = wrap(lambda x, rest: jnp.sin(x) * rest[0])
    x, rest = X[:3], (jnp.arange(3.0), None)
    np.testing.assert_allclose(jax.jacfwd(function)(x, rest), np.diag(np.cos(x) * rest[0]))
    second = jax.jacfwd(jax.jacfwd(function))(x, rest)
    np.testing.assert_allclose(np.einsum("iii->i", second), -np.sin(x) * rest[0])


def test_many_lanes_are_no_kernel():
    n = 30
    lanes = LARGEST_ARRAY + 1  # a sum over so many can't be compiled inside of one
    centres = jnp.linspace(-1, 1, lanes)

    def solved(centre):
        def fun(x):
            return jnp.sum((x - centre) ** 2)

        return minimize(fun, jnp.zeros(n), bounds=(None, 0.5), implicit_diff=False).x[0]

    np.testing.assert_allclose(jax.vmap(solved)(centres), np.minimum(centres, 0.5), atol=1e-5)


@pytest.mark.usefixtures("beside_an_accelerator")
def test_the_function_is_a_program_by_itself_unless_it_has_effects():
    def solved(fun):
        return jax.jit(lambda x: minimize(fun, x).fun)

    def square(x):
        return x @ x

    def told(x):
        jax.debug.callback(lambda: None)
        return x @ x

    def calls(fun, n, platform="cpu"):
        lowered = solved(fun).trace(jnp.ones(n)).lower(lowering_platforms=(platform,))
        return lowered.as_text().count('inlineable = "false"')

    in_between = SHORT_HISTORY
    assert calls(square, in_between) == calls(told, in_between) + 1
    assert calls(square, MANY_VARIABLES + 1) == calls(told, MANY_VARIABLES + 1)
    assert calls(square, in_between, "cuda") == 0
    np.testing.assert_allclose(solved(told)(jnp.ones(in_between)), 0, atol=1e-20)


def test_a_solve_of_constants_with_arguments_that_nothing_uses():
    @jax.jit
    def inner(x, unused):
        return jnp.sum((x - 1) ** 2)

    def fun(x, a, b):
        return inner(x, a) + 0 * jnp.sum(x)

    result = jax.jit(lambda: minimize(fun, jnp.zeros(2), (jnp.ones(3), 4), bounds=(0.0, 0.5)))()
    np.testing.assert_array_equal(result.x, [0.5, 0.5])


@pytest.mark.parametrize(("n", "maxcor"), [(80, 50), (AS_MANY_ROWS + 4, 140)])
def test_more_history_than_variables(n, maxcor):
    """Up to `AS_MANY_ROWS` one kernel, with more the compact form."""

    def fun(x):
        return jnp.sum((1 + jnp.arange(n) % 7) * (x - jnp.cos(jnp.arange(n))) ** 4)

    result = minimize(fun, jnp.zeros(n), bounds=(-0.5, 0.5), maxcor=maxcor, ftol=0.0, gtol=1e-7)
    assert result.success
    np.testing.assert_allclose(result.x, np.clip(np.cos(np.arange(n)), -0.5, 0.5), atol=1e-2)
