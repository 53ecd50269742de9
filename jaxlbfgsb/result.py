"""What a solve returns: the result, and the inverse Hessian as an operator."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlbfgsb.box import Box, active_bounds
from jaxlbfgsb.core import Options, State, status_of
from jaxlbfgsb.memory import Memory, dot
from jaxlbfgsb.status import TABLE, Reason
from jaxlbfgsb.types import PyTree


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

    memory: Memory

    @property
    def shape(self) -> tuple[int, int]:
        n = self.memory.pairs.shape[-1]
        return n, n

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.memory.pairs.dtype)

    @property
    def n_corrs(self) -> Any:
        """Pairs stored, an int32 scalar, at most `maxcor`."""
        return self.memory.count

    @property
    def s(self) -> jax.Array:
        """Steps, shape (maxcor, n), oldest first; zero rows in front of them if fewer."""
        return self._chronological()[0]

    @property
    def y(self) -> jax.Array:
        """Differences of gradients, shape (maxcor, n), in the order of `s`."""
        return self._chronological()[1]

    def _chronological(self) -> tuple[jax.Array, jax.Array]:
        m = self.memory.pairs.shape[-2] // 2
        age = m - 1 - jnp.arange(m, dtype=jnp.int32)
        place = (self.memory.place - 1 - age) % m
        used = (age < self.memory.count)[:, None]
        return (
            jnp.where(used, self.memory.pairs[m + place], 0),
            jnp.where(used, self.memory.pairs[place], 0),
        )

    def _factors(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
        """``S, Y, R, D + g Y'Y, g`` with an identity for the empty places."""
        S, Y = self._chronological()
        m = S.shape[0]
        empty = jnp.arange(m) < m - self.memory.count
        place = (self.memory.place + jnp.arange(m, dtype=jnp.int32)) % m
        both = ~(empty[:, None] | empty[None, :])
        sy = jnp.where(both, self.memory.products[m + place][:, place], 0)
        yy = jnp.where(both, self.memory.products[place][:, place], 0)
        g = 1 / self.memory.theta
        R = jnp.triu(sy) + jnp.diag(empty.astype(S.dtype))
        return S, Y, R, jnp.diag(jnp.diagonal(sy)) + g * yy, g

    def __matmul__(self, v: Any) -> jax.Array:
        """``H v`` for a raveled v of shape (n,) or a matrix of shape (n, k)."""
        v = jnp.asarray(v, self.memory.pairs.dtype)
        if v.ndim not in (1, 2) or v.shape[0] != self.shape[0]:
            raise ValueError(
                f"The operator has shape {self.shape}; it was given an array of shape {v.shape}. "
                "Ravel a pytree first, with jax.flatten_util.ravel_pytree."
            )
        S, Y, R, middle, g = self._factors()
        columns = v[:, None] if v.ndim == 1 else v
        a = lax.linalg.triangular_solve(R, dot(S, columns), left_side=True, lower=False)
        b = lax.linalg.triangular_solve(
            R, dot(middle, a) - g * dot(Y, columns), left_side=True, lower=False, transpose_a=True
        )
        out = g * columns + dot(S.T, b) - g * dot(Y.T, a)
        return out[:, 0] if v.ndim == 1 else out

    def todense(self) -> jax.Array:
        """The matrix, shape (n, n)."""
        return self @ jnp.eye(self.shape[0], dtype=self.memory.pairs.dtype)

    def diagonal(self) -> jax.Array:
        """The diagonal, shape (n,), without the matrix."""
        S, Y, R, middle, g = self._factors()
        P = lax.linalg.triangular_solve(R, S, left_side=True, lower=False)
        return g + jnp.sum(P * dot(middle, P), axis=0) - 2 * g * jnp.sum(P * Y, axis=0)

    def __repr__(self) -> str:
        return f"<InverseHessian of shape {self.shape}, dtype {self.dtype}>"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OptimizeResult:
    """The result of `minimize`: a pytree, with a leading axis on every field under `vmap`.

    Attributes
    ----------
    x
        The solution: structure, shapes and dtypes of x0.  Inside the bounds, and equal to
        a bound bit for bit where that bound is active.
    fun
        f(x), a scalar in the dtype of the variables.
    jac
        The gradient at x, like x.
    aux
        What `fun` returned beside its value at x, with ``has_aux``; else None.
    status
        SciPy's: 0 converged, 1 a limit was reached, 2 anything else (int32).
    reason
        The fine code, a `jaxlbfgsb.Reason` (int32).
    success
        ``status == 0``.
    nit, nfev
        Iterations, and evaluations of the function with its gradient (int32).
    hess_inv
        `InverseHessian`.
    pg_norm
        The largest entry of the projected gradient in absolute value.
    active
        Like x, int32: -1 where x is on its lower bound, +1 on its upper one, else 0.
    """

    x: PyTree
    fun: Any
    jac: PyTree
    aux: PyTree
    status: Any
    reason: Any
    success: Any
    nit: Any
    nfev: Any
    hess_inv: InverseHessian
    pg_norm: Any
    active: PyTree

    @property
    def njev(self) -> Any:
        """Evaluations of the gradient: as many as of the function."""
        return self.nfev

    @property
    def message(self) -> Any:
        """The sentence of `reason`; an array of sentences for a batch; not under `jit`."""
        if isinstance(self.reason, jax.core.Tracer):
            raise TypeError(
                "The message is text and exists outside of jit only; inside, use `reason`."
            )
        codes = np.asarray(self.reason)
        if codes.ndim == 0:
            return TABLE[Reason(int(codes))].message
        sentences = [TABLE[Reason(code)].message for code in codes.ravel().tolist()]
        return np.array(sentences, dtype=object).reshape(codes.shape)

    def __repr__(self) -> str:
        names = [field.name for field in dataclasses.fields(self)]
        rows = [(name, getattr(self, name)) for name in names]
        if not isinstance(self.reason, jax.core.Tracer):
            shown = Reason(int(self.reason)).name if np.ndim(self.reason) == 0 else self.reason
            rows = [(name, shown if name == "reason" else value) for name, value in rows]
            message = self.message
            if isinstance(message, str):
                rows.insert(0, ("message", message))
        with np.printoptions(threshold=10, edgeitems=3, precision=6):
            lines = [f"{name:>10}: {_shown(value)}" for name, value in rows if value is not None]
        return "\n".join(lines)

    def with_shape(self, shape: tuple[int, ...]) -> OptimizeResult:
        """The result of a raveled run with its vectors in the shape given."""
        vectors = {name: getattr(self, name).reshape(shape) for name in ("x", "jac", "active")}
        return dataclasses.replace(self, **vectors)


def result_of(state: State, box: Box, options: Options) -> OptimizeResult:
    """The result of a run, with raveled vectors and no aux."""
    status = status_of(state, options)
    return OptimizeResult(
        x=state.x,
        fun=state.value,
        jac=state.gradient,
        aux=None,
        status=status,
        reason=state.reason,
        success=status == 0,
        nit=state.nit,
        nfev=state.nfev,
        hess_inv=InverseHessian(state.memory),
        pg_norm=state.pg_norm,
        active=active_bounds(state.x, state.gradient, box),
    )


def _shown(value: Any) -> str:
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    return str(value).replace("\n", "\n" + " " * 12)
