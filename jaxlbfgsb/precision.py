"""Double precision for one call, whatever JAX's global setting."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np


def precision_of(dtype: Any) -> AbstractContextManager[Any]:
    """A context in which arrays of `dtype`, float32 or float64, keep their dtype."""
    return _enable_x64(np.dtype(dtype).itemsize == 8 or bool(jax.config.jax_enable_x64))


def _enable_x64(enabled: bool) -> AbstractContextManager[Any]:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)  # type: ignore[no-any-return]
    from jax.experimental import enable_x64  # before JAX 0.8

    return enable_x64(enabled)  # type: ignore[no-any-return, no-untyped-call]
