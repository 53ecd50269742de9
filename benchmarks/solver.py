"""What a solver is to the benchmarks: one small interface, and the rules to stop by.

A solver is prepared for a problem, which may take its time to compile, and gives a function
without arguments that solves it: that is what is timed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import Problem


class Limits(NamedTuple):
    """When to stop; SciPy's defaults but for the number of iterations."""

    m: int = 10
    ftol: float = 1e7 * float(np.finfo(np.float64).eps)
    gtol: float = 1e-5
    maxiter: int = 2000
    maxfun: int = 15000
    maxls: int = 20


class Outcome(NamedTuple):
    """What a solver gives back; None where it does not count."""

    x: Any
    nit: Any
    nfev: Any


Solve = Callable[[], Outcome]


class Solver(NamedTuple):
    name: str
    needs: str
    """The package to import."""
    bounded: bool
    """Whether it can keep bounds."""
    prepare: Callable[[Problem, Limits], Solve]
    settings: str

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.needs) is not None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """jaxopt is no longer maintained: it warns when imported, and uses what JAX deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def start(problem: Problem) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
    """The feasible start and the bounds, as arrays of JAX."""
    if problem.lower is None or problem.upper is None:
        return jnp.asarray(problem.x0), None
    x0 = np.clip(problem.x0, problem.lower, problem.upper)
    return jnp.asarray(x0), (jnp.asarray(problem.lower), jnp.asarray(problem.upper))


def host_function(problem: Problem) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Value and gradient, compiled and called from Python, in float64."""
    compiled = jax.jit(jax.value_and_grad(problem.fun))

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = compiled(x, *problem.args)
        return float(value), np.asarray(gradient, np.float64)

    return fun
