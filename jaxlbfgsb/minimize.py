"""The JAX front door: checks, traces the function once, chooses a driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from jaxlbfgsb.derivatives.implicit import checked_rule
from jaxlbfgsb.iterations import solve_from_host
from jaxlbfgsb.options import checked_maxcor, checked_options
from jaxlbfgsb.program.tracing import Returns
from jaxlbfgsb.program.tracing import trace as traced
from jaxlbfgsb.pytrees import checked_bounds, checked_x0, dtype_of, is_traced
from jaxlbfgsb.recall import Prepared, recall, remember
from jaxlbfgsb.result import OptimizeResult
from jaxlbfgsb.sight.callbacks import Callback
from jaxlbfgsb.sight.progress import checked_progress
from jaxlbfgsb.sight.recording import checked_trace
from jaxlbfgsb.sight.watching import Observer, Watch
from jaxlbfgsb.solve import solve
from jaxlbfgsb.types import PyTree


def minimize(
    fun: Callable[..., Any],
    x0: PyTree,
    args: tuple[PyTree, ...] = (),
    *,
    bounds: Any = None,
    maxcor: int = 10,
    ftol: Any = None,
    gtol: Any = None,
    gtol_rel: Any = 0.0,
    maxiter: Any = 15000,
    maxfun: Any = 15000,
    maxls: Any = 20,
    value_and_grad: bool = False,
    has_aux: bool = False,
    callback: Callback | None = None,
    progress: bool | int = False,
    trace: int | None = None,
    trace_x: bool = False,
    implicit_diff: bool | Literal["nan_if_failed"] = True,
    implicit_solve: Literal["auto", "dense", "iterative"] = "auto",
    implicit_polish: bool = False,
) -> OptimizeResult:
    """Minimise a smooth function of bounded variables with L-BFGS-B, compiled.

    The whole run is one `jax.lax.while_loop`: use it as it stands or inside `jit`,
    `vmap`, `scan` and `shard_map`.  The result is differentiable in `args`, `bounds` and
    what `fun` closes over.

    Parameters
    ----------
    fun
        ``fun(x, *args)``, written with JAX, returns a real scalar: f(x).  With
        `value_and_grad` it returns ``(f, gradient)``, with `has_aux` ``(f, aux)``, with
        both ``((f, aux), gradient)``.  Traced once; never called with a number.
    x0
        The start: an array or any pytree of float32 or float64 arrays.  Moved into the
        bounds first.
    args
        A tuple of pytrees, handed to `fun`.  New values never recompile.
    bounds
        None, or ``(lower, upper)``, or a `scipy.optimize.Bounds`.  Each side is None, a
        scalar, an array of the shape of x0, or a pytree of these with the structure of
        x0 or of its upper levels.  An infinite bound is none.  ``lower == upper`` fixes a
        variable.  Always (lower, upper): SciPy's list of (min, max) pairs is refused,
        since for two variables it could be read both ways.  Bounds are rounded to the
        dtype of their variables.
    maxcor
        Correction pairs kept, at least 1.
    ftol
        Stop when ``(f_k - f_{k+1}) / max(|f_k|, |f_{k+1}|, 1) <= ftol``.  None: 2.2e-9 in
        float64 (SciPy's), 2.4e-7 in float32 (two units in the last place).
    gtol
        Stop when the largest entry of the projected gradient is at most `gtol`.  None:
        1e-5 in float64 (SciPy's), 1e-4 in float32.
    gtol_rel
        Stop also when it is at most `gtol_rel` times its value at the start.
    maxiter, maxfun
        Limits on iterations and evaluations, tested at the end of an iteration.
    maxls
        Evaluations in one line search, at least 1.
    value_and_grad, has_aux
        What `fun` returns; see there.
    callback
        Called after each iteration with a copy of x, or, if its parameter is named
        ``intermediate_result``, with an object with the fields ``x`` and ``fun``.
        Raising StopIteration or returning True ends the run.  Inside of `jit` and `grad`
        the compiled loop calls it, with NumPy arrays; it should compute with NumPy too.
        Not under `vmap`.
    progress
        True shows a bar with the iterations made, f, `pg_norm`, evaluations and active
        bounds, also from inside of `jit`; an int updates it once in so many iterations.
        Needs the package tqdm.  Not under `vmap`.
    trace
        Record so many iterations at most, from the start on, in ``result.trace``: f,
        `pg_norm`, step length, evaluations and active bounds of each; see `Trace`.  An int,
        since it sets the size of arrays.  Anywhere, also under `vmap`.
    trace_x
        Record x as well.
    implicit_diff
        How ``x``, ``fun``, ``jac`` and ``aux`` are differentiated; it costs nothing until
        they are.  True: by the implicit function theorem, in forward and reverse mode, to
        any order (see Notes).  "nan_if_failed": the same, and NaN where ``success`` is False.
        False: through the iterations, in forward mode only.
    implicit_solve
        The linear system of the implicit derivative: "dense" (n x n), "iterative"
        (conjugate residuals with Hessian-vector products, to a relative residual of 1e-10, in
        float32 1e-5), or "auto": dense up to 256 variables.
    implicit_polish
        Take the derivative after one more Newton step on the free variables, which squares
        the error that it inherits from that of x.  The result itself stays as it is.

    Returns
    -------
    OptimizeResult
        With ``x, fun, jac, aux, status, reason, success, nit, nfev, hess_inv, pg_norm,
        active, trace`` and, outside of `jit`, ``message``.

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense, with what is wanted instead.  What can be known
        only at run time under tracing ends in `reason` instead.

    Notes
    -----
    The algorithm is that of Byrd, Lu, Nocedal and Zhu (1995) with the subspace step of
    Morales and Nocedal (2011) and the line search of Moré and Thuente (1994).  Eager calls
    with the same function and shapes compile once, whatever the values of `args`,
    `bounds`, tolerances and of all that `fun` closes over.

    Derivatives.  Active variables, those on a bound, follow that bound; the others
    follow from the stationarity of `fun` in them.  A variable on its bound counts as active
    even if its multiplier is zero, where the solution has two one-sided derivatives.
    Where the minimiser is not unique x moves by the least norm.  In x0 and the tolerances
    the derivative is zero.  It belongs to the point returned: it is as accurate as that point
    is converged, and where `success` is False it means no more than the point does.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import minimize
    >>> def rosenbrock(x):
    ...     return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    >>> result = minimize(rosenbrock, jnp.array([-1.2, 1.0]), bounds=(None, jnp.array([0.5, 2.0])))
    >>> result.x.round(3).tolist(), bool(result.success)
    ([0.5, 0.25], True)

    The derivative of the solution in a parameter and in a bound:

    >>> def fitted(p, upper):
    ...     return minimize(lambda x: (x - p) @ (x - p), jnp.zeros(2), bounds=(None, upper)).x
    >>> in_p, in_upper = jax.jacfwd(fitted, (0, 1))(jnp.array([0.5, 3.0]), jnp.array([1.0, 2.0]))
    >>> in_p.round(3).tolist(), in_upper.round(3).tolist()
    ([[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]])
    """
    given = fun, x0, args, bounds
    asked = (
        *(maxcor, ftol, gtol, gtol_rel, maxiter, maxfun, maxls, value_and_grad, has_aux),
        *(trace, trace_x, implicit_diff, implicit_solve, implicit_polish),
    )
    if callback is None and progress is False:
        prepared = recall(*given, asked)
        if prepared is not None:
            return solve(*prepared)
    if not callable(fun):
        raise TypeError(f"fun must be callable; it is a {type(fun).__name__}.")
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple; it is a {type(args).__name__}. Write args=(a,).")
    x0 = checked_x0(x0)
    lower, upper = checked_bounds(bounds, x0)
    m = checked_maxcor(maxcor)
    dtype = dtype_of(x0)
    options = checked_options(dtype, ftol, gtol, gtol_rel, maxiter, maxfun, maxls)
    rule = checked_rule(implicit_diff, implicit_solve, implicit_polish)
    program, data = traced(
        fun, x0, args, Returns(gradient=value_and_grad, aux=has_aux), (lower, upper)
    )
    recording = checked_trace(trace, trace_x)
    every = checked_progress(progress)
    observer = None if callback is None and not every else Observer(callback, every)
    watch = Watch(recording, observer)
    prepared = Prepared(program, m, rule, watch, data, x0, lower, upper, options)
    if observer is None:
        remember(*given, asked, prepared)
    elif not is_traced(jnp.zeros(()), data, x0, lower, upper, options):
        return solve_from_host(prepared, observer)
    return solve(*prepared)
