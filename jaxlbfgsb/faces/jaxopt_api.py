"""The face for jaxopt: a class with the arguments, the methods and the fields of its L-BFGS-B."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlbfgsb.derivatives.implicit import Rule
from jaxlbfgsb.faces.jaxopt_options import check_others, checked_jaxopt_rule
from jaxlbfgsb.faces.jaxopt_steps import (
    NO_LIMIT,
    Call,
    LBFGSBState,
    OptStep,
    from_now_on,
    iterate,
    run_to_the_end,
    start,
)
from jaxlbfgsb.method.box import projected_gradient
from jaxlbfgsb.method.state import Options, Phase, State
from jaxlbfgsb.options import checked_maxcor, checked_options
from jaxlbfgsb.program.tracing import Program, Returns, trace
from jaxlbfgsb.pytrees import (
    checked_bounds,
    checked_x0,
    dtype_of,
    is_traced,
    raveled,
    raveled_box,
)
from jaxlbfgsb.types import PyTree
from jaxlbfgsb.xla.packing import PackedTree


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
        check_others(others)
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
        self._rule: Rule = checked_jaxopt_rule(implicit_diff, implicit_diff_solve)
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
        program, call, earlier = self._prepared(init_params, bounds, args, kwargs)
        options = self._options(call.params)
        if self.verbose:
            return self._run_in_python(program, call, options, earlier)
        return run_to_the_end(program, self.history_size, self._rule, call, options, earlier)

    def init_state(
        self, init_params: PyTree, bounds: Any = None, *args: PyTree, **kwargs: PyTree
    ) -> LBFGSBState:
        """The state at `init_params`, for `update`; the arguments are those of `run`."""
        program, call, earlier = self._prepared(init_params, bounds, args, kwargs)
        return self._start(program, call, self._no_limits(call.params), earlier).state

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
        program, call, _ = self._prepared(_params_of(params), bounds, args, kwargs)
        return self._iterate(program, call, self._no_limits(call.params), state.run)

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

    def _run_in_python(
        self, program: Program, call: Call, options: Options, earlier: LBFGSBState | None
    ) -> OptStep:
        """`run`, let go for one iteration at a time."""
        if is_traced(call, options, earlier):
            raise ValueError(
                "verbose=True lets run go on iteration by iteration, which needs an eager call. "
                "Call it outside of jit, vmap and grad, leave verbose out, or loop over update."
            )
        limits = from_now_on(options, earlier)
        step = self._start(program, call, limits, earlier)
        while step.state.run.look("phase")[0] != Phase.DONE:
            call = call._replace(params=step.params)
            step = self._iterate(program, call, limits, step.state.run)
        return step

    def _start(
        self, program: Program, call: Call, limits: Options, earlier: LBFGSBState | None
    ) -> OptStep:
        tol = self._options(call.params).gtol
        return start(program, self.history_size, call, limits, tol, earlier)

    def _iterate(
        self, program: Program, call: Call, limits: Options, earlier: PackedTree[State]
    ) -> OptStep:
        step = iterate(program, call, limits, self._options(call.params).gtol, earlier)
        if self.verbose:
            state = step.state
            jax.debug.print(
                "iteration {}: value {}, error {}, {} evaluations",
                *(state.iter_num, state.value, state.error, state.num_fun_eval),
            )
        return step

    def _prepared(
        self, params: PyTree, bounds: Any, args: tuple[PyTree, ...], kwargs: dict[str, PyTree]
    ) -> tuple[Program, Call, LBFGSBState | None]:
        """What a compiled call needs, and the state that came with the parameters, if any."""
        earlier = params.state if _is_step(params) else None
        if earlier is not None:
            size = earlier.run.shapes.memory.pairs.shape[0] // 2
            if size != self.history_size:
                raise ValueError(
                    f"The state holds {size} pairs, and history_size is {self.history_size}. Give "
                    "the solver the history_size that the state came from."
                )
        params = checked_x0(_params_of(params))
        lower, upper = checked_bounds(bounds, params)
        program, data = trace(self._flat, params, (args, kwargs), self._returns, (lower, upper))
        return program, Call(data, params, lower, upper), earlier

    def _options(self, params: PyTree) -> Options:
        limits = (self.maxiter, NO_LIMIT, self.maxls)
        return checked_options(dtype_of(params), 0.0, self.tol, 0.0, *limits)

    def _no_limits(self, params: PyTree) -> Options:
        """Of a single iteration: only `run` heeds `tol` and `maxiter`."""
        limits = (NO_LIMIT, NO_LIMIT, self.maxls)
        return checked_options(dtype_of(params), 0.0, 0.0, 0.0, *limits)


def _is_step(params: PyTree) -> bool:
    """True for what `run` and `update` return, also in jaxopt's own ``OptStep``."""
    return isinstance(getattr(params, "state", None), LBFGSBState) and hasattr(params, "params")


def _params_of(params: PyTree) -> PyTree:
    return params.params if _is_step(params) else params
