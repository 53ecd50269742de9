"""Problems with known minima; where one came from a public report, that is in brackets.

Problems with the same number of variables form a family that is compiled once: the
function takes the number of the problem as an argument.  Bounded problems in less than 5
variables get fixed ones at 0 in addition, which changes nothing but the shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxlbfgsb

LEAST_BOUNDED = 5


class Case(NamedTuple):
    name: str
    fun: Callable[[jax.Array], jax.Array]
    x0: Any
    minimum: float
    lower: Any = None
    upper: Any = None
    """Numbers or lists; both None: no bounds."""
    options: Mapping[str, Any] = {}
    solution: Any = None
    """The minimiser, to be met to `x_tol` in units of max(1, |x|)."""
    x_tol: float = 1e-3
    limit: int | None = 1000
    """Iterations allowed in float32."""

    @property
    def is_bounded(self) -> bool:
        return self.lower is not None or self.upper is not None

    @property
    def size(self) -> int:
        """Variables, with those added."""
        return max(len(self.x0), LEAST_BOUNDED if self.is_bounded else 0)

    @property
    def family(self) -> tuple[int, bool, int]:
        return self.size, self.is_bounded, self.options.get("maxcor", 10)

    def start(self, dtype) -> np.ndarray:
        return self._padded(self.x0, dtype)

    def bounds(self, dtype) -> tuple[np.ndarray, np.ndarray] | None:
        if not self.is_bounded:
            return None
        lower = -np.inf if self.lower is None else self.lower
        upper = np.inf if self.upper is None else self.upper
        return self._padded(lower, dtype), self._padded(upper, dtype)

    def _padded(self, values, dtype) -> np.ndarray:
        out = np.zeros(self.size, dtype)
        out[: len(self.x0)] = values
        return out

    def evaluate(self, x: jax.Array) -> jax.Array:
        return self.fun(x[: len(self.x0)])


def rosen(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosen10(x):
    return 10 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def quad60(x):
    return jnp.sum(jnp.arange(1, 61, dtype=x.dtype) * (x - 1) ** 2)


def barrier(x):
    inside = x[0] > 0.5
    return jnp.where(inside, x[0] - jnp.log(jnp.where(inside, x[0] - 0.5, 1)), jnp.inf)


def x_exp10(x):
    return x[0] + jnp.exp(-10 * x[0])


def zakharov(x):
    a = jnp.arange(1, x.size + 1, dtype=x.dtype) @ x / 2
    return x @ x + a**2 + a**4


def driver1(x):
    return 4 * (0.25 * (x[0] - 1) ** 2 + jnp.sum((x[1:] - x[:-1] ** 2) ** 2))


_rng = np.random.default_rng(0)
A, B = _rng.standard_normal((200, 200)), _rng.standard_normal(200)


def nnls(x):
    return jnp.sum((jnp.asarray(A, x.dtype) @ x - jnp.asarray(B, x.dtype)) ** 2) / 200


def separable(x):
    return jnp.sum((x - jnp.linspace(-3, 3, 20, dtype=x.dtype)) ** 2)


def linreg(x):
    t = jnp.arange(10, dtype=x.dtype)
    return jnp.sum((2 * t + 3 - (x[0] * t + x[1])) ** 2)


USER_CASES = [
    Case("rosen10 [scipy 23161, cuml 6210]", rosen10, [-1, 1], 0, solution=[1, 1]),
    Case("rosen10_ftol_0 [scipy 23161]", rosen10, [-1, 1], 0, options={"ftol": 0}),
    Case("rosen5_lb [LBFGSpp 20]", rosen, [1.5] * 5, 1.3806398052217061, 1.1, 2),
    Case("rosen_ub [breeze 497]", rosen, [-1.2, 1], 0.25, None, 0.5, solution=[0.5, 0.25]),
    Case("linear_at_bound [jaxopt 492]", lambda x: -x[0], [1, 0], -1, -1, 1, solution=[1, 0]),
    Case("quad60_neg [tfp 1391]", lambda x: quad60(x) - 0.1, list(range(60, 0, -1)), -0.1),
    Case("x_exp10 [scipy 11718]", x_exp10, [10], (1 + np.log(10)) / 10),
    Case(
        "x_exp10_maxls_5 [scipy 11718]",
        x_exp10,
        [10],
        (1 + np.log(10)) / 10,
        options={"maxls": 5},
    ),
    Case("barrier_inf [scipy 6264]", barrier, [10], 1.5, -5, 20),
    Case("barrier_inf_unbounded [scipy 6264]", barrier, [10], 1.5),
    Case("xlogx [SciML 1094]", lambda x: x[0] * jnp.log(x[0]) + 5 * x[0], [0.5], -np.exp(-6), 0, 1),
    Case("scale1e6 [jax 4594]", lambda x: 1e6 * rosen(x), [-1.2, 1], 0, -5, 5),
    Case("rosen1000 [scipy 5765]", rosen, [0] * 1000, 0, limit=None),
    Case("zakharov [jax 6960]", zakharov, [600, 700, 200, 100, 90, 10000], 0),
    Case("nnls200 [lbfgsb-gpu 9]", nnls, [0] * 200, 0.508190848537849, 0),
    Case(
        "driver1_25 [Algorithm 778]",
        driver1,
        [3] * 25,
        0,
        [1, -100] * 12 + [1],
        100,
        {"maxcor": 5, "ftol": 1e7 * np.finfo(float).eps, "gtol": 1e-5},
    ),
    Case("rosen3_fixed [scipy 12502]", rosen, [0, 2, 0], 101.171358598625, [-3, 2, -3], [3, 2, 3]),
    Case("all_fixed [scipy 12502]", rosen, [0.5, 2], 306.5, [0.5, 2], [0.5, 2]),
    Case("sep20 [Optim.jl]", separable, [-1] * 20, 21.096952908587257, -1, 1),
    Case("linreg [SciPy's documentation]", linreg, [0, 1], 220 / 19, [0, 5], [5, 10]),
    Case(
        "x0_outside [SciPy's tests]",
        lambda x: x @ x / 2,
        [0, -1],
        0.5,
        [1, -np.inf],
        solution=[1, 0],
    ),
]


COUNTS = np.array([3, 1, 7, 12, 30, 55, 160, 400])
NORMAL = 100 + 0.1 * np.random.default_rng(7).standard_normal(50)
COSTS = np.linspace(-1, 1, 20)
COLUMN = A[:, 77]


def poisson(x):
    """Negative log-likelihood of a Poisson regression on 0, 1, ... 7."""
    eta = x[0] + x[1] * jnp.arange(8, dtype=x.dtype)
    return jnp.sum(jnp.exp(eta) - jnp.asarray(COUNTS, x.dtype) * eta)


def normal(x):
    """Negative log-likelihood of a normal distribution: mean about 100, deviation about 0.1."""
    y = jnp.asarray(NORMAL, x.dtype)
    return jnp.sum((y - x[0]) ** 2) / (2 * x[1] ** 2) + y.size * jnp.log(x[1])


def exp_minus(x):
    return jnp.exp(x[0]) - 50 * x[0]


def beale(x):
    a, b = x[0], x[1]
    powers = jnp.stack([b, b**2, b**3])
    return jnp.sum((jnp.array([1.5, 2.25, 2.625], x.dtype) - a + a * powers) ** 2)


LOG50 = 50 - 50 * np.log(50)
NORMAL_MINIMUM = 25 + 50 * np.log(np.std(NORMAL))

MORE_CASES = [
    # Magnitudes of f.
    Case("f of 1e-20", lambda x: 1e-20 * rosen(x), [-1.2, 1], 0),
    Case("f + 1e8", lambda x: rosen(x) + 1e8, [-1.2, 1], 1e8),
    # Starts.
    Case("start at the optimum", rosen, [1, 1], 0, solution=[1, 1], x_tol=0),
    Case("start far away", lambda x: jnp.sum((x - 1) ** 2), [1e8, -1e8], 0, solution=[1, 1]),
    Case("start in a corner", rosen, [-1, -1], 4, -1, [-1, 5], solution=[-1, 1]),
    Case("start near a singularity", lambda x: x[0] - 2 * jnp.sqrt(x[0]), [1e-8], -1, 0),
    # Bounds.
    Case("lower bound on one side", rosen, [2, 2], 1, [2, -np.inf], solution=[2, 4]),
    Case("bounds of 3e38", rosen, [-1.2, 1], 0, -3e38, 3e38),
    Case("far from 0", lambda x: 1 / x[0] + x[0], [1e6], 2, 0),
    Case(
        "linear in a box",
        lambda x: jnp.asarray(COSTS, x.dtype) @ x,
        [0.3] * 20,
        -np.abs(COSTS).sum(),
        -1,
        1,
    ),
    Case(
        "all but one fixed",
        nnls,
        [0] * 200,
        (B @ B - (COLUMN @ B) ** 2 / (COLUMN @ COLUMN)) / 200,
        np.where(np.arange(200) == 77, -3, 0),
        np.where(np.arange(200) == 77, 3, 0),
    ),
    # Scales.
    Case("scales 1e3 apart", lambda x: (30 * x[0] - 1) ** 2 + (0.03 * x[1] - 1) ** 2, [0, 0], 0),
    Case("mean 100, deviation 0.1", normal, [0, 1], NORMAL_MINIMUM, [-np.inf, 1e-6]),
    Case("quartic", lambda x: jnp.sum((x - 1) ** 4), [10, -10], 0),
    # No gradient to go by.
    Case("gradient 0 in one variable", lambda x: (x[0] - 1) ** 2, [5, 7], 0, solution=[1, 7]),
    Case("plateau", lambda x: jnp.sum(jnp.maximum(jnp.abs(x) - 1, 0) ** 2), [10, -10], 0),
    Case("well in a plain", lambda x: -jnp.exp(-x @ x), [2, 1], -1),
    # Exponentials.
    Case("exp from -1000", exp_minus, [-1000], LOG50),
    Case("exp from 85", exp_minus, [85], LOG50),
    Case("exp in a wide box", exp_minus, [80], LOG50, -100, 1000),
    Case("Poisson regression", poisson, [0, 0], -2905.9550222),
    Case("Beale's valley", beale, [1, 1], 0, solution=[3, 0.5], x_tol=1e-2),
]


def members(family: tuple[int, bool, int]) -> list[Case]:
    return [case for case in USER_CASES + MORE_CASES if case.family == family]


@functools.cache
def objective(family: tuple[int, bool, int]) -> Callable[[jax.Array, Any], jax.Array]:
    """``f(x, which)`` for all cases of a family."""
    branches = [case.evaluate for case in members(family)]
    return lambda x, which: jax.lax.switch(which, branches, x)


def problem(case: Case) -> tuple[Callable[[jax.Array, Any], jax.Array], np.int32]:
    """The function of the case's family, and the number of the case in it."""
    names = [member.name for member in members(case.family)]
    return objective(case.family), np.int32(names.index(case.name))


def solve(case: Case, dtype) -> jaxlbfgsb.OptimizeResult:
    """By the JAX front door."""
    fun, which = problem(case)
    bounds = case.bounds(dtype)
    return jaxlbfgsb.minimize(fun, case.start(dtype), (which,), bounds=bounds, **case.options)


@functools.cache
def compiled(family: tuple[int, bool, int]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Value, and value with gradient, compiled."""
    fun = objective(family)
    return jax.jit(fun), jax.jit(jax.value_and_grad(fun))


def value(case: Case, x: Any) -> np.ndarray:
    return np.asarray(compiled(case.family)[0](x, problem(case)[1]))


def value_and_grad(case: Case, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """As NumPy arrays, for the host."""
    f, g = compiled(case.family)[1](x, problem(case)[1])
    return np.asarray(f), np.asarray(g)
