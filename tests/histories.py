"""Memories that hold a given history of correction pairs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.method import memory, model
from jaxlbfgsb.xla.products import dot


@jax.jit
def update(kept, s, y, sy, stores):
    return memory.update(kept, s, y, dot(y, y), sy, stores)


forget = jax.jit(memory.forget)
FORMS = {"compact": jax.jit(model.compact), "dense": jax.jit(model.dense)}
compact = FORMS["compact"]


@partial(jax.jit, static_argnums=(0, 1, 2))
def empty(n, m, dtype):
    return memory.empty(n, m, dtype)


def rounded(pairs, dtype):
    """The pairs as `dtype` holds them, in float64."""
    return [tuple(np.asarray(v, dtype).astype(np.float64) for v in pair) for pair in pairs]


def store(kept, pairs):
    """Update the memory with each pair in turn."""
    dtype = kept.pairs.dtype
    for s, y in pairs:
        kept = update(kept, *(np.asarray(v, dtype) for v in (s, y, s @ y)), np.True_)
    return kept


def memory_of(pairs, n, m, dtype):
    return store(empty(n, m, np.dtype(dtype)), pairs)


@jax.jit
def M(B):
    """The middle matrix itself."""
    k = len(B.W_transposed_times(jnp.zeros(width(B), B.scaling.dtype)))
    return B.M_times(jnp.eye(k, dtype=B.scaling.dtype))


def width(B):
    """The number of variables."""
    return len(B.matrix) if isinstance(B, model.Dense) else B.memory.pairs.shape[1]


@jax.jit
def transposed_W(B):
    return B.rows(jnp.arange(width(B)))


def W(B):
    """``W`` in float64."""
    return np.asarray(transposed_W(B), np.float64).T


def dense(B):
    """``theta I - W M W'`` in float64."""
    return float(B.theta) * np.eye(width(B)) - W(B) @ np.asarray(M(B), np.float64) @ W(B).T


def places(kept, m, stored):
    """Places in the ring of the last `kept` of `stored` pairs, oldest first."""
    return np.arange(stored - kept, stored) % m
