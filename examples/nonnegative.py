"""Nonnegative least squares: which images make up another one.

Each handwritten digit of the second half of scikit-learn's set is written as a sum of digits
of the first half, with weights of at least zero.  Few weights are above zero, and those
tell the class.  Checked against SciPy's `nnls`, an active-set method for this problem alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
from rich import print
from rich.table import Table
from scipy.optimize import nnls
from sklearn.datasets import load_digits

from jaxlbfgsb import minimize_batch

KNOWN, NEW = 300, 100


def squares(weights, known, image):
    residual = weights @ known - image
    return 0.5 * residual @ residual


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    digits = load_digits()
    images = digits.data / np.linalg.norm(digits.data, axis=1, keepdims=True)
    known, labels = images[:KNOWN], digits.target[:KNOWN]
    new, truth = images[-NEW:], digits.target[-NEW:]

    result = minimize_batch(
        squares,
        jnp.zeros(KNOWN),
        (known, new),
        in_axes=(None, (None, 0), None),
        bounds=(0.0, None),
        gtol=1e-6,
        ftol=0,
    )
    votes = result.x @ np.eye(10)[labels]
    correct = np.mean(np.argmax(votes, axis=1) == truth)
    best = np.array([nnls(known.T, image)[1] ** 2 / 2 for image in new])

    table = Table("digit", "images", "weights above zero, mean", "classified right")
    for digit in range(10):
        of = truth == digit
        active = np.mean(np.sum(result.x[of] > 0, axis=1))
        share = np.mean(np.argmax(votes[of], axis=1) == digit)
        table.add_row(str(digit), str(of.sum()), f"{active:.0f} of {KNOWN}", f"{share:.0%}")
    print(table)
    excess = np.max(result.fun - best)
    print(f"{correct:.0%} right; at most {excess:.0e} above the sum of squares of scipy's nnls")
    assert result.success.all()
    assert excess < 1e-6
    assert correct > 0.9


if __name__ == "__main__":
    main()
