"""Loops that LLVM leaves loops, in a kernel on CPU.

XLA writes a loop for each operation on an array, and allows LLVM to unroll the one over the
last axis only.  From some 16 elements on to some hundred it does so, wholly and before it
looks for numbers to take together: that takes long to compile, and the program runs slower.
So here long arrays have one axis more, of length 1, which is the last one.

Sums and other reductions of more than 32 elements XLA breaks into windows of so many, each
unrolled again; these become a few sums side by side.  And for each it sets up buffers at every
call, which for few elements takes as long as the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxlbfgsb.xla.fits import CALLS, ELEMENTWISE, equations
from jaxlbfgsb.xla.products import halved, halves

_Out = TypeVar("_Out")
_Values = Sequence[Any]

LONG = 16
"""From so many elements along the last axis on an array is a column."""
WINDOW = 32
"""Elements in a window of XLA's for reductions; one of no more has none."""
FEW = 24
"""Of so many no reduction is made: that is more to compile, which with more is not worth it."""


def in_columns(function: Callable[..., _Out]) -> Callable[..., _Out]:
    """`function`, which computes with pytrees of arrays, with all long arrays as columns."""

    def call(*args: Any) -> _Out:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        if not any(map(_is_long_loop, equations(closed.jaxpr))):
            return function(*args)
        results = _evaluated(closed, _stored(closed.jaxpr.invars, jax.tree.leaves(args)))
        plain = map(_plain, closed.jaxpr.outvars, results)
        return jax.tree.unflatten(jax.tree.structure(shapes), plain)

    return call


def _is_long_loop(eqn: Any) -> bool:
    return eqn.primitive.name in ELEMENTWISE and _is_long(eqn.outvars[0])


def _is_long(v: Any) -> bool:
    shape = v.aval.shape
    if len(shape) == 2 and shape[0] + 1 == shape[1] < WINDOW:
        return False  # rows of ``[A, b]``, with one number over, are faster unrolled
    return bool(shape) and shape[-1] >= LONG


def _column(v: Any, value: Any) -> Any:
    """The value of v with the axis more, unless it is a scalar."""
    return lax.reshape(value, (*v.aval.shape, 1)) if np.ndim(value) == v.aval.ndim > 0 else value


def _plain(v: Any, value: Any) -> Any:
    return lax.reshape(value, v.aval.shape) if np.ndim(value) > v.aval.ndim else value


def _stored(variables: _Values, values: _Values) -> list[Any]:
    """As they are kept: long vectors as columns, and long matrices as they come.

    A matrix is made by an operation on its elements, which are a column then, or it is a
    history, of which rows are written and multiplied: as a column it would be copied for both.
    """

    def stored(v: Any, value: Any) -> Any:
        if not _is_long(v):
            return _plain(v, value)
        return _column(v, value) if v.aval.ndim == 1 else value

    return list(map(stored, variables, values))


def _evaluated(closed: ClosedJaxpr, args: _Values) -> list[Any]:
    """The results of a program, kept as `_stored`, from arguments kept so."""
    jaxpr: Jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, _stored(jaxpr.constvars, closed.consts), strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))

    def value(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else known[v]

    for eqn in jaxpr.eqns:
        results = _results(eqn, [value(v) for v in eqn.invars])
        known.update(zip(eqn.outvars, _stored(eqn.outvars, results), strict=True))
    return [value(v) for v in jaxpr.outvars]


def _results(eqn: Any, values: list[Any]) -> _Values:
    """What an equation makes of values that are `_stored`; plain or columns."""
    name = eqn.primitive.name
    if name in _COMPOUND:
        return _COMPOUND[name](eqn, values)
    if not any(map(_is_long, (*eqn.invars, *eqn.outvars))):
        return _bound(eqn, values)
    if _is_reduction_of_many(eqn):
        return [_side_by_side(eqn, values)]
    is_of_history = name in _OF_ROWS and np.ndim(values[0]) == eqn.invars[0].aval.ndim > 1
    if name in _ALONG and not is_of_history:
        columns = [_column(v, x) for v, x in zip(eqn.invars, values, strict=True)]
        return _ALONG[name](eqn, columns)
    return _bound(eqn, [_plain(v, x) for v, x in zip(eqn.invars, values, strict=True)])


def _bound(eqn: Any, values: _Values, **changed: Any) -> _Values:
    results = eqn.primitive.bind(*values, **{**eqn.params, **changed})
    return results if eqn.primitive.multiple_results else [results]


def _is_reduction_of_many(eqn: Any) -> bool:
    """True of one of a long vector to a scalar, and of a product of two, all of one dtype."""
    if eqn.primitive.name not in (*_REDUCTIONS, "dot_general") or eqn.outvars[0].aval.ndim:
        return False
    dtypes = {v.aval.dtype for v in (*eqn.invars, *eqn.outvars)}
    return len(dtypes) == 1 and all(v.aval.ndim == 1 and _is_long(v) for v in eqn.invars)


def _side_by_side(eqn: Any, values: _Values) -> Any:
    """The halves of a vector to one, element by element, until one window holds it.

    A vector of `FEW` elements to the end.
    """
    is_product = eqn.primitive.name == "dot_general"
    columns = [_column(v, x) for v, x in zip(eqn.invars, values, strict=True)]
    column = columns[0] * columns[1] if is_product else columns[0]
    reduce, combine = _REDUCTIONS["reduce_sum" if is_product else eqn.primitive.name]
    if len(column) <= FEW:
        return halved(lax.reshape(column, (len(column),)), combine)
    # A barrier after each step, else XLA makes one reduction of all.
    column, rest = halves(column, lambda a, b: lax.optimization_barrier(combine(a, b)), WINDOW)
    return reduce(lax.concatenate([column, *rest], 0) if rest else column, (0, 1))


_REDUCTIONS: dict[str, tuple[Callable[[Any, Sequence[int]], Any], Callable[[Any, Any], Any]]] = {
    "reduce_sum": (lax.reduce_sum, lax.add),
    "reduce_max": (lax.reduce_max, lax.max),
    "reduce_min": (lax.reduce_min, lax.min),
    "reduce_prod": (lax.reduce_prod, lax.mul),
    "reduce_and": (lax.reduce_and, lax.bitwise_and),
    "reduce_or": (lax.reduce_or, lax.bitwise_or),
}


# Operations along an axis, with the one more.


def _reduced(eqn: Any, columns: _Values) -> _Values:
    axes = eqn.params["axes"]
    return _bound(eqn, columns, axes=axes if eqn.outvars[0].aval.ndim else (*axes, len(axes)))


def _broadcast(eqn: Any, columns: _Values) -> _Values:
    shape, dimensions = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    if not dimensions and len(shape) > 1:  # a history with nothing in it
        return _bound(eqn, columns)
    of_one = (len(shape),) if dimensions else ()
    return [lax.broadcast_in_dim(columns[0], (*shape, 1), (*dimensions, *of_one))]


def _sliced(eqn: Any, columns: _Values) -> _Values:
    strides = eqn.params["strides"]
    return _bound(
        eqn,
        columns,
        start_indices=(*eqn.params["start_indices"], 0),
        limit_indices=(*eqn.params["limit_indices"], 1),
        strides=None if strides is None else (*strides, 1),
    )


def _dynamic_sliced(eqn: Any, columns: _Values) -> _Values:
    column, *start = columns
    sizes = (*eqn.params["slice_sizes"], 1)
    start.append(_zero_of(eqn))
    return [lax.dynamic_slice(column, start, sizes, allow_negative_indices=False)]


def _dynamic_updated(eqn: Any, columns: _Values) -> _Values:
    column, update, *start = columns
    start.append(_zero_of(eqn))
    return [lax.dynamic_update_slice(column, update, start, allow_negative_indices=False)]


def _zero_of(eqn: Any) -> Any:
    return np.zeros((), eqn.invars[-1].aval.dtype)


def _reshaped(eqn: Any, columns: _Values) -> _Values:
    shape = eqn.outvars[0].aval.shape
    return [lax.reshape(columns[0], (*shape, 1) if shape else ())]


def _transposed(eqn: Any, columns: _Values) -> _Values:
    axes = eqn.params["permutation"]
    return [lax.transpose(columns[0], (*axes, len(axes)))]


def _padded(eqn: Any, columns: _Values) -> _Values:
    return _bound(eqn, columns, padding_config=(*eqn.params["padding_config"], (0, 0, 0)))


def _counted(eqn: Any, columns: _Values) -> _Values:
    return _bound(eqn, columns, shape=(*eqn.params["shape"], 1))


_OF_ROWS = ("dynamic_slice", "dynamic_update_slice")
"""What reads and writes the rows of a history where they are."""

_ALONG: dict[str, Callable[[Any, _Values], _Values]] = {
    **dict.fromkeys(_REDUCTIONS, _reduced),
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshaped),
    **dict.fromkeys((*ELEMENTWISE, "concatenate", "split", "rev"), _bound),
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "dynamic_slice": _dynamic_sliced,
    "dynamic_update_slice": _dynamic_updated,
    "transpose": _transposed,
    "pad": _padded,
    "iota": _counted,
}


# Operations that hold programs.


def _called(eqn: Any, values: _Values) -> _Values:
    """In line: nothing in a kernel is differentiated."""
    program = next(p for p in eqn.params.values() if isinstance(p, Jaxpr | ClosedJaxpr))
    return _evaluated(
        program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ()), values
    )


def _branch(eqn: Any, values: _Values) -> _Values:
    index, *operands = values
    branches, platforms = eqn.params["branches"], eqn.params.get("branches_platforms")
    if platforms is not None:
        of_cpu = next(i for i, names in enumerate(platforms) if names is None or "cpu" in names)
        return _evaluated(branches[of_cpu], operands)
    programs = [lambda *operands, of=of: _typed(of, operands) for of in branches]
    return lax.switch(index, programs, *operands)


def _while(eqn: Any, values: _Values) -> _Values:
    condition, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    of_condition, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    first, rest = values[:of_condition], values[of_condition:]
    second, carry = rest[:of_body], rest[of_body:]
    return lax.while_loop(
        lambda carry: _evaluated(condition, [*first, *carry])[0],
        lambda carry: _in_the_form_of(carry, eqn.outvars, _typed(body, [*second, *carry])),
        _arrays(eqn.outvars, carry),
    )


def _scan(eqn: Any, values: _Values) -> _Values:
    params, inner = eqn.params, eqn.params["jaxpr"].jaxpr
    # What is gone over has one axis more outside.
    carried = sum(map(_has_same_axes, eqn.outvars, inner.outvars))
    fixed = sum(map(_has_same_axes, eqn.invars, inner.invars)) - carried
    consts, rest = values[:fixed], values[fixed:]
    carry, over = rest[:carried], rest[carried:]

    def step(carry: Any, over: Any) -> tuple[Any, Any]:
        results = _typed(params["jaxpr"], [*consts, *carry, *over])
        kept = _in_the_form_of(carry, inner.outvars[:carried], results[:carried])
        return kept, results[carried:]

    # Along the axis that is gone over a vector of scalars is no column.
    vectors = eqn.invars[fixed + carried :]
    over = [_plain(v, x) if v.aval.ndim == 1 else x for v, x in zip(vectors, over, strict=True)]
    carry, results = lax.scan(
        step,
        _arrays(eqn.outvars[:carried], carry),
        over,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *results]


def _in_the_form_of(carry: _Values, variables: _Values, values: _Values) -> list[Any]:
    """What a loop carries has one form, that of the start."""
    return [
        (_column if np.ndim(before) > v.aval.ndim else _plain)(v, value)
        for before, v, value in zip(carry, variables, values, strict=True)
    ]


def _has_same_axes(v: Any, other: Any) -> bool:
    return bool(v.aval.ndim == other.aval.ndim)


def _typed(closed: ClosedJaxpr, values: _Values) -> list[Any]:
    """The results in forms that are known from their shapes."""
    variables, results = closed.jaxpr.outvars, _evaluated(closed, values)
    plain = [
        _plain(v, x) if v.aval.ndim > 1 else x for v, x in zip(variables, results, strict=True)
    ]
    return _arrays(variables, plain)


def _arrays(variables: _Values, values: _Values) -> list[Any]:
    """Literals among the values get their types."""
    return [jnp.asarray(x, v.aval.dtype) for v, x in zip(variables, values, strict=True)]


_COMPOUND: dict[str, Callable[[Any, _Values], _Values]] = {
    **dict.fromkeys(CALLS, _called),
    "cond": _branch,
    "while": _while,
    "scan": _scan,
}
