"""The maximum a posteriori of a NumPyro model, with its supports as bounds.

Ten coefficients that may not be negative have truncated normal priors; the posterior of some
is highest at zero.  Optimisers on unconstrained space never get there: they send the logarithm
to minus infinity, and the Jacobian of that transform moves the maximum besides.  Bounds need
no transform.  Data: the progression of diabetes (Efron et al. 2004, in scikit-learn).
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import seed, trace
from numpyro.infer.util import log_density
from rich import print
from rich.table import Table
from sklearn.datasets import load_diabetes

from jaxlbfgsb import minimize

DATA = load_diabetes()
FEATURES = DATA.data / DATA.data.std(0)
TARGET = (DATA.target - DATA.target.mean()) / DATA.target.std()


def model(features, target=None):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1.0))
    # Not HalfNormal, to which zero itself does not belong in NumPyro.
    prior = dist.TruncatedNormal(jnp.zeros(10), 0.2, low=0.0)
    weights = numpyro.sample("weights", prior.to_event(1))
    noise = numpyro.sample("noise", dist.Uniform(0.05, 2.0))
    mean = intercept + features @ weights
    numpyro.sample("target", dist.Normal(mean, noise), obs=target)


def bounds_of(model, *args):
    """The support of each unobserved site as a pair of dictionaries: lower, upper."""
    sites = trace(seed(model, jax.random.key(0))).get_trace(*args)
    latent = {k: s for k, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}

    def side(site, name, otherwise):
        support = site["fn"].support
        return getattr(getattr(support, "base_constraint", support), name, otherwise)

    lower = {name: side(site, "lower_bound", -jnp.inf) for name, site in latent.items()}
    upper = {name: side(site, "upper_bound", jnp.inf) for name, site in latent.items()}
    return lower, upper


def negative_log_posterior(parameters, features, target):
    return -log_density(model, (features, target), {}, parameters)[0]


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    lower, upper = bounds_of(model, FEATURES, TARGET)
    start = {"intercept": jnp.array(0.0), "weights": jnp.full(10, 0.1), "noise": jnp.array(1.0)}
    result = minimize(negative_log_posterior, start, (FEATURES, TARGET), bounds=(lower, upper))

    table = Table("parameter", "highest posterior", "")
    zeros = result.active["weights"] == -1
    for name, weight, zero in zip(DATA.feature_names, result.x["weights"], zeros, strict=True):
        table.add_row(f"weight of {name}", f"{weight:.3f}", "on its bound" if zero else "")
    table.add_row("noise", f"{result.x['noise']:.3f}", "")
    print(table)
    print(result.message)

    # With the noise given this is a nonnegative ridge regression: a convex problem,
    # at whose solution the gradient vanishes or points out of the box.
    slopes = FEATURES.T @ (FEATURES @ result.x["weights"] + result.x["intercept"] - TARGET)
    slopes = slopes / result.x["noise"] ** 2 + result.x["weights"] / 0.2**2
    assert result.success
    assert 0 < zeros.sum() < 10
    assert np.all(np.abs(slopes[~zeros]) < 1e-2)
    assert np.all(slopes[zeros] > 0)


if __name__ == "__main__":
    main()
