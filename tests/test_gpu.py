"""A smoke test on an accelerator, where there is one: ``python -m pytest -m gpu``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb import blocks, fmin_l_bfgs_b, minimize, minimize_batch

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


def on_cpu(function, *args):
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.tree.map(np.asarray, function(*jax.tree.map(np.asarray, args)))


@pytest.mark.parametrize("many", [64, 1 << 15], ids=["the last by themselves", "together"])
def test_lanes_in_step_end_as_well_as_on_a_cpu(many, dtype, monkeypatch):
    monkeypatch.setattr(blocks, "MANY_LANES", many)
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(rng.uniform(-2, 2, (64, 5)), dtype)
    upper = jnp.asarray(rng.uniform(0.3, 2, 5), dtype)

    def solve(x0, upper):
        result = minimize_batch(rosenbrock, x0, in_axes=(0, 0, None), bounds=(-2.0, upper))
        return result.x, result.fun, result.success

    x, values, success = solve(x0, upper)
    _, expected, _ = on_cpu(solve, x0, upper)
    assert success.all()
    assert (x <= upper).all()
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-6)


def test_many_variables_that_meet_their_bounds(dtype):
    n = 20_000
    rng = np.random.default_rng(0)
    centre = jnp.asarray(rng.uniform(-2, 2, n), dtype)
    weight = jnp.asarray(np.exp(rng.uniform(0, 4, n)), dtype)

    def solve(centre, weight):
        def fun(x):
            return 0.5 * jnp.sum(weight * (x - centre) ** 2) / n

        return minimize(fun, jnp.zeros_like(centre), bounds=(-1.0, 1.0), gtol=1e-9).x

    x = solve(centre, weight)
    np.testing.assert_allclose(x, jnp.clip(centre, -1, 1), atol=1e-2)
    np.testing.assert_allclose(x, on_cpu(solve, centre, weight), atol=2e-2)
    held = jnp.abs(centre) > 1.1
    assert (jnp.abs(x[held]) == 1).all()


def test_the_solution_is_differentiable():
    def solution(target):
        return minimize(
            lambda x, t: jnp.sum((x - t) ** 2), jnp.zeros(3), (target,), bounds=(0.0, 1.0)
        ).x

    jacobian = jax.jacrev(solution)(jnp.array([-1.0, 0.5, 2.0]))
    np.testing.assert_allclose(jacobian, np.diag([0.0, 1.0, 0.0]), atol=1e-6)


def test_values_that_lie_there_are_checked_there(dtype):
    x0 = jnp.ones(5, dtype)
    with pytest.raises(ValueError, match="NaN"):
        minimize(rosenbrock, x0.at[2].set(jnp.nan))
    with pytest.raises(ValueError, match="greater than its upper bound"):
        minimize(rosenbrock, x0, bounds=(x0, x0.at[3].set(0)))
    with pytest.raises(ValueError, match="hold NaN"):
        minimize(rosenbrock, x0, bounds=(x0.at[1].set(jnp.nan), x0))
