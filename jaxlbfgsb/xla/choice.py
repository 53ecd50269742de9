"""`jnp.where` as one operation.

JAX makes a function of each call of the other, and XLA copies it back to where it was called: in
two variables that is about a twelfth of the time to trace, lower and compile.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def where(condition: jax.Array, a: Any, b: Any) -> jax.Array:
    """a where the condition is True, else b; arrays, or numbers that take the dtype of arrays.

    Two numbers must be integers, and become int32.
    """
    a, b = (int(v) if isinstance(v, int) else v for v in (a, b))  # a member of an enum has a dtype
    dtype = jnp.int32 if isinstance(a, int) and isinstance(b, int) else jnp.result_type(a, b)
    shape = jnp.broadcast_shapes(*(np.shape(v) for v in (condition, a, b)))
    return lax.select(_as(condition, bool, shape), _as(a, dtype, shape), _as(b, dtype, shape))


def _as(value: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    """Numbers stay on the host, as literals of the program."""
    if not isinstance(value, jax.Array):
        value = np.asarray(value, dtype)
    elif value.dtype != dtype:
        value = lax.convert_element_type(value, dtype)
    return value if value.shape == shape else jnp.broadcast_to(value, shape)
