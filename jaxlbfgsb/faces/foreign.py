"""A function as SciPy's callers give it: JAX or NumPy, with or without a gradient.

The first evaluation decides.  A function that returns JAX values is traced; where that
fails, and for any other function, it is called on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.faces.host import Differences
from jaxlbfgsb.program.closures import fingerprint
from jaxlbfgsb.program.recent import Recent

NOT_SCALAR = "The user-provided objective function must return a scalar value."


class CannotTrace(Exception):
    """Tracing failed in a function that can be called."""


class DifferenceOptions(NamedTuple):
    """How to difference a host function; see `host.Differences`."""

    method: str
    step: Any
    rel_step: Any
    evaluate_all: Callable[..., Iterable[Any]]


_UNTRACEABLE = "untraceable"
_kinds: Recent[str] = Recent(64)
"""Of JAX functions met before: "scalar", "pair", or "untraceable"."""


class Foreign:
    """Value and gradient of a function that follows SciPy's conventions.

    Parameters
    ----------
    fun
        ``fun(x, *args)``, returns f; or ``(f, gradient)`` if `may_be_pair`.
    jac
        ``jac(x, *args)`` or None.
    may_be_pair
        Whether `fun` may return a pair.
    args
        Further arguments.
    lower, upper
        Bounds, for the differences.
    differences
        For a function that neither has a gradient nor can be differentiated by JAX.
    may_difference
        Whether a NumPy function without a gradient may be differenced; else it is an error.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        jac: Callable[..., Any] | None,
        may_be_pair: bool,
        args: tuple[Any, ...],
        lower: np.ndarray,
        upper: np.ndarray,
        differences: DifferenceOptions,
        may_difference: bool,
    ) -> None:
        self.fun, self.jac, self.may_be_pair, self.args = fun, jac, may_be_pair, args
        self.differences = Differences(
            functools.partial(_number_at, fun, args),
            lower=lower,
            upper=upper,
            **differences._asdict(),
        )
        self.may_difference = may_difference
        self._differentiable = True
        self.njev = 0
        self._first: tuple[Any, Any] | None = None
        self._key = fingerprint(fun, jac, may_be_pair)

    def kind(self, x0: np.ndarray) -> str:
        """What to trace, "scalar" or "pair"; "host" if it is to be called on the host."""
        known = None if self._key is None else _kinds.get(self._key)
        if known is not None and known != _UNTRACEABLE:
            return known
        self._first = out, slope = self._call(x0)
        if known == _UNTRACEABLE or not self._all_jax(out, slope):
            return "host"
        kind = "pair" if self.jac is not None or self._is_pair(out) else "scalar"
        self._remember(kind)
        return kind

    def give_up_tracing(self) -> None:
        """Remember that this function can't be traced."""
        self._remember(_UNTRACEABLE)

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray, int]:
        """Value, gradient and number of evaluations, on the host."""
        out, slope = self._first or self._call(x)
        self._first = None
        self.njev += 1
        if self._is_pair(out):
            return _number(out[0]), _checked(out[1], x), 1
        value = _number(out)
        if self.jac is not None:
            return value, _checked(slope, x), 1
        if isinstance(out, jax.Array) and self._differentiable:
            try:
                return value, _checked(jax.grad(self._jax_number_at)(jnp.asarray(x)), x), 1
            except Exception:  # whatever stopped JAX, the function itself can be called
                self._differentiable = False
        if not (self.may_difference or isinstance(out, jax.Array)):
            raise TypeError(
                "func returned a number without a gradient. Return (f, gradient), give fprime, "
                "set approx_grad=True, or write func with jax.numpy so that JAX can "
                "differentiate it."
            )
        gradient, evaluations = self.differences.gradient(x, value)
        return value, gradient, 1 + evaluations

    def _call(self, x: np.ndarray) -> tuple[Any, Any]:
        """What the functions return, each given an array of its own."""
        out = self.fun(x.copy(), *self.args)
        return out, None if self.jac is None else self.jac(x.copy(), *self.args)

    def _is_pair(self, out: Any) -> bool:
        return self.may_be_pair and isinstance(out, tuple | list) and len(out) == 2

    def _all_jax(self, out: Any, slope: Any) -> bool:
        leaves = list(out) if self._is_pair(out) else [out]
        leaves += [] if self.jac is None else [slope]
        return all(isinstance(leaf, jax.Array) for leaf in leaves)

    def _remember(self, kind: str) -> None:
        if self._key is not None:
            _kinds.put(self._key, kind)

    def _jax_number_at(self, x: jax.Array) -> jax.Array:
        return _one_number(self.fun(x, *self.args))


def _number_at(fun: Callable[..., Any], args: tuple[Any, ...], x: np.ndarray) -> Any:
    """The function as a number; on module level, so that it can be sent to processes."""
    out = np.asarray(fun(x, *args))
    if out.size != 1:
        raise ValueError(NOT_SCALAR)
    return out.item()


def traceable(fun: Callable[..., Any], jac: Callable[..., Any] | None) -> Callable[..., Any]:
    """The function to trace: returns f, or ``(f, gradient)``.

    It closes over the user's functions alone, so that its trace can be recalled.
    """

    def objective(x: jax.Array, *args: Any) -> Any:
        try:
            out = fun(x, *args)
            if jac is not None:
                out = (out, jac(x, *args))
            if isinstance(out, tuple | list):
                value, gradient = out
                return _one_number(value), jnp.asarray(gradient).reshape(x.shape)
            return _one_number(out)
        except Exception as error:
            raise CannotTrace from error

    return objective


def _one_number(value: Any) -> jax.Array:
    value = jnp.asarray(value)
    if value.size != 1:
        raise ValueError(NOT_SCALAR)
    return value.reshape(())


def _number(value: Any) -> float:
    try:
        array = np.asarray(value)
        if array.size == 1:
            return float(array.reshape(()))
    except (TypeError, ValueError):
        pass
    raise ValueError(NOT_SCALAR)


def _checked(gradient: Any, x: np.ndarray) -> np.ndarray:
    array = np.asarray(gradient, float)
    if array.size != x.size:
        raise ValueError(
            f"The gradient must have one entry for each of the {x.size} variables; it has "
            f"shape {array.shape}."
        )
    return array.reshape(x.shape)
