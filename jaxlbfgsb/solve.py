"""One solve of a traced program: from its arguments to its result."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlbfgsb.derivatives.implicit import Problem, Rule, differentiable
from jaxlbfgsb.loop import Driver, Objective, run, run_by_kernels
from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.state import Options, State, init, refuse_invalid, start_again
from jaxlbfgsb.options import strict_options
from jaxlbfgsb.program.tracing import Data, Program
from jaxlbfgsb.program.uncollected import uncollected
from jaxlbfgsb.pytrees import BoundLeaves, is_bounded, raveled, raveled_box
from jaxlbfgsb.result import OptimizeResult, result_of
from jaxlbfgsb.sight.recording import Trace, begun, finished
from jaxlbfgsb.sight.watching import Watch, one_lane, telling
from jaxlbfgsb.types import PyTree, Scalar, Vector
from jaxlbfgsb.xla.kernel import apart, step_is_one_kernel
from jaxlbfgsb.xla.lanes import lane_by_lane
from jaxlbfgsb.xla.varying import vary_over, varying_axes


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
@uncollected
def solve(
    program: Program,
    m: int,
    rule: Rule,
    watch: Watch,
    data: Data,
    x0: PyTree,
    lower: BoundLeaves,
    upper: BoundLeaves,
    options: Options,
    earlier: State | None = None,
) -> OptimizeResult:
    """The whole solve, with its derivatives; it goes on with the pairs of an earlier run."""
    n = sum(leaf.size for leaf in jax.tree.leaves(x0))
    bounded = is_bounded(lower, upper)

    def with_driver(
        driver: Driver,
    ) -> Callable[..., OptimizeResult]:
        def solve(problem: Problem, start: tuple[PyTree, Options, Any]) -> OptimizeResult:
            data, lower, upper = problem
            x0, options, earlier = start
            state, box, options = begin(m, data, x0, lower, upper, options, earlier)
            trace = begun(watch.recording, state.x)
            fun = objective(program, data, x0)
            if not program.jaxpr.effects:
                fun = apart(fun, 2 * m, n, bounded=bounded)
            state, trace = driver(fun, state, box, options, trace)
            return finish(program, data, x0, state, box, options, trace)

        return solve

    plain = with_driver(run)
    if watch.observer is not None:
        (data, lower, upper), x0, options = one_lane(((data, lower, upper), x0, options))
        fastest = with_driver(functools.partial(run, tell=telling(watch.observer, raveled(x0)[1])))
    elif not rule.implicit:  # differentiated through the loop itself
        fastest = plain
    elif not step_is_one_kernel(2 * m, n, bounded=bounded):
        fastest = lane_by_lane(plain, plain)
    elif program.fits_one_kernel:
        fastest = lane_by_lane(plain, plain, is_kernel=True)
    else:
        fastest = lane_by_lane(with_driver(run_by_kernels), plain)
    differentiated = differentiable(fastest, functools.partial(_evaluate, program), rule)
    return differentiated(Problem(data, lower, upper), (x0, options, earlier))


def begin(
    m: int,
    data: Data,
    x0: PyTree,
    lower: BoundLeaves,
    upper: BoundLeaves,
    options: Options,
    earlier: State | None = None,
) -> tuple[State, Box, Options]:
    """The first state, the box and the options, in the raveled variables."""
    vector, _ = raveled(x0)
    box = raveled_box(lower, upper, jax.tree.leaves(x0))
    options = strict_options(options, vector.dtype)
    state = init(vector, box, m) if earlier is None else start_again(earlier, vector, box)
    state = refuse_invalid(state, box, options)
    return vary_over(varying_axes(data, vector, box, options, earlier), (state, box, options))


def objective(program: Program, data: Data, x0: PyTree) -> Objective:
    """Value and gradient in the raveled variables."""
    vector, unravel = raveled(x0)

    def value_and_grad(x: Vector) -> tuple[Scalar, Vector]:
        value, gradient, _ = program(data, jax.tree.leaves(unravel(x)))
        return value.astype(vector.dtype), raveled(gradient)[0].astype(vector.dtype)

    def value_only(x: Vector) -> Scalar:
        return program(data, jax.tree.leaves(unravel(x)))[0].astype(vector.dtype)

    return value_and_grad if program.returns.gradient else jax.value_and_grad(value_only)


def finish(
    program: Program,
    data: Data,
    x0: PyTree,
    state: State,
    box: Box,
    options: Options,
    trace: Trace | None = None,
) -> OptimizeResult:
    """The result in the structure of x0, with aux."""
    _, unravel = raveled(x0)
    flat = result_of(state, box, options)
    x = unravel(flat.x)
    return dataclasses.replace(
        flat,
        x=x,
        jac=unravel(flat.jac),
        aux=program(data, jax.tree.leaves(x))[2],
        active=jax.tree.map(
            lambda sides: sides.astype(jnp.int32), unravel(flat.active.astype(flat.x.dtype))
        ),
        trace=finished(trace, unravel),
    )


def _evaluate(program: Program, data: Data, x: PyTree) -> tuple[Scalar, PyTree, PyTree]:
    """Value, gradient and aux, for the derivatives."""

    def value_and_rest(x: PyTree) -> tuple[Scalar, tuple[PyTree, PyTree]]:
        value, gradient, aux = program(data, jax.tree.leaves(x))
        return value, (gradient, aux)

    if program.returns.gradient:
        value, (gradient, aux) = value_and_rest(x)
        return value, jax.tree.unflatten(jax.tree.structure(x), gradient), aux
    (value, (_, aux)), gradient = jax.value_and_grad(value_and_rest, has_aux=True)(x)
    return value, gradient, aux
