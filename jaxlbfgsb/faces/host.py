"""The Python driver: functions that are called on the host, with NumPy arrays.

And the finite differences of such functions: one-sided or central, inside the box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

from jaxlbfgsb.faces.asktell import AskTell
from jaxlbfgsb.sight.callbacks import Callback, Listener

HostFunction: TypeAlias = Callable[[np.ndarray], tuple[float, np.ndarray, int]]
"""From a point to the value, the gradient and the evaluations that they cost."""


def run_on_host(fun: HostFunction, solver: AskTell, callback: Callback | None) -> None:
    """Ask and tell until done, or until the callback stops the run."""
    listener = None if callback is None else Listener(callback)
    while not solver.done:
        value, gradient, evaluations = fun(solver.ask())
        solver.tell(value, gradient, evaluations)
        if listener is not None and solver.accepted:
            x, value = solver.iterate()
            if listener.wants_to_stop(x, value):
                solver.stop()


class Differences:
    """Gradient of a host function by finite differences that never leave the box.

    Parameters
    ----------
    fun
        From a point to a number.
    method
        '2-point' (one-sided, n evaluations), '3-point' (central where there is room, else
        one-sided of second order, 2 n) or 'cs' (complex step, n).
    lower, upper
        Bounds, shape (n,).
    step
        Absolute step, a number or shape (n,); None for `rel_step`.
    rel_step
        Relative step, times ``sign(x) max(1, |x|)``; None for the best power of eps.
    evaluate_all
        ``map``-like: applies the function to many points.

    Notes
    -----
    A fixed variable is not differenced: its entry is 0, and it costs no evaluation.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        method: str,
        lower: np.ndarray,
        upper: np.ndarray,
        step: Any = None,
        rel_step: Any = None,
        evaluate_all: Callable[..., Iterable[Any]] = map,
    ) -> None:
        if method not in ("2-point", "3-point", "cs"):
            raise ValueError(
                "jac must be callable, a bool, None, '2-point', '3-point' or 'cs'; "
                f"it is {method!r}."
            )
        self.fun = fun
        self.method = method
        self.lower, self.upper = lower, upper
        self.step, self.rel_step = step, rel_step
        self.evaluate_all = evaluate_all

    def gradient(self, x: np.ndarray, value: float) -> tuple[np.ndarray, int]:
        """The gradient at x, where the function is `value`, and the evaluations it took."""
        moving = np.flatnonzero(self.lower < self.upper)
        offsets = self._stencil(x)
        points = []
        for i in moving:
            for offset in offsets[:, i]:
                point = x.astype(offsets.dtype)
                point[i] += offset
                if not np.iscomplexobj(point):  # x + h may round to beyond the bound
                    point[i] = np.clip(point[i], self.lower[i], self.upper[i])
                points.append(point)
        # The function may overwrite its points: how far they are from x is noted before.
        moved = zip(moving.repeat(len(offsets)), points, strict=True)
        steps = np.array([point[i] - x[i] for i, point in moved])
        values = np.array(list(self.evaluate_all(self.fun, points)))
        gradient = np.zeros(x.shape)
        if self.method == "cs":
            gradient[moving] = values.imag / steps.imag
            return gradient, len(points)
        values, steps = (a.reshape(len(moving), -1) for a in (values, steps))
        if self.method == "2-point":
            gradient[moving] = (values[:, 0] - value) / steps[:, 0]
        else:
            gradient[moving] = _three_point(values - value, steps)
        return gradient, len(points)

    def _sizes(self, x: np.ndarray) -> np.ndarray:
        """The step of each variable; where the one asked for is lost in x, the best one."""
        eps = np.finfo(float).eps
        best = eps ** (1 / 3) if self.method == "3-point" else eps ** (1 / 2)
        scale = np.where(x >= 0, 1.0, -1.0) * np.maximum(1.0, np.abs(x))
        if self.step is not None:
            size = np.broadcast_to(np.asarray(self.step, float), x.shape)
        else:
            size = np.asarray((best if self.rel_step is None else self.rel_step) * scale)
        return np.where(x + size == x, best * scale, size)

    def _stencil(self, x: np.ndarray) -> np.ndarray:
        """Displacements of each variable, one row for each point of the formula."""
        h = self._sizes(x)
        if self.method == "cs":
            return 1j * h[None, :]
        below, above = x - self.lower, self.upper - x
        if self.method == "2-point":
            fits = np.where(h >= 0, above, below) >= np.abs(h)
            other_fits = np.where(h >= 0, below, above) >= np.abs(h)
            room = np.where(above >= below, above, -below)
            return np.where(fits, h, np.where(other_fits, -h, room))[None, :]
        h = np.abs(h)
        central = (below >= h) & (above >= h)
        room = np.where(above >= below, np.minimum(2 * h, above), -np.minimum(2 * h, below))
        return np.stack([np.where(central, -h, room / 2), np.where(central, h, room)])


def _three_point(rises: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Slope at 0 of the parabola through the origin and two points, row by row.

    Where a box of one unit in the last place leaves a single point, the slope to it.
    """
    a, b = steps[:, 0], steps[:, 1]
    one = (a == 0) | (a == b)
    c = np.where(one, -b, a)
    parabola = (np.where(one, 0, rises[:, 0]) * b / c - rises[:, 1] * c / b) / (b - c)
    return np.where(one, rises[:, 1] / b, parabola)
