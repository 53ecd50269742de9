"""One native kernel for a whole function, on CPU.

XLA runs a program on CPU as a chain of kernels, and each link costs about as much as a
small solver's whole step.  A call that carries the two attributes below is compiled into
one kernel instead, loops and branches included: what XLA does by itself for loops that
touch less than a kilobyte.  An XLA that does not know them ignores them.

Inside there can be no call of a library: no sort, FFT, LAPACK, scatter of many places, and
no product or sum so large that XLA hands it to its library of microkernels.
`fits_one_kernel` tells what is sure to compile; `small.py` is algebra that does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxlbfgsb.types import Integer
from jaxlbfgsb.xla.batching import with_lanes
from jaxlbfgsb.xla.packing import Packed, Packing
from jaxlbfgsb.xla.platform import by_platform

_Out = TypeVar("_Out")

FEW_VARIABLES = 64
"""Up to so many the whole step is one kernel, on one core; with more, XLA's products."""
SOME_VARIABLES = 256
"""Up to so many a loop over them is a kernel, and with as much history the whole step is."""
MANY_VARIABLES = 1 << 16
"""With more, kernels take long enough to share them out among cores."""
LARGEST_ARRAY = 4096
"""From this many elements on XLA gives sums to its library."""
LARGEST_PRODUCT = 8
"""So it does with products of two matrices of this size."""

UNROLLED = 10
"""Turns of a loop that are one program on an accelerator."""

_ELEMENTWISE = (
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
_COMPOUND = (
    "closed_call cond core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr jit pjit "
    "remat remat2 checkpoint scan while"
).split()
_KNOWN = frozenset((*_ELEMENTWISE, *_STRUCTURAL, *_COMPOUND, "dot_general"))


def one_kernel(function: Callable[..., _Out], large: int = 0) -> Callable[..., _Out]:
    """`function`, compiled into one kernel on CPU and as it stands elsewhere, or under `vmap`.

    It takes and returns pytrees of arrays.  The first `large` arguments are arrays that are not
    copied; each must be used, whatever XLA simplifies.
    """

    function = jax.jit(function)

    # XLA fails on a kernel with an argument that nothing in it uses, and what is used is
    # known only after its simplifications.  So all other arguments go in one array, and a
    # barrier hides from it what the arrays hold.
    def call(*args: Any) -> _Out:
        packing = Packing(args[large:])

        @jax.jit
        def compiled(arrays: tuple[jax.Array, ...], numbers: jax.Array) -> _Out:
            return function(*arrays, *packing.unpack(_split(numbers, packing)))

        def marked(*args: Any) -> _Out:
            joined = _joined(packing.pack(args[large:]))
            arrays, numbers = lax.optimization_barrier((args[:large], joined))
            return set_xla_metadata(
                compiled(arrays, numbers), xla_cpu_small_call="true", inlineable="false"
            )

        return by_platform(*args, cpu=marked, default=function)

    # Of many lanes the arrays may be too large for a kernel.
    def many(_: int, in_batched: tuple[Any, ...], *args: Any) -> _Out:
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
        return jax.vmap(function, in_axes=axes)(*args)

    return with_lanes(call, many)


def _joined(packed: Packed) -> jax.Array:
    """One array of all bits; the words are only ever moved, never computed with."""
    _, floats, words = packed
    if floats.dtype.itemsize == 8:
        words = jnp.pad(words, (0, words.size % 2)).reshape(-1, 2)
    return jnp.concatenate([floats, lax.bitcast_convert_type(words, floats.dtype)])


def _split(numbers: jax.Array, packing: Packing[Any]) -> Packed:
    floats, bits = numbers[: packing.floats], numbers[packing.floats :]
    words = lax.bitcast_convert_type(bits, jnp.int32).reshape(-1)[: packing.words]
    return Packed([], floats, words)


def step_is_one_kernel(rows: int, n: int) -> bool:
    """True where n variables and `rows` rows of history are few enough for LLVM."""
    return n <= FEW_VARIABLES or n <= min(rows, SOME_VARIABLES)


def small_kernel(function: Callable[..., _Out], rows: int, n: int) -> Callable[..., _Out]:
    """A kernel for algebra of the size of the history, where the variables are many."""
    return function if step_is_one_kernel(rows, n) else one_kernel(function)


def apart(function: Callable[..., _Out], rows: int, n: int) -> Callable[..., _Out]:
    """`function`, which must have no effects, as a program by itself in one in n variables, on CPU.

    Where more than eight kernels are ready XLA shares them among threads.  In some thousand
    variables each takes less time than its vectors take from the cache of one core to another's.
    """
    if step_is_one_kernel(rows, n) or n > MANY_VARIABLES:
        return function
    function = jax.jit(function)

    def marked(*args: Any) -> _Out:
        return set_xla_metadata(function(*args), inlineable="false")

    return lambda *args: by_platform(*args, cpu=marked, default=function)


def repeated(count: Integer, most: int, step: Callable[[Integer, _Out], _Out], start: _Out) -> _Out:
    """``step(i, value)`` for each ``i < count``, of which there are at most `most`.

    On an accelerator it is always computed so many times: each turn of a loop whose length is
    not known waits for the host.
    """

    def step_if_wanted(i: Integer, value: _Out) -> _Out:
        return jax.tree.map(functools.partial(jnp.where, i < count), step(i, value), value)

    return by_platform(
        start,
        cpu=lambda start: lax.fori_loop(0, count, step, start),
        default=lambda start: lax.fori_loop(0, most, step_if_wanted, start, unroll=UNROLLED),
    )


def unless(condition: jax.Array, question: Callable[[], jax.Array], rows: int, n: int) -> jax.Array:
    """``condition | question()``; on a CPU many variables are not asked where it is known."""
    if step_is_one_kernel(rows, n):
        return condition | question()
    return by_platform(
        cpu=lambda: lax.cond(condition, lambda: jnp.ones_like(condition), question),
        default=lambda: condition | question(),
    )


def fits_one_kernel(closed: ClosedJaxpr) -> bool:
    """True if XLA is sure to compile this program inside of a kernel."""
    return all(_fits(eqn) for eqn in _equations(closed.jaxpr))


def _equations(jaxpr: Jaxpr) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for param in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda p: isinstance(p, Jaxpr | ClosedJaxpr)
        ):
            if isinstance(param, ClosedJaxpr):
                yield from _equations(param.jaxpr)
            elif isinstance(param, Jaxpr):
                yield from _equations(param)


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
