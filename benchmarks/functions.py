"""Problems of any size, written down here: what CUTEst has not, or not large enough."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import Problem


def rosenbrock(n: int, bounded: bool = True, dtype: type = np.float64) -> Problem:
    """The chained Rosenbrock sum; with bounds, every other variable stops at 0.5."""
    lower = np.full(n, -2.0, dtype) if bounded else None
    upper = np.where(np.arange(n) % 2, 0.5, 2.0).astype(dtype) if bounded else None
    name = f"Rosenbrock, {'bounded' if bounded else 'free'}"
    x0 = np.resize([-1.2, 1.0], n).astype(dtype)
    return Problem(name, _rosenbrock, x0, lower, upper, numpy=_rosenbrock_numpy)


def _rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def _rosenbrock_numpy(x: np.ndarray) -> tuple[float, np.ndarray]:
    head, tail = x[:-1], x[1:]
    above, left = tail - head * head, 1 - head
    gradient = np.zeros_like(x)
    gradient[:-1] = -400 * head * above - 2 * left
    gradient[1:] += 200 * above
    return float(100 * (above @ above) + left @ left), gradient


def quadratic(n: int, dtype: type = np.float64) -> Problem:
    """A convex quadratic that ends with half of its variables on a bound.

    A tridiagonal Hessian with diagonal entries from 1 to 100, centred on a point half of
    whose entries lie outside of the box, at all distances.  From the middle of the box each
    of these has a breakpoint of its own, so that one Cauchy search crosses a share of n.
    """
    rng = np.random.default_rng(0)
    centre = rng.uniform(-2, 2, n).astype(dtype)
    diagonal = np.exp(rng.uniform(0, np.log(100), n)).astype(dtype)
    one = np.ones(n, dtype)
    args = (jnp.asarray(centre), jnp.asarray(diagonal))
    return Problem("quadratic, bounded", _quadratic, 0 * one, -one, one, args)


def _quadratic(x: jax.Array, centre: jax.Array, diagonal: jax.Array) -> jax.Array:
    r = x - centre
    step = r[1:] - r[:-1]
    return 0.5 * (jnp.sum(diagonal * r * r) + jnp.sum(step * step))


def logistic(n: int, dtype: type = np.float64) -> Problem:
    """Logistic regression with weights in [0, 1]: n samples with five features each."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, n)).astype(dtype)
    truth = rng.uniform(-1, 1, n)
    margins = sum(row * np.roll(truth, -k) for k, row in enumerate(features))
    signs = np.where(rng.uniform(size=n) < 1 / (1 + np.exp(-3 * margins)), 1, -1).astype(dtype)
    x0, zero, one = np.full(n, 0.5, dtype), np.zeros(n, dtype), np.ones(n, dtype)
    args = (jnp.asarray(features * signs),)
    return Problem("logistic, bounded", _logistic, x0, zero, one, args)


def _logistic(x: jax.Array, features: jax.Array) -> jax.Array:
    margins = sum(row * jnp.roll(x, -k) for k, row in enumerate(features))
    return jnp.sum(jnp.logaddexp(0, -margins)) + 0.005 * jnp.sum(x * x)
