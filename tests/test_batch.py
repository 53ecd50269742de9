"""Many problems at once: each lane is a solve of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlbfgsb
from jaxlbfgsb import Reason, batch, blocks, minimize, minimize_batch

LANES, N = 13, 3


def rosenbrock(x, a):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (a - x[:-1]) ** 2)


def with_product(x, a):
    """Does not fit into one kernel: a gather, and its derivative a scatter."""
    return jnp.sum(100 * (x[jnp.array([1, 2])] - x[:-1] ** 2) ** 2 + (a - x[:-1]) ** 2)


@pytest.fixture
def lanes(dtype):
    rng = np.random.default_rng(1)
    x0 = rng.uniform(-2, 2, (LANES, N)).astype(dtype)
    a = rng.uniform(0.5, 1.5, LANES).astype(dtype)
    upper = rng.uniform(0.3, 2, (LANES, N)).astype(dtype)
    return x0, a, (-3.0, upper)


def assert_lanes_are_single_solves(result, fun, lanes, exactly=True):
    x0, a, (lower, upper) = lanes
    for i in range(len(x0)):
        single = minimize(fun, x0[i], (a[i],), bounds=(lower, upper[i]))
        assert single.success
        if exactly:
            for name in ("x", "fun", "jac", "nit", "nfev", "reason", "status", "active"):
                np.testing.assert_array_equal(getattr(result, name)[i], getattr(single, name))
        else:
            assert result.success[i]
            atol = 1e-5 if x0.dtype == np.float64 else 3e-3
            np.testing.assert_allclose(result.x[i], single.x, atol=atol)
        assert (result.x[i] <= upper[i]).all()


@pytest.mark.parametrize(("fun", "block"), [(rosenbrock, 3), (rosenbrock, 1024), (with_product, 3)])
def test_each_lane_is_its_single_solve(fun, block, lanes, dtype, monkeypatch):
    monkeypatch.setattr(batch, "CPU_BLOCK", block)
    x0, a, bounds = lanes
    result = minimize_batch(fun, x0, (a,), bounds=bounds)
    assert result.x.dtype == dtype
    assert result.hess_inv is None
    assert result.success.shape == (LANES,)
    assert_lanes_are_single_solves(result, fun, lanes)


def test_vmap_is_the_same(lanes):
    x0, a, (lower, upper) = lanes
    result = minimize_batch(rosenbrock, x0, (a,), bounds=(lower, upper))
    mapped = jax.vmap(lambda x, a, u: minimize(rosenbrock, x, (a,), bounds=(lower, u)))(
        x0, a, upper
    )
    np.testing.assert_array_equal(mapped.x, result.x)
    np.testing.assert_array_equal(mapped.nfev, result.nfev)


@pytest.mark.parametrize(
    ("dtype", "shared", "many"),
    [(np.float32, True, LANES), (np.float64, False, LANES + 1)],
    ids=["one box, the last by themselves", "boxes, together"],
)
def test_lanes_in_step_as_on_an_accelerator(lanes, shared, many, monkeypatch, on_an_accelerator):
    x0, a, (lower, upper) = lanes
    if shared:
        upper = np.broadcast_to(upper[0], upper.shape)
    monkeypatch.setattr(batch, "solve_in_turn", batch.solve_in_step)
    monkeypatch.setattr(blocks, "MANY_LANES", many)
    axes, side = ((0, 0, None), upper[0]) if shared else ((0, 0, 0), upper)
    with on_an_accelerator():
        result = minimize_batch(rosenbrock, x0, (a,), in_axes=axes, bounds=(lower, side))
    assert_lanes_are_single_solves(result, rosenbrock, (x0, a, (lower, upper)), exactly=False)


@pytest.mark.parametrize("in_step", [False, True])
def test_a_lane_that_fails_harms_no_other(lanes, in_step, monkeypatch):
    x0, a, bounds = lanes
    if in_step:
        monkeypatch.setattr(batch, "solve_in_turn", batch.solve_in_step)
    clean = minimize_batch(rosenbrock, x0, (a,), bounds=bounds)
    spoilt_a, spoilt_upper = a.copy(), bounds[1].copy()
    spoilt_a[4], spoilt_upper[7] = np.nan, -4.0
    result = minimize_batch(rosenbrock, x0, (spoilt_a,), bounds=(bounds[0], spoilt_upper))
    assert result.reason[4] == Reason.NONFINITE_AT_X0
    assert result.reason[7] == Reason.INVALID_BOUNDS
    others = np.setdiff1d(np.arange(LANES), [4, 7])
    # In step a lane may round as its place among the others makes it.
    rtol = 100 * np.finfo(x0.dtype).eps if in_step else 0
    np.testing.assert_allclose(result.x[others], clean.x[others], rtol=rtol)
    np.testing.assert_array_equal(result.nfev[others], clean.nfev[others])
    assert result.success[others].all()


def test_axes_and_shared_arguments():
    x0 = {"a": np.ones((2, 5)), "b": np.zeros(3)}  # lanes last in a; b is shared

    def fun(x, data, scale):
        return scale * (jnp.sum((x["a"] - data["c"]) ** 2) + jnp.sum((x["b"] - 1) ** 2))

    data = {"c": np.arange(10.0).reshape(5, 2)}
    result = minimize_batch(
        fun,
        x0,
        (data, 2.0),
        in_axes=({"a": 1, "b": None}, (0, None), None),
        bounds=({"a": None, "b": -1.0}, {"a": np.array([4.0, 5.0]), "b": 0.5}),
    )
    np.testing.assert_allclose(result.x["a"], np.minimum(data["c"], [4, 5]), atol=1e-5)
    np.testing.assert_array_equal(result.x["b"], np.full((5, 3), 0.5))


def test_value_and_grad_and_aux():
    def fun(x, a):
        return (jnp.sum((x - a) ** 2), {"a": a}), 2 * (x - a)

    a = jnp.arange(4.0)
    result = minimize_batch(fun, jnp.zeros((4, 2)), (a,), value_and_grad=True, has_aux=True)
    np.testing.assert_array_equal(result.aux["a"], a)
    np.testing.assert_allclose(result.x, jnp.stack([a, a], axis=1), atol=1e-6)


def test_one_trace_and_no_new_compilation_for_new_data():
    traces = []

    def fun(x, a):
        traces.append(1)
        return jnp.sum((x - a) ** 2)

    for seed in range(3):
        a = np.random.default_rng(seed).normal(size=7)
        result = minimize_batch(fun, np.zeros((7, 2)), (a,))
        np.testing.assert_allclose(result.x, np.stack([a, a], axis=1), atol=1e-6)
    assert len(traces) == 1


def test_threads_have_the_settings_of_the_caller(monkeypatch):
    monkeypatch.setattr(batch, "CPU_BLOCK", 2)
    with jax.enable_x64(False):
        result = minimize_batch(lambda x: x @ x, np.ones((9, 2), np.float32))
        assert result.x.dtype == np.float32
    result = minimize_batch(lambda x: x @ x, np.ones((9, 2)))
    assert result.x.dtype == np.float64
    assert result.success.all()


def test_progress_counts_every_lane(monkeypatch, capsys):
    monkeypatch.setattr(batch, "CPU_BLOCK", 2)
    minimize_batch(lambda x: x @ x, np.ones((5, 2)), progress=True)
    assert "5/5" in capsys.readouterr().err


def test_without_tqdm_the_error_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"jaxlbfgsb\[progress\]"):
        minimize_batch(lambda x: x @ x, np.ones((5, 2)), progress=True)


@pytest.mark.parametrize(
    ("x0", "args", "in_axes", "message"),
    [
        (np.ones((3, 2)), (np.ones(4),), (0, 0, 0), r"one length.*\[3, 4\]"),
        (np.ones((3, 2)), (2.0,), (0, 0, 0), "axis 0 of an array of shape ()"),
        (np.ones((3, 2)), (), (None, 0, 0), "found: none"),
        (np.ones((0, 2)), (), (0, 0, 0), "at least 1"),
        (np.ones((3, 2)), (), (0, 0), "tuple of three"),
        (np.ones((3, 2)), (np.ones(3),), (0, (0, 0), 0), "in_axes does not fit"),
    ],
)
def test_errors_teach(x0, args, in_axes, message):
    with pytest.raises(ValueError, match=message):
        minimize_batch(lambda x, *args: x @ x, x0, args, in_axes=in_axes)


def test_it_is_promised():
    assert "minimize_batch" in jaxlbfgsb.__all__
