"""What differs between platforms is traced where it may be wanted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb import minimize
from jaxlbfgsb.xla.platform import by_platform

ON_CPU = jax.default_backend() == "cpu"


def traced_and_result():
    traced = []

    def cpu(x):
        traced.append("cpu")
        return x + 1

    def default(x):
        traced.append("default")
        return x + 2

    result = jax.jit(lambda x: by_platform(x, cpu=cpu, default=default))(1.0)
    return sorted(traced), float(result)


def test_without_an_accelerator_nothing_is_traced_for_one(monkeypatch):
    monkeypatch.setattr("jaxlbfgsb.xla.platform.backends", lambda: {"cpu": None})
    assert traced_and_result() == (["cpu"], 2)


@pytest.mark.usefixtures("beside_an_accelerator")
def test_beside_an_accelerator_both_are():
    assert traced_and_result() == (["cpu", "default"], 2 if ON_CPU else 3)


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_as_on_an_accelerator():
    assert traced_and_result() == (["default"], 3)


@pytest.mark.parametrize("n", [2, 600])
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_a_program_for_any_platform_can_be_exported_from_here(n, platform):
    def solve(x0):
        return minimize(lambda x: jnp.sum((x - 1) ** 4), x0, bounds=(-1.0, 0.5)).x

    exported = jax.export.export(jax.jit(solve), platforms=[platform])(jnp.zeros(n))
    assert exported.platforms == (platform,)
    if platform == jax.default_backend():
        np.testing.assert_array_equal(exported.call(jnp.zeros(n)), np.full(n, 0.5))
