"""The choice that is one operation against that of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb.method.state import Phase
from jaxlbfgsb.xla.choice import where

OTHERS = [0, -1.5, np.inf, Phase.DONE, np.float32(2), [1.0, 2.0, 3.0], [[0.5], [1.5]]]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1)], ids=str)
@pytest.mark.parametrize("b", OTHERS, ids=str)
def test_it_is_that_of_jax(shape, b, dtype):
    rng = np.random.default_rng(len(shape))
    a = jnp.asarray(rng.normal(size=shape), dtype)
    b = jnp.asarray(b, dtype) if isinstance(b, list) else b
    condition = jnp.asarray(rng.normal(size=shape) > 0)
    for c in (condition, ~condition, jnp.asarray(True), jnp.eye(2, 3, dtype=bool)):
        for first, second in ((a, b), (b, a)):
            got, wanted = (choose(c, first, second) for choose in (where, jnp.where))
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)


def test_numbers_alone_are_integers():
    got = where(jnp.asarray([True, False]), Phase.DONE, 7)
    assert got.dtype == np.int32
    assert got.tolist() == [Phase.DONE, 7]


def test_a_number_takes_the_dtype_of_an_array():
    got = where(jnp.asarray(True), jnp.int32(3), Phase.DONE)
    assert (got.dtype, got.weak_type) == (np.int32, False)


def test_it_is_one_operation():
    def f(c, x, n):
        return where(c, x, 0), where(x > 0, x, -x), where(c, n, Phase.DONE)

    program = jax.make_jaxpr(f)(True, jnp.ones(()), jnp.int32(1))
    names = [eqn.primitive.name for eqn in program.eqns]
    assert sorted(names) == ["gt", "neg", "select_n", "select_n", "select_n"]
