"""Double precision for one call, whatever JAX's global setting."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np


def precision_of(dtype: Any) -> AbstractContextManager[Any]:
    """A context in which arrays of `dtype`, float32 or float64, keep their dtype."""
    is_double = np.dtype(dtype).itemsize == 8
    return jax.enable_x64(is_double or bool(jax.config.read("jax_enable_x64")))
