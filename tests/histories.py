"""Memories that hold a given history of correction pairs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb import memory

update = jax.jit(memory.update)
forget = jax.jit(memory.forget)
compact = jax.jit(memory.compact)


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
        sy = jnp.asarray(s @ y, dtype)
        kept = update(kept, jnp.asarray(s, dtype), jnp.asarray(y, dtype), sy, jnp.asarray(True))
    return kept


def memory_of(pairs, n, m, dtype):
    return store(empty(n, m, np.dtype(dtype)), pairs)


@jax.jit
def M(B):
    """The middle matrix itself."""
    return memory.M_times(B, jnp.eye(len(B.scale), dtype=B.scale.dtype))


def dense(B):
    """``theta I - W M W'`` in float64."""
    W = (np.asarray(B.pairs, np.float64) * np.asarray(B.scale, np.float64)[:, None]).T
    return float(B.theta) * np.eye(len(W)) - W @ np.asarray(M(B), np.float64) @ W.T


def places(kept, m, stored):
    """Places in the ring of the last `kept` of `stored` pairs, oldest first."""
    return np.arange(stored - kept, stored) % m
