"""A second call skips the checks of the first, and nothing else."""

import gc
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlbfgsb
from jaxlbfgsb import minimize


def far(x, target):
    return jnp.sum((x - target) ** 2)


@pytest.fixture
def unprepared(monkeypatch):
    """From now on a call that is prepared anew fails."""

    def forbid():
        def fails(*_):
            raise AssertionError("prepared anew")

        monkeypatch.setattr(sys.modules["jaxlbfgsb.minimize"], "traced", fails)

    return forbid


def solved(x0, target, bounds, **options):
    return minimize(far, x0, (target,), bounds=bounds, **options).x.tolist()


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_new_data_are_not_prepared_for(array, unprepared, dtype):
    x0, bounds = array(np.zeros(2, dtype)), (array(np.zeros(2, dtype)), 1.5)
    assert solved(x0, array(np.array([1, 2], dtype)), bounds) == [1, 1.5]
    unprepared()
    assert solved(x0, array(np.array([-1, 1], dtype)), bounds) == [0, 1]
    x0 = array(np.array([1, 0.5], dtype))
    assert solved(x0, array(np.array([-1, 1], dtype)), bounds) == [0, 1]


def test_a_start_of_a_weak_type_is_known_again(unprepared):
    x0, target = jnp.full(2, 0.5), jnp.asarray([1.0, 2.0])
    assert x0.weak_type
    assert solved(x0, target, None) == [1, 2]
    unprepared()
    assert solved(x0, target, None) == [1, 2]
    with pytest.raises(AssertionError, match="anew"):  # such data are traced in another way
        solved(x0, x0, None)


def test_bounds_that_changed_in_place_count(dtype):
    x0, upper, target = np.zeros(2, dtype), np.full(2, 3, dtype), np.full(2, 9, dtype)
    assert solved(x0, target, (None, upper)) == [3, 3]
    upper[0] = 2
    assert solved(x0, target, (None, upper)) == [2, 3]
    upper[0] = 3
    assert solved(x0, target, (None, upper)) == [3, 3]
    upper[0] = -np.inf
    with pytest.raises(ValueError, match="upper bound"):
        solved(x0, target, (None, upper))


def test_other_arrays_of_bounds_count(dtype):
    x0, target = jnp.zeros(2, dtype), jnp.full(2, 9, dtype)
    for side in (1, 2, 3, 1):
        assert solved(x0, target, (None, jnp.full(2, side, dtype))) == [side, side]
    with pytest.raises(ValueError, match="greater"):
        solved(x0, target, (jnp.full(2, 2, dtype), jnp.full(2, 1, dtype)))


def test_what_the_function_closes_over_counts(dtype):
    target = np.ones(2, dtype)

    def fun(x):
        return far(x, target)

    for value in (1, 2, 1):
        target[:] = value
        assert minimize(fun, np.zeros(2, dtype)).x.tolist() == [value, value]


def test_a_start_of_nan_is_still_refused(dtype):
    x0, target = np.zeros(2, dtype), np.ones(2, dtype)
    assert solved(x0, target, None) == [1, 1]
    x0[1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        solved(x0, target, None)
    x0[:] = np.inf, -np.inf  # whose squares do not cancel
    assert solved(x0, target, (0, 2)) == [1, 1]


def test_equal_options_of_other_types_are_still_refused(dtype):
    x0, target = np.zeros(2, dtype), np.ones(2, dtype)
    solved(x0, target, None, trace=1)
    with pytest.raises(ValueError, match="trace"):
        solved(x0, target, None, trace=True)


def test_inside_of_jit_nothing_is_recalled(dtype):
    x0, target = jnp.zeros(2, dtype), jnp.ones(2, dtype)
    for value in (1, 2):
        jitted = jax.jit(lambda upper: minimize(far, x0, (9 * target,), bounds=(None, upper)).x)
        assert jitted(jnp.full(2, value, dtype)).tolist() == [value, value]


def test_clear_cache_lets_bounds_go(dtype):
    upper = jnp.ones(2, dtype) + 1
    seen = weakref.ref(upper)
    solved(jnp.zeros(2, dtype), jnp.ones(2, dtype), (None, upper))
    del upper
    jaxlbfgsb.clear_cache()
    gc.collect()
    assert seen() is None
