"""What a solve returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxlbfgsb.box import Box, active_bounds
from jaxlbfgsb.ending import status_of
from jaxlbfgsb.inverse import InverseHessian
from jaxlbfgsb.recording import Trace
from jaxlbfgsb.state import Options, State
from jaxlbfgsb.status import TABLE, Reason
from jaxlbfgsb.types import PyTree


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
