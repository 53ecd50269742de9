"""Which patients decide a fit: derivatives of a bounded solution in the data.

A nonnegative regression of the progression of diabetes on ten measurements (Efron et al. 2004,
in scikit-learn).  Its solution depends on the weight of each patient, and `minimize` is
differentiable: one Jacobian tells what leaving out each of the 442 patients would do to the
prediction for a new one.  The most influential five are then left out indeed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from rich import print
from rich.table import Table
from sklearn.datasets import load_diabetes

from jaxlbfgsb import minimize

DATA = load_diabetes()
FEATURES = DATA.data / DATA.data.std(0)
LOWER = np.append(np.zeros(10), -np.inf)  # the intercept is free
PATIENT = 0


def squares(coefficients, weights):
    predicted = FEATURES @ coefficients[:-1] + coefficients[-1]
    return jnp.sum(weights * (predicted - DATA.target) ** 2) / (2 * len(DATA.target))


def fit(weights):
    return minimize(squares, jnp.zeros(11), (weights,), bounds=(LOWER, None), gtol=1e-6, ftol=0)


def prediction(weights):
    coefficients = fit(weights).x
    return FEATURES[PATIENT] @ coefficients[:-1] + coefficients[-1]


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    everyone = jnp.ones(len(DATA.target))
    result = fit(everyone)
    used = [name for name, c in zip(DATA.feature_names, result.x[:-1], strict=True) if c > 0]
    print(f"{len(used)} of 10 coefficients are above zero:", ", ".join(used))

    influence = -jax.jit(jax.grad(prediction))(everyone)
    before = prediction(everyone)
    table = Table("patient", "change of the prediction, derivative", "left out indeed")
    changes = []
    for patient in np.argsort(-np.abs(influence))[:5]:
        changes.append(prediction(everyone.at[patient].set(0.0)) - before)
        table.add_row(str(patient), f"{influence[patient]:+.3f}", f"{changes[-1]:+.3f}")
        np.testing.assert_allclose(influence[patient], changes[-1], rtol=0.1)
    print(table)
    assert result.success


if __name__ == "__main__":
    main()
