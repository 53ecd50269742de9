"""What solvers can do, each cell found by a small run: ``python -m benchmarks.features``.

Prints the table of `docs/features.md`, and with ``--jaxopt`` the runs that `docs/migration.md`
compares.  "no" means that the run failed or its result was
wrong, "-" that there is nothing to run.  Give names to see only these solvers.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import jaxlbfgsb

STEPS = 200


class NoBoundsError(Exception):
    """The solver takes none."""


class Peer(NamedTuple):
    """A solver.

    Attributes
    ----------
    package
        Its distribution.
    solve
        ``solve(fun, x0, bounds, args)`` to the solution.
    succeeds
        ``succeeds(fun, x0)``: whether it says that it converged; None if it says nothing.
    hess_inv
        ``hess_inv(fun, x0, pairs)`` to a product with its inverse Hessian, the last step and the
        change of the gradient along it; None if it has none.
    on_host
        ``on_host(fun, x0)`` to the solution, for a NumPy function of value and gradient.
    loops
        Whether it has a loop of its own; else that is the caller's.
    """

    package: str
    solve: Callable[..., Any]
    succeeds: Callable[..., Any] | None = None
    hess_inv: Callable[..., Any] | None = None
    on_host: Callable[..., Any] | None = None
    loops: bool = True


# The solvers.  What a careful caller makes once is made once.


@functools.lru_cache
def compiled(fun: Any) -> Any:
    return jax.jit(jax.value_and_grad(fun))


@functools.lru_cache
def of_two(fun: Any) -> Any:
    return lambda y, args: fun(y, *args)


def ours(fun: Any, x0: Any, bounds: Any, args: Any) -> Any:
    return jaxlbfgsb.minimize(fun, x0, args, bounds=bounds, gtol=1e-9, ftol=0.0).x


def ours_hess_inv(fun: Any, x0: Any, pairs: int) -> Any:
    matrix = jaxlbfgsb.minimize(fun, x0, maxcor=pairs).hess_inv
    return matrix @ matrix.y[-1], matrix.s[-1]


def scipy_solve(fun: Any, x0: Any, bounds: Any, args: Any, **options: Any) -> Any:
    value_and_grad = compiled(fun)
    box = bounds if bounds is None else scipy.optimize.Bounds(*bounds)
    options = {"jac": True, "method": "L-BFGS-B", "tol": 1e-12, **options}
    return scipy.optimize.minimize(value_and_grad, x0, args=args, bounds=box, **options).x


def scipy_succeeds(fun: Any, x0: Any) -> bool:
    return bool(scipy.optimize.minimize(compiled(fun), x0, jac=True, method="L-BFGS-B").success)


def scipy_hess_inv(fun: Any, x0: Any, pairs: int) -> Any:
    iterates, value_and_grad = [np.array(x0)], jax.jit(jax.value_and_grad(fun))
    result = scipy.optimize.minimize(
        value_and_grad, x0, jac=True, method="L-BFGS-B", options={"maxcor": pairs},
        callback=lambda x: iterates.append(x.copy()),
    )  # fmt: skip
    before, after = iterates[-2:]
    y = np.asarray(value_and_grad(after)[1] - value_and_grad(before)[1])
    return result.hess_inv @ y, after - before


def jaxopt_solve(fun: Any, x0: Any, bounds: Any, args: Any) -> Any:
    import jaxopt

    return jaxopt.LBFGSB(fun, maxiter=STEPS, tol=1e-9).run(x0, bounds, *args).params


def optax_solve(fun: Any, x0: Any, bounds: Any, args: Any) -> Any:
    import optax

    if bounds is not None:
        raise NoBoundsError
    solver = optax.lbfgs()

    def of_x(x: Any) -> Any:
        return fun(x, *args)

    def step(carry: Any, _: Any) -> Any:
        x, state = carry
        value, gradient = jax.value_and_grad(of_x)(x)
        updates, state = solver.update(
            gradient, state, x, value=value, grad=gradient, value_fn=of_x
        )
        return (optax.apply_updates(x, updates), state), None

    return jax.lax.scan(step, (x0, solver.init(x0)), length=30)[0][0]


def optimistix_solve(fun: Any, x0: Any, bounds: Any, args: Any) -> Any:
    import optimistix

    if bounds is not None:
        raise NoBoundsError
    solver = optimistix.LBFGS(rtol=1e-10, atol=1e-10)
    return optimistix.minimise(of_two(fun), solver, x0, args, max_steps=STEPS, throw=False).value


def optimistix_succeeds(fun: Any, x0: Any) -> bool:
    import optimistix

    solver = optimistix.LBFGS(rtol=1e-6, atol=1e-6)
    found = optimistix.minimise(lambda y, _: fun(y), solver, x0, max_steps=STEPS, throw=False)
    return bool(found.result == optimistix.RESULTS.successful)


def nlopt_on_host(value_and_grad: Any, x0: Any, bounds: Any = None) -> Any:
    import nlopt

    def told(x: np.ndarray, gradient: np.ndarray) -> float:
        value, gradient[:] = value_and_grad(x)
        return float(value)

    solver = nlopt.opt(nlopt.LD_LBFGS, x0.size)
    solver.set_min_objective(told)
    if bounds is not None:
        solver.set_lower_bounds(bounds[0])
        solver.set_upper_bounds(bounds[1])
    solver.set_xtol_rel(1e-12)
    solver.set_maxeval(10 * STEPS)
    return solver.optimize(x0)


def nlopt_solve(fun: Any, x0: Any, bounds: Any, args: Any) -> Any:
    value_and_grad, x0 = compiled(fun), np.array(x0)
    return nlopt_on_host(lambda x: value_and_grad(x.astype(x0.dtype), *args), x0, bounds)


def nlopt_succeeds(fun: Any, x0: Any) -> bool:
    try:
        nlopt_solve(fun, x0, None, ())
    except Exception:
        return False
    return True


def scipy_on_host(fun: Any, x0: Any) -> Any:
    return scipy.optimize.minimize(fun, x0, jac=True, method="L-BFGS-B").x


def jaxopt_on_host(fun: Any, x0: Any) -> Any:
    import jaxopt

    solver = jaxopt.LBFGSB(fun, value_and_grad=True, jit=False, tol=1e-9)
    return solver.run(x0, (x0 - 10, x0 + 10)).params


def optax_on_host(fun: Any, x0: Any) -> Any:
    import optax

    solver, x = optax.lbfgs(), jnp.asarray(x0)
    state = solver.init(x)
    for _ in range(30):
        value, gradient = fun(x)
        updates, state = solver.update(
            jnp.asarray(gradient), state, x, value=value, grad=jnp.asarray(gradient),
            value_fn=lambda x: fun(x)[0],
        )  # fmt: skip
        x = optax.apply_updates(x, updates)
    return x


def optimistix_on_host(fun: Any, x0: Any) -> Any:
    return optimistix_solve(lambda x: fun(x)[0], jnp.asarray(x0), None, ())


PEERS = {
    "jaxlbfgsb": Peer(
        "jaxlbfgsb", ours, lambda fun, x0: bool(jaxlbfgsb.minimize(fun, x0).success),
        ours_hess_inv, lambda fun, x0: jaxlbfgsb.fmin_l_bfgs_b(fun, x0)[0],
    ),
    "SciPy L-BFGS-B": Peer("scipy", scipy_solve, scipy_succeeds, scipy_hess_inv, scipy_on_host),
    "jaxopt LBFGSB": Peer("jaxopt", jaxopt_solve, on_host=jaxopt_on_host),
    "optax lbfgs": Peer("optax", optax_solve, on_host=optax_on_host, loops=False),
    "optimistix LBFGS": Peer(
        "optimistix", optimistix_solve, optimistix_succeeds, on_host=optimistix_on_host
    ),
    "NLopt LD_LBFGS": Peer("nlopt", nlopt_solve, nlopt_succeeds, on_host=nlopt_on_host),
}  # fmt: skip


# The probes: each is a question, and a function of the peer to True, False or None.

P = jnp.array([0.5, 3.0])
BOX = (np.zeros(2), np.ones(2))


def squares(x: Any, p: Any) -> Any:
    return jnp.sum((x - p) ** 2) + 0.1 * jnp.sum((x - p) ** 4)


def rosenbrock(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def near(found: Any, expected: Any, tolerance: float = 1e-5) -> bool:
    if isinstance(expected, list):
        expected = np.array(expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(np.allclose(a, b, atol=tolerance) for a, b in pairs)


def bounded(peer: Peer) -> bool:
    return near(peer.solve(squares, np.zeros(2), BOX, (P,)), [0.5, 1.0])


def in_jit(peer: Peer) -> bool:
    return near(jax.jit(lambda x, p: peer.solve(squares, x, None, (p,)))(jnp.zeros(2), P), P)


def in_vmap(peer: Peer) -> bool:
    targets = jnp.stack([P, P + 1])
    found = jax.vmap(lambda p: peer.solve(squares, jnp.zeros(2), None, (p,)))(targets)
    return near(found, targets)


def single_precision(peer: Peer) -> bool:
    found = peer.solve(squares, np.zeros(2, np.float32), None, (P.astype(jnp.float32),))
    return found.dtype == np.float32 and near(found, P, 1e-3)


def pytrees(peer: Peer) -> bool:
    start = {"a": jnp.zeros(2), "b": jnp.zeros(())}

    def fun(x: Any, p: Any) -> Any:
        return squares(x["a"], p) + (x["b"] - 1) ** 2

    return near(peer.solve(fun, start, None, (P,)), {"a": P, "b": jnp.ones(())})


def coupled(x: Any, p: Any) -> Any:
    return jnp.sum((x - p) ** 2) + 0.5 * jnp.sum(x) ** 2


def solution(peer: Peer, bounds: Any) -> Callable[..., Any]:
    return lambda p: peer.solve(coupled, jnp.zeros(2), bounds, (p,))


FREE = np.linalg.inv(2 * np.eye(2) + 1) * 2
"""The derivative of the solution in p without bounds."""


def reverse(peer: Peer) -> bool:
    return near(jax.jacrev(solution(peer, None))(P), FREE)


def forward(peer: Peer) -> bool:
    return near(jax.jacfwd(solution(peer, None))(P), FREE)


def second_order(peer: Peer) -> bool:
    found = jax.hessian(lambda p: jnp.sum(solution(peer, None)(p) ** 2))(P)
    return near(found, 2 * FREE.T @ FREE)


def at_a_bound(peer: Peer) -> bool:
    box = tuple(map(jnp.asarray, BOX))
    return near(jax.jacrev(solution(peer, box))(jnp.array([1.5, 3.0])), [[2 / 3, 0], [0, 0]])


def in_bounds(peer: Peer) -> bool:
    lower, p = jnp.zeros(2), jnp.array([1.5, 3.0])
    found = jax.jacrev(lambda upper: solution(peer, (lower, upper))(p))(jnp.ones(2))
    return near(found, [[0, -1 / 3], [0, 1]])


def feasible(peer: Peer) -> bool:
    seen = []

    def fun(x: Any) -> Any:
        jax.debug.callback(lambda v: seen.append(np.array(v)), x)
        return rosenbrock(x)

    lower, upper = np.array([-2, -0.1, -2, -0.3]), np.array([0.3, 0.7, 0.1, 0.9])
    peer.solve(fun, jnp.array([-1.2, 0.5, -0.5, 0.3]), (lower, upper), ())
    jax.effects_barrier()
    points = np.array(seen)
    return bool(((points >= lower) & (points <= upper)).all())


def outside_start(peer: Peer) -> bool:
    def fun(x: Any) -> Any:
        return jnp.sum(jnp.log(x) ** 2)

    found = peer.solve(fun, jnp.array([-1.0, 9.0]), (np.full(2, 0.1), np.full(2, 5.0)), ())
    return near(found, [1.0, 1.0])


def honest(peer: Peer) -> bool | None:
    if peer.succeeds is None:
        return None
    return not peer.succeeds(lambda x: jnp.sum(jnp.log(-1 - x**2)), -np.ones(2))


def secant(peer: Peer) -> bool | None:
    if peer.hess_inv is None:
        return None
    product, step = peer.hess_inv(rosenbrock, np.full(6, -0.5), 3)
    return near(product, step, 1e-3 * float(np.max(np.abs(step))))


def traced_once(peer: Peer) -> bool | None:
    if not peer.loops:
        return None
    calls = []

    def fun(x: Any, p: Any) -> Any:
        calls.append(None)
        return squares(x, p)

    peer.solve(fun, jnp.zeros(2), None, (P,))
    before = len(calls)
    peer.solve(fun, jnp.zeros(2), None, (P + 1,))
    return len(calls) == before


def host_functions(peer: Peer) -> bool:
    def numpy_squares(x: Any) -> Any:
        distance = np.asarray(x) - np.asarray(P)
        return float(distance @ distance), 2 * distance

    assert peer.on_host is not None
    return near(peer.on_host(numpy_squares, np.zeros(2)), [0.5, 3.0])


PROBES = {
    "bounds": bounded,
    "inside `jit`": in_jit,
    "inside `vmap`": in_vmap,
    "float32 in, float32 out, with x64 enabled": single_precision,
    "pytrees": pytrees,
    "functions that are not JAX": host_functions,
    "no evaluation outside of the bounds": feasible,
    "a start outside of the bounds is moved in": outside_start,
    "derivative of the solution, reverse mode": reverse,
    "... forward mode": forward,
    "... second order": second_order,
    "... with a bound active": at_a_bound,
    "... in the bounds": in_bounds,
    "no success where f is NaN everywhere": honest,
    "newest secant equation in `hess_inv`, m = 3": secant,
    "an eager call with new `args` does not trace again": traced_once,
}


def cell(probe: Callable[[Peer], bool | None], peer: Peer) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = probe(peer)
    except NoBoundsError:
        return "no" if probe is bounded else "-"
    except Exception:
        return "no"
    return "-" if found is None else "yes" if found else "no"


def against_jaxopt() -> None:
    """The same runs with jaxopt's class and with ours."""
    import jaxopt

    single = np.full(10, -1.0, np.float32)
    runs = {
        "Rosenbrock, 4 variables": (
            rosenbrock, [-1.2, 1.0, -0.5, 0.3], (np.full(4, -2.0), np.array([0.5, 2.0, 0.8, 2.0])),
            {"maxiter": 500, "tol": 1e-8},
        ),
        "Rosenbrock, 10 variables, float32": (
            rosenbrock, single, (2 * single, -2 * single), {"maxiter": 500, "tol": 1e-4},
        ),
        "log(x)^2 from outside": (
            lambda x: jnp.sum(jnp.log(x) ** 2), [-1.0, 9.0], (np.full(2, 0.1), np.full(2, 5.0)),
            {"maxiter": 100, "tol": 1e-6},
        ),
        "unbounded below": (jnp.sum, [0.0, 0.0], None, {"maxiter": 100, "tol": 1e-6}),
    }  # fmt: skip
    for name, (fun, x0, bounds, options) in runs.items():
        for library in (jaxopt, jaxlbfgsb):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _, state = library.LBFGSB(fun, **options).run(jnp.asarray(x0), bounds)
            print(
                f"{name}; {library.__name__}: {state.iter_num} iterations, "
                f"{state.num_fun_eval} evaluations, value {state.value:.3g}, "
                f"error {state.error:.2g}, reason {getattr(state, 'reason', 'not told')}"
            )


def main(names: list[str]) -> None:
    jax.config.update("jax_enable_x64", True)
    if names == ["--jaxopt"]:
        against_jaxopt()
        return
    chosen = {name: peer for name, peer in PEERS.items() if not names or name in names}
    versions = [importlib.metadata.version(peer.package) for peer in chosen.values()]
    heads = [f"{name} {version}" for name, version in zip(chosen, versions, strict=True)]
    print(f"| | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 1) + "|")
    for question, probe in PROBES.items():
        cells = [cell(probe, peer) for peer in chosen.values()]
        print(f"| {question} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
