"""Derivatives of a solution in everything that defines it, whatever solver found it.

Notation: ``x`` minimises ``f(x, p)`` over the box ``l(p) <= x <= u(p)``; ``g`` and ``H`` are
the gradient and the Hessian of f in x; ``A`` the active set, the variables that lie on a
bound, ``F`` the others, the free set; a dot is a derivative along a change of p.

The solution satisfies ``g_F(x, p) = 0`` and ``x_A = l_A or u_A``.  Along a change of p that
keeps the two sets both stay true:

    x._A = l._A or u._A             the bound that holds the variable
    H_FF x._F = - (g_F(x, p).  +  H_FA x._A)

where ``g(x, p).`` moves p alone.  The bracket is the derivative of ``g_F`` along
``(x._A, p.)`` in one sweep.  What follows from x follows by the chain rule: ``fun``,
``jac`` and ``aux`` are differentiated along ``(x., p.)`` at the point returned.

*The optimal value.*  ``f(x, p). = g_F' x._F + g_A' x._A + f.``, where the last term moves p
alone.  At a minimiser ``g_F = 0``: what is left is the envelope theorem, and ``g_A`` are
the multipliers, the derivatives of f in the bounds (``g >= 0`` on a lower bound, ``g <= 0``
on an upper one).  The first term is kept, since it is not zero at a point that is off by a
small e: it is minus the first-order effect of e on the others, so that this derivative is off
by the order of e^2 where the envelope's is off by the order of e.

*Fixed variables,* with ``l = u``, are active.  They follow the upper bound where ``g < 0``
and the lower one elsewhere: the bound whose multiplier is not zero.

*A degenerate bound.*  Where a variable lies on a bound with ``g = 0`` the solution has two
one-sided derivatives.  The rule: a variable that lies on its bound is active.  The bound
keeps it, and the derivative is the one towards the side where the bound holds.

*A singular H_FF.*  The minimiser is not unique; the rule gives the least-norm ``x._F`` among
those that satisfy the equation best: that of the pseudo-inverse.

*Accuracy.*  The derivative is taken at the point returned, so it is off by the order of e too.
A Newton step on the free variables before it is taken ("polish") squares that error.

*Second and higher orders* differentiate the rule itself: x by the rule once more, the linear
solve by ``(H^-1 b). = H^-1 (b. - H. H^-1 b)``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jaxlbfgsb.derivatives.forward_only import forward_only
from jaxlbfgsb.derivatives.linear_solve import solve_symmetric
from jaxlbfgsb.method.box import Box, project
from jaxlbfgsb.pytrees import BoundLeaves, raveled, raveled_box
from jaxlbfgsb.types import Mask, PyTree, Vector
from jaxlbfgsb.xla.varying import vary_over, varying_axes

Result = TypeVar("Result")
Evaluate = Callable[[PyTree, PyTree], tuple[Any, PyTree, PyTree]]
"""``(p, x)`` to the value, the gradient like x, and what else depends on them."""

_POLICIES = (True, False, "nan_if_failed")
_SOLVERS = ("auto", "dense", "iterative")


class Rule(NamedTuple):
    """How a solve is differentiated: static."""

    implicit: bool = True
    nan_if_failed: bool = False
    solver: str = "auto"
    polish: bool = False


class Problem(NamedTuple):
    """What the solution depends on."""

    data: PyTree
    lower: BoundLeaves
    upper: BoundLeaves


def checked_rule(implicit_diff: Any, implicit_solve: Any, implicit_polish: Any) -> Rule:
    """The rule that the keywords of the front door ask for."""
    if implicit_diff not in _POLICIES:
        raise ValueError(
            f"implicit_diff must be True, False or 'nan_if_failed'; it is {implicit_diff!r}."
        )
    if implicit_solve not in _SOLVERS:
        raise ValueError(
            f"implicit_solve must be 'auto', 'dense' or 'iterative'; it is {implicit_solve!r}."
        )
    if not isinstance(implicit_polish, bool):
        raise ValueError(f"implicit_polish must be True or False; it is {implicit_polish!r}.")
    nan_if_failed = implicit_diff == "nan_if_failed"
    return Rule(bool(implicit_diff), nan_if_failed, implicit_solve, implicit_polish)


def differentiable(
    solve: Callable[[Problem, PyTree], Result], evaluate: Evaluate, rule: Rule
) -> Callable[[Problem, PyTree], Result]:
    """`solve` with the derivatives of this page; they cost nothing where none is taken.

    Parameters
    ----------
    solve
        Takes the problem and all else that leads to its solution (the start, tolerances),
        on which the solution does not depend.  Returns a dataclass with ``x`` and ``jac``
        of one structure, ``active`` like x (-1, +1 and 0: on the lower bound, the upper one,
        none), ``fun``, ``aux``, ``success``, and whatever else, which has no derivative.
    evaluate
        ``(data, x)`` to ``(fun, jac, aux)``.  Must close over no traced value.
    rule
        How to differentiate; with ``implicit=False`` straight through `solve`.
    """
    if not rule.implicit:
        return lambda problem, start: forward_only(solve(problem, start), _FORWARD_ONLY)

    solve = jax.jit(solve)

    @jax.custom_jvp
    def solution(problem: Problem, start: PyTree) -> Result:
        # Called twice where it is differentiated: first with no mesh, then with one that is empty,
        # which JAX tells apart.  With the same one it is traced once.
        with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
            return solve(problem, start)

    @functools.partial(solution.defjvp, symbolic_zeros=True)
    def solution_jvp(primals: Any, tangents: Any) -> tuple[Result, Result]:
        result = solution(*primals)
        return result, _tangent(result, primals[0], tangents[0], evaluate, rule)

    return solution


_FORWARD_ONLY = (
    "This solve was differentiated in reverse mode (jax.grad, jax.vjp, jax.jacrev), but with "
    "implicit_diff=False it can be differentiated in forward mode only. Use implicit_diff=True, "
    "or jax.jvp or jax.jacfwd."
)


def _tangent(
    result: Any, problem: Problem, dproblem: Problem, evaluate: Evaluate, rule: Rule
) -> Any:
    """The derivative of a result along a change of the problem."""
    still = jax.tree.map(SymbolicZero.from_primal_value, result)
    if all(_is_zero(leaf) for leaf in jax.tree.leaves(dproblem)):
        return still
    x, unravel = raveled(result.x)
    if rule.nan_if_failed:
        trust = jnp.where(result.success, 1, jnp.nan)
        dproblem = jax.tree.map(lambda d: d if _is_zero(d) else d * trust.astype(d.dtype), dproblem)
    data, ddata = problem.data, dproblem.data
    axes = varying_axes(x)
    free, dx = _active_tangent(result, problem, dproblem)
    dx = vary_over(axes, dx)

    def gradient(p: PyTree, x: Vector) -> Vector:
        return raveled(evaluate(p, unravel(x))[1])[0].astype(x.dtype)

    if rule.polish:
        box = raveled_box(problem.lower, problem.upper, jax.tree.leaves(result.x))
        x = _polished(functools.partial(gradient, data), x, free, box, rule.solver)
    _, dg = _push(gradient, (data, x), (ddata, dx))
    _, hessian = jax.linearize(lambda x: gradient(data, x), x)
    dx = dx - solve_symmetric(hessian, vary_over(axes, dg), free, rule.solver)
    _, (dfun, djac, daux) = _push(lambda p, x: evaluate(p, unravel(x)), (data, x), (ddata, dx))
    moved = {"x": unravel(dx), "fun": dfun, "jac": djac, "aux": daux}
    return dataclasses.replace(
        still, **{name: _like(getattr(result, name), d) for name, d in moved.items()}
    )


def _active_tangent(
    result: Any, problem: Problem, dproblem: Problem
) -> tuple[jax.Array, jax.Array]:
    """The free set, and the derivative of x with the free variables at rest."""
    x, _ = raveled(result.x)
    side, _ = raveled(result.active)
    x_leaves = jax.tree.leaves(result.x)
    bounds, dbounds = ((p.lower, p.upper) for p in (problem, dproblem))
    at_rest = jnp.zeros_like(x)
    if all(_is_zero(leaf) for leaf in jax.tree.leaves(dbounds)):
        return side == 0, at_rest
    _, (dl, du) = _push(lambda l, u: raveled_box(l, u, x_leaves), bounds, dbounds)
    return side == 0, jnp.where(side < 0, dl, jnp.where(side > 0, du, at_rest))


def _polished(
    gradient: Callable[[Vector], Vector], x: Vector, free: Mask, box: Box, solver: str
) -> Vector:
    """x after a Newton step on the free variables, if the step brings their gradient down.

    A constant shift of x: its derivative is left to the rule, which is applied at the end of it.
    """
    axes = varying_axes(x)
    g, hessian = jax.linearize(gradient, x)
    step = solve_symmetric(hessian, vary_over(axes, g), free, solver)
    trial = project(x - step, box)
    before, after = (jnp.max(jnp.abs(jnp.where(free, r, 0))) for r in (g, gradient(trial)))
    return x + jax.lax.stop_gradient(jnp.where(after < before, trial - x, 0))


def _push(function: Callable[..., Any], primals: Any, tangents: Any) -> tuple[Any, Any]:
    """`jax.jvp` that leaves alone what does not move: it would cost as much as what does."""
    leaves, tree = jax.tree.flatten(primals)
    dleaves = jax.tree.leaves(tangents)
    moving = [i for i, d in enumerate(dleaves) if not _is_zero(d)]

    def of_moving(*moved: Any) -> Any:
        full = list(leaves)
        for i, leaf in zip(moving, moved, strict=True):
            full[i] = leaf
        return function(*jax.tree.unflatten(tree, full))

    return jax.jvp(of_moving, [leaves[i] for i in moving], [dleaves[i] for i in moving])


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero) or np.result_type(tangent) == jax.dtypes.float0


def _like(primal: PyTree, tangent: PyTree) -> PyTree:
    """A tangent in the types of what it belongs to."""

    def leaf(p: Any, d: Any) -> Any:
        if _is_zero(d):
            return SymbolicZero.from_primal_value(p)
        return vary_over(varying_axes(p), d.astype(p.dtype))

    return jax.tree.map(leaf, primal, tangent)
