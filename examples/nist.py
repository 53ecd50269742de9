"""Nonlinear regression against certified values: four data sets of NIST's StRD.

The Statistical Reference Datasets of the National Institute of Standards and Technology
(public domain, https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml) come with estimates
certified to eleven digits, and with two starts, a far one and a near one.  All parameters
are positive here, which the bounds say.  From the far start two of the four end in another
minimum, as NIST warns: there, start from many points.

What is minimised is ``log(residual sum of squares)``, the likelihood with the variance
profiled out: its size does not depend on the units of the data.  The parameters are counted
in multiples of their start, so that none is a thousand times another.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich import print
from rich.table import Table

from jaxlbfgsb import minimize


class Problem(NamedTuple):
    name: str
    model: object
    starts: tuple
    certified: tuple
    x: list
    y: list


PROBLEMS = (
    Problem(
        "Misra1a",
        lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
        starts=([500, 1e-4], [250, 5e-4]),
        certified=(2.3894212918e02, 5.5015643181e-04),
        x=[
            77.6,
            114.9,
            141.1,
            190.8,
            239.9,
            289,
            332.8,
            378.4,
            434.8,
            477.3,
            536.8,
            593.1,
            689.1,
            760,
        ],
        y=[
            10.07,
            14.73,
            17.94,
            23.93,
            29.61,
            35.18,
            40.02,
            44.82,
            50.76,
            55.05,
            61.01,
            66.4,
            75.47,
            81.78,
        ],
    ),
    Problem(
        "Thurber",
        lambda b, x: jnp.polyval(b[3::-1], x) / (1 + x * jnp.polyval(b[:3:-1], x)),
        starts=([1000, 1000, 400, 40, 0.7, 0.3, 0.03], [1300, 1500, 500, 75, 1, 0.4, 0.05]),
        certified=(
            1.2881396800e03,
            1.4910792535e03,
            5.8323836877e02,
            7.5416644291e01,
            9.6629502864e-01,
            3.9797285797e-01,
            4.9727297349e-02,
        ),
        x=[
            -3.067,
            -2.981,
            -2.921,
            -2.912,
            -2.84,
            -2.797,
            -2.702,
            -2.699,
            -2.633,
            -2.481,
            -2.363,
            -2.322,
            -1.501,
            -1.46,
            -1.274,
            -1.212,
            -1.1,
            -1.046,
            -0.915,
            -0.714,
            -0.566,
            -0.545,
            -0.4,
            -0.309,
            -0.109,
            -0.103,
            0.01,
            0.119,
            0.377,
            0.79,
            0.963,
            1.006,
            1.115,
            1.572,
            1.841,
            2.047,
            2.2,
        ],
        y=[
            80.574,
            84.248,
            87.264,
            87.195,
            89.076,
            89.608,
            89.868,
            90.101,
            92.405,
            95.854,
            100.696,
            101.06,
            401.672,
            390.724,
            567.534,
            635.316,
            733.054,
            759.087,
            894.206,
            990.785,
            1090.109,
            1080.914,
            1122.643,
            1178.351,
            1260.531,
            1273.514,
            1288.339,
            1327.543,
            1353.863,
            1414.509,
            1425.208,
            1421.384,
            1442.962,
            1464.35,
            1468.705,
            1447.894,
            1457.628,
        ],
    ),
    Problem(
        "MGH09",
        lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
        starts=([25, 39, 41.5, 39], [0.25, 0.39, 0.415, 0.39]),
        certified=(1.9280693458e-01, 1.9128232873e-01, 1.2305650693e-01, 1.3606233068e-01),
        x=[
            4,
            2,
            1,
            0.5,
            0.25,
            0.167,
            0.125,
            0.1,
            0.0833,
            0.0714,
            0.0625,
        ],
        y=[
            0.1957,
            0.1947,
            0.1735,
            0.16,
            0.0844,
            0.0627,
            0.0456,
            0.0342,
            0.0323,
            0.0235,
            0.0246,
        ],
    ),
    Problem(
        "Eckerle4",
        lambda b, x: b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
        starts=([1, 10, 500], [1.5, 5, 450]),
        certified=(1.5543827178e00, 4.0888321754e00, 4.5154121844e02),
        x=[
            400,
            405,
            410,
            415,
            420,
            425,
            430,
            435,
            436.5,
            438,
            439.5,
            441,
            442.5,
            444,
            445.5,
            447,
            448.5,
            450,
            451.5,
            453,
            454.5,
            456,
            457.5,
            459,
            460.5,
            462,
            463.5,
            465,
            470,
            475,
            480,
            485,
            490,
            495,
            500,
        ],
        y=[
            0.0001575,
            0.0001699,
            0.000235,
            0.0003102,
            0.0004917,
            0.000871,
            0.0017418,
            0.00464,
            0.0065895,
            0.0097302,
            0.0149002,
            0.023731,
            0.0401683,
            0.0712559,
            0.1264458,
            0.2073413,
            0.2902366,
            0.3445623,
            0.3698049,
            0.3668534,
            0.3106727,
            0.2078154,
            0.1164354,
            0.0616764,
            0.03372,
            0.0194023,
            0.0117831,
            0.0074357,
            0.0022732,
            0.00088,
            0.0004579,
            0.0002345,
            0.0001586,
            0.0001143,
            7.1e-05,
        ],
    ),
)


def fit(problem, start):
    start, x, y = (jnp.array(values, float) for values in (start, problem.x, problem.y))

    def log_rss(multiples):
        residuals = y - problem.model(start * multiples, x)
        return jnp.log(residuals @ residuals)

    result = minimize(
        log_rss, jnp.ones_like(start), bounds=(0, None), gtol=1e-8, ftol=0, maxiter=1000
    )
    return start * result.x, result


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    table = Table("data", "start", "evaluations", "sum of squares", "correct digits")
    for problem in PROBLEMS:
        correct = []
        for name, start in zip(("far", "near"), problem.starts, strict=True):
            b, result = fit(problem, start)
            correct.append(-np.log10(np.max(np.abs(b / np.array(problem.certified) - 1))))
            found = f"{correct[-1]:.1f}" if correct[-1] > 0 else "another minimum"
            row = problem.name, name, str(result.nfev), f"{np.exp(result.fun):.10e}", found
            table.add_row(*row)
            assert result.success, result.message
        assert correct[1] > 6, problem.name
    print(table)


if __name__ == "__main__":
    main()
