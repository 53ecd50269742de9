"""Hyperparameters of a Gaussian process: carbon dioxide at Mauna Loa.

Weekly measurements since 1958 (Keeling and Whorf, in statsmodels), here their means over
two months.  The kernel is the sum of three: a long rise, a yearly season that changes
slowly, and what is left with noise (after Rasmussen and Williams 2006, section 5.4.3).  Its
eight hyperparameters are fitted by marginal likelihood, each within bounds: without them the
lengths run off to where the likelihood is flat.  The last five years are held out and predicted.
"""

import jax
import jax.numpy as jnp
import numpy as np
from rich import print
from rich.table import Table
from statsmodels.datasets import co2

from jaxlbfgsb import minimize

# name: start, lower, upper; amplitudes in ppm, lengths in years
HYPERPARAMETERS = {
    "rise, amplitude": (10.0, 1.0, 200.0),
    "rise, length": (10.0, 5.0, 100.0),
    "season, amplitude": (1.0, 0.1, 10.0),
    "season, decay": (10.0, 1.0, 200.0),
    "season, smoothness": (1.0, 0.3, 5.0),
    "rest, amplitude": (1.0, 0.01, 5.0),
    "rest, length": (1.0, 0.1, 5.0),
    "noise": (1.0, 0.01, 2.0),
}


def data():
    weekly = co2.load_pandas().data["co2"].dropna()
    means = weekly.resample("2MS").mean().dropna()
    years = means.index.year.to_numpy() + (means.index.month.to_numpy()) / 12
    return years, means.to_numpy()


def kernel(h, a, b):
    r = a[:, None] - b[None, :]
    rise = h[0] ** 2 * jnp.exp(-0.5 * (r / h[1]) ** 2)
    wave = -2 * (jnp.sin(jnp.pi * r) / h[4]) ** 2
    season = h[2] ** 2 * jnp.exp(-0.5 * (r / h[3]) ** 2 + wave)
    rest = h[5] ** 2 * jnp.exp(-0.5 * (r / h[6]) ** 2)
    return rise + season + rest


def negative_log_likelihood(log_h, t, y):
    h = jnp.exp(log_h)
    covariance = kernel(h, t, t) + h[7] ** 2 * jnp.eye(len(t))
    factor = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
    return 0.5 * white @ white + jnp.sum(jnp.log(jnp.diag(factor)))


def predict(h, t, y, new):
    covariance = kernel(h, t, t) + h[7] ** 2 * jnp.eye(len(t))
    return kernel(h, new, t) @ jnp.linalg.solve(covariance, y)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    t, y = data()
    known = t < t[-1] - 5
    level = y[known].mean()
    measured = (t[known], y[known] - level)
    columns = zip(*HYPERPARAMETERS.values(), strict=True)
    start, lower, upper = (jnp.log(jnp.array(column)) for column in columns)
    result = minimize(negative_log_likelihood, start, measured, bounds=(lower, upper))

    table = Table("hyperparameter", "bounds", "start", "fitted")
    for (name, row), fitted in zip(HYPERPARAMETERS.items(), jnp.exp(result.x), strict=True):
        table.add_row(name, f"{row[1]:g} to {row[2]:g}", f"{row[0]:g}", f"{fitted:.3f}")
    errors = [
        np.sqrt(np.mean((predict(jnp.exp(log_h), *measured, t[~known]) + level - y[~known]) ** 2))
        for log_h in (start, result.x)
    ]
    table.add_row(
        "[bold]error of the prediction", "", f"{errors[0]:.2f} ppm", f"{errors[1]:.2f} ppm"
    )
    print(table)
    print(f"{result.nfev} evaluations. {result.message}")
    assert result.success
    assert errors[1] < errors[0] / 2


if __name__ == "__main__":
    main()
