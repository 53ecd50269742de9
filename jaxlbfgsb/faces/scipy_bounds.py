"""Bounds in the forms that SciPy takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import Bounds


def as_lower_upper(bounds: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``(lower, upper)``, float64 of shape (n,), infinite where there is no bound.

    Parameters
    ----------
    bounds
        None, a sequence of ``(min, max)`` pairs with None or an infinity for no bound, an
        ``(n, 2)`` array, or a `scipy.optimize.Bounds`.

    Raises
    ------
    ValueError
        With SciPy's texts for a wrong length and for crossed bounds; also for NaN, and
        for a lower bound of +inf or an upper one of -inf.
    """
    if bounds is None:
        return np.full(n, -np.inf), np.full(n, np.inf)
    if isinstance(bounds, Bounds):
        try:
            lower = np.broadcast_to(np.asarray(bounds.lb, float), (n,)).copy()
            upper = np.broadcast_to(np.asarray(bounds.ub, float), (n,)).copy()
        except ValueError:
            raise ValueError("length of x0 != length of bounds") from None
    else:
        pairs = list(bounds)
        if len(pairs) != n:
            raise ValueError("length of x0 != length of bounds")
        lower, upper = _sides(pairs)
    if np.isnan(lower).any() or np.isnan(upper).any():
        raise ValueError("A bound is NaN; use None or an infinity for no bound.")
    if (lower > upper).any():
        raise ValueError("LBFGSB - one of the lower bounds is greater than an upper bound.")
    if (lower == np.inf).any() or (upper == -np.inf).any():
        raise ValueError(
            "A lower bound is inf or an upper bound -inf: no finite number satisfies it."
        )
    return lower, upper


def _sides(pairs: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    lower, upper = np.empty(len(pairs)), np.empty(len(pairs))
    try:  # all in one, if they are scalars
        table = np.array(pairs, dtype=object)
        if table.shape == (len(pairs), 2):
            lower[:], upper[:] = np.where(np.equal(table, np.array(None)), _MISSING, table).T
            return lower, upper
    except (TypeError, ValueError):
        pass
    for i, pair in enumerate(pairs):
        try:
            low, high = pair
        except (TypeError, ValueError):
            raise ValueError(
                f"bounds must be a sequence of (min, max) pairs; entry {i} is {pair!r}."
            ) from None
        lower[i], upper[i] = (_number(*given) for given in zip((low, high), _MISSING, strict=True))
    return lower, upper


_MISSING = (-np.inf, np.inf)
"""For None."""


def _number(bound: Any, missing: float) -> float:
    if bound is None:
        return missing
    array = np.asarray(bound, float)
    if array.size != 1:
        raise ValueError(f"Each bound must be a number or None; one is {bound!r}.")
    return float(array.reshape(()))
