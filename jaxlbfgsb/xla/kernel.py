"""One native kernel for a whole function, on CPU.

XLA runs a program on CPU as a chain of kernels, and each link costs about as much as a
small solver's whole step.  A call that carries the two attributes below is compiled into
one kernel instead, loops and branches included: what XLA does by itself for loops that
touch less than a kilobyte.  An XLA that does not know them ignores them.

Inside there can be no call of a library: no sort, FFT, LAPACK, scatter of many places, and
no product or sum so large that XLA hands it to its library of microkernels.
`fits.py` tells what is sure to compile; `small.py` is algebra that does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxlbfgsb.types import Integer
from jaxlbfgsb.xla.batching import with_lanes
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.columns import in_columns
from jaxlbfgsb.xla.packing import Packed, Packing
from jaxlbfgsb.xla.platform import by_platform

_Out = TypeVar("_Out")

FEW_VARIABLES = 64
"""Up to so many the whole step is one kernel, on one core; with more, XLA's products."""
SOME_VARIABLES = 500
"""Up to so many a loop over them is a kernel."""
FEW_PRODUCTS = 220_000
"""And then the whole step is, where the products of all rows of the history with each other
take no more multiplications."""
AS_MANY_ROWS = 256
"""The whole step is one, too, in up to so many where the history has as many rows."""
SHORT_HISTORY = 10_000
"""And without bounds, where those products are not needed, with up to so many numbers in it."""
MANY_VARIABLES = 1 << 16
"""With more, kernels take long enough to share them out among cores."""

UNROLLED = 10
"""Turns of a loop that are one program on an accelerator."""


def one_kernel(
    function: Callable[..., _Out], large: int = 0, elsewhere: Callable[..., _Out] | None = None
) -> Callable[..., _Out]:
    """`function`, compiled into one kernel on CPU; elsewhere, and under `vmap`, as it stands, or
    what computes the same there.

    In the kernel long arrays are columns (see `columns.py`).

    It takes and returns pytrees of arrays.  The first `large` arguments are arrays that are not
    copied; each must be used, whatever XLA simplifies.
    """

    function = jax.jit(function)
    default = function if elsewhere is None else jax.jit(elsewhere)

    # XLA fails on a kernel with an argument that nothing in it uses, and what is used is
    # known only after its simplifications.  So all other arguments go in one array, and a
    # barrier hides from it what the arrays hold.
    def call(*args: Any) -> _Out:
        packing = Packing(args[large:])

        @jax.jit
        def compiled(arrays: tuple[jax.Array, ...], numbers: jax.Array) -> _Out:
            return in_columns(function)(*arrays, *packing.unpack(_split(numbers, packing)))

        def marked(*args: Any) -> _Out:
            joined = _joined(packing.pack(args[large:]))
            arrays, numbers = lax.optimization_barrier((args[:large], joined))
            return set_xla_metadata(
                compiled(arrays, numbers), xla_cpu_small_call="true", inlineable="false"
            )

        return by_platform(*args, cpu=marked, default=default)

    # Of many lanes the arrays may be too large for a kernel.
    def many(_: int, in_batched: tuple[Any, ...], *args: Any) -> _Out:
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
        return jax.vmap(default, in_axes=axes)(*args)

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


def step_is_one_kernel(rows: int, n: int, *, bounded: bool = True) -> bool:
    """True where n variables and `rows` rows of history are few enough for one core."""
    if n <= FEW_VARIABLES or n <= min(rows, AS_MANY_ROWS):
        return True
    if bounded:
        return n <= SOME_VARIABLES and rows * rows * n <= FEW_PRODUCTS
    return rows * n <= SHORT_HISTORY


def small_kernel(
    function: Callable[..., _Out], rows: int, n: int, *, bounded: bool = True, large: int = 0
) -> Callable[..., _Out]:
    """A kernel for algebra of the size of the history, where the variables are many."""
    if step_is_one_kernel(rows, n, bounded=bounded):
        return function
    return one_kernel(function, large)


def apart(
    function: Callable[..., _Out], rows: int, n: int, *, bounded: bool
) -> Callable[..., _Out]:
    """`function`, which must have no effects, as a program by itself in one in n variables, on CPU.

    Where more than eight kernels are ready XLA shares them among threads.  In some thousand
    variables each takes less time than its vectors take from the cache of one core to another's.
    """
    if step_is_one_kernel(rows, n, bounded=bounded) or n > MANY_VARIABLES:
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
        return jax.tree.map(functools.partial(where, i < count), step(i, value), value)

    return by_platform(
        start,
        cpu=lambda start: lax.fori_loop(0, count, step, start),
        default=lambda start: lax.fori_loop(0, most, step_if_wanted, start, unroll=UNROLLED),
    )


def replaced(condition: jax.Array, value: _Out, other: Callable[[], _Out], *, many: bool) -> _Out:
    """`other()` where the condition, which rarely holds, is True, else `value`.

    On a CPU it is computed only then; of `many` variables a branch would copy the value, which a
    loop of at most one turn leaves where it is.
    """

    def either() -> _Out:
        return jax.tree.map(functools.partial(where, condition), other(), value)

    def loop() -> _Out:
        def turn(_: Any) -> tuple[jax.Array, _Out]:
            return jnp.zeros_like(condition), other()

        return lax.while_loop(lambda carry: carry[0], turn, (condition, value))[1]

    def branch() -> _Out:
        return lax.cond(condition, other, lambda: value)

    return by_platform(cpu=loop if many else branch, default=either)


def unless(condition: jax.Array, question: Callable[[], jax.Array], *, many: bool) -> jax.Array:
    """``condition | question()``; on a CPU `many` variables are not asked where it is known."""
    if not many:
        return condition | question()
    return by_platform(
        cpu=lambda: lax.cond(condition, lambda: jnp.ones_like(condition), question),
        default=lambda: condition | question(),
    )
