"""Products of every kind against NumPy, in the form of each backend."""

import jax
import numpy as np
import pytest

from jaxlbfgsb.xla.fits import LARGEST_ARRAY
from jaxlbfgsb.xla.products import (
    FEW_NUMBERS,
    FEW_ROWS,
    all_hold,
    counted,
    dot,
    greatest,
    least,
    total,
)

pytestmark = pytest.mark.usefixtures("either_backend")

WIDE = LARGEST_ARRAY // 2
SHAPES = [
    ((3,), (3, 1)),
    ((7,), (7, 10)),
    ((2,), (2, WIDE - 1)),
    ((2,), (2, WIDE)),
    ((FEW_ROWS,), (FEW_ROWS, 5)),
    ((FEW_ROWS + 1,), (FEW_ROWS + 1, 5)),
    ((7,), (7,)),
    ((5, 7), (7,)),
    ((5, 7), (7, 3)),
]


@pytest.mark.parametrize(("left", "right"), SHAPES, ids=str)
def test_dot(left, right, dtype):
    rng = np.random.default_rng(left)
    a, b = rng.normal(size=left).astype(dtype), rng.normal(size=right).astype(dtype)
    got = np.asarray(jax.jit(dot)(a, b))
    assert got.dtype == dtype
    sizes = np.abs(a) @ np.abs(b).astype(float)
    error = 8 * np.finfo(dtype).eps * sizes
    assert got.shape == sizes.shape
    assert (np.abs(got - a.astype(float) @ b) <= error).all()


@pytest.mark.parametrize(
    ("rows", "columns", "is_sum"),
    [(FEW_ROWS, 5, True), (FEW_ROWS + 1, 5, False), (2, WIDE - 1, True), (2, WIDE, False)],
)
def test_few_rows_are_summed_on_a_cpu(rows, columns, is_sum, request):
    a, b = np.ones(rows), np.ones((rows, columns))
    program = str(jax.make_jaxpr(dot)(a, b))
    on_cpu = "accelerator" not in request.node.callspec.id
    assert ("reduce_sum" in program) == (is_sum and on_cpu)
    assert ("dot_general" in program) != (is_sum and on_cpu)


@pytest.mark.parametrize("n", [1, 20, 5000])
def test_counts(n):
    mask = np.random.default_rng(n).random(n) < 0.3
    for each in (mask, np.zeros(n, bool), np.ones(n, bool)):
        assert jax.jit(counted)(each) == each.sum()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, FEW_NUMBERS, FEW_NUMBERS + 1, 100])
def test_reductions_of_a_vector(n, dtype):
    v = np.random.default_rng(n).normal(size=n).astype(dtype)
    for i in range(n):
        w = np.where(np.arange(n) == i, 9, v).astype(dtype)
        assert jax.jit(least)(-w) == -9
        assert jax.jit(greatest)(w) == 9
        assert not jax.jit(all_hold)(w < 8)
        spoilt = np.where(np.arange(n) == i, np.nan, v).astype(dtype)
        for reduction in (least, greatest, total):
            assert np.isnan(jax.jit(reduction)(spoilt))
    assert jax.jit(all_hold)(v < 8)
    assert jax.jit(total)(np.arange(n, dtype=np.int32)) == n * (n - 1) // 2
    np.testing.assert_allclose(
        jax.jit(total)(v), v.sum(dtype=float), atol=8 * n * np.finfo(dtype).eps
    )
    for reduction in (total, least, greatest):
        assert jax.jit(reduction)(v).dtype == dtype


def test_few_numbers_are_put_together_without_a_reduction():
    for n, is_reduction in ((FEW_NUMBERS, False), (FEW_NUMBERS + 1, True)):
        v = np.ones(n)
        for function in (least, greatest, total, all_hold):
            program = str(jax.make_jaxpr(function)(v > 0 if function is all_hold else v))
            assert ("reduce_" in program) == is_reduction
        program = str(jax.make_jaxpr(dot)(v, v))
        assert ("dot_general" in program) == is_reduction
