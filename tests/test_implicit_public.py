"""Derivatives of the solutions of public problems against finite differences of solutions.

The problems of CUTEst have no parameters: here the variables are shifted by ``p_0 w``, scaled
by ``1 + p_1 w``, and the bounds widened by ``p_2 w``, with w from 0.5 to 1.  All have
bounds that are active at their solution.  They are padded to one size with fixed variables,
so that one compilation does for all.
"""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlbfgsb import minimize

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for `benchmarks`

from benchmarks.problems import load

SIZES = {
    "BQP1VAR": {},
    "BQPGABIM": {},
    "EXPLIN": {"N": 24, "M": 10},
    "HATFLDB": {},
    "HS2": {},
    "HS3": {},
    "HS4": {},
    "HS45": {},
    "OBSTCLBL": {"px": 8, "py": 8},
    "S368": {},
    "TORSION1": {"q": 4},
    "TORSIONC": {"q": 4},
}
NAMES = tuple(SIZES)
STEPS = {"BQP": 1e-7, "OBS": 1e-5, "TOR": 1e-5}
"""Where the active set changes within the usual one."""
N = 64


@functools.cache
def problem(name):
    return load(name, **SIZES[name])


def objective(x, p, which):
    def branch(name):
        n = problem(name).n
        w = np.linspace(0.5, 1, n)
        return lambda x: problem(name).fun(x[:n] * (1 + p[1] * w) + p[0] * w)

    return jax.lax.switch(which, [branch(name) for name in NAMES], x)


def padded(vector, missing, n):
    vector = np.full(n, missing) if vector is None else vector
    return np.append(vector, np.zeros(N - n))


def box(name):
    """Bounds, and how fast each side moves with ``p_2``: fixed variables stay."""
    given = problem(name)
    lower, upper = padded(given.lower, -np.inf, given.n), padded(given.upper, np.inf, given.n)
    return lower, upper, np.where(lower == upper, 0, np.linspace(0.5, 1, N))


def solve(p, x0, lower, upper, w, which):
    bounds = (lower - p[2] * w, upper + p[2] * w)
    result = minimize(objective, x0, (p, which), bounds=bounds, ftol=0, gtol=1e-10)
    return jnp.append(result.x, result.fun), result


@functools.cache
def compiled():
    # Before the switch is traced: what a problem computes as it is made must be constants.
    for name in NAMES:
        problem(name)
    return (
        jax.jit(jax.jacfwd(solve, has_aux=True)),
        jax.jit(jax.value_and_grad(objective)),
        jax.jit(jax.hessian(objective)),
    )


def solution(p, x, side, lower, upper, w, which):
    """The solution at p with the active set given, by Newton's method."""
    _, value_and_grad, hessian = compiled()
    lower, upper, free = lower - p[2] * w, upper + p[2] * w, side == 0
    x = np.where(side < 0, lower, np.where(side > 0, upper, x))
    for _ in range(4):
        g = np.asarray(value_and_grad(x, p, which)[1])
        x[free] -= np.linalg.solve(np.asarray(hessian(x, p, which))[np.ix_(free, free)], g[free])
    value, g = value_and_grad(x, p, which)
    assert (g * side <= 0)[w > 0].all()  # so it is the solution
    assert ((lower < x) & (x < upper))[free].all()
    return np.append(x, value)


@pytest.mark.parametrize("name", NAMES)
def test_finite_differences(name):
    lower, upper, w = box(name)
    which = np.int32(NAMES.index(name))
    x0 = np.append(problem(name).x0, np.zeros(N - problem(name).n))
    derivative, result = compiled()[0](np.zeros(3), x0, lower, upper, w, which)
    side = np.asarray(result.active)
    assert (side[w > 0] != 0).any()

    at = functools.partial(
        solution, x=np.asarray(result.x), side=side, lower=lower, upper=upper, w=w, which=which
    )
    h = STEPS.get(name[:3], 1e-3)
    expected = np.stack(
        [(8 * (at(e) - at(-e)) - (at(2 * e) - at(-2 * e))) / (12 * h) for e in np.eye(3) * h],
        axis=1,
    )
    error = np.abs(derivative - expected)
    assert error[:-1].max() <= 1e-6 * np.abs(expected[:-1]).max()
    assert error[-1].max() <= 1e-6 * np.abs(expected[-1]).max()
