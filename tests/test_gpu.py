"""A smoke test on an accelerator, where there is one: ``python -m pytest -m gpu``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb import fmin_l_bfgs_b, minimize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() == "cpu", reason="no accelerator here"),
]


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_both_front_doors_and_a_batch(dtype):
    x0 = np.resize(np.array([-1.2, 1.0], dtype), 50)
    result = minimize(rosenbrock, x0, bounds=(-2.0, 0.7))
    assert result.x.devices() == {jax.devices()[0]}
    assert result.success
    x, f, d = fmin_l_bfgs_b(rosenbrock, x0, bounds=[(-2.0, 0.7)] * 50)
    assert d["warnflag"] == 0
    np.testing.assert_allclose(result.fun, f, rtol=1e-3)
    batch = jax.vmap(lambda x: minimize(rosenbrock, x, bounds=(-2.0, 0.7)))(np.stack([x0, x0 / 2]))
    np.testing.assert_allclose(batch.fun[0], f, rtol=1e-3)
    assert isinstance(x, np.ndarray)
