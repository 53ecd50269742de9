"""Pictures of runs, by Matplotlib (the extra ``plot``).

Each function draws into `ax`, or makes a figure of its own, and returns the Axes:
``ax.figure.savefig("picture.png")`` keeps it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.precision import precision_of
from jaxlbfgsb.pytrees import dtype_of, entry_names, raveled, raveled_sides
from jaxlbfgsb.result import OptimizeResult
from jaxlbfgsb.sight.recording import Trace
from jaxlbfgsb.types import PyTree

__all__ = ["batch", "convergence", "path", "profile"]

STYLE: Any = {
    "font.size": 17,
    "lines.linewidth": 3,
    "lines.markersize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 14,
    "svg.hashsalt": "jaxlbfgsb",  # the same figure gives the same file
}
"""Of the figures that are made here: legible at half the size."""
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2)))
_INK, _ALERT, _ACCENT = COLOURS[0], COLOURS[1], COLOURS[2]
_FAILED = "did not converge"
_POINTS = 200
"""Along each side of the grid of a contour plot."""

Quantity = Literal["pg_norm", "fun"]
Curves = dict[str, tuple[list[float], list[float]]]


def convergence(
    results: OptimizeResult | Mapping[str, OptimizeResult] | Sequence[OptimizeResult],
    *,
    quantity: Quantity = "pg_norm",
    ax: Any = None,
) -> Any:
    """The progress of one run or of several, over its iterations, from their traces.

    Parameters
    ----------
    results
        A result of ``minimize(..., trace=...)``, or several: a mapping with names for the
        legend, or a sequence.
    quantity
        "pg_norm", the norm of the projected gradient, or "fun", f above the lowest value of
        all the runs.
    ax
        Matplotlib Axes; None for a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For a result without a trace.
    """
    if isinstance(results, OptimizeResult):
        results = {"": results}
    elif not isinstance(results, Mapping):
        results = {f"run {i}": result for i, result in enumerate(results)}
    tables = {name: _trace_of(result).table() for name, result in results.items()}
    lowest = min((np.nanmin(t.fun) for t in tables.values() if len(t)), default=0.0)
    with _drawing(ax) as axes:
        for place, (name, table) in enumerate(tables.items()):
            look = _look(place)
            y = table.pg_norm if quantity == "pg_norm" else table.fun - lowest
            axes.plot(table.iteration, _positive(y), label=name or None, **look)
            if not bool(results[name].success) and len(table):
                _mark_failure(axes, table.iteration[-1:], y[-1:], _FAILED, look["color"])
        _finish(axes, quantity)
    return axes


def batch(result: OptimizeResult, *, quantity: Quantity = "pg_norm", ax: Any = None) -> Any:
    """The progress of all lanes of a batch: their median, and where most of them are.

    A lane that has ended counts with its last value; lanes that did not converge are drawn
    one by one.

    Parameters
    ----------
    result
        Of ``minimize_batch(..., trace=...)``, or of `minimize` under `jax.vmap`.
    quantity, ax
        As for `convergence`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For a result without a trace, or of one run.
    """
    trace = _trace_of(result)
    rows = np.asarray(trace.rows)
    if rows.ndim != 1:
        raise ValueError(
            "batch draws the lanes of one batch axis; this result has the batch shape "
            f"{rows.shape}. For one run there is plot.convergence."
        )
    values = np.asarray(getattr(trace, quantity), float)
    values = values - np.nanmin(values) if quantity == "fun" else values
    last = int(rows.max(initial=1))
    kept = np.minimum(np.arange(last), np.maximum(rows, 1)[:, None] - 1)
    values = _positive(np.take_along_axis(values, kept, axis=1))
    converged = np.asarray(result.success)
    steps = np.arange(last)
    with _drawing(ax) as axes:
        if converged.any():
            quantiles = np.nanquantile(values[converged], (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
            for low, high, alpha, share in ((0, 4, 0.15, 90), (1, 3, 0.3, 50)):
                label = f"{share} % of the converged lanes"
                axes.fill_between(
                    steps, quantiles[low], quantiles[high], color=_ACCENT, alpha=alpha, lw=0,
                    label=label,
                )  # fmt: skip
            axes.plot(steps, quantiles[2], color=_ACCENT, label=f"median of {converged.sum()}")
        failed = np.flatnonzero(~converged)
        for lane in failed:
            own = slice(0, int(rows[lane]))
            axes.plot(steps[own], values[lane, own], color=_ALERT, lw=1, alpha=0.6)
        ends = np.maximum(rows[failed], 1) - 1
        if failed.size:
            _mark_failure(axes, ends, values[failed, ends], f"{failed.size} {_FAILED}", _ALERT)
        _finish(axes, quantity)
    return axes


def path(
    fun: Callable[..., Any],
    result: OptimizeResult,
    bounds: Any = None,
    args: tuple[PyTree, ...] = (),
    *,
    ax: Any = None,
) -> Any:
    """The way of a run in two variables, on contour lines of f, with the box.

    Parameters
    ----------
    fun, bounds, args
        What was minimised, as for `minimize`; f is drawn also outside of the bounds.
    result
        Of ``minimize(..., trace=..., trace_x=True)``.
    ax
        As for `convergence`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For a result without iterates, or of other than two variables.
    """
    trace = _trace_of(result)
    if trace.x is None:
        raise ValueError("The trace holds no iterates: use minimize(..., trace=100, trace_x=True).")
    if np.ndim(trace.rows):
        raise ValueError("path draws one run; choose a lane of the batch.")
    with precision_of(dtype_of(result.x)):
        vector, unravel = raveled(result.x)
        if vector.size != 2:
            raise ValueError(f"path draws runs in two variables; this one has {vector.size}.")
        points = np.asarray(jax.vmap(lambda x: raveled(x)[0])(trace.x))[: int(trace.rows)]
        lower, upper = raveled_sides(bounds, result.x)
        x, y = _window(points, lower, upper)
        grid = jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), vector.dtype)
        values = np.asarray(jax.vmap(lambda v: fun(unravel(v), *args))(grid), float)
    with _drawing(ax) as axes:
        _draw_contours(axes, x, y, values.reshape(len(y), len(x)))
        axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        _draw_box(axes, lower, upper)
        axes.plot(*points.T, "o-", color=_ACCENT, markersize=6, label=f"{len(points) - 1} steps")
        axes.plot(*points[:1].T, "s", color=_INK, markersize=12, label="start", zorder=3)
        axes.plot(*points[-1:].T, "*", color=_ALERT, markersize=20, label="end", zorder=3)
        names = entry_names(result.x)
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.grid(False)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return axes


def profile(
    costs: Mapping[str, Any],
    *,
    relative: bool = True,
    xlabel: str | None = None,
    looks: Mapping[str, Mapping[str, Any]] | None = None,
    ax: Any = None,
) -> Any:
    """The performance profile of several solvers (Dolan and Moré 2002).

    For each solver the share of problems that it solved within a factor of what the best one
    took.  Higher is better; on the left, how often it was the best.

    Parameters
    ----------
    costs
        For each solver what each problem took (seconds, evaluations), in the same order;
        infinite or NaN where it failed.
    relative
        False to draw the share within a cost, not within a factor of the least one.
    xlabel
        The label of the horizontal axis.
    looks
        Keywords of ``ax.step`` for some of the solvers.
    ax
        As for `convergence`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        Where solvers have different numbers of problems, or none.
    """
    curves = profile_curves(costs, relative=relative)
    largest = max((xs[-1] for xs, _ in curves.values() if xs), default=1)
    smallest = min((xs[0] for xs, _ in curves.values() if xs), default=1)
    if xlabel is None:
        xlabel = "cost / cost of the best" if relative else "cost"
    with _drawing(ax) as axes:
        for place, (solver, (xs, shares)) in enumerate(curves.items()):
            steps = ([smallest, *xs, largest * 1.1], [0, *shares, shares[-1] if shares else 0])
            look = _look(place) | dict((looks or {}).get(solver, {}))
            axes.step(*steps, where="post", label=solver, **look)
        axes.set(ylim=(0, 1.03), xlabel=xlabel, ylabel="share of problems solved")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return axes


def profile_curves(costs: Mapping[str, Any], *, relative: bool = True) -> Curves:
    """The steps of `profile`: for each solver the costs, ascending, and the share up to each."""
    table = {solver: np.asarray(values, float) for solver, values in costs.items()}
    shapes = {values.shape for values in table.values()}
    if len(shapes) != 1 or any(len(shape) != 1 or shape == (0,) for shape in shapes):
        raise ValueError(
            "costs must hold one number for each problem, at least one, the same problems for "
            f"all solvers; it holds arrays of the shapes {sorted(shapes)}."
        )
    finite = {
        solver: np.where(np.isnan(values), np.inf, values) for solver, values in table.items()
    }
    best = np.min(np.array(list(finite.values())), axis=0)
    curves = {}
    for solver, values in finite.items():
        solved = np.isfinite(values)
        ratios = np.sort(values[solved] / best[solved] if relative else values[solved])
        shares = [(k + 1) / len(values) for k in range(len(ratios))]
        curves[solver] = (ratios.tolist(), shares)
    return curves


@contextlib.contextmanager
def _drawing(ax: Any) -> Iterator[Any]:
    """The Axes to draw in; new ones in the style of this module."""
    if ax is not None:
        yield ax
        return
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            "jaxlbfgsb.plot needs the package matplotlib: pip install 'jaxlbfgsb[plot]'."
        ) from None
    with plt.rc_context(STYLE):
        _, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
        yield axes


def _trace_of(result: OptimizeResult) -> Trace:
    if result.trace is None:
        raise ValueError("This result has no trace: use minimize(..., trace=100), for example.")
    return result.trace


def _look(place: int) -> dict[str, Any]:
    place %= len(COLOURS)
    return {"color": COLOURS[place], "linestyle": LINES[place]}


def _positive(values: np.ndarray) -> np.ndarray:
    """NaN where a logarithm has no value."""
    values = np.asarray(values, float)
    return np.where(values > 0, values, np.nan)


def _mark_failure(axes: Any, x: np.ndarray, y: np.ndarray, label: str, color: str) -> None:
    """Crosses, smaller if they are many; one entry in the legend however often it is called."""
    _, labels = axes.get_legend_handles_labels()
    axes.plot(
        x,
        y,
        linestyle="none",
        marker="X",
        color=color,
        markeredgecolor="white",
        markersize=15 if len(x) < 5 else 9,
        clip_on=False,
        zorder=3,
        label=None if label in labels else label,
    )


def _finish(axes: Any, quantity: Quantity) -> None:
    what = {
        "pg_norm": "norm of the projected gradient",
        "fun": "f above its lowest value",
    }
    axes.set(xlabel="iteration", ylabel=what[quantity], yscale="log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


def _window(
    points: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The grid lines of a picture with the whole path, and the box where it is not far off."""
    low, high = points.min(axis=0), points.max(axis=0)
    size = np.maximum(high - low, 1e-3 * np.maximum(1, np.abs(high)))
    low = np.where(lower > low - size, np.minimum(low, lower), low)
    high = np.where(upper < high + size, np.maximum(high, upper), high)
    margin = 0.12 * np.maximum(high - low, size)
    x, y = np.linspace(low - margin, high + margin, _POINTS).T
    return x, y


def _draw_contours(axes: Any, x: np.ndarray, y: np.ndarray, values: np.ndarray) -> None:
    """Lines at values whose distances from the lowest grow evenly in the logarithm."""
    known = np.where(np.isfinite(values), values, np.nan)
    above = known - np.nanmin(known)
    positive = above[above > 0]
    if not positive.size:  # f is constant
        return
    levels = np.geomspace(np.quantile(positive, 0.005), positive.max(), 16)
    axes.contour(x, y, above, levels=levels, colors="#8C8C8C", linewidths=1.2)
    axes.plot([], [], color="#8C8C8C", lw=1.2, label="lines of equal f")


def _draw_box(axes: Any, lower: np.ndarray, upper: np.ndarray) -> None:
    """The bounds as lines, and what they forbid in grey."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    (inner_left, inner_bottom), (inner_right, inner_top) = (
        np.clip(side, (left, bottom), (right, top)) for side in (lower, upper)
    )
    label: str | None = "outside of the bounds"
    for x0, x1, y0, y1 in (
        (left, inner_left, bottom, top),
        (inner_right, right, bottom, top),
        (inner_left, inner_right, bottom, inner_bottom),
        (inner_left, inner_right, inner_top, top),
    ):
        if x0 < x1 and y0 < y1:
            axes.fill_between([x0, x1], y0, y1, color=_INK, alpha=0.12, lw=0, label=label)
            label = None
    corners = ([inner_left, inner_right, inner_right, inner_left, inner_left],
               [inner_bottom, inner_bottom, inner_top, inner_top, inner_bottom])  # fmt: skip
    if label is None:
        axes.plot(*corners, color=_INK, lw=1.5)
