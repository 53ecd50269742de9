"""A small neural network in an optax loop, with weights that are kept in a box.

Bounded weights are a simple regulariser: no weight can blow up.  The loop is the usual one of
optax; only `value` is handed to the update in addition.  The data, measurements of breast
tumours, come with scikit-learn.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer

from jaxlbfgsb import Reason, lbfgsb

LOWER = {"inner": -0.3, "shift": -1.0, "outer": 0.0, "offset": None}
UPPER = {"inner": 0.3, "shift": 1.0, "outer": 5.0, "offset": None}


def tumours():
    """Standardised features and labels: 400 patients to fit, 169 to test."""
    features, labels = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    order = np.random.default_rng(0).permutation(len(labels))
    X, y = jnp.asarray(features[order], jnp.float32), jnp.asarray(labels[order], jnp.float32)
    return (X[:400], y[:400]), (X[400:], y[400:])


def logits(params, X):
    hidden = jnp.tanh(X @ params["inner"] + params["shift"])
    return hidden @ params["outer"] + params["offset"]


def loss(params, data):
    X, y = data
    return optax.sigmoid_binary_cross_entropy(logits(params, X), y).mean()


def train(data):
    params = {
        "inner": jax.random.uniform(jax.random.key(0), (30, 4), minval=-0.3, maxval=0.3),
        "shift": jnp.zeros(4),
        "outer": jnp.ones(4),
        "offset": jnp.zeros(()),
    }
    optimizer = lbfgsb(bounds=(LOWER, UPPER))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params, data)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state

    while not state.done:
        params, state = step(params, state)
    return params, state


def main():
    seen, unseen = tumours()
    params, state = train(seen)
    accuracy = jnp.mean((logits(params, unseen[0]) > 0) == (unseen[1] > 0.5))
    on_bound = jnp.mean(jnp.abs(params["inner"]) == jnp.float32(0.3))
    print(f"{Reason(int(state.reason)).name} after {state.nfev} evaluations")
    print(f"loss {loss(params, seen):.4f}, accuracy on patients not seen {accuracy:.3f}")
    print(f"inner weights on a bound, exactly: {on_bound:.0%}")

    assert bool(jnp.all(jnp.abs(params["inner"]) <= jnp.float32(0.3)))
    assert bool(jnp.all(params["outer"] >= 0))
    assert on_bound > 0.1
    assert accuracy > 0.95


if __name__ == "__main__":
    main()
