"""What XLA is sure to compile inside of a kernel, on CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

LARGEST_ARRAY = 4096
"""From this many elements on XLA gives sums to its library."""
LARGEST_PRODUCT = 8
"""So it does with products of two matrices of this size."""

ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil "
    "clamp copy copy_p cos cosh convert_element_type digamma div eq erf erf_inv erfc "
    "exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac integer_pow is_finite le lgamma "
    "log log1p logistic lt max min mul ne neg nextafter not or polygamma population_count pow "
    "regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic "
    "shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta"
).split()
_STRUCTURAL = (
    "argmax argmin broadcast_in_dim concatenate cumlogsumexp cummax cummin cumprod cumsum "
    "dynamic_slice dynamic_update_slice expand_dims gather iota pad reduce_and reduce_max "
    "reduce_min reduce_or reduce_prod reduce_sum reshape rev slice split squeeze transpose"
).split()
CALLS = (
    "closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr jit pjit "
    "remat remat2 checkpoint"
).split()
_KNOWN = frozenset((*ELEMENTWISE, *_STRUCTURAL, *CALLS, "cond", "dot_general", "scan", "while"))


def fits_one_kernel(closed: ClosedJaxpr) -> bool:
    """True if XLA is sure to compile this program inside of a kernel."""
    return all(_fits(eqn) for eqn in equations(closed.jaxpr))


def equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """Each equation, and those of the programs that it holds."""
    for eqn in jaxpr.eqns:
        yield eqn
        for param in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda p: isinstance(p, Jaxpr | ClosedJaxpr)
        ):
            if isinstance(param, ClosedJaxpr):
                yield from equations(param.jaxpr)
            elif isinstance(param, Jaxpr):
                yield from equations(param)


def _fits(eqn: Any) -> bool:
    name = eqn.primitive.name
    shapes = [getattr(v.aval, "shape", ()) for v in (*eqn.invars, *eqn.outvars)]
    if name not in _KNOWN or max(map(math.prod, shapes), default=0) >= LARGEST_ARRAY:
        return False
    if not all(_is_plain(v.aval.dtype) for v in (*eqn.invars, *eqn.outvars)):
        return False
    if name == "dot_general":
        return _is_small_product(eqn)
    if name == "reduce_sum":  # of a product of matrices, perhaps
        return len(shapes[-1]) <= 1 or max(shapes[0], default=0) < LARGEST_PRODUCT
    return True


def _is_plain(dtype: Any) -> bool:
    """Numbers that the processor has; neither half precision nor random keys."""
    kind = getattr(dtype, "kind", "")
    return kind in ("b", "i", "u") or (kind == "f" and dtype.itemsize >= 4)


def _is_small_product(eqn: Any) -> bool:
    """A product with a vector, or of small matrices; none in a batch."""
    contracted, (batch, _) = eqn.params["dimension_numbers"]
    lhs, rhs = (v.aval.shape for v in eqn.invars)
    rows, columns = (
        math.prod(size for i, size in enumerate(shape) if i not in summed)
        for shape, summed in zip((lhs, rhs), contracted, strict=True)
    )
    is_vector = 1 in (rows, columns) and not batch
    return is_vector or max((*lhs, *rhs), default=0) < LARGEST_PRODUCT
