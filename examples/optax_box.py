"""A small neural network in an optax loop, with weights that are kept in a box.

Bounded weights are a simple regulariser: no weight can blow up.  The loop is the usual one of
optax; only `value` is handed to the update in addition.  The data, breast tumours, come with
scikit-learn.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer

from jaxlbfgsb import Reason, lbfgsb

features, labels = load_breast_cancer(return_X_y=True)
features = (features - features.mean(axis=0)) / features.std(axis=0)
order = np.random.default_rng(0).permutation(len(labels))
train, test = order[:400], order[400:]
X, y = jnp.asarray(features, jnp.float32), jnp.asarray(labels, jnp.float32)


def logits(params, x):
    hidden = jnp.tanh(x @ params["inner"] + params["shift"])
    return hidden @ params["outer"] + params["offset"]


def loss(params):
    return optax.sigmoid_binary_cross_entropy(logits(params, X[train]), y[train]).mean()


params = {
    "inner": jax.random.uniform(jax.random.key(0), (30, 4), minval=-0.3, maxval=0.3),
    "shift": jnp.zeros(4),
    "outer": jnp.full(4, 0.1),
    "offset": jnp.zeros(()),
}
optimizer = lbfgsb(bounds=({"inner": -0.3, "shift": -1.0, "outer": 0.0, "offset": None}, 1.0))
state = optimizer.init(params)


@jax.jit
def step(params, state):
    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state, params, value=value)
    return optax.apply_updates(params, updates), state


for _ in range(500):
    params, state = step(params, state)
    if state.done:
        break

accuracy = jnp.mean((logits(params, X[test]) > 0) == (y[test] > 0.5))
print(f"{Reason(int(state.reason)).name} after {state.machine.nfev} evaluations")
print(f"loss {loss(params):.4f}, accuracy on data not seen {accuracy:.3f}")
print(f"weights on a bound: {jnp.mean(jnp.isin(params['inner'], jnp.array([-0.3, 1.0]))):.0%}")
assert state.done
assert jnp.all(params["inner"] >= jnp.float32(-0.3))
assert jnp.all(params["outer"] >= 0)
assert accuracy > 0.95
