"""How fast an enzyme works: a bounded fit to measured data, through both front doors.

The data are the initial rates of an enzymatic reaction against the concentration of the
substrate, for cells treated with puromycin and untreated ones (Treloar 1974; in Bates and
Watts, Nonlinear Regression Analysis, 1988).  The model is Hill's equation,

    rate = V c^h / (K^h + c^h),

with a largest rate V, a half-saturation K and an exponent h, which for sites that help
each other lies between 1 and their number.  Here the data push h against its bound 1:
what remains is the equation of Michaelis and Menten, with the published estimates.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb import fmin_l_bfgs_b, minimize

DATA = {
    "treated": (
        [0.02, 0.02, 0.06, 0.06, 0.11, 0.11, 0.22, 0.22, 0.56, 0.56, 1.10, 1.10],
        [76, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200],
    ),
    "untreated": (
        [0.02, 0.02, 0.06, 0.06, 0.11, 0.11, 0.22, 0.22, 0.56, 0.56, 1.10],
        [67, 51, 84, 86, 98, 115, 131, 124, 144, 158, 160],
    ),
}
PUBLISHED = {"treated": (212.68, 0.06412), "untreated": (160.28, 0.04771)}
START = np.array([100.0, 0.5, 2.0])
LOWER = np.array([0.0, 1e-3, 1.0])
UPPER = np.array([500.0, 10.0, 4.0])


def mean_square(parameters, concentration, rate):
    """Mean squared residual in (counts / min^2)^2, written with JAX: its gradient is exact."""
    V, K, h = parameters
    predicted = V * concentration**h / (K**h + concentration**h)
    return jnp.mean((rate - predicted) ** 2)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    print("cells      front door            V        K      h  mean sq.  evaluations")
    for cells, columns in DATA.items():
        concentration, rate = (np.array(column) for column in columns)

        result = minimize(mean_square, START, (concentration, rate), bounds=(LOWER, UPPER))
        rows = [("minimize", result.x, float(result.fun), int(result.nfev))]

        x, f, d = fmin_l_bfgs_b(
            mean_square,
            START,
            args=(concentration, rate),
            bounds=list(zip(LOWER, UPPER, strict=True)),
        )
        rows.append(("fmin_l_bfgs_b", x, f, d["funcalls"]))

        for door, (V, K, h), fun, nfev in rows:
            print(f"{cells:<10} {door:<14} {V:8.2f} {K:8.4f} {h:6.3f} {fun:9.3f}  {nfev}")
        assert result.success, result.message
        assert d["warnflag"] == 0, d["task"]
        assert x[2] == result.x[2] == 1.0
        np.testing.assert_allclose(x[:2], PUBLISHED[cells], rtol=1e-3)
        np.testing.assert_allclose(result.x, x, rtol=1e-6)


if __name__ == "__main__":
    main()
