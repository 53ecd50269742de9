"""Derivatives of the solution: accuracy against tolerance, against jaxopt, and their cost.

``python -m benchmarks.implicit`` prints three tables; ``--save`` writes them to
``benchmarks/results``.

1. The relative error of derivatives against gtol: of x as given; of x after one Newton step on
   its free variables ("polished"); of the optimal value as given and by the envelope
   theorem alone; and what the next power of ten of gtol costs in iterations.
2. The exact cases of the tests, here and with `jaxopt.LBFGSB`: the largest error, or the
   exception.
3. A solve and its gradient with 1e5 variables: time and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from datetime import date
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small factorisations are slow on more

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np

import jaxlbfgsb
from jaxlbfgsb import minimize

RESULTS = Path(__file__).parent / "results" / "implicit.json"


# 1. Accuracy against tolerance.


def logistic(x, p):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(200, 20)) * np.geomspace(0.3, 3, 20)
    labels = (data @ rng.normal(size=20) + rng.normal(size=200)) > 0
    scores = data @ x
    return jnp.sum(jnp.logaddexp(0, scores) - labels * scores) + jnp.exp(p) * (x @ x) / 2


def rosenbrock(x, p):
    return jnp.sum(100 * (x[1:] - p * x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def decay(x, p):
    t = np.linspace(0, 4, 30)
    y = 2 * np.exp(-0.7 * t) + 0.05 * np.random.default_rng(1).normal(size=30)
    return jnp.sum((x[0] * jnp.exp(-x[1] * t) + x[2] - p * y) ** 2)


ACCURACY = {  # function, start, bounds, parameter
    "logistic, 20": (logistic, np.zeros(20), (-0.5, 0.5), 0.0),
    "Rosenbrock, 6": (rosenbrock, np.zeros(6), (-2.0, 0.8), 1.0),
    "decay, 3": (decay, np.array([1.0, 1.0, 0.5]), (0.0, 8.0), 1.0),
}


def dense_derivative(fun, x, side, p):
    """``dx/dp`` at x by a dense solve, and the Newton step there."""
    free = np.asarray(side) == 0
    H = np.asarray(jax.hessian(fun)(x, p))[np.ix_(free, free)]
    mixed = np.asarray(jax.jacfwd(jax.grad(fun), argnums=1)(x, p))[free]
    dx, step = np.zeros((2, x.size))
    dx[free] = -np.linalg.solve(H, mixed)
    step[free] = -np.linalg.solve(H, np.asarray(jax.grad(fun)(x, p))[free])
    return dx, step


def accuracy(name: str) -> list[dict]:
    fun, x0, box, p = ACCURACY[name]

    def solve(p, gtol, polish):
        options = {"bounds": box, "ftol": 0, "gtol": gtol, "implicit_polish": polish}
        result = minimize(fun, x0, (p,), **options)
        return (result.x, result.fun), result

    both = jax.jit(jax.jacfwd(solve, has_aux=True), static_argnums=2)
    envelope = jax.jit(jax.grad(fun, argnums=1))
    best = both(p, 1e-9, False)[1]
    x = np.asarray(best.x)
    for _ in range(3):
        x = x + dense_derivative(fun, x, best.active, p)[1]
    exact_dx, _ = dense_derivative(fun, x, best.active, p)
    exact_df = float(envelope(x, p))

    def error(value, exact):
        return float(np.abs(value - exact).max() / np.abs(exact).max())

    rows = []
    for gtol in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8):
        (dx, df), result = both(p, gtol, False)
        (polished, _), _ = both(p, gtol, True)
        at = np.asarray(result.x)
        rows.append(
            {
                "problem": name,
                "gtol": gtol,
                "nit": int(result.nit),
                "x": error(at, x),
                "dx": error(dx, exact_dx),
                "dx_polished": error(polished, exact_dx),
                "dfun": error(df, exact_df),
                "dfun_envelope": error(envelope(at, p), exact_df),
                "same_active_set": bool((result.active == best.active).all()),
            }
        )
    return rows


# 2. Against jaxopt.

A = np.array([[3.0, 1.0], [1.0, 2.0]])
P, LOWER, UPPER = np.array([1.0, 5.0]), np.array([-1.0, -1.0]), np.array([10.0, 1.5])


def quadratic(x, p):
    return x @ A @ x / 2 - p @ x


def ours(fun, p, lower, upper):
    result = minimize(fun, jnp.zeros(2), (p,), bounds=(lower, upper), gtol=1e-8, ftol=0)
    return result.x, result.fun


def theirs(fun, p, lower, upper):
    solver = jaxopt.LBFGSB(fun, tol=1e-8, maxiter=500)
    x, state = solver.run(jnp.zeros(2), (lower, upper), p)
    return x, state.value


def cases(solve) -> dict:
    """Each case as a function of nothing, with what it should return."""

    def x(p, lower=LOWER, upper=UPPER):
        return solve(quadratic, p, lower, upper)[0]

    def value(p, upper=UPPER):
        return solve(quadratic, p, LOWER, upper)[1]

    def curved(p):  # x = log(p) where free
        return solve(lambda x, p: jnp.sum(jnp.exp(x)) - p @ x, p, LOWER, UPPER)[0]

    def closed(y):
        def fun(x, _):
            return jnp.sum(x**2) - jnp.sum(x * y)

        return solve(fun, jnp.zeros(()), jnp.zeros(2), jnp.ones(2))[0]

    in_p, in_upper = np.array([[1 / 3, 0], [0, 0]]), np.array([[0, -1 / 3], [0, 1.0]])
    second = np.zeros((2, 2, 2))
    second[0, 0, 0] = -1 / 4
    point = jnp.array([2.0, 5.0])  # log(5) > 1.5: on its bound
    degenerate = jnp.asarray(A @ np.array([0.3, 1.5]))
    y = jnp.array([0.5, 3.0])
    p, upper = jnp.asarray(P), jnp.asarray(UPPER)
    return {
        "forward": (lambda: jax.jacfwd(x)(p), [in_p]),
        "reverse": (lambda: jax.jacrev(x)(p), [in_p]),
        "in the bounds, forward": (lambda: jax.jacfwd(x, argnums=2)(p, LOWER, upper), [in_upper]),
        "in the bounds, reverse": (lambda: jax.jacrev(x, argnums=2)(p, LOWER, upper), [in_upper]),
        "closure, forward": (lambda: jax.jacfwd(closed)(y), [np.diag([0.5, 0])]),
        "closure, reverse": (lambda: jax.jacrev(closed)(y), [np.diag([0.5, 0])]),
        "value in p": (lambda: jax.grad(value)(p), [np.array([1 / 6, -1.5])]),
        "value in the bounds": (
            lambda: jax.grad(value, argnums=1)(p, upper),
            [np.array([0, -13 / 6])],
        ),
        "Hessian of the value": (lambda: jax.hessian(value)(p), [-in_p]),
        "second order, jacfwd(jacrev)": (lambda: jax.jacfwd(jax.jacrev(curved))(point), [second]),
        "second order, jacrev(jacrev)": (lambda: jax.jacrev(jax.jacrev(curved))(point), [second]),
        "degenerate (one of two)": (
            lambda: jax.jacrev(x)(degenerate),
            [in_p, np.linalg.inv(A)],
        ),
    }


def outcome(call, expected) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = np.asarray(call())
    except Exception as error:  # what kind is the result
        return type(error).__name__
    return f"{min(np.abs(got - e).max() for e in expected):.0e}"


# 3. Many variables.


def seconds(call, repeats: int) -> float:
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def many_variables(n: int, repeats: int) -> list[dict]:
    """A chain of variables held to noisy data within bounds, in two stiffnesses."""
    rows = []
    for stiffness in (1.0, 100.0):

        def solve(p, stiffness=stiffness):
            def fun(x):
                chain = jnp.sum((x[1:] - x[:-1]) ** 2)
                return jnp.sum((x - p) ** 2) + stiffness * chain + jnp.sum(x**4)

            return minimize(fun, jnp.zeros(n), bounds=(0.1, 0.8))

        def loss(p, solve=solve):
            return jnp.sum(solve(p).x ** 2)

        p = jnp.asarray(np.random.default_rng(0).normal(0.5, 1, n))
        plain = jax.jit(lambda p, solve=solve: solve(p).x).lower(p).compile()
        gradient = jax.jit(jax.grad(loss)).lower(p).compile()
        times = [seconds(lambda f=f, p=p: f(p), repeats) for f in (plain, gradient)]
        vectors = [f.memory_analysis().temp_size_in_bytes / (8 * n) for f in (plain, gradient)]
        result = jax.jit(solve)(p)
        rows.append(
            {
                "n": n,
                "stiffness": stiffness,
                "nit": int(result.nit),
                "free": int((result.active == 0).sum()),
                "solve_seconds": times[0],
                "gradient_seconds": times[1],
                "solve_vectors": vectors[0],
                "gradient_vectors": vectors[1],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    print("1. Relative errors; A: the active set is that of the solution")
    print(f"{'':<16}{'gtol':>6}{'nit':>5}{'x':>9}{'dx':>9}{'polished':>9}{'dfun':>9}{'envel.':>9}")
    accuracy_rows = [row for name in ACCURACY for row in accuracy(name)]
    for row in accuracy_rows:
        errors = "".join(
            f"{row[k]:>9.0e}" for k in ("x", "dx", "dx_polished", "dfun", "dfun_envelope")
        )
        mark = " A" if row["same_active_set"] else ""
        print(f"{row['problem']:<16}{row['gtol']:>6.0e}{row['nit']:>5}{errors}{mark}", flush=True)

    print("\n2. Largest error, or the exception")
    print(f"{'':<30}{'here':>14}{'jaxopt':>26}")
    table = {}
    here, there = cases(ours), cases(theirs)
    for name in here:
        table[name] = [outcome(*here[name]), outcome(*there[name])]
        print(f"{name:<30}{table[name][0]:>14}{table[name][1]:>26}", flush=True)

    print("\n3. Many variables: seconds, and memory in vectors of n")
    large = many_variables(100_000, options.repeats)
    for row in large:
        print(
            f"n={row['n']} stiffness={row['stiffness']:g} nit={row['nit']} free={row['free']}: "
            f"solve {row['solve_seconds']:.3f} s, {row['solve_vectors']:.0f} vectors; "
            f"with gradient {row['gradient_seconds']:.3f} s, {row['gradient_vectors']:.0f} vectors"
        )
    if options.save:
        record = {
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {platform.system()}",
            "jax": jax.__version__,
            "jaxlbfgsb": jaxlbfgsb.__version__,
            "command": "python -m benchmarks.implicit --save",
            "accuracy": accuracy_rows,
            "jaxopt": table,
            "large": large,
        }
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
