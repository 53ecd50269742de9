"""When two jaxprs compute the same: a key that they share only then."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def structure(closed: ClosedJaxpr) -> Hashable:
    """A key that two closed jaxprs share only if they compute the same."""
    return (_jaxpr_key(closed.jaxpr), tuple(_param_key(c) for c in closed.consts))


def _jaxpr_key(jaxpr: Jaxpr) -> Hashable:
    numbers: dict[Any, int] = {}

    def number(var: Any) -> Hashable:
        if isinstance(var, Literal):
            return ("literal", var.aval, np.asarray(var.val).tobytes())
        return numbers.setdefault(var, len(numbers))

    heads = [(number(v), v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)]
    lines = []
    for eqn in jaxpr.eqns:
        params = tuple((name, _param_key(v)) for name, v in sorted(eqn.params.items()))
        inputs = tuple(number(v) for v in eqn.invars)
        outputs = tuple((number(v), v.aval) for v in eqn.outvars)
        lines.append((eqn.primitive, inputs, outputs, params, repr(eqn.ctx)))
    return (tuple(heads), tuple(lines), tuple(number(v) for v in jaxpr.outvars))


def _param_key(value: Any) -> Hashable:
    if isinstance(value, ClosedJaxpr):
        return structure(value)
    if isinstance(value, Jaxpr):
        return _jaxpr_key(value)
    if isinstance(value, tuple | list):
        return (type(value), tuple(_param_key(v) for v in value))
    if isinstance(value, dict):
        return tuple((k, _param_key(v)) for k, v in sorted(value.items()))
    if isinstance(value, bool | int | float | complex):
        return (type(value), repr(value))
    if isinstance(value, np.ndarray | np.generic):
        return (value.dtype.str, value.shape, value.tobytes())
    try:
        hash(value)
    except TypeError:
        return object()  # equal to nothing: traced functions that hold it share no program
    return value
