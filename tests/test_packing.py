"""Pytrees in few arrays: nothing is lost, and single leaves are found without a program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb import LBFGSB, AskTell, lbfgsb, minimize
from jaxlbfgsb.xla.packing import PackedTree, Packing


@pytest.mark.parametrize("scalars_only", [False, True])
def test_packing_loses_no_bit(scalars_only, dtype):
    rng = np.random.default_rng(0)
    tree = {
        "float": jnp.asarray(rng.normal(size=3), dtype),
        "nan": jnp.asarray([np.nan, -np.inf, 0.0], dtype),
        "scalar": jnp.asarray(1.5, dtype),
        "flag": jnp.asarray([True, False]),
        "byte": jnp.asarray([-3, 5], jnp.int8),
        "int": jnp.asarray(-7, jnp.int32),
        "unsigned": jnp.asarray([2**32 - 1], jnp.uint32),
        "long": jnp.asarray([-(2**40), 3], jnp.int64),
        "single": jnp.asarray([1.25], jnp.float32),
        "double": jnp.asarray(rng.normal(), jnp.float64),
        "empty": jnp.zeros((0, 2), dtype),
    }
    packing = Packing(tree, scalars_only)
    packed = packing.pack(tree)
    assert packed.floats.size == packing.floats
    assert packed.words.size == packing.words
    back = packing.unpack(packed)
    for name, leaf in tree.items():
        assert back[name].dtype == leaf.dtype, name
        np.testing.assert_array_equal(back[name], leaf)


class Inner(NamedTuple):
    count: jax.Array
    flag: jax.Array
    vector: jax.Array


class Outer(NamedTuple):
    inner: Inner
    number: jax.Array
    matrix: jax.Array


def a_tree(dtype, shift=0.0):
    return Outer(
        Inner(jnp.asarray(-3, jnp.int32), jnp.asarray(True), jnp.arange(3, dtype=dtype) + shift),
        jnp.asarray(0.1, dtype),
        jnp.arange(6, dtype=dtype).reshape(2, 3),
    )


@pytest.mark.parametrize("scalars_only", [False, True])
def test_a_packed_tree_and_its_leaves(scalars_only, dtype):
    packed = PackedTree.of(a_tree(dtype), scalars_only)
    assert len(jax.tree.leaves(packed)) == (4 if scalars_only else 2)
    assert packed.shapes.matrix.shape == (2, 3)
    for got, expected in zip(packed.tree, a_tree(dtype), strict=True):
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert packed.look("inner", "count").tolist() == [-3]
    assert packed.look("inner", "flag").tolist() == [1]
    assert packed.look("inner", "vector").tolist() == [0, 1, 2]
    assert packed.look("number")[0] == dtype(0.1)
    np.testing.assert_array_equal(packed.look("matrix"), np.arange(6))


@pytest.mark.parametrize("scalars_only", [False, True])
def test_lanes_of_packed_trees(scalars_only):
    shifts = jnp.arange(4.0)
    lanes = jax.vmap(lambda shift: PackedTree.of(a_tree(float, shift), scalars_only))(shifts)
    np.testing.assert_array_equal(lanes.tree.inner.vector, np.arange(3) + np.arange(4.0)[:, None])
    assert lanes.tree.matrix.shape == (4, 2, 3)
    assert lanes.shapes.matrix.shape == (2, 3)


def test_trees_that_are_alike_are_packed_in_one_way():
    one, other = (PackedTree.of(a_tree(float, shift), False) for shift in (0.0, 1.0))
    assert one.packing is other.packing
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert Packing(a_tree(float)) == one.packing
    assert Packing(a_tree(float), scalars_only=True) != one.packing
    assert Packing(a_tree(np.float32)) != one.packing

    traces = []

    @jax.jit
    def seen(packed):
        traces.append(packed)
        return PackedTree.of(packed.tree, False)

    seen(seen(seen(one)))
    assert len(traces) == 1


def test_a_call_pays_for_few_arrays():
    """Each costs about a microsecond, and several where threads meet."""

    def fun(x):
        return jnp.sum((x - 2) ** 2)

    x0, box = jnp.zeros(3), (-1.0, 1.0)
    assert len(jax.tree.leaves(minimize(fun, x0, bounds=box))) == 12
    assert len(jax.tree.leaves(lbfgsb(box).init(x0))) == 9
    assert len(jax.tree.leaves(LBFGSB(fun).init_state(x0, box))) == 9
    assert len(jax.tree.leaves(AskTell(np.zeros(3), bounds=box)._run)) == 2


def test_the_inverse_hessian_of_lanes():
    """In few arrays it has the axes of `vmap` too."""

    def fun(x, a):
        return jnp.sum(a * (x - 1) ** 2)

    scales = jnp.array([[1.0, 4.0], [2.0, 9.0], [5.0, 0.5]])

    def solved(a):
        return minimize(fun, jnp.zeros(2), (a,), gtol=1e-12, ftol=0.0).hess_inv

    def stepped(a):
        return LBFGSB(fun, tol=1e-9).run(jnp.zeros(2), None, a).state

    lanes, states = jax.vmap(solved)(scales), jax.vmap(stepped)(scales)
    assert lanes.memory.products.shape[0] == lanes.n_corrs.shape[0] == len(scales)
    for single, many in ((solved, lanes), (lambda a: stepped(a).hess_inv, states.hess_inv)):
        matrices = jax.vmap(lambda H: H.todense())(many)
        expected = [single(a).todense() for a in scales]
        np.testing.assert_allclose(matrices, expected, rtol=1e-6, atol=1e-9)
