"""Many starts find all minima of functions whose minima are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb import Reason, multistart

SIX = (np.full(2, -6.0), np.full(2, 6.0))
HIMMELBLAU = [[3, 2], [-2.805118, 3.131312], [-3.779310, -3.283186], [3.584428, -1.848126]]


def himmelblau(x):
    a, b = x
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


def rastrigin(x):
    return 10 * x.size + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))


def camel(x):
    a, b = x
    return (4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (4 * b**2 - 4) * b**2


def test_himmelblau_has_four_minima():
    found = multistart(himmelblau, SIX, 50, gtol=1e-8)
    assert len(found.minima) == 4
    assert found.failed == 0
    points = np.array([m.x for m in found.minima])
    for known in HIMMELBLAU:
        assert np.abs(points - known).max(axis=1).min() < 1e-5
    assert sum(m.count for m in found.minima) == 50
    lanes = np.concatenate([m.lanes for m in found.minima])
    assert sorted(lanes.tolist()) == list(range(50))
    assert found.fun == min(m.fun for m in found.minima) < 1e-12
    np.testing.assert_array_equal(found.x, found.best.x)
    assert found.starts.shape == (50, 2)
    assert (np.abs(found.starts) <= 6).all()


def test_the_six_minima_of_the_camel():
    found = multistart(camel, (np.array([-2.0, -1.0]), np.array([2.0, 1.0])), 128)
    values = [m.fun for m in found.minima]
    expected = [-1.0316285, -1.0316285, -0.2154638, -0.2154638, 2.1042503, 2.1042503]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    np.testing.assert_allclose(np.abs(found.x), [0.0898420, 0.7126564], atol=1e-5)


def test_rastrigin_has_a_minimum_at_about_each_grid_point():
    found = multistart(rastrigin, (np.full(2, -5.12), np.full(2, 5.12)), 256)
    assert found.fun < 1e-9
    np.testing.assert_allclose(found.x, 0, atol=1e-5)
    for m in found.minima:
        inside = np.abs(m.x) < 5.11
        assert (np.abs(m.x - np.round(m.x))[inside] < 0.05).all()
    assert 40 < len(found.minima) <= 169
    assert "higher ones: see `minima`" in repr(found)


def test_the_same_seed_gives_the_same_points():
    starts = [multistart(jnp.sum, SIX, 5, seed=seed).starts for seed in (1, 1, 2)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])
    generator = np.random.default_rng(1)
    np.testing.assert_array_equal(multistart(jnp.sum, SIX, 5, seed=generator).starts, starts[0])


def test_failed_runs_are_counted_and_left_out():
    def fun(x):  # no number for x[0] < -1
        return jnp.sum(jnp.where(x > -1, (x - 2) ** 2, jnp.nan))

    found = multistart(fun, (np.array([-3.0]), np.array([5.0])), 32)
    assert len(found.minima) == 1
    assert found.failed == 8  # a quarter of the box
    assert found.minima[0].count == 24
    assert f"{Reason.NONFINITE_AT_X0.name} 8" in repr(found)
    assert repr(found).startswith("1 minimum from 32 starts; 8 did not converge.")
    hopeless = multistart(lambda x: fun(x - 9), (np.array([-3.0]), np.array([5.0])), 4)
    assert hopeless.minima == ()
    assert not hopeless.best.success
    assert repr(hopeless).startswith("0 minima from 4 starts; 4 did not converge.")


def test_a_range_for_the_starts():
    lower = np.array([-np.inf, 0.0])
    sampling = (np.array([-4.0, -4.0]), 4.0)
    found = multistart(himmelblau, (lower, None), 16, sampling=sampling)
    assert (found.starts >= np.array([-4.0, 0.0])).all()
    assert (found.starts <= 4).all()
    assert (found.runs.x[:, 1] >= 0).all()
    with pytest.raises(ValueError, match=r"variable 0 is from -inf to inf\. Give finite"):
        multistart(himmelblau, (lower, None), 16)


def test_pytrees_and_a_start_of_ones_own():
    def fun(p, shift):
        return himmelblau(jnp.append(p["a"], p["b"])) + shift

    start = {"a": np.array([3.0], np.float32), "b": np.float32(2.0)}
    found = multistart(fun, (-6.0, 6.0), 20, (1.0,), x0=start)
    assert found.starts["b"][0] == 2.0
    assert found.runs.nit[0] == 0
    assert found.best.x["a"].dtype == np.float32
    assert found.minima[0].x["a"].shape == (1,)
    assert len(found.minima) == 4


def test_options_reach_the_solver():
    found = multistart(lambda x: (himmelblau(x), x), SIX, 8, maxiter=2, has_aux=True, trace=5)
    assert found.failed == 8
    assert (found.runs.nit <= 2).all()
    np.testing.assert_array_equal(found.best.aux, found.best.x)
    assert found.best.trace.table().iteration[-1] == 2


def test_in_single_precision():
    with jax.enable_x64(False):
        found = multistart(himmelblau, tuple(np.float32(side) for side in SIX), 32)
        assert found.starts.dtype == np.float32
    assert len(found.minima) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_starts": 0}, "n_starts must be an integer of at least 1"),
        ({"n_starts": 2.5}, "n_starts must be"),
        ({"bounds": (-1.0, 1.0)}, "The shape of the variables is not known"),
        ({"bounds": [(-1, 1), (-1, 1)]}, "The shape of the variables is not known"),
        ({"x_tol": -1.0}, "x_tol must be"),
        ({"x_tol": np.nan}, "x_tol must be"),
    ],
)
def test_errors_teach(arguments, message):
    with pytest.raises(ValueError, match=message):
        multistart(himmelblau, **{"bounds": SIX, **arguments})
