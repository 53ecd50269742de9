"""A call like an earlier one: all that was checked and traced then still holds.

A small solve takes less time than its checks.  So what they come to is kept, under a key of all
that they look at: the function with what it closes over, shapes and dtypes, settings, and the
bounds, by identity where they can't change and by content where they can.  Only plain calls
have a key: arrays whose values are known, and options that are Python numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlbfgsb.derivatives.implicit import Rule
from jaxlbfgsb.method.state import Options
from jaxlbfgsb.program.closures import fingerprint
from jaxlbfgsb.program.recent import Recent
from jaxlbfgsb.program.tracing import Data, Program, can_be_kept, settings_of_jax
from jaxlbfgsb.pytrees import BoundLeaves, refuse_nan, strong
from jaxlbfgsb.sight.watching import Watch
from jaxlbfgsb.types import PyTree

LARGEST_BOUND = 1 << 12
"""Bytes of a bound that is kept, or compared."""

_PLAIN = frozenset((type(None), bool, int, float, str))


class Prepared(NamedTuple):
    """The arguments of `solve`."""

    program: Program
    m: int
    rule: Rule
    watch: Watch
    data: Data
    x0: PyTree
    lower: BoundLeaves
    upper: BoundLeaves
    options: Options


class _Kept(NamedTuple):
    prepared: Prepared
    bounds: Any
    """Alive, so that no other array takes its identity."""


_kept: Recent[_Kept] = Recent(64)


def recall(
    fun: Callable[..., Any], x0: PyTree, args: Any, bounds: Any, asked: tuple[Any, ...]
) -> Prepared | None:
    """What an earlier call with the same key was prepared to, with the data of this one.

    Parameters
    ----------
    fun, x0, args, bounds
        As the user gave them.
    asked
        All other arguments that matter.

    Raises
    ------
    ValueError
        If x0 has NaN among its values: the one check that needs them.
    """
    key = _key(fun, x0, args, bounds, asked)
    known = None if key is None else _kept.get(key)
    if known is None:
        return None
    refuse_nan(x0)
    x0 = strong(x0) if isinstance(x0, jax.Array) else x0
    program, m, rule, watch, data, _, lower, upper, options = known.prepared
    data = Data(data.consts, list(args))
    return Prepared(program, m, rule, watch, data, x0, lower, upper, options)


def remember(
    fun: Callable[..., Any],
    x0: PyTree,
    args: Any,
    bounds: Any,
    asked: tuple[Any, ...],
    prepared: Prepared,
) -> None:
    """Keep what a call was prepared to, if it has a key, without its data."""
    key = _key(fun, x0, args, bounds, asked)
    nbytes = max((getattr(b, "nbytes", 0) for b in (*prepared.lower, *prepared.upper)), default=0)
    if key is None or nbytes > LARGEST_BOUND or not can_be_kept(prepared.data.consts):
        return
    prepared = prepared._replace(
        data=Data(prepared.data.consts, []),
        x0=None,
        lower=_copied(prepared.lower),
        upper=_copied(prepared.upper),
    )
    _kept.put(key, _Kept(prepared, bounds))


def _key(
    fun: Callable[..., Any], x0: PyTree, args: Any, bounds: Any, asked: tuple[Any, ...]
) -> Hashable | None:
    kinds = tuple(map(type, asked))
    if type(args) is not tuple or not _PLAIN.issuperset(kinds):
        return None
    arrays = [_array_key(array) for array in (x0, *args)]
    if None in arrays:
        return None
    sides: list[Hashable] = []
    if bounds is not None:
        if type(bounds) is not tuple or len(bounds) != 2:
            return None
        sides = [_side_key(side) for side in bounds]
        if None in sides:
            return None
    described = fingerprint(fun)
    if described is None:
        return None
    return described, tuple(arrays), tuple(sides), asked, kinds, settings_of_jax()


def _array_key(array: Any) -> Hashable | None:
    kind = type(array)
    if kind is np.ndarray:
        return array.shape, array.dtype.str
    if kind is not _array_type():
        return None
    return kind, array.shape, array.dtype, array.weak_type


def _side_key(side: Any) -> Hashable | None:
    kind = type(side)
    if kind in _PLAIN:
        return kind, side
    if kind is _array_type():
        return kind, id(side)
    if kind is np.ndarray and side.nbytes <= LARGEST_BOUND and not side.dtype.hasobject:
        return side.dtype.str, side.shape, side.tobytes()
    return None


@functools.cache
def _array_type() -> type:
    """The class of JAX's arrays that hold values."""
    with jax.ensure_compile_time_eval():  # the first call may come from inside of a trace
        return type(jax.device_put(np.zeros(())))


def _copied(side: BoundLeaves) -> BoundLeaves:
    return [np.array(bound) if isinstance(bound, np.ndarray) else bound for bound in side]
