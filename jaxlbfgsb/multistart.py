"""Many starts for one function: its minima, and how often each was found.

Starts are Sobol' points (scrambled), which fill a box more evenly than random ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import Bounds
from scipy.stats import qmc

from jaxlbfgsb.batch import minimize_batch
from jaxlbfgsb.pytrees import checked_x0, raveled, raveled_sides
from jaxlbfgsb.result import OptimizeResult
from jaxlbfgsb.status import Reason
from jaxlbfgsb.types import PyTree

SHOWN = 10
"""Minima that are listed."""


@dataclasses.dataclass(frozen=True)
class Minimum:
    """A minimum that `multistart` found.

    Attributes
    ----------
    x, fun
        The best of the points that count as this minimum, and f there.
    count
        How many starts led to it.
    lanes
        Which ones, shape (count,), best first.
    """

    x: PyTree
    fun: float
    count: int
    lanes: np.ndarray


@dataclasses.dataclass(frozen=True)
class MultistartResult:
    """What `multistart` found.

    Attributes
    ----------
    best
        The best run that converged, an `OptimizeResult` of one problem; where none did, the run
        with the least finite f, whose `success` is False.
    minima
        The distinct minima, lowest first: a tuple of `Minimum`.
    failed
        Runs that did not converge; they count for no minimum.
    runs
        All runs, an `OptimizeResult` with a leading lane axis.
    starts
        Where they began: like x with a leading lane axis.
    """

    best: OptimizeResult
    minima: tuple[Minimum, ...]
    failed: int
    runs: OptimizeResult
    starts: PyTree

    @property
    def x(self) -> PyTree:
        """That of `best`."""
        return self.best.x

    @property
    def fun(self) -> Any:
        """That of `best`."""
        return self.best.fun

    def __repr__(self) -> str:
        runs = len(self.runs.status)
        minima = "1 minimum" if len(self.minima) == 1 else f"{len(self.minima)} minima"
        lines = [f"{minima} from {runs} starts; {self.failed} did not converge."]
        if self.minima:
            lines.append(f"{'found':>6}  {'f':>14}  x")
        with np.printoptions(threshold=6, edgeitems=3, precision=6, suppress=True):
            for m in self.minima[:SHOWN]:
                x = jax.tree.map(np.asarray, m.x)
                lines.append(f"{m.count:>6}  {m.fun:>14.8g}  {x}".replace("\n", ""))
        if len(self.minima) > SHOWN:
            lines.append(f"and {len(self.minima) - SHOWN} higher ones: see `minima`.")
        if self.failed:
            reasons = np.asarray(self.runs.reason)[~np.asarray(self.runs.success)]
            codes, counts = np.unique(reasons, return_counts=True)
            told = [f"{Reason(c).name} {k}" for c, k in zip(codes, counts, strict=True)]
            lines.append(f"Did not converge: {', '.join(told)}.")
        return "\n".join(lines)


def multistart(
    fun: Callable[..., Any],
    bounds: Any,
    n_starts: int = 64,
    args: tuple[PyTree, ...] = (),
    *,
    x0: PyTree = None,
    sampling: Any = None,
    seed: Any = 0,
    x_tol: float = 1e-3,
    **options: Any,
) -> MultistartResult:
    """Minimise from many starts in the box, and tell the distinct minima apart.

    All runs are one `minimize_batch`.

    Parameters
    ----------
    fun, args
        As for `minimize`.
    bounds
        As for `minimize`.  Without `x0` one side at least is an array, which gives the shape.
    n_starts
        How many starts.
    x0
        An array or a pytree with the shapes and dtypes of the variables; itself the first
        start.  None for one array with the shape of the bounds, and no such start.
    sampling
        ``(lower, upper)``, in the form of the bounds: where the starts lie.  None for the bounds,
        which must be finite then.  A side, or an entry, that is None or infinite is that of
        the bounds; what lies outside of the bounds is cut off.
    seed
        An int or a `numpy.random.Generator`: of the points; the same seed, the same points.
    x_tol
        Two runs found the same minimum if no variable differs by more than `x_tol` times the
        width of its sampling range, at the best point of the two.
    **options
        Those of `minimize_batch`: ``maxcor, ftol, gtol, gtol_rel, maxiter, maxfun, maxls,
        value_and_grad, has_aux, progress, trace, trace_x``.

    Returns
    -------
    MultistartResult
        With ``best, minima, failed, runs, starts``.

    Raises
    ------
    TypeError, ValueError
        As `minimize`, and for a range that is not finite.

    Notes
    -----
    A minimum that no start led to is not found: a `count` of 1 tells that there may be
    more.  A run that ends on a saddle or in a flat valley counts as a minimum of its own.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import multistart
    >>> def camel(x):
    ...     a, b = x
    ...     return (4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (4 * b**2 - 4) * b**2
    >>> found = multistart(camel, (jnp.array([-2.0, -1.0]), jnp.array([2.0, 1.0])), 128)
    >>> [round(m.fun, 3) for m in found.minima], found.failed
    ([-1.032, -1.032, -0.215, -0.215, 2.104, 2.104], 0)
    """
    if isinstance(n_starts, bool) or not isinstance(n_starts, int | np.integer) or n_starts < 1:
        raise ValueError(f"n_starts must be an integer of at least 1; it is {n_starts!r}.")
    if not x_tol >= 0:
        raise ValueError(f"x_tol must be a number of at least 0; it is {x_tol!r}.")
    template = _like_bounds(bounds) if x0 is None else checked_x0(x0)
    lower, upper = _range(bounds, sampling, template)
    points = _points(lower, upper, n_starts, seed)
    vector, unravel = raveled(template)
    if x0 is not None:
        points[0] = np.asarray(vector)
    starts = jax.vmap(unravel)(jnp.asarray(points, vector.dtype))
    runs = minimize_batch(fun, starts, args, in_axes=(0, None, None), bounds=bounds, **options)
    minima = _distinct(runs, x_tol * (upper - lower))
    failed = int(np.sum(~np.asarray(runs.success)))
    best = minima[0].lanes[0] if minima else _least(np.asarray(runs.fun))
    return MultistartResult(_lane(runs, best), minima, failed, runs, starts)


def _like_bounds(bounds: Any) -> Any:
    """One array with the shape of the bounds."""
    if isinstance(bounds, Bounds):
        bounds = (bounds.lb, bounds.ub)
    if isinstance(bounds, tuple) and len(bounds) == 2:
        sides = [side for side in bounds if isinstance(side, np.ndarray | jax.Array)]
        shapes = {side.shape for side in sides if side.ndim}
        if len(shapes) == 1:
            dtype = jnp.result_type(float, *(s.dtype for s in sides if s.dtype.kind == "f"))
            return np.zeros(shapes.pop(), dtype)
    raise ValueError(
        "The shape of the variables is not known: give bounds=(lower, upper) with an array on one "
        "side at least, or x0, an array or a pytree like the variables."
    )


def _range(bounds: Any, sampling: Any, template: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """Where the starts lie, in the raveled variables."""
    box_lower, box_upper = (np.asarray(s, float) for s in raveled_sides(bounds, template))
    lower, upper = raveled_sides(sampling, template)
    lower = np.clip(np.where(np.isfinite(lower), lower, box_lower), box_lower, box_upper)
    upper = np.clip(np.where(np.isfinite(upper), upper, box_upper), box_lower, box_upper)
    endless = ~(np.isfinite(lower) & np.isfinite(upper))
    if endless.any():
        raise ValueError(
            f"No starts can be drawn from an infinite range: that of variable "
            f"{int(np.argmax(endless))} is from {lower[endless][0]} to {upper[endless][0]}. Give "
            "finite bounds, or sampling=(lower, upper), where the starts are to lie."
        )
    return lower, upper


def _points(lower: np.ndarray, upper: np.ndarray, count: int, seed: Any) -> np.ndarray:
    """The first points of a scrambled Sobol' sequence, shape (count, n)."""
    sobol = qmc.Sobol(lower.size, seed=np.random.default_rng(seed))
    unit = sobol.random_base2(int(np.ceil(np.log2(count))))[:count]
    return lower + (upper - lower) * unit


def _distinct(runs: OptimizeResult, tolerance: np.ndarray) -> tuple[Minimum, ...]:
    """The minima of the runs that converged, lowest first."""
    values = np.asarray(runs.fun)
    converged = np.flatnonzero(np.asarray(runs.success))
    left = converged[np.argsort(values[converged], kind="stable")]
    points = np.concatenate(
        [np.asarray(leaf).reshape(len(values), -1) for leaf in jax.tree.leaves(runs.x)], axis=1
    )
    minima = []
    while left.size:
        lane = left[0]
        same = (np.abs(points[left] - points[lane]) <= tolerance).all(axis=1)
        x = jax.tree.map(lambda leaf, lane=lane: leaf[lane], runs.x)
        minima.append(Minimum(x, float(values[lane]), int(same.sum()), left[same]))
        left = left[~same]
    return tuple(minima)


def _least(values: np.ndarray) -> int:
    return int(np.argmin(np.where(np.isfinite(values), values, np.inf)))


def _lane(runs: OptimizeResult, lane: int) -> OptimizeResult:
    return jax.tree.map(lambda leaf: leaf[lane], runs)
