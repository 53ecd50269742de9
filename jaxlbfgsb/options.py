"""Tolerances and limits: defaults, and what is wrong with the ones given."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.method.state import Options
from jaxlbfgsb.pytrees import is_traced

_LARGEST_LIMIT = np.iinfo(np.int32).max


def checked_maxcor(maxcor: Any) -> int:
    if is_traced(maxcor):
        raise TypeError("maxcor sets the size of arrays and can't be traced; give an int.")
    if isinstance(maxcor, bool) or int(maxcor) != maxcor or maxcor < 1:
        raise ValueError(f"maxcor must be an integer of at least 1; it is {maxcor!r}.")
    return int(maxcor)


@functools.lru_cache(maxsize=8)
def default_tolerances(dtype: Any) -> tuple[float, float]:
    """``ftol, gtol`` where none are given: SciPy's in float64, in float32 what it can hold."""
    eps = float(np.finfo(dtype).eps)
    return (1e7 * eps, 1e-5) if eps < 1e-12 else (2 * eps, 1e-4)


def checked_options(
    dtype: Any, ftol: Any, gtol: Any, gtol_rel: Any, maxiter: Any, maxfun: Any, maxls: Any
) -> Options:
    """The options with defaults filled in; values that are known now are checked now.

    A float64 start computes in float32 where JAX's setting says so: `dtype` is what comes of it.
    """
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
    default_ftol, default_gtol = default_tolerances(dtype)
    ftol = default_ftol if ftol is None else ftol
    gtol = default_gtol if gtol is None else gtol
    values = (ftol, gtol, gtol_rel, maxiter, maxfun, maxls)
    if all(type(value) in (int, float) for value in values):
        return _on_device(dtype, *values)
    return _checked(*values)


@functools.lru_cache(maxsize=64)
def _on_device(dtype: np.dtype, *values: float) -> Options:
    """Numbers that most calls share, as arrays that are there already.

    By way of NumPy, which compiles nothing to convert a number.
    """
    options = _checked(*values)
    dtypes = (dtype,) * 3 + (np.dtype(np.int32),) * 3
    with jax.ensure_compile_time_eval():
        return Options(*map(jax.device_put, map(np.asarray, options, dtypes)))


def _checked(ftol: Any, gtol: Any, gtol_rel: Any, maxiter: Any, maxfun: Any, maxls: Any) -> Options:
    tolerances = {"ftol": ftol, "gtol": gtol, "gtol_rel": gtol_rel}
    limits = {"maxiter": maxiter, "maxfun": maxfun, "maxls": maxls}
    for name, value in tolerances.items():
        if _known_number(name, value) and not value >= 0:
            raise ValueError(f"{name} must be a number of at least 0; it is {value!r}.")
    for name, value in limits.items():
        if not _known_number(name, value):
            continue
        if math.isnan(value):
            raise ValueError(f"{name} must be a number; it is {value!r}.")
        if name == "maxls" and value <= 0:
            raise ValueError("maxls must be positive.")
        limits[name] = int(max(min(value, _LARGEST_LIMIT), -1))
    return Options(**tolerances, **limits)


def _known_number(name: str, value: Any) -> bool:
    """True for a number, False for a traced scalar; an error for anything else."""
    if np.shape(value) != ():
        raise ValueError(f"{name} must be a scalar; it has shape {np.shape(value)}.")
    if isinstance(value, jax.core.Tracer):
        return False
    if np.asarray(value).dtype.kind not in "iuf":
        raise TypeError(f"{name} must be a number; it is {value!r}.")
    return True


def strict_options(options: Options, dtype: Any) -> Options:
    """Options in the dtype of the run, without weak types."""
    return Options(
        *(jnp.asarray(value).astype(dtype) for value in options[:3]),
        *(jnp.asarray(value).astype(jnp.int32) for value in options[3:]),
    )
