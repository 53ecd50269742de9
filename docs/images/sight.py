"""The pictures of "Seeing what it does": ``python docs/images/sight.py`` (extra ``plot``)."""

import sys
from pathlib import Path

import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from jaxlbfgsb import minimize, minimize_batch, plot

START = jnp.array([-1.2, 1.0])
BOUNDS = (jnp.array([-1.5, -0.5]), jnp.array([0.6, 1.5]))


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def convergence():
    runs = {
        f"maxcor={pairs}": minimize(rosenbrock, -jnp.ones(20), maxcor=pairs, trace=300)
        for pairs in (1, 3, 10)
    }
    runs["maxiter=20"] = minimize(rosenbrock, 2 * jnp.ones(20), maxiter=20, trace=300)
    return plot.convergence(runs)


def batch():
    starts = np.random.default_rng(0).uniform(-2, 2, (500, 5)).astype(np.float32)
    return plot.batch(minimize_batch(rosenbrock, starts, maxiter=50, trace=60))


def path():
    result = minimize(rosenbrock, START, bounds=BOUNDS, trace=50, trace_x=True)
    return plot.path(rosenbrock, result, BOUNDS)


def profile():
    rng = np.random.default_rng(1)
    starts = rng.uniform(-2, 2, (40, 10)).astype(np.float32)
    evaluations = {}
    for pairs in (1, 3, 10):
        result = minimize_batch(rosenbrock, starts, maxcor=pairs, maxiter=150)
        evaluations[f"maxcor={pairs}"] = np.where(result.success, result.nfev, np.inf)
    return plot.profile(evaluations, xlabel="evaluations / fewest evaluations")


def main(folder):
    for draw in (convergence, batch, path, profile):
        figure = draw().figure
        target = folder / f"sight-{draw.__name__}.svg"
        with plt.rc_context({"svg.hashsalt": "jaxlbfgsb"}):  # the same picture, the same file
            figure.savefig(target, metadata={"Date": None})
        plt.close(figure)
        print(f"drawn: {target.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
