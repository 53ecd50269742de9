"""Access at an index known at run time, against NumPy's at every index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb.xla import indexing

SHAPES = [(5,), (5, 3), (1, 4)]
CASES = [(shape, axis) for shape in SHAPES for axis in range(-len(shape), len(shape))]


@pytest.mark.parametrize(("shape", "axis"), CASES, ids=str)
def test_at_and_put(shape, axis, dtype):
    A = np.random.default_rng(0).normal(size=shape).astype(dtype)
    indices = jnp.arange(shape[axis], dtype=jnp.int32)
    read = jax.vmap(lambda i: indexing.at(A, i, axis))(indices)
    np.testing.assert_array_equal(read, np.moveaxis(A, axis, 0))
    for i in indices:
        wanted = A.copy()
        np.moveaxis(wanted, axis, 0)[i] *= -1
        got = indexing.put(jnp.asarray(A), jnp.asarray(-np.take(A, i, axis)), i, axis)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("axis", [0, 1])
def test_part(axis, dtype):
    A = np.arange(20, dtype=dtype).reshape(4, 5)
    for start in range(A.shape[axis] - 1):
        wanted = np.take(A, [start, start + 1], axis)
        for given in (start, jnp.int32(start)):
            np.testing.assert_array_equal(indexing.part(A, given, 2, axis), wanted)


def test_entry_and_taken(dtype):
    A = np.arange(20, dtype=dtype).reshape(4, 5)
    for i, j in np.ndindex(A.shape):
        assert indexing.entry(A, jnp.int32(i), jnp.int32(j)) == A[i, j]
    indices = np.array([3, 0, 9])
    for axis in (0, 1):
        wanted = np.take(A, indices, axis, mode="clip")
        np.testing.assert_array_equal(indexing.taken(A, jnp.asarray(indices), axis), wanted)


@pytest.mark.parametrize("m", [1, 2, 7])
def test_modulo(m):
    i = np.arange(-m, 3 * m, dtype=np.int32)
    got = indexing.modulo(jnp.asarray(i), m)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, i % m)


def test_no_index_counts_from_the_end():
    def f(A, i):
        row = indexing.at(A, i)
        return indexing.put(A, row, i), indexing.part(A, i, 2), indexing.entry(A, i, i)

    program = jax.make_jaxpr(f)(jnp.ones((3, 3)), jnp.int32(1))
    names = {eqn.primitive.name for eqn in program.eqns}
    assert names == {"dynamic_slice", "dynamic_update_slice", "squeeze", "broadcast_in_dim"}
