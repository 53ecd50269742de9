"""The optax transformation: the run of `minimize` in somebody else's loop."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlbfgsb import AskTell, Reason, lbfgsb, minimize
from jaxlbfgsb.faces.optax_api import _step_to

X0 = np.array([-1.2, 1.0, -0.5, 0.3])
BOX = (np.full(4, -2.0), np.array([0.5, 2.0, 0.8, 2.0]))


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def distance(x):
    return jnp.sum((x["a"] - 3) ** 2) + (x["b"] + 1) ** 2


def looped(fun, params, optimizer, turns=100):
    """The usual loop of optax, past the end of the run: all parameters, and the last state."""

    @jax.jit
    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(fun)(params)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return (optax.apply_updates(params, updates), state), (params, updates)

    start = (params, optimizer.init(params))
    (params, state), (seen, updates) = jax.lax.scan(step, start, length=turns)
    return params, state, seen, updates


def test_the_loop_makes_the_evaluations_of_ask_and_tell_to_rounding(dtype):
    x0, solver, asked = X0.astype(dtype), AskTell(X0.astype(dtype), bounds=BOX), []
    evaluate = jax.jit(jax.value_and_grad(rosenbrock))
    while not solver.done:
        asked.append(solver.ask())
        solver.tell(*evaluate(asked[-1]))
    params, state, seen, updates = looped(rosenbrock, x0, lbfgsb(BOX))
    expected = solver.result()
    assert state.done
    assert params.dtype == seen.dtype == updates.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(seen[:6], asked[:6], rtol=100 * eps, atol=100 * eps)
    if dtype == np.float64:
        assert state.reason == expected.reason
        assert state.nfev == expected.nfev
        assert state.nit == expected.nit
    np.testing.assert_allclose(params, minimize(rosenbrock, x0, bounds=BOX).x, atol=1e-4)
    assert ((seen >= BOX[0].astype(dtype)) & (seen <= BOX[1].astype(dtype))).all()
    assert params[0] == seen[-1, 0] == 0.5  # on its bound, bit for bit
    np.testing.assert_array_equal(params, state.accepted)
    np.testing.assert_array_equal(updates[int(state.nfev) :], 0)
    np.testing.assert_allclose(state.value, rosenbrock(params), rtol=10 * eps)


def test_a_step_lands_inside_and_as_near_as_can_be(dtype):
    rng = np.random.default_rng(0)
    eps = np.finfo(dtype).eps
    p, target = (
        jnp.asarray(rng.normal(size=10_000) * 10.0 ** rng.uniform(-6, 6, 10_000), dtype)
        for _ in range(2)
    )
    low, high = jnp.where(p < target, -jnp.inf, target), jnp.where(p < target, target, jnp.inf)
    point = p + _step_to(p, target, low, high)
    assert ((point >= low) & (point <= high)).all()
    largest = np.maximum(np.abs(p), np.abs(target))
    assert (np.abs(point - target) <= 2 * eps * largest).all()
    near = (target / p >= 0.5) & (target / p <= 2)
    assert near.sum() > 100
    np.testing.assert_array_equal(point[near], target[near])
    plain = np.asarray(p + (target - p))
    assert ((plain < low) | (plain > high)).any()  # what the plain difference would do
    free = p + _step_to(p, target, None, None)
    assert (np.abs(free - target) <= np.abs(plain - target)).all()


def test_parameters_that_start_outside_are_brought_inside():
    bounds = (np.array([0.1, 0.0]), np.array([0.1, 0.5]))
    _, state, seen, _ = looped(
        lambda x: jnp.sum((x - 1) ** 2), jnp.array([1e8, -3.0]), lbfgsb(bounds)
    )
    assert state.done
    np.testing.assert_array_equal(state.accepted, [0.1, 0.5])
    assert (seen[2:] >= bounds[0]).all()
    assert (seen[2:] <= bounds[1]).all()


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: optax.chain(optax.zero_nans(), o)])
def test_pytrees_of_two_precisions_alone_and_in_a_chain(wrap):
    start = {"a": jnp.zeros(3, jnp.float32), "b": jnp.zeros((), jnp.float64)}
    optimizer = wrap(lbfgsb(({"a": None, "b": -0.1}, {"a": np.array([1, 2, 4.0]), "b": None})))
    params, state, seen, _ = looped(distance, start, optimizer, turns=40)
    assert optax.tree_utils.tree_get(state, "reason") == Reason.PROJECTED_GRADIENT
    accepted = optax.tree_utils.tree_get(state, "accepted")
    np.testing.assert_allclose(params["a"], [1, 2, 3], rtol=1e-5)
    assert params["b"] == -0.1
    for name, dtype in (("a", jnp.float32), ("b", jnp.float64)):
        assert params[name].dtype == seen[name].dtype == accepted[name].dtype == dtype
        np.testing.assert_array_equal(accepted[name], params[name])


def test_a_part_of_the_parameters():
    optimizer = optax.chain(
        optax.masked(lbfgsb((0.0, 1.0)), {"a": True, "b": False}),
        optax.masked(optax.set_to_zero(), {"a": False, "b": True}),
    )
    start = {"a": jnp.full(3, 0.5), "b": jnp.asarray(7.0)}
    params, _, _, _ = looped(distance, start, optimizer, turns=10)
    np.testing.assert_array_equal(params["a"], 1.0)
    assert params["b"] == 7.0


def test_lanes_and_values_that_are_not_finite():
    def fun(x):
        return jnp.where(x[0] > 0.9, jnp.nan, rosenbrock(x))

    starts = jnp.stack([X0[:2], X0[1:3] - 1.5])
    last, state, _, _ = jax.vmap(lambda x: looped(fun, x, lbfgsb((None, np.array([0.5, 2])))))(
        starts
    )
    assert state.done.all()
    np.testing.assert_allclose(last, [[0.5, 0.25]] * 2, atol=1e-4)


def test_errors_teach():
    optimizer, x = lbfgsb((0.0, 1.0)), jnp.zeros(2)
    state = optimizer.init(x)
    for missing in ({"params": x}, {"value": 1.0}):
        with pytest.raises(ValueError, match="value=value"):
            optimizer.update(x, state, **missing)
    with pytest.raises(ValueError, match="structure of the parameters"):
        optimizer.update({"a": x}, state, x, value=1.0)
    with pytest.raises(ValueError, match="greater than its upper"):
        lbfgsb((1.0, 0.0)).init(x)
    with pytest.raises(TypeError, match="floating"):
        optimizer.init(jnp.zeros(2, int))
    with pytest.raises(ValueError, match="maxcor"):
        lbfgsb(maxcor=0)


@pytest.mark.parametrize("n", [3, 600])
def test_the_state_holds_tuples_and_arrays_alone(n):
    """So that what saves the states of other optimizers saves it too; pickle does here."""
    optimizer, params = lbfgsb((-1.0, 1.5)), jnp.zeros(n)

    def step(params, state):
        value, gradient = jax.value_and_grad(lambda x: jnp.sum((x - 1) ** 2))(params)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state

    def are_plain(part):
        if isinstance(part, tuple | list):
            return all(map(are_plain, part))
        return isinstance(part, jax.Array)

    params, state = step(params, optimizer.init(params))
    assert are_plain(state)
    saved = pickle.loads(pickle.dumps(state))
    for got, expected in zip(
        jax.tree.leaves(step(params, saved)), jax.tree.leaves(step(params, state)), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
