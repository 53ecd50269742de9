"""The face for jaxopt: a class with the arguments, the methods and the fields of its L-BFGS-B."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.box import Box, project, projected_gradient
from jaxlbfgsb.core import advance
from jaxlbfgsb.ending import status_of
from jaxlbfgsb.implicit import Rule, checked_rule
from jaxlbfgsb.inverse import InverseHessian
from jaxlbfgsb.loop import run
from jaxlbfgsb.options import checked_maxcor, checked_options, strict_options
from jaxlbfgsb.pytrees import (
    BoundLeaves,
    checked_bounds,
    checked_x0,
    dtype_of,
    is_traced,
    raveled,
    raveled_box,
)
from jaxlbfgsb.solve import begin, objective, solve
from jaxlbfgsb.state import Options, Phase, State, start_again
from jaxlbfgsb.status import Reason
from jaxlbfgsb.tracing import Data, Program, Returns, trace
from jaxlbfgsb.types import PyTree, Vector
from jaxlbfgsb.watching import UNWATCHED

_NO_LIMIT = np.iinfo(np.int32).max


class LBFGSBState(NamedTuple):
    """The state of `LBFGSB`; the names that jaxopt has mean what they mean there.

    Attributes
    ----------
    iter_num
        Iterations made.
    value, grad
        f and its gradient at `params`.
    error
        The largest entry of ``P(params - grad) - params`` in absolute value, where P is the
        projection onto the bounds: what `tol` is compared with.
    aux
        What `fun` returned beside its value at `params`, with ``has_aux``; else None.
    num_fun_eval
        Evaluations of the function with its gradient.
    status
        SciPy's: 0 converged, 1 a limit was reached, 2 anything else.
    reason
        The fine code, a `jaxlbfgsb.Reason`; ``NOT_FINISHED`` while `update` can go on and
        `error` is above `tol`.
    machine
        What `update` goes on from.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import LBFGSB
    >>> solver = LBFGSB(lambda x: jnp.sum((x - 1) ** 2), tol=1e-4)
    >>> _, state = solver.run(jnp.zeros(2))
    >>> int(state.num_fun_eval), bool(state.failed_linesearch), state.hess_inv.shape
    (3, False, (2, 2))
    """

    iter_num: Any
    value: Any
    grad: PyTree
    error: Any
    aux: PyTree
    num_fun_eval: Any
    status: Any
    reason: Any
    machine: State

    @property
    def num_grad_eval(self) -> Any:
        """As many as `num_fun_eval`."""
        return self.num_fun_eval

    @property
    def num_linesearch_iter(self) -> Any:
        """Evaluations in line searches: all but the first."""
        return self.num_fun_eval - 1

    @property
    def failed_linesearch(self) -> Any:
        """True if the run ended since no step could be accepted, at a point not converged."""
        failures = (
            Reason.NOISE_FLOOR_NOT_CONVERGED,
            Reason.LINE_SEARCH_FAILED,
            Reason.NONFINITE_TRIALS,
            Reason.INCONSISTENT_GRADIENT,
        )
        return functools.reduce(lambda a, b: a | b, (self.reason == code for code in failures))

    @property
    def hess_inv(self) -> InverseHessian:
        """The inverse of the Hessian that the pairs stored make up."""
        return InverseHessian(self.machine.memory)


class OptStep(NamedTuple):
    """What `LBFGSB.run` and `LBFGSB.update` return."""

    params: PyTree
    state: LBFGSBState


class LBFGSB:
    """L-BFGS-B with the interface of ``jaxopt.LBFGSB``, for code that was written for it.

    The solver is that of `jaxlbfgsb.minimize`, to the same bits; new code is shorter
    with `minimize`.

    Parameters
    ----------
    fun
        ``fun(params, *args, **kwargs)``, written with JAX, returns a real scalar.  With
        `has_aux` it returns ``(value, aux)``.  Traced once; never called with a number.
    value_and_grad
        True if `fun` returns ``(value, gradient)``, with `has_aux` ``((value, aux),
        gradient)``; or a function that does, beside `fun` which does not.
    has_aux
        See `fun`.
    maxiter
        Limit on the iterations of `run`, tested at the end of one.
    tol
        `run` stops where `LBFGSBState.error` is at most `tol`: the `gtol` of `minimize`.
        There is no other tolerance: a step that leaves the value as it was, bit for bit, ends
        the run too, and so does rounding (see `reason`).
    history_size
        Correction pairs kept, at least 1.
    maxls
        Evaluations in one line search, at least 1.
    implicit_diff
        As in `minimize`: True, False (forward mode only) or "nan_if_failed".
    implicit_diff_solve
        None or "auto", "dense", "iterative": the `implicit_solve` of `minimize`.
    verbose
        Print a line for each iteration.  `run` must then be called outside of `jit`, `vmap`
        and `grad`; `update` prints inside of them too.
    **others
        The other options of jaxopt, where they ask for what happens anyway: ``jit=True``,
        ``unroll="auto"`` or False, ``use_gamma=True``, ``theta=1``, ``stepsize`` of at most 0
        (a line search), and either value of ``stop_if_linesearch_fails``: a search that fails
        is tried once more with nothing stored, and ends the run if it fails again.

    Raises
    ------
    TypeError, ValueError
        For options that make no sense, with what is wanted instead.

    Notes
    -----
    All methods can be called under `jit`, `vmap` and `scan`.  `run` is differentiable in
    `bounds`, `args`, `kwargs` and what `fun` closes over, as `minimize` is; `update` is not.
    Bounds are those of `minimize`: None, or ``(lower, upper)``, each side None, a scalar, an
    array, or a pytree like the parameters or their upper levels.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import LBFGSB
    >>> def loss(w, data):
    ...     return jnp.sum((w - data) ** 2)
    >>> solver = LBFGSB(loss, maxiter=100, tol=1e-6)
    >>> data = jnp.array([0.5, 3.0])
    >>> params, state = solver.run(jnp.zeros(2), bounds=(0.0, 1.0), data=data)
    >>> params.tolist(), int(state.iter_num), bool(state.error <= solver.tol)
    ([0.5, 1.0], 2, True)

    One iteration at a time:

    >>> params, bounds = jnp.zeros(2), (0.0, 1.0)
    >>> state = solver.init_state(params, bounds, data)
    >>> while state.reason == 0:
    ...     params, state = jax.jit(solver.update)(params, state, bounds, data)
    >>> params.tolist()
    [0.5, 1.0]
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        value_and_grad: bool | Callable[..., Any] = False,
        has_aux: bool = False,
        maxiter: Any = 50,
        tol: Any = 1e-3,
        *,
        history_size: int = 10,
        maxls: Any = 30,
        implicit_diff: Any = True,
        implicit_diff_solve: Any = None,
        verbose: bool | int = False,
        **others: Any,
    ) -> None:
        if not callable(fun):
            raise TypeError(f"fun must be callable; it is a {type(fun).__name__}.")
        _check_others(others)
        self.fun = fun
        self.value_and_grad = value_and_grad
        self.has_aux = has_aux
        self.maxiter = maxiter
        self.tol = tol
        self.history_size = checked_maxcor(history_size)
        self.maxls = maxls
        self.implicit_diff = implicit_diff
        self.implicit_diff_solve = implicit_diff_solve
        self.verbose = verbose
        self._rule: Rule = _checked_rule(implicit_diff, implicit_diff_solve)
        self._returns = Returns(gradient=bool(value_and_grad), aux=has_aux)
        called = value_and_grad if callable(value_and_grad) else fun

        def flat(params: PyTree, args: tuple[PyTree, ...], kwargs: dict[str, PyTree]) -> Any:
            return called(params, *args, **kwargs)

        self._flat = flat

    def run(
        self, init_params: PyTree, bounds: Any = None, *args: PyTree, **kwargs: PyTree
    ) -> OptStep:
        """Minimise from `init_params` until `tol`, `maxiter`, or where nothing more can be done.

        Parameters
        ----------
        init_params
            The start: an array or any pytree of float32 or float64 arrays, moved into the
            bounds first.  Or what `run` or `update` returned, to go on with the pairs stored;
            then `maxiter` more iterations are made at most, and counts go on.
        bounds
            See the class.
        *args, **kwargs
            Handed to `fun`.

        Returns
        -------
        OptStep
            ``(params, state)``.
        """
        call, earlier = self._prepared(init_params, bounds, args, kwargs)
        options = self._options(call.params)
        if self.verbose:
            return self._run_in_python(call, options, earlier)
        return _run(call.program, self.history_size, self._rule, *call[1:], options, earlier)

    def init_state(
        self, init_params: PyTree, bounds: Any = None, *args: PyTree, **kwargs: PyTree
    ) -> LBFGSBState:
        """The state at `init_params`, for `update`; the arguments are those of `run`."""
        call, earlier = self._prepared(init_params, bounds, args, kwargs)
        return self._start(call, self._no_limits(call.params), earlier).state

    def update(
        self,
        params: PyTree,
        state: LBFGSBState,
        bounds: Any = None,
        *args: PyTree,
        **kwargs: PyTree,
    ) -> OptStep:
        """One iteration from `params`: to the next point that `run` accepts.

        Neither `tol` nor `maxiter` hold it up: go on while ``state.reason`` is 0, or as long
        as you like.  Where nothing more can be done it changes nothing, and `reason` says why.

        Parameters
        ----------
        params, state
            From `init_state`, `run` or `update`.  Where `params` are others than the state
            belongs to, or the bounds have become tighter, a new search starts from them, with
            the pairs stored.
        bounds, *args, **kwargs
            As in `run`; f must be the same function at every call.

        Returns
        -------
        OptStep
            ``(params, state)``.
        """
        call, _ = self._prepared(_params_of(params), bounds, args, kwargs)
        return self._iterate(call, self._no_limits(call.params), state.machine)

    def optimality_fun(
        self, params: PyTree, bounds: Any = None, *args: PyTree, **kwargs: PyTree
    ) -> PyTree:
        """What is zero at a solution: ``P(params - grad) - params``; ``grad`` without bounds."""
        params = checked_x0(params)
        value_and_grad = self._flat
        if not self._returns.gradient:
            value_and_grad = jax.value_and_grad(value_and_grad, has_aux=self.has_aux)
        gradient = value_and_grad(params, args, kwargs)[1]
        if bounds is None:
            return gradient
        vector, unravel = raveled(params)
        box = raveled_box(*checked_bounds(bounds, params), jax.tree.leaves(params))
        flat_gradient = raveled(gradient)[0].astype(vector.dtype)
        return unravel(-projected_gradient(vector, flat_gradient, box))

    def l2_optimality_error(
        self, params: PyTree, bounds: Any = None, *args: PyTree, **kwargs: PyTree
    ) -> jax.Array:
        """The Euclidean norm of `optimality_fun`."""
        return jnp.linalg.norm(raveled(self.optimality_fun(params, bounds, *args, **kwargs))[0])

    def _run_in_python(self, call: _Call, options: Options, earlier: State | None) -> OptStep:
        """`run`, let go for one iteration at a time."""
        if is_traced(call.data, call.params, call.lower, call.upper, options, earlier):
            raise ValueError(
                "verbose=True lets run go on iteration by iteration, which needs an eager call. "
                "Call it outside of jit, vmap and grad, leave verbose out, or loop over update."
            )
        limits = _from_now_on(options, earlier)
        step = self._start(call, limits, earlier)
        while step.state.machine.phase != Phase.DONE:
            call = call._replace(params=step.params)
            step = self._iterate(call, limits, step.state.machine)
        return step

    def _start(self, call: _Call, limits: Options, earlier: State | None) -> OptStep:
        tol = self._options(call.params).gtol
        return _start(call.program, self.history_size, *call[1:], limits, tol, earlier)

    def _iterate(self, call: _Call, limits: Options, machine: State) -> OptStep:
        step = _iterate(call.program, *call[1:], limits, self._options(call.params).gtol, machine)
        if self.verbose:
            state = step.state
            jax.debug.print(
                "iteration {}: value {}, error {}, {} evaluations",
                *(state.iter_num, state.value, state.error, state.num_fun_eval),
            )
        return step

    def _prepared(
        self, params: PyTree, bounds: Any, args: tuple[PyTree, ...], kwargs: dict[str, PyTree]
    ) -> tuple[_Call, State | None]:
        """What a compiled call needs, and the machine that came with the parameters, if any."""
        earlier = params.state.machine if _is_step(params) else None
        if earlier is not None and earlier.memory.pairs.shape[0] != 2 * self.history_size:
            raise ValueError(
                f"The state holds {earlier.memory.pairs.shape[0] // 2} pairs, and history_size is "
                f"{self.history_size}. Give the solver the history_size that the state came from."
            )
        params = checked_x0(_params_of(params))
        lower, upper = checked_bounds(bounds, params)
        program, data = trace(self._flat, params, (args, kwargs), self._returns, (lower, upper))
        return _Call(program, data, params, lower, upper), earlier

    def _options(self, params: PyTree) -> Options:
        limits = (self.maxiter, _NO_LIMIT, self.maxls)
        return checked_options(dtype_of(params), 0.0, self.tol, 0.0, *limits)

    def _no_limits(self, params: PyTree) -> Options:
        """Of a single iteration: only `run` heeds `tol` and `maxiter`."""
        limits = (_NO_LIMIT, _NO_LIMIT, self.maxls)
        return checked_options(dtype_of(params), 0.0, 0.0, 0.0, *limits)


class _Call(NamedTuple):
    program: Program
    data: Data
    params: PyTree
    lower: BoundLeaves
    upper: BoundLeaves


def _is_step(params: PyTree) -> bool:
    """True for what `run` and `update` return, also in jaxopt's own ``OptStep``."""
    return isinstance(getattr(params, "state", None), LBFGSBState) and hasattr(params, "params")


def _params_of(params: PyTree) -> PyTree:
    return params.params if _is_step(params) else params


def _from_now_on(options: Options, earlier: State | None) -> Options:
    """The limit on iterations counts those to come."""
    if earlier is None:
        return options
    limit = jnp.asarray(options.maxiter, jnp.int32)
    return options._replace(maxiter=limit + jnp.minimum(earlier.nit, _NO_LIMIT - limit))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(
    program: Program,
    m: int,
    rule: Rule,
    data: Data,
    params: PyTree,
    lower: BoundLeaves,
    upper: BoundLeaves,
    options: Options,
    earlier: State | None,
) -> OptStep:
    options = _from_now_on(options, earlier)
    result = solve(program, m, rule, UNWATCHED, data, params, lower, upper, options, earlier)
    machine, _, _ = begin(m, data, result.x, lower, upper, options)
    machine = machine._replace(
        value=result.fun,
        gradient=raveled(result.jac)[0],
        memory=result.hess_inv.memory,
        pg_norm=result.pg_norm,
        phase=jnp.full_like(machine.phase, Phase.DONE),
        reason=result.reason,
        nit=result.nit,
        nfev=result.nfev,
    )
    state = LBFGSBState(
        iter_num=result.nit,
        value=result.fun,
        grad=result.jac,
        error=result.pg_norm,
        aux=result.aux,
        num_fun_eval=result.nfev,
        status=result.status,
        reason=result.reason,
        machine=jax.lax.stop_gradient(machine),
    )
    return OptStep(result.x, state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start(
    program: Program,
    m: int,
    data: Data,
    params: PyTree,
    lower: BoundLeaves,
    upper: BoundLeaves,
    limits: Options,
    tol: Any,
    earlier: State | None,
) -> OptStep:
    """The first evaluation, and the machine that `update` goes on with."""
    machine, box, limits = begin(m, data, params, lower, upper, limits, earlier)
    value_and_grad = objective(program, data, params)
    machine = advance(machine, *value_and_grad(machine.trial), box, limits)
    return _step(program, data, params, machine, limits, tol)


@functools.partial(jax.jit, static_argnums=0)
def _iterate(
    program: Program,
    data: Data,
    params: PyTree,
    lower: BoundLeaves,
    upper: BoundLeaves,
    limits: Options,
    tol: Any,
    machine: State,
) -> OptStep:
    """To the next accepted iterate, if there is one."""
    vector, _ = raveled(params)
    box = raveled_box(lower, upper, jax.tree.leaves(params))
    limits = strict_options(limits, vector.dtype)
    machine = _fitting(machine, vector, box)
    value_and_grad = objective(program, data, params)
    machine, _ = run(value_and_grad, machine, box, limits, one_iteration=True)
    return _step(program, data, params, machine, limits, tol)


def _fitting(machine: State, x: Vector, box: Box) -> State:
    """The machine if it can go on from x, else one that starts there with the same pairs."""
    x = project(x, box)
    belongs = jnp.all(x == machine.x)
    for point in (machine.trial, machine.xhat):
        belongs &= jnp.all(point == project(point, box))
    at_limit = machine.reason == Reason.MAXITER
    at_tol = (machine.reason == Reason.PROJECTED_GRADIENT) & (machine.pg_norm > 0)
    goes_on = belongs & ~at_limit & ~at_tol
    fresh = start_again(machine, x, box)
    return jax.tree.map(functools.partial(jnp.where, goes_on), machine, fresh)


def _step(
    program: Program, data: Data, params: PyTree, machine: State, limits: Options, tol: Any
) -> OptStep:
    """What `update` returns at the machine's iterate."""
    _, unravel = raveled(params)
    x = unravel(machine.x)
    converged = (machine.reason == Reason.NOT_FINISHED) & (
        machine.pg_norm <= jnp.asarray(tol).astype(machine.x.dtype)
    )
    reason = jnp.where(converged, Reason.PROJECTED_GRADIENT, machine.reason).astype(jnp.int32)
    state = LBFGSBState(
        iter_num=machine.nit,
        value=machine.value,
        grad=unravel(machine.gradient),
        error=machine.pg_norm,
        aux=program(data, jax.tree.leaves(x))[2],
        num_fun_eval=machine.nfev,
        status=status_of(machine._replace(reason=reason), limits),
        reason=reason,
        machine=machine,
    )
    return OptStep(x, state)


def _checked_rule(implicit_diff: Any, implicit_diff_solve: Any) -> Rule:
    if callable(implicit_diff_solve):
        raise TypeError(
            "implicit_diff_solve takes no function here: the linear system is symmetric, on the "
            "free variables, and solved inside. Leave it out, or give 'dense' or 'iterative'."
        )
    solver = "auto" if implicit_diff_solve is None else implicit_diff_solve
    return checked_rule(implicit_diff, solver, False)


_OF_ANOTHER_LINE_SEARCH = (
    "linesearch",
    "linesearch_init",
    "condition",
    "decrease_factor",
    "increase_factor",
    "max_stepsize",
    "min_stepsize",
)

_ONE_WAY: dict[str, tuple[Callable[[Any], bool], str]] = {
    "jit": (
        lambda jit: jit is True,
        "fun is traced and compiled in any case. For a function that can't be traced use "
        "jaxlbfgsb.fmin_l_bfgs_b or jaxlbfgsb.AskTell; to debug, jax.debug.print",
    ),
    "unroll": (
        lambda unroll: unroll in ("auto", False),
        "the loop is never unrolled. Reverse mode comes from implicit_diff=True",
    ),
    "use_gamma": (
        lambda use_gamma: use_gamma is True,
        "the first matrix is always scaled by the newest pair (theta = y'y / s'y)",
    ),
    "theta": (lambda theta: theta == 1, "the first matrix is always scaled by the newest pair"),
    "stepsize": (
        lambda stepsize: not callable(stepsize) and stepsize <= 0,
        "steps come from a line search, always: a fixed step or a schedule would make it another "
        "method",
    ),
    "stop_if_linesearch_fails": (lambda stop: stop in (True, False), "it must be True or False"),
}
"""Options of jaxopt that leave one way here: the values that ask for it, and why no others."""


def _check_others(others: dict[str, Any]) -> None:
    for name, value in others.items():
        if name in _OF_ANOTHER_LINE_SEARCH:
            raise TypeError(
                f"{name} belongs to a line search of jaxopt; here it is always that of Moré and "
                f"Thuente. Leave {name} out; maxls limits the evaluations of a search."
            )
        if name not in _ONE_WAY:
            raise TypeError(f"LBFGSB has no option {name!r}; see help(jaxlbfgsb.LBFGSB).")
        is_fine, why = _ONE_WAY[name]
        if not is_fine(value):
            raise ValueError(f"{name}={value!r} can't be had: {why}. Leave {name} out.")
