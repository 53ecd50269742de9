"""What a solve returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.derivatives.covariance import inverse_by_pairs, inverse_of_hessian
from jaxlbfgsb.method.box import Box, active_bounds
from jaxlbfgsb.method.ending import status_of
from jaxlbfgsb.method.inverse import InverseHessian
from jaxlbfgsb.method.state import Options, State
from jaxlbfgsb.precision import precision_of
from jaxlbfgsb.pytrees import dtype_of, raveled
from jaxlbfgsb.sight.recording import Trace
from jaxlbfgsb.status import TABLE, Reason
from jaxlbfgsb.types import PyTree, Vector


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
        `InverseHessian`; None from `minimize_batch`.
    pg_norm
        The largest entry of the projected gradient in absolute value.
    active
        Like x, int32: -1 where x is on its lower bound, +1 on its upper one, else 0.
    trace
        A `Trace` of the iterations, where one was asked for; else None.
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
    hess_inv: InverseHessian | None
    pg_norm: Any
    active: PyTree
    trace: Trace | None = None

    @property
    def njev(self) -> Any:
        """Evaluations of the gradient: as many as of the function."""
        return self.nfev

    def covariance(
        self,
        fun: Callable[..., Any] | None = None,
        args: tuple[PyTree, ...] = (),
        *,
        scale: Any = 1.0,
        value_and_grad: bool = False,
        has_aux: bool = False,
    ) -> jax.Array:
        """The covariance of the variables: `scale` times the inverse Hessian of f at x.

        Of the variables that are free; rows and columns of those on a bound are zero.

        Parameters
        ----------
        fun, args, value_and_grad, has_aux
            The function that was minimised, as for `minimize`: the Hessian is exact then, n x n.
            Without `fun` it is estimated from `hess_inv`: free of cost, fair in a few variables
            and poor in many (see Notes).
        scale
            1 where f is a negative log-likelihood.  In least squares with the residuals r of N
            data and p free variables, ``s2 = sum(r**2) / (N - p)`` estimates their variance,
            and the scale is ``s2`` for ``f = sum(r**2) / 2``, ``2 * s2`` for ``f = sum(r**2)``
            and ``2 * s2 / N`` for ``f = mean(r**2)``.

        Returns
        -------
        jax.Array
            Shape (n, n), in the raveled variables (all leaves of x one after the other).  NaN
            in the free variables where their Hessian is not positive definite or singular to
            rounding: the data do not determine them.

        Raises
        ------
        TypeError, ValueError
            For a result of a batch, or one that has no `hess_inv` where `fun` is not given.

        Notes
        -----
        The estimate from `hess_inv` is good in a few variables and crude in many: standard
        errors can come out several times too small.  Give `fun` where it can be had.

        Works under `jit` and `vmap`; of a batch: ``jax.vmap(lambda r, a: r.covariance(fun,
        (a,)))(result, data)``.

        Examples
        --------
        A line through four points, with the offset held at its bound:

        >>> import jax.numpy as jnp
        >>> from jaxlbfgsb import minimize
        >>> t, y = jnp.arange(4.0), jnp.array([0.1, 0.9, 2.1, 2.9])
        >>> def loss(p):
        ...     return jnp.sum((p[0] * t + p[1] - y) ** 2)
        >>> result = minimize(loss, jnp.ones(2), bounds=(jnp.array([-jnp.inf, 0.2]), None))
        >>> s2 = result.fun / (4 - 1)
        >>> result.covariance(loss, scale=2 * s2).round(5).tolist()
        [[0.00143, 0.0], [0.0, 0.0]]
        >>> result.standard_errors(loss, scale=2 * s2).round(3).tolist()
        [0.038, 0.0]
        """
        if np.ndim(self.fun):
            raise TypeError(
                f"This result is that of a batch of shape {np.shape(self.fun)}; map over it: "
                "jax.vmap(lambda r: r.covariance(fun))(result)."
            )
        dtype = dtype_of(self.x)
        with precision_of(dtype):
            sides, _ = raveled(self.active)
            if fun is not None:
                gradient = _gradient_of(fun, self.x, args, value_and_grad, has_aux)
                inverse = inverse_of_hessian(gradient, raveled(self.x)[0], sides == 0)
            elif self.hess_inv is not None:
                inverse = inverse_by_pairs(self.hess_inv, sides == 0)
            else:
                raise ValueError(
                    "This result has no hess_inv; give the function: result.covariance(fun, args)."
                )
            return jnp.asarray(scale, dtype) * inverse

    def standard_errors(
        self,
        fun: Callable[..., Any] | None = None,
        args: tuple[PyTree, ...] = (),
        *,
        scale: Any = 1.0,
        value_and_grad: bool = False,
        has_aux: bool = False,
    ) -> PyTree:
        """The standard deviation of each variable, like x: zero for those on a bound.

        The roots of the diagonal of `covariance`, which takes the same arguments.
        """
        matrix = self.covariance(
            fun, args, scale=scale, value_and_grad=value_and_grad, has_aux=has_aux
        )
        with precision_of(dtype_of(self.x)):
            return raveled(self.x)[1](jnp.sqrt(jnp.diagonal(matrix)))

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
        rows = list(self._told())
        told = dict(rows)
        for field in dataclasses.fields(self):
            if field.name not in told:
                rows += _rows(field.name, getattr(self, field.name))
        width = max(10, *(len(name) for name, _ in rows))
        indent = "\n" + " " * (width + 2)
        return "\n".join(f"{name:>{width}}: {text}".replace("\n", indent) for name, text in rows)

    def _told(self) -> Iterator[tuple[str, str]]:
        """How the run ended, or how many runs of a batch ended in which way; not under `jit`."""
        if isinstance(self.reason, jax.core.Tracer):
            return
        codes, counts = np.unique(np.asarray(self.reason), return_counts=True)
        names = [Reason(code).name for code in codes.tolist()]
        if np.ndim(self.reason) == 0:
            yield "message", self.message
            yield "reason", names[0]
            return
        runs, converged = np.size(self.reason), int(np.sum(np.asarray(self.success)))
        yield "message", f"{converged} of {runs} runs converged."
        most_first = np.argsort(-counts, kind="stable")
        yield "reason", ", ".join(f"{names[i]} {counts[i]}" for i in most_first)

    def with_shape(self, shape: tuple[int, ...]) -> OptimizeResult:
        """The result of a raveled run with its vectors in the shape given."""
        vectors = {name: getattr(self, name).reshape(shape) for name in ("x", "jac", "active")}
        return dataclasses.replace(self, **vectors)


def _gradient_of(
    fun: Callable[..., Any], x: PyTree, args: tuple[PyTree, ...], given: bool, has_aux: bool
) -> Callable[[Vector], Vector]:
    """The gradient of the user's function in the raveled variables."""
    vector, unravel = raveled(x)
    if given:
        return lambda v: raveled(fun(unravel(v), *args)[1])[0].astype(vector.dtype)

    def value(v: Vector) -> Any:
        out = fun(unravel(v), *args)
        return (out[0] if has_aux else out).astype(vector.dtype)

    return jax.grad(value)


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
        hess_inv=InverseHessian.of(state.memory),
        pg_norm=state.pg_norm,
        active=active_bounds(state.x, state.gradient, box),
    )


def _rows(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A row for each array of a field, such as ``x['rate']``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        value, is_leaf=lambda part: isinstance(part, InverseHessian | Trace)
    )
    for path, leaf in leaves:
        yield name + jax.tree_util.keystr(path), _shown(leaf)


def _shown(value: Any) -> str:
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    with np.printoptions(threshold=10, edgeitems=3, precision=6):
        return str(value)
