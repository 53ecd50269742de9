"""Is the gradient right?  A comparison with differences that says which entry is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.faces.host import Differences
from jaxlbfgsb.precision import precision_of
from jaxlbfgsb.pytrees import checked_x0, entry_names, raveled, raveled_sides
from jaxlbfgsb.types import PyTree

SHOWN = 10
"""Wrong entries that are listed."""
SAFETY = 10
"""Times the estimated error of the differences."""


@dataclasses.dataclass(frozen=True)
class GradientCheck:
    """What `check_grad` found; its text says it in words.

    Attributes
    ----------
    names
        The entries of x that were compared, such as ``x[3]`` or ``x['rate'][0]``.
    indices
        Their places in the raveled x, shape (k,).
    gradient, differences
        The gradient and the slopes measured, shape (k,), float64.
    uncertainty
        The estimated error of `differences`, shape (k,).
    wrong
        True where the two differ by more than that and `rtol` explain, shape (k,).
    skipped
        Entries that were not compared, since ``lower == upper``.
    """

    names: tuple[str, ...]
    indices: np.ndarray
    gradient: np.ndarray
    differences: np.ndarray
    uncertainty: np.ndarray
    wrong: np.ndarray
    skipped: int

    @property
    def ok(self) -> bool:
        """True if no entry is wrong."""
        return not self.wrong.any()

    @property
    def error(self) -> np.ndarray:
        """``|gradient - differences|`` relative to the larger of the two, shape (k,)."""
        size = np.maximum(np.abs(self.gradient), np.abs(self.differences))
        return np.abs(self.gradient - self.differences) / np.where(size > 0, size, 1)

    def __repr__(self) -> str:
        count = len(self.names)
        skipped = f" ({self.skipped} fixed ones were not compared)" if self.skipped else ""
        if self.ok:
            worst = f"; the largest relative difference is {self.error.max():.1e}" if count else ""
            return f"The gradient agrees with differences in {_entries(count)}{worst}{skipped}."
        wrong = np.flatnonzero(self.wrong)
        worst_first = wrong[np.argsort(-self.error[wrong], kind="stable")]
        shown = worst_first[:SHOWN]
        width = max(len("entry"), *(len(self.names[i]) for i in shown))
        lines = [
            f"The gradient is wrong in {len(wrong)} of {_entries(count)}{skipped}."
            + _diagnosis(self.gradient[wrong], self.differences[wrong]),
            f"{'entry':>{width}}  {'gradient':>12}  {'differences':>12}  {'of them':>9}",
        ]
        for i in shown:
            g, d = self.gradient[i], self.differences[i]
            ratio = f"{g / d:9.4g}" if d != 0 else f"{'-':>9}"
            lines.append(f"{self.names[i]:>{width}}  {g:12.5g}  {d:12.5g}  {ratio}")
        if len(wrong) > SHOWN:
            lines.append(f"and {len(wrong) - SHOWN} more: see `wrong`, `indices` and `names`.")
        return "\n".join(lines)


def check_grad(
    fun: Callable[..., Any],
    x0: PyTree,
    args: tuple[Any, ...] = (),
    *,
    bounds: Any = None,
    jac: Callable[..., Any] | None = None,
    value_and_grad: bool = False,
    has_aux: bool = False,
    indices: Sequence[int] | None = None,
    rtol: float = 1e-5,
) -> GradientCheck:
    """Compare a gradient with central differences, entry by entry, in double precision.

    For a gradient written by hand, a custom derivative rule, or one that `jax.grad` takes of a
    function that may not be smooth.

    Parameters
    ----------
    fun, args, value_and_grad, has_aux
        As for `minimize`; NumPy functions too, with `value_and_grad` or `jac`.
    x0
        Where to compare: an array or a pytree, moved into the bounds.  Take a point without
        symmetry: at one with ``x[0] == x[1]`` two entries that were exchanged agree.
    bounds
        As for `minimize`.  `fun` is not called outside of them.
    jac
        ``jac(x, *args)``, the gradient where `fun` returns the value alone; None for
        `jax.grad` of `fun`.
    indices
        Which entries of the raveled x to compare; None for all.  Each takes four evaluations.
    rtol
        Relative difference that is tolerated, beside the estimated error of the differences.

    Returns
    -------
    GradientCheck
        True in its `ok`, or the entries that are wrong; print it.

    Raises
    ------
    TypeError
        For a NumPy function without a gradient.
    ValueError
        Where `fun` is not finite at x0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import check_grad
    >>> def fun(x):
    ...     return jnp.sum(x**3), jnp.array([3 * x[0] ** 2, 2 * x[1] ** 2])
    >>> check_grad(fun, jnp.array([1.0, 2.0]), value_and_grad=True)
    The gradient is wrong in 1 of 2 entries. It is 0.6667 times what it should be.
    entry      gradient   differences    of them
     x[1]             8            12     0.6667
    """
    if jac is not None and value_and_grad:
        raise ValueError("Give the gradient once: by jac, or by fun with value_and_grad=True.")
    with precision_of(np.float64):
        x0 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), checked_x0(x0))
        lower, upper = raveled_sides(bounds, x0)
        x = np.clip(np.asarray(raveled(x0)[0]), lower, upper)
        value_at, gradient_at = _evaluations(fun, jac, args, x0, value_and_grad, has_aux)
        number, gradient = value_at(x), np.asarray(gradient_at(x), np.float64)
        if number.size != 1:
            raise ValueError(f"fun must return a scalar; it returned {number.size} numbers.")
        if gradient.size != x.size:
            raise ValueError(
                f"The gradient must have {x.size} entries, as x0; it has {gradient.size}."
            )
        value = float(number.item())
        if not np.isfinite(value):
            raise ValueError(f"fun is {value} at x0; check its gradient where it is finite.")
        chosen = _chosen(indices, x.size)
        moving = chosen[lower[chosen] < upper[chosen]]
        eps = float(np.finfo(number.dtype if number.dtype.kind == "f" else np.float64).eps)
        slopes, uncertainty = _slopes(value_at, x, value, moving, (lower, upper), eps)
    g, d = gradient[moving], slopes
    allowed = rtol * np.maximum(np.abs(g), np.abs(d)) + SAFETY * uncertainty
    return GradientCheck(
        names=tuple(np.array(entry_names(x0), object)[moving]),
        indices=moving,
        gradient=g,
        differences=d,
        uncertainty=uncertainty,
        wrong=~(np.abs(g - d) <= allowed),
        skipped=len(chosen) - len(moving),
    )


class _Evaluations(NamedTuple):
    """Of a raveled point, as NumPy arrays of one axis."""

    value: Callable[[np.ndarray], np.ndarray]
    gradient: Callable[[np.ndarray], np.ndarray]


def _evaluations(
    fun: Callable[..., Any],
    jac: Callable[..., Any] | None,
    args: tuple[Any, ...],
    x0: PyTree,
    value_and_grad: bool,
    has_aux: bool,
) -> _Evaluations:
    """Compiled where JAX can trace the functions, else as NumPy computes them."""
    vector, unravel = raveled(x0)

    def value(x: PyTree) -> Any:
        out = fun(x, *args)
        out = out[0] if value_and_grad else out
        return out[0] if has_aux else out

    def given(x: PyTree) -> Any:
        return fun(x, *args)[1] if jac is None else jac(x, *args)

    def by_jax(v: Any) -> Any:
        return jax.grad(lambda v: jnp.asarray(value(unravel(v))).reshape(()).astype(v.dtype))(v)

    value_at = _at_raveled(value, vector, unravel)
    if jac is not None or value_and_grad:
        return _Evaluations(value_at, _at_raveled(given, vector, unravel))
    if not isinstance(value_at, _Traced):
        raise TypeError(
            "JAX cannot trace fun, so that it has no gradient to check. Give jac=..., or let "
            "fun return (value, gradient) and set value_and_grad=True."
        )
    return _Evaluations(value_at, _Traced(by_jax))


class _Traced:
    """A compiled function of the raveled point, as a NumPy array of one axis."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.compiled = jax.jit(function)

    def __call__(self, v: np.ndarray) -> np.ndarray:
        return np.asarray(self.compiled(v))


def _at_raveled(
    function: Callable[[PyTree], Any], vector: Any, unravel: Callable[[Any], PyTree]
) -> Callable[[np.ndarray], np.ndarray]:
    """Of the raveled point: the leaves of what the function returns, one after the other."""

    def traced(v: Any) -> Any:
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(function(unravel(v)))])

    def on_host(v: np.ndarray) -> np.ndarray:
        out = function(jax.tree.map(np.array, unravel(jnp.asarray(v))))
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(out)])

    try:
        jax.eval_shape(traced, vector)
    except Exception:  # whatever stopped JAX, the function itself may be called
        return on_host
    return _Traced(traced)


def _slopes(
    value_at: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    value: float,
    moving: np.ndarray,
    sides: tuple[np.ndarray, np.ndarray],
    eps: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Central differences of some entries, and their estimated error.

    The error is the change from twice the step, and the rounding error of f, whose precision
    is `eps`.
    """
    is_held = ~np.isin(np.arange(x.size), moving)  # not differenced, like fixed variables
    lower, upper = (np.where(is_held, x, side) for side in sides)
    steps = eps ** (1 / 3) * np.maximum(1, np.abs(x))
    slopes, rougher = (
        Differences(lambda v: value_at(v).item(), "3-point", lower, upper, step=h).gradient(
            x, value
        )[0][moving]
        for h in (steps, 2 * steps)
    )
    room = np.minimum(steps, np.maximum(x - lower, upper - x))[moving]
    return slopes, np.abs(slopes - rougher) + eps * abs(value) / room


def _chosen(indices: Sequence[int] | None, n: int) -> np.ndarray:
    if indices is None:
        return np.arange(n)
    chosen = np.atleast_1d(np.asarray(indices))
    if chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= n:
        raise ValueError(f"indices must be integers from 0 to {n - 1}; they are {indices!r}.")
    return np.unique(chosen)


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _diagnosis(gradient: np.ndarray, differences: np.ndarray) -> str:
    """What the wrong entries have in common."""
    ratios = gradient / np.where(differences == 0, np.nan, differences)
    if np.allclose(ratios, -1, rtol=1e-3):
        return " It has the wrong sign."
    if np.allclose(ratios, ratios[0], rtol=1e-3):
        return f" It is {ratios[0]:.4g} times what it should be."
    if np.allclose(np.sort(gradient), np.sort(differences), rtol=1e-3):
        return " Its entries are in the wrong order."
    return ""
