"""SciPy's face: `fmin_l_bfgs_b` and `scipy_method`, NumPy in and NumPy out.

Double precision whatever JAX's global setting.  A function that returns JAX values is
solved in the compiled loop, any other one is called on the host; the first evaluation
decides.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import LbfgsInvHessProduct, OptimizeWarning
from scipy.optimize import OptimizeResult as ScipyResult

from jaxlbfgsb.faces.asktell import AskTell
from jaxlbfgsb.faces.foreign import CannotTrace, DifferenceOptions, Foreign, traceable
from jaxlbfgsb.faces.host import run_on_host
from jaxlbfgsb.faces.scipy_bounds import as_lower_upper
from jaxlbfgsb.method.inverse import InverseHessian
from jaxlbfgsb.minimize import minimize
from jaxlbfgsb.precision import precision_of
from jaxlbfgsb.result import OptimizeResult
from jaxlbfgsb.sight.callbacks import Callback, NumpyCallback
from jaxlbfgsb.status import TABLE, Reason

EPS = float(np.finfo(np.float64).eps)
_NOT_GIVEN = object()
_ABSOLUTE_2_POINT = "2-point with the absolute step eps"
"""What SciPy does where no formula is named; a named one takes a relative step."""


class _Options(NamedTuple):
    """The options of SciPy's L-BFGS-B, by SciPy's names and with its defaults."""

    maxcor: int = 10
    ftol: float = 2.2204460492503131e-09
    gtol: float = 1e-5
    eps: Any = 1e-8
    maxfun: int = 15000
    maxiter: int = 15000
    maxls: int = 20
    finite_diff_rel_step: Any = None
    workers: Any = None


def fmin_l_bfgs_b(
    func: Callable[..., Any],
    x0: Any,
    fprime: Callable[..., Any] | None = None,
    args: Any = (),
    approx_grad: Any = 0,
    bounds: Any = None,
    m: int = 10,
    factr: Any = 1e7,
    pgtol: Any = 1e-5,
    epsilon: Any = 1e-8,
    iprint: Any = _NOT_GIVEN,
    maxfun: int = 15000,
    maxiter: int = 15000,
    disp: Any = _NOT_GIVEN,
    callback: Callback | None = None,
    maxls: int = 20,
) -> tuple[np.ndarray, float, dict[str, Any]]:
    """Minimise a function with SciPy's signature and manners.

    Change the import of ``scipy.optimize.fmin_l_bfgs_b``, and nothing else.

    Parameters
    ----------
    func
        ``func(x, *args)``.  Returns f, or ``(f, gradient)`` where neither `fprime` nor
        `approx_grad` is given.  If what it returns are JAX values it is compiled, and a
        gradient that is not given comes from `jax.grad`.  Otherwise it is called on the
        host, exactly ``funcalls`` times, each time with an array of its own.
    x0
        The start, any shape; raveled, float64.
    fprime
        ``fprime(x, *args)``, the gradient.
    args
        Further arguments; one that is no tuple or list is wrapped into a tuple.
    approx_grad
        If true, `fprime` is ignored, and the gradient of a host function is taken by
        forward differences that stay inside the bounds.
    bounds
        A sequence of ``(min, max)`` pairs, None or an infinity for no bound; or an
        ``(n, 2)`` array; or a `scipy.optimize.Bounds`.
    m
        Correction pairs kept.
    factr
        Stop when the relative reduction of f is at most ``factr`` times the float64 eps.
    pgtol
        Stop when the largest entry of the projected gradient is at most `pgtol`.
    epsilon
        Step of the differences.
    iprint, disp
        Deprecated in SciPy, without effect.
    maxfun, maxiter, maxls
        Limits on evaluations, iterations and evaluations in one line search.
    callback
        Called after each iteration with a copy of x, or, if its only parameter is named
        ``intermediate_result``, with an object with ``x`` and ``fun``.  StopIteration stops.

    Returns
    -------
    x : ndarray
        The solution, shape (n,), float64.
    f : float
        func(x).
    d : dict
        ``grad`` (n,), ``task`` (SciPy's message), ``funcalls``, ``nit``, and ``warnflag``:
        0 converged, 1 a limit was reached, 2 anything else.

    Raises
    ------
    ValueError, TypeError
        For bad arguments; SciPy's texts where it has one.

    Notes
    -----
    What is different from SciPy, and better, is listed in DEVIATIONS.md.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import fmin_l_bfgs_b
    >>> X = jnp.arange(10.0)
    >>> def error(parameters, x, y):
    ...     slope, offset = parameters
    ...     return jnp.sum((y - slope * x - offset) ** 2)
    >>> x, f, d = fmin_l_bfgs_b(error, [0.0, 1.0], args=(X, 2 * X + 3), bounds=[(0, 5), (5, 10)])
    >>> x.round(4).tolist(), round(float(f), 4), d["warnflag"]
    ([1.6842, 5.0], 11.5789, 0)
    """
    for name, given in (("iprint", iprint), ("disp", disp)):
        if given is not _NOT_GIVEN:
            _warn_deprecated(name)
    options = _Options(
        maxcor=m,
        ftol=factr * EPS,
        gtol=pgtol,
        eps=epsilon,
        maxfun=maxfun,
        maxiter=maxiter,
        maxls=maxls,
    )
    function = _Function(
        fun=func,
        jac=None if approx_grad else fprime,
        may_be_pair=not approx_grad and fprime is None,
        formula=_ABSOLUTE_2_POINT if approx_grad else None,
    )
    args = tuple(args) if isinstance(args, list) else args  # SciPy unpacks a list
    result, _, _ = _solve(function, x0, args, bounds, options, callback)
    details = {
        "grad": result.jac,
        "task": _task(result),
        "funcalls": int(result.nfev),
        "nit": int(result.nit),
        "warnflag": int(result.status),
    }
    return result.x, np.float64(result.fun), details


def scipy_method(
    fun: Callable[..., Any],
    x0: Any,
    args: Any = (),
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    callback: Callback | None = None,
    tol: Any = None,
    **options: Any,
) -> ScipyResult:
    """The solver as a `method` of `scipy.optimize.minimize`.

    Parameters
    ----------
    fun, x0, args, jac, bounds, callback, tol
        As `scipy.optimize.minimize` hands them over.  A JAX function without `jac` is
        differentiated by `jax.grad`; a host function by finite differences. A formula's
        name ('2-point', '3-point', 'cs') arrives only in a direct call: SciPy hands it to a
        custom method as None.
    hess, hessp
        Not used.
    constraints
        Must be empty.
    **options
        Those of SciPy's L-BFGS-B: ``maxcor, ftol, gtol, eps, maxfun, maxiter, maxls,
        finite_diff_rel_step, workers``.

    Returns
    -------
    scipy.optimize.OptimizeResult
        With ``x, fun, jac, nit, nfev, njev, status, message, success, hess_inv``, and
        ``reason``, the fine code.  Status 99 if the callback raised StopIteration.

    Raises
    ------
    ValueError, TypeError
        For bad arguments, among them constraints.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> import jaxlbfgsb
    >>> result = minimize(rosen, np.zeros(3), jac=rosen_der, method=jaxlbfgsb.scipy_method)
    >>> result.x.round(3).tolist(), result.success
    ([1.0, 1.0, 1.0], True)
    """
    if constraints is not None and np.size(constraints):
        raise ValueError(
            "L-BFGS-B takes bounds, no other constraints; use for example method='SLSQP'."
        )
    for name in ("iprint", "disp"):
        if name in options:
            del options[name]
            _warn_deprecated(name)
    unknown = [name for name in options if name not in _Options._fields]
    if unknown:
        warnings.warn(
            f"Unknown solver options: {', '.join(unknown)}", OptimizeWarning, stacklevel=2
        )
    known = {name: value for name, value in options.items() if name in _Options._fields}
    if tol is not None:
        known = {"ftol": tol, "gtol": tol} | known
    function = _unwrapped(fun, jac)
    result, njev, stopped = _solve(function, x0, args, bounds, _Options(**known), callback)
    status = 99 if stopped else int(result.status)
    return ScipyResult(
        x=result.x,
        fun=np.float64(result.fun),
        jac=result.jac,
        nit=int(result.nit),
        nfev=int(result.nfev),
        njev=njev,
        status=status,
        reason=Reason(int(result.reason)),
        message="`callback` raised `StopIteration`." if stopped else _task(result),
        success=status == 0,
        hess_inv=_inverse_hessian(result.hess_inv),
    )


class _Function(NamedTuple):
    """A function as SciPy's callers give it."""

    fun: Callable[..., Any]
    jac: Callable[..., Any] | None
    may_be_pair: bool
    formula: str | None
    """The difference formula for a host function without a gradient."""


def _unwrapped(fun: Callable[..., Any], jac: Any) -> _Function:
    """What stands behind `fun` and `jac` as `scipy.optimize.minimize` passes them."""
    inner = getattr(fun, "fun", None)
    if callable(inner) and getattr(jac, "__self__", None) is fun:  # memoised for jac=True
        return _Function(inner, None, True, None)
    if callable(jac):
        return _Function(fun, jac, False, None)
    if jac is None or isinstance(jac, str):
        return _Function(fun, None, False, jac or _ABSOLUTE_2_POINT)
    return _Function(fun, None, bool(jac), None if jac else _ABSOLUTE_2_POINT)


def _task(result: OptimizeResult) -> str:
    return TABLE[Reason(int(result.reason))].scipy_message


def _warn_deprecated(name: str) -> None:
    warnings.warn(
        f"`{name}` has no effect; SciPy deprecated it and removes it in 1.18.",
        DeprecationWarning,
        stacklevel=3,
    )


def _solve(
    function: _Function,
    x0: Any,
    args: Any,
    bounds: Any,
    options: _Options,
    callback: Callback | None,
) -> tuple[OptimizeResult, int, bool]:
    """The result with NumPy arrays, the gradients evaluated, whether the callback stopped."""
    x0 = np.array(x0).ravel()
    if x0.dtype.kind not in "biuf":
        raise TypeError(f"x0 must be real; it has dtype {x0.dtype}.")
    lower, upper = as_lower_upper(bounds, x0.size)
    x0 = np.clip(x0.astype(np.float64), lower, upper)
    watched = None if callback is None else NumpyCallback(callback)
    keywords: dict[str, Any] = {
        "bounds": None if bounds is None else (lower, upper),
        "maxcor": options.maxcor,
        "ftol": options.ftol,
        "gtol": options.gtol,
        "maxiter": options.maxiter,
        "maxfun": options.maxfun,
        "maxls": options.maxls,
    }
    with precision_of(np.float64):
        foreign = Foreign(
            function.fun,
            function.jac,
            function.may_be_pair,
            args if isinstance(args, tuple) else (args,),
            lower,
            upper,
            _differences(function.formula or _ABSOLUTE_2_POINT, options),
            may_difference=function.formula is not None,
        )
        kind = foreign.kind(x0)
        if kind != "host":
            result = _solve_traced(foreign, kind, x0, {"callback": watched, **keywords})
            if result is not None:
                return result, int(result.nfev), watched is not None and watched.stopped
            foreign.give_up_tracing()
        solver = AskTell(x0, **keywords)
        run_on_host(foreign, solver, watched)
        return solver.result(), foreign.njev, watched is not None and watched.stopped


def _solve_traced(
    foreign: Foreign, kind: str, x0: np.ndarray, keywords: dict[str, Any]
) -> OptimizeResult | None:
    """The compiled solve; None if the function can't be traced.

    The arguments are traced too; if the function wants them as they are, an integer that
    is a length for instance, they are constants of a second trace.
    """
    fun, args = traceable(foreign.fun, foreign.jac), foreign.args
    attempts: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [(fun, args)]
    if args:
        attempts.append((lambda x: fun(x, *args), ()))
    for function, traced in attempts:
        try:
            result = minimize(function, x0, traced, value_and_grad=kind == "pair", **keywords)
        except CannotTrace:
            continue
        return jax.tree.map(np.array, result)
    return None


def _differences(formula: str, options: _Options) -> DifferenceOptions:
    workers = options.workers
    if workers is not None and not callable(workers):
        raise TypeError("workers must be map-like, for example the map of a multiprocessing.Pool.")
    absolute = formula == _ABSOLUTE_2_POINT and options.finite_diff_rel_step is None
    return DifferenceOptions(
        method="2-point" if formula == _ABSOLUTE_2_POINT else formula,
        step=options.eps if absolute else None,
        rel_step=options.finite_diff_rel_step,
        evaluate_all=workers or map,
    )


def _inverse_hessian(hess_inv: InverseHessian | None) -> LbfgsInvHessProduct:
    """SciPy's operator, with the pairs oldest first."""
    assert hess_inv is not None
    count = int(hess_inv.memory.count)
    with precision_of(np.float64):
        s, y = np.array(hess_inv.s), np.array(hess_inv.y)
    return LbfgsInvHessProduct(s[len(s) - count :], y[len(y) - count :])
