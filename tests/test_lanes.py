"""What `vmap` makes of a function that is computed lane by lane, against a loop in Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxlbfgsb.xla import lanes
from jaxlbfgsb.xla.lanes import lane_by_lane


def halvings(x, data):
    """A loop whose length is the lane's own; `data` are shared or not."""

    def halve(carry):
        return carry[0] / 2 + 0 * data["b"].sum(), carry[1] + 1

    x, count = lax.while_loop(lambda carry: jnp.abs(carry[0]).max() > 1, halve, (x, 0))
    return {"x": x + data["b"], "count": count}


def starts(*shape, dtype):
    return np.exp(np.random.default_rng(0).normal(2, 2, (*shape, 3))).astype(dtype)


def expected(x, data):
    halved = np.maximum(np.ceil(np.log2(x.max(axis=-1))), 0)
    return {"x": x / 2 ** halved[..., None] + data["b"], "count": halved}


def assert_equal(got, wanted):
    np.testing.assert_allclose(got["x"], wanted["x"], rtol=1e-6)
    np.testing.assert_array_equal(got["count"], wanted["count"])


@pytest.mark.parametrize("is_kernel", [True, False])
@pytest.mark.parametrize("size", [1, lanes.LANES, lanes.LANES + 1, 3 * lanes.LANES - 5])
def test_all_lanes_and_no_other(size, is_kernel, dtype):
    call = lane_by_lane(halvings, halvings, is_kernel)
    x, data = starts(size, dtype=dtype), {"b": np.arange(3, dtype=dtype)}
    got = jax.jit(jax.vmap(call, in_axes=(0, None)))(x, data)
    assert_equal(got, expected(x, data))
    own = {"b": np.arange(3 * size, dtype=dtype).reshape(size, 3)}
    assert_equal(jax.vmap(call)(x, own), expected(x, own))


@pytest.mark.parametrize("is_kernel", [True, False])
def test_lanes_of_lanes(is_kernel, dtype):
    call = lane_by_lane(halvings, halvings, is_kernel)
    x, data = starts(3, lanes.LANES + 2, dtype=dtype), {"b": np.ones(3, dtype)}
    got = jax.vmap(jax.vmap(call, in_axes=(0, None)), in_axes=(0, None))(x, data)
    assert_equal(got, expected(x, data))
    swapped = jax.vmap(jax.vmap(call, in_axes=(0, None)), in_axes=(1, None), out_axes=1)(x, data)
    assert_equal(swapped, expected(x, data))


def test_large_data_are_not_copied_as_a_whole(dtype):
    def last(x, b):
        return halvings(x, {"b": b[-3:]})

    call = lane_by_lane(last, last, is_kernel=True)
    x, b = starts(1000, dtype=dtype), np.ones((1000, 300), dtype)
    compiled = jax.jit(jax.vmap(call)).lower(x, b).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < b.nbytes / 4
