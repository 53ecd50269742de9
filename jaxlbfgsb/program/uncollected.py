"""No collection of garbage while the solver is traced.

Tracing makes objects by the hundred thousand, which stay.  Python's collector looks at them, and
at all of JAX, again and again: that is a quarter of the time that tracing takes.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Args = ParamSpec("_Args")
_Out = TypeVar("_Out")


def uncollected(function: Callable[_Args, _Out]) -> Callable[_Args, _Out]:
    """`function`, during whose calls Python collects no cycles; it must run no code of the user."""

    @functools.wraps(function)
    def call(*args: _Args.args, **kwargs: _Args.kwargs) -> _Out:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            if was_enabled:
                gc.enable()

    return call
