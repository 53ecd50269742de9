"""A simulator that knows nothing of JAX: predators and prey, by ask and tell.

Pelts of hares and lynx bought by the Hudson's Bay Company, 1900 to 1920, in thousands, and the
equations of Lotka and Volterra, integrated by SciPy.  Rates and first populations are bounded:
the simulator never sees a point outside.  Its gradient is by differences, taken
inwards at a bound.  The run is saved half-way and resumed, as a job with a time limit would.

Data: Elton and Nicholson (1942), as tabled by Howard (2009).  Published estimates: Carpenter
(2018), "Predator-Prey Population Dynamics", the posterior means of a model close to this one.
"""

import pathlib
import tempfile

import numpy as np
from rich import print
from rich.table import Table
from scipy.integrate import solve_ivp

from jaxlbfgsb import AskTell

# fmt: off
HARES = [30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1, 40.3, 57,
         76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
LYNX = [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3,
        19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6]
# fmt: on
PELTS = np.array([HARES, LYNX])
NAMES = ["hares: births", "hares: eaten", "lynx: deaths", "lynx: fed", "hares 1900", "lynx 1900"]
PUBLISHED = [0.55, 0.028, 0.80, 0.024, 34.0, 5.9]
START = np.array([0.5, 0.02, 1.0, 0.02, 30.0, 4.0])
LOWER = np.array([0.1, 0.005, 0.1, 0.005, 5.0, 1.0])
UPPER = np.array([2.0, 0.100, 2.0, 0.100, 80.0, 20.0])


def simulate(p):
    births, eaten, deaths, fed, *first = p

    def rates(_, z):
        hares, lynx = z
        return (births - eaten * lynx) * hares, (fed * hares - deaths) * lynx

    years = np.arange(PELTS.shape[1])
    return solve_ivp(rates, (0, years[-1]), first, t_eval=years, rtol=1e-9, atol=1e-9).y


def misfit(multiples):
    return np.sum((np.log(simulate(multiples * START)) - np.log(PELTS)) ** 2)


def misfit_and_gradient(x, upper):
    value = misfit(x)
    steps = np.where(x + 1e-6 <= upper, 1e-6, -1e-6)
    moved = [misfit(x + step * e) for step, e in zip(steps, np.eye(len(x)), strict=True)]
    return value, (np.array(moved) - value) / steps


def run(solver, upper, evaluations):
    """Go on until the end, or until the budget is spent."""
    while not solver.done and solver.result().nfev < evaluations:
        solver.tell(*misfit_and_gradient(solver.ask(), upper), evaluations=len(START) + 1)


def main() -> None:
    # The parameters as multiples of their start, so that none is a thousand times another.
    lower, upper = LOWER / START, UPPER / START
    solver = AskTell(np.ones(len(START)), bounds=(lower, upper), gtol=1e-4)
    run(solver, upper, evaluations=60)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "run.npz")
        solver.save(file)
        resumed = AskTell.load(file)
    run(resumed, upper, evaluations=10_000)
    result = resumed.result()

    table = Table("", "start", "fitted", "published")
    fitted = result.x * START
    for row in zip(NAMES, START, fitted, PUBLISHED, strict=True):
        table.add_row(row[0], *(f"{value:.3g}" for value in row[1:]))
    print(table)
    deviation = np.sqrt(result.fun / PELTS.size)
    print(f"{result.nfev} simulations; pelts are off by a factor of {np.exp(deviation):.2f}")
    print(result.message)
    assert result.success
    np.testing.assert_allclose(fitted, PUBLISHED, rtol=0.1)


if __name__ == "__main__":
    main()
