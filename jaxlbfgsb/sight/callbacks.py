"""Calling the user back, in SciPy's two manners."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import OptimizeResult as ScipyResult

Callback: TypeAlias = Callable[..., Any]


class Listener:
    """A callback, which is asked once in which manner it wants to be called.

    One whose only parameter is named ``intermediate_result`` gets an object with the fields
    ``x`` and ``fun``; any other gets x.
    """

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self._takes_result = _takes_result(callback)

    def wants_to_stop(self, x: Any, value: Any, by_return: bool = False) -> bool:
        """Call back with what is the callback's own to keep; True if it raised StopIteration.

        With `by_return` also if it returned True, which SciPy ignores.
        """
        try:
            if self._takes_result:
                answer = self._callback(intermediate_result=ScipyResult(x=x, fun=value))
            else:
                answer = self._callback(x)
        except StopIteration:
            return True
        return by_return and isinstance(answer, bool | np.bool_) and bool(answer)


def _takes_result(callback: Callback) -> bool:
    try:
        parameters = inspect.signature(callback).parameters
    except (TypeError, ValueError):  # builtins without a signature
        return False
    return set(parameters) == {"intermediate_result"}


class NumpyCallback:
    """A callback that gets NumPy arrays, and remembers whether it stopped the run."""

    def __init__(self, callback: Callback) -> None:
        self.listener = Listener(callback)
        self.stopped = False

    def __call__(self, intermediate_result: ScipyResult) -> None:
        x, value = np.array(intermediate_result.x), float(intermediate_result.fun)
        if self.listener.wants_to_stop(x, value):
            self.stopped = True
            raise StopIteration
