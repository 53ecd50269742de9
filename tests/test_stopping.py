"""The stopping tests, at their limits."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb.method import stopping


def small(earlier, value, ftol, dtype):
    got = stopping.reduction_is_small(*(jnp.asarray(v, dtype) for v in (earlier, value, ftol)))
    return bool(got)


def test_relative_reduction_divides_by_the_largest(dtype):
    assert small(3.0, 3.0, 0.0, dtype)
    assert not small(0.75, 0.5, 0.125, dtype)  # by 1
    assert small(0.75, 0.5, 0.25, dtype)  # equality is enough
    assert small(16.0, 12.0, 0.25, dtype)  # by f_k
    assert not small(16.0, 11.0, 0.25, dtype)
    assert small(-12.0, -16.0, 0.25, dtype)  # by f_{k+1}
    assert not small(-11.0, -16.0, 0.25, dtype)


@pytest.mark.parametrize("earlier", [1.0, np.inf])
def test_nothing_that_overflows_converges(earlier, dtype):
    assert not small(earlier, -np.inf, 1e-3, dtype)
    assert not small(np.inf, 1.0, 1e-3, dtype)
    assert not small(earlier, np.nan, 1e-3, dtype)
    huge = np.finfo(dtype).max
    assert not small(huge, -huge, 1e-3, dtype)


def test_value_noise(dtype):
    eps = np.finfo(dtype).eps
    got = stopping.value_noise(jnp.asarray(-4.0, dtype))
    assert got.dtype == dtype
    assert got == dtype(40 * eps)
    assert stopping.value_noise(jnp.asarray(0.0, dtype)) == 0


def test_gradient_noise(dtype):
    eps = float(np.finfo(dtype).eps)
    x_norm = jnp.asarray(3.0, dtype)
    got = stopping.gradient_noise(x_norm, jnp.asarray(50 * eps, dtype), jnp.asarray(4.0, dtype))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, np.sqrt(2 * 4 * 50 * eps) + 4 * 10 * eps * 3, rtol=1e-5)
    assert (
        stopping.gradient_noise(x_norm, jnp.asarray(50 * eps, dtype), jnp.asarray(0.0, dtype)) == 0
    )


def test_gradient_noise_is_what_rounding_leaves(dtype):
    """Of ``f = k x^2 / 2 + f_0``: where f is flat to rounding, the gradient passes."""
    k, f0 = 30.0, 7.0
    flat = np.sqrt(2 * 10 * np.finfo(dtype).eps * f0 / k)  # raises f by its noise
    allowed = stopping.gradient_noise(
        jnp.asarray(flat, dtype),
        stopping.value_noise(jnp.asarray(f0, dtype)),
        jnp.asarray(k, dtype),
    )
    assert 0.99 * k * flat < allowed < 1.1 * k * flat


def test_observed_noise(dtype):
    eps = float(np.finfo(dtype).eps)
    f = jnp.asarray(2.0, dtype)
    usual = stopping.value_noise(f)

    def observed(change, predicted):
        return stopping.observed_noise(f, f + dtype(change), jnp.asarray(predicted, dtype))

    assert observed(1000 * eps, 20 * eps) == usual  # a change as large as it may be
    np.testing.assert_allclose(observed(1000 * eps, 2 * eps), 1000 * eps, rtol=1e-6)
    assert observed(4 * eps, 0) == usual
    assert observed(0.5, 0) == 100 * usual  # a jump
    assert observed(np.nan, 0) == usual
    assert observed(0.5, 0).dtype == dtype
