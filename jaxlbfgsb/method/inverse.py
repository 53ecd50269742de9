"""The inverse ``H`` of ``B`` on all variables: one product for the solver, an operator for users.

Notation: ``g = 1 / theta``; ``S, Y`` the pairs; ``R`` the part of ``S'Y`` on and above
the diagonal by age, oldest first; ``D`` its diagonal.  Byrd, Nocedal and Schnabel (1994),
(3.1): ``H = g I + [S, g Y] N [S, g Y]'``.  Newest first, ``R`` is lower triangular.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.method.memory import Memory, ages, pair_at, with_all_products
from jaxlbfgsb.types import Ages, Coefficients, Integer, MiddleMatrix, Scalar, Vector
from jaxlbfgsb.xla import small
from jaxlbfgsb.xla.choice import where
from jaxlbfgsb.xla.indexing import at, modulo, put, taken
from jaxlbfgsb.xla.kernel import one_kernel, repeated, step_is_one_kernel
from jaxlbfgsb.xla.products import dot


def inverse_times(memory: Memory, v: Vector) -> Vector:
    """``H v`` by the recursion of Nocedal (1980), which needs no products of different pairs."""
    m = memory.pairs.shape[0] // 2

    def newest_to_oldest(
        age: Integer, carry: tuple[Vector, Coefficients]
    ) -> tuple[Vector, Coefficients]:
        q, alphas = carry
        place = modulo(memory.place - 1 - age, m)
        s, y, sy = pair_at(memory, place)
        alpha = dot(s, q) / sy
        return q - alpha * y, put(alphas, alpha, place)

    def oldest_to_newest(order: Integer, r: Vector) -> Vector:
        place = modulo(memory.place - memory.count + order, m)
        s, y, sy = pair_at(memory, place)
        alpha = at(alphas, place)
        return r + (alpha - dot(y, r) / sy) * s

    start = (v, jnp.zeros_like(memory.products[0, :m]))
    q, alphas = repeated(memory.count, m, newest_to_oldest, start)
    return repeated(memory.count, m, oldest_to_newest, q / memory.theta)


def compact_inverse_times(
    memory: Memory, products: MiddleMatrix, v: Vector, with_v: Coefficients
) -> Vector:
    """``H v`` in one pass over the history, given ``[Y; S] v`` and the products of all pairs.

    Of these it takes ``Y'Y`` and ``s_i'y_j`` where pair i is not newer.
    """
    numbers = products, memory.theta, memory.place, memory.count, with_v
    c = one_kernel(_coefficients)(*numbers)
    return v / memory.theta + dot(c, memory.pairs)


def _coefficients(
    products: MiddleMatrix, theta: Scalar, place: Integer, count: Integer, with_v: Coefficients
) -> Coefficients:
    """The combination of the pairs that ``H v - g v`` is, given their products with v."""
    m = products.shape[0] // 2
    R, middle, newest_first, used = _factors(products, theta, place, count)
    Yv = where(used, taken(with_v, newest_first), 0)
    Sv = where(used, taken(with_v, m + newest_first), 0)
    a = small.solve_lower(R, Sv[:, None])[:, 0]
    b = small.solve_lower_transposed(R, (dot(middle, a) - Yv / theta)[:, None])[:, 0]
    age = ages(place, m)
    return jnp.concatenate([-taken(a, age) / theta, taken(b, age)])


def _factors(
    products: MiddleMatrix, theta: Scalar, place: Integer, count: Integer
) -> tuple[jax.Array, jax.Array, Ages, jax.Array]:
    """``R`` and ``D + g Y'Y`` newest first, the places in that order, and which are used.

    In the empty places, which come last, an identity in ``R`` and nothing else.
    """
    m = products.shape[0] // 2
    age = jnp.arange(m, dtype=jnp.int32)
    newest_first = modulo(place - 1 - age, m)
    used = age < count
    both = used[:, None] & used[None, :]
    rows = taken(products, newest_first, axis=1)
    sy = where(both, taken(rows, m + newest_first), 0)
    yy = where(both, taken(rows, newest_first), 0)
    is_diagonal = age[:, None] == age[None, :]
    R = where(age[:, None] >= age[None, :], sy, 0) + (is_diagonal & ~used)
    return R, where(is_diagonal, sy, 0) + yy / theta, newest_first, used


# What users call outside of `jit`, each as one program.


@jax.jit
def _count(H: InverseHessian) -> jax.Array:
    return H.memory.count


@jax.jit
def _times(H: InverseHessian, v: jax.Array) -> jax.Array:
    """``H v``, or of each column."""
    memory = H.memory
    if v.ndim == 1:
        return inverse_times(memory, v)
    if step_is_one_kernel(*memory.pairs.shape):
        return jax.vmap(inverse_times, in_axes=(None, 1), out_axes=1)(memory, v)
    products = with_all_products(memory).products

    def of_column(v: Vector) -> Vector:
        return compact_inverse_times(memory, products, v, dot(memory.pairs, v))

    return jax.vmap(of_column, in_axes=1, out_axes=1)(v)


@jax.jit
def _oldest_first(H: InverseHessian) -> tuple[jax.Array, jax.Array]:
    """The rows s and the rows y."""
    memory = H.memory
    m = memory.pairs.shape[0] // 2
    place = modulo(memory.place + jnp.arange(m, dtype=jnp.int32), m)
    used = (jnp.arange(m) >= m - memory.count)[:, None]
    s, y = memory.pairs[m + place], memory.pairs[place]
    return where(used, s, 0), where(used, y, 0)


@jax.jit
def _diagonal(H: InverseHessian) -> Vector:
    memory = with_all_products(H.memory)
    m = memory.pairs.shape[0] // 2
    R, middle, newest_first, used = _factors(
        memory.products, memory.theta, memory.place, memory.count
    )
    S = where(used[:, None], memory.pairs[m + newest_first], 0)
    Y = where(used[:, None], memory.pairs[newest_first], 0)
    P = small.solve_lower(R, S)
    g = 1 / memory.theta
    return g + jnp.sum(P * dot(middle, P), axis=0) - 2 * g * jnp.sum(P * Y, axis=0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InverseHessian:
    """The limited-memory BFGS estimate of the inverse Hessian at the solution.

    Of the function without its bounds, in the raveled variables (all leaves of x one
    after the other).  It satisfies the secant equation of the newest pair,
    ``H y = s``, to rounding.  A pytree; works under `jit` and `vmap`.

    Notes
    -----
    The compact form of Byrd, Nocedal and Schnabel (1994), (3.1):
    ``H = g I + [S, g Y] N [S, g Y]'`` with ``g = 1 / theta``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import minimize
    >>> result = minimize(lambda x: 2 * x @ x, jnp.array([1.0, 2.0]))
    >>> (result.hess_inv @ jnp.array([4.0, 8.0])).round(3).tolist()
    [1.0, 2.0]
    """

    pairs: Any
    """``[Y; S]``, shape (2 maxcor, n)."""
    numbers: Any
    """All else that the memory holds, in one array: a call pays for each array that it returns."""

    @classmethod
    def of(cls, memory: Memory) -> InverseHessian:
        """The inverse of the B that a memory holds."""
        pairs, *others = memory
        axes = memory.theta.shape  # those that come of `vmap`
        numbers = [part.reshape(*axes, -1).astype(pairs.dtype) for part in others]
        return cls(pairs, jnp.concatenate(numbers, axis=-1))

    @property
    def memory(self) -> Memory:
        """The memory, with the leading axes that the fields have after `vmap`."""
        rows = self.pairs.shape[-2]
        products, others = self.numbers[..., :-3], self.numbers[..., -3:]
        axes = (2, rows // 2) if products.shape[-1] == rows else (rows, rows)
        return Memory(
            self.pairs,
            products.reshape(*products.shape[:-1], *axes),
            theta=others[..., 0],
            count=others[..., 1].astype(jnp.int32),
            place=others[..., 2].astype(jnp.int32),
        )

    @property
    def shape(self) -> tuple[int, int]:
        n = self.pairs.shape[-1]
        return n, n

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.pairs.dtype)

    @property
    def n_corrs(self) -> Any:
        """Pairs stored, an int32 scalar, at most `maxcor`."""
        return _count(self)

    @property
    def s(self) -> jax.Array:
        """Steps, shape (maxcor, n), oldest first; zero rows in front of them if fewer."""
        return _oldest_first(self)[0]

    @property
    def y(self) -> jax.Array:
        """Differences of gradients, shape (maxcor, n), in the order of `s`."""
        return _oldest_first(self)[1]

    def __matmul__(self, v: Any) -> jax.Array:
        """``H v`` for a raveled v of shape (n,) or a matrix of shape (n, k)."""
        v = jnp.asarray(v, self.pairs.dtype)
        if v.ndim not in (1, 2) or v.shape[0] != self.shape[0]:
            raise ValueError(
                f"The operator has shape {self.shape}; it was given an array of shape {v.shape}. "
                "Ravel a pytree first, with jax.flatten_util.ravel_pytree."
            )
        return _times(self, v)

    def todense(self) -> jax.Array:
        """The matrix, shape (n, n)."""
        return self @ jnp.eye(self.shape[0], dtype=self.pairs.dtype)

    def diagonal(self) -> jax.Array:
        """The diagonal, shape (n,), without the matrix."""
        return _diagonal(self)

    def __repr__(self) -> str:
        return f"<InverseHessian of shape {self.shape}, dtype {self.dtype}>"
