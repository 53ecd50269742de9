"""Between the user's structures and the raveled vectors of the mathematics.

Everything is checked here, once; below are only vectors.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import Bounds

from jaxlbfgsb.method.box import Box
from jaxlbfgsb.types import PyTree, Vector

BoundLeaves = list[Any]
"""One entry for each leaf of x0: a number, an array, or None for no bound."""

_DTYPES = frozenset(map(np.dtype, ("float32", "float64")))

_ARRAYS = (np.ndarray, jax.Array)

_RIGHT_FORM = (
    "bounds must be (lower, upper), for example bounds=(jnp.array([0., -1.]), jnp.array([5., "
    "jnp.inf])) or bounds=(0., None)."
)


def is_traced(*trees: PyTree) -> bool:
    """True if a value is known only when the compiled function runs."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def checked_x0(x0: PyTree) -> PyTree:
    """x0 with arrays for leaves; TypeError or ValueError for what can't be minimised over."""
    leaves, tree = jax.tree.flatten(x0)
    if not leaves:
        raise ValueError("x0 has no variables: it is an empty pytree.")
    arrays = [strong(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in leaves]
    for array in arrays:
        if array.dtype not in _DTYPES:
            raise _wrong_dtype(array.dtype, is_list=_is_list(x0))
    if not any(array.size for array in arrays):
        raise ValueError("x0 has no variables: all its arrays are empty.")
    for array in arrays:
        if not isinstance(array, jax.core.Tracer):
            refuse_nan(array)
    return jax.tree.unflatten(tree, arrays)


def refuse_nan(x0: Any) -> None:
    """ValueError for an array of known values with NaN among them."""
    if _is_far(x0):
        has_nan = _asked_there(_has_nan, x0)
    else:
        x0 = np.asarray(x0)
        square = np.vdot(x0, x0)  # NaN only if there is one: no squares cancel
        has_nan = square != square
    if has_nan:
        raise ValueError("x0 has NaN among its values; give a start that is a number.")


def _is_far(array: Any) -> bool:
    """True for an array in the memory of an accelerator, to be looked at where it lies."""
    if jax.default_backend() == "cpu" or not isinstance(array, jax.Array):
        return False
    return any(device.platform != "cpu" for device in array.devices())


def _asked_there(question: Callable[..., jax.Array], *arrays: Any) -> bool:
    with jax.ensure_compile_time_eval():  # the call may come from inside of a trace
        return bool(question(*arrays))


@jax.jit
def _has_nan(array: jax.Array) -> jax.Array:
    return jnp.isnan(array).any()


def strong(array: jax.Array) -> jax.Array:
    """Without the weak type of ``jnp.full(3, 1.0)``, for which the solver would compile anew."""
    return _without_weak_type(array) if array.weak_type else array


@functools.partial(jax.jit, inline=True)
def _without_weak_type(array: jax.Array) -> jax.Array:
    """Compiled: a call takes a fifth of the time that `astype` alone takes."""
    return array.astype(array.dtype)


def _is_list(tree: PyTree) -> bool:
    """True for a list of numbers, which looks like an array and is a pytree of scalars."""
    is_sequence = isinstance(tree, list | tuple) and len(tree) > 0
    return is_sequence and all(isinstance(entry, int | float) for entry in tree)


def _wrong_dtype(dtype: Any, is_list: bool) -> TypeError:
    if not jnp.issubdtype(dtype, jnp.floating):
        hint = " (A list is a pytree here, each number a variable by itself.)" if is_list else ""
        return TypeError(
            f"x0 must hold floating-point arrays; it holds dtype {dtype}. "
            f"Convert it, for example with jnp.asarray(x0, float).{hint}"
        )
    return TypeError(
        f"x0 must be float32 or float64; it holds {dtype}. "
        "Convert it with x0.astype('float32') or x0.astype('float64')."
    )


def checked_bounds(bounds: Any, x0: PyTree) -> tuple[BoundLeaves, BoundLeaves]:
    """``(lower, upper)`` as one entry for each leaf of x0, checked as far as can be now."""
    x_leaves = jax.tree.leaves(x0)
    if bounds is None:
        return [None] * len(x_leaves), [None] * len(x_leaves)
    if isinstance(bounds, Bounds):
        if len(x_leaves) > 1 and max(np.size(bounds.lb), np.size(bounds.ub)) > 1:
            raise ValueError(
                "scipy.optimize.Bounds with arrays fits an x0 that is one array; for a pytree "
                "x0 give (lower, upper) with its structure."
            )
        lower, upper = np.asarray(bounds.lb), np.asarray(bounds.ub)
        lower, upper = (s.reshape(()) if s.size == 1 else s for s in (lower, upper))
    elif isinstance(bounds, tuple) and len(bounds) == 2:
        lower, upper = bounds
    else:
        raise ValueError(
            f"{_RIGHT_FORM} A sequence of (min, max) pairs, as in SciPy, or an array is not "
            "taken here, since for two variables it could be read both ways; "
            "jaxlbfgsb.fmin_l_bfgs_b takes it."
        )
    lows, highs = (
        _spread(side, name, x0, x_leaves) for side, name in ((lower, "lower"), (upper, "upper"))
    )
    for low, high, leaf in zip(lows, highs, x_leaves, strict=True):
        _check_values(low, high, np.dtype(leaf.dtype))
    return lows, highs


def _spread(side: Any, name: str, x0: PyTree, x_leaves: list[Any]) -> BoundLeaves:
    """One side of the bounds, a prefix of x0's structure, as a list along its leaves."""
    spread: BoundLeaves = []
    if isinstance(x0, _ARRAYS) and isinstance(side, _ARRAYS):
        spread = [side]  # nearly always, and fast
    else:
        with contextlib.suppress(ValueError):
            jax.tree.map(
                lambda bound, part: spread.extend([bound] * len(jax.tree.leaves(part))),
                side,
                x0,
                is_leaf=_is_none,
            )
    if len(spread) != len(x_leaves):
        if _is_list(side) and not isinstance(x0, list | tuple):
            raise ValueError(
                f"The {name} bounds are a list or tuple of numbers, a pytree; for an array x0 "
                f"give an array, for example jnp.array({list(side)}). {_RIGHT_FORM}"
            )
        given = jax.tree.structure(side, is_leaf=_is_none)
        x_tree = jax.tree.structure(x0)
        raise ValueError(
            f"The {name} bounds do not fit x0: they have the structure {given}, x0 has {x_tree}. "
            "Give a scalar, an array, None, or a pytree of these with the structure of x0 or of "
            "its upper levels. " + _RIGHT_FORM
        )
    out: BoundLeaves = []
    for bound, leaf in zip(spread, x_leaves, strict=True):
        if bound is None:
            out.append(None)
            continue
        array = strong(bound) if isinstance(bound, jax.Array) else np.asarray(bound)
        if array.dtype.kind not in "biuf":
            raise TypeError(
                f"The {name} bounds must be real numbers; they hold dtype {array.dtype}. "
                "Use None, -inf or inf for no bound."
            )
        if array.shape not in ((), leaf.shape):
            raise ValueError(
                f"The {name} bounds have shape {array.shape} where x0 has {leaf.shape}; give a "
                "scalar or an array of the shape of x0."
            )
        out.append(array)
    return out


def _is_none(value: Any) -> bool:
    return value is None


def _encloses_a_point(low: Any, high: Any) -> Any:
    """True for bounds that some finite point satisfies; False with a NaN among them."""
    is_finite = (low.max(initial=-np.inf) < np.inf) & (high.min(initial=np.inf) > -np.inf)
    return (low <= high).all() & is_finite


_encloses_a_point_there = jax.jit(_encloses_a_point)


def _is_box(low: Any, high: Any, dtype: np.dtype) -> bool:
    """True for valid bounds of this dtype."""
    if low.dtype != dtype or high.dtype != dtype:
        return False
    if _is_far(low) or _is_far(high):
        return _asked_there(_encloses_a_point_there, low, high)
    return bool(_encloses_a_point(np.asarray(low), np.asarray(high)))


def _check_values(low: Any, high: Any, dtype: np.dtype) -> None:
    sides = ((low, "lower"), (high, "upper"))
    known = [
        (side, name)
        for side, name in sides
        if not (side is None or isinstance(side, jax.core.Tracer))
    ]
    if len(known) == 2 and _is_box(low, high, dtype):
        return  # nearly always, and fast
    for given, name in known:
        side = np.asarray(given)
        if np.isnan(side).any():
            raise ValueError(f"The {name} bounds hold NaN; use None or inf for no bound.")
        empty = np.inf if name == "lower" else -np.inf
        if (side == empty).any():
            raise ValueError(f"A {name} bound is {empty}: no finite number satisfies it.")
    if len(known) == 2:
        lower, upper = np.asarray(low).astype(dtype), np.asarray(high).astype(dtype)
        if (lower > upper).any():
            lower, upper = np.broadcast_arrays(lower, upper)
            i = int(np.argmax((lower > upper).ravel()))
            raise ValueError(
                "A lower bound is greater than its upper bound: "
                f"{lower.ravel()[i]} > {upper.ravel()[i]} at index {i} of its array."
            )


def dtype_of(x: PyTree) -> np.dtype:
    """The dtype of the raveled variables."""
    dtypes = {np.dtype(leaf.dtype) for leaf in jax.tree.leaves(x)}
    return dtypes.pop() if len(dtypes) == 1 else np.dtype(jnp.result_type(*dtypes))


def raveled(x: PyTree) -> tuple[Vector, Callable[[Vector], PyTree]]:
    """One vector of all variables, and the way back."""
    return ravel_pytree(x)


def entry_names(x: PyTree) -> list[str]:
    """A name for each raveled variable, such as ``x[3]`` or ``x['rate'][0]``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(x)
    return [
        f"x{jax.tree_util.keystr(path)}{list(place) if place else ''}"
        for path, leaf in leaves
        for place in np.ndindex(np.shape(leaf))
    ]


def raveled_sides(bounds: Any, x0: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """The checked bounds of the raveled vector, as NumPy arrays; infinite where there is none."""
    box = raveled_box(*checked_bounds(bounds, x0), jax.tree.leaves(x0))
    size = sum(leaf.size for leaf in jax.tree.leaves(x0))
    lower = np.full(size, -np.inf) if box.lower is None else np.asarray(box.lower)
    upper = np.full(size, np.inf) if box.upper is None else np.asarray(box.upper)
    return lower, upper


def is_bounded(lower: BoundLeaves, upper: BoundLeaves) -> bool:
    """True if there is any bound, known while tracing."""
    return any(side is not None for side in (*lower, *upper))


def raveled_box(lower: BoundLeaves, upper: BoundLeaves, x_leaves: list[Any]) -> Box:
    """The box of the raveled vector; `Box(None, None)` where there is no bound at all.

    A bound counts as rounded to the dtype of its variable.
    """
    if not is_bounded(lower, upper):
        return Box(None, None)

    def vector(side: BoundLeaves, missing: float) -> Vector:
        parts = [
            jnp.broadcast_to(jnp.asarray(missing if b is None else b).astype(x.dtype), x.shape)
            for b, x in zip(side, x_leaves, strict=True)
        ]
        return ravel_pytree(parts)[0]

    return Box(vector(lower, -np.inf), vector(upper, np.inf))
