"""Many problems at once: the front door for thousands of lanes.

Lanes go to the device in blocks of one size, so that memory is bounded and one program
serves all.  On a CPU as many blocks run at a time as there are cores, each in a thread.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import Bounds

from jaxlbfgsb.blocks import BatchProblem, solve_in_step, solve_in_turn
from jaxlbfgsb.options import checked_maxcor, checked_options
from jaxlbfgsb.program.recent import Recent
from jaxlbfgsb.program.tracing import Returns
from jaxlbfgsb.program.tracing import trace as traced
from jaxlbfgsb.pytrees import checked_bounds, checked_x0, dtype_of
from jaxlbfgsb.result import OptimizeResult
from jaxlbfgsb.sight.progress import new_bar
from jaxlbfgsb.sight.recording import checked_trace
from jaxlbfgsb.types import PyTree

CPU_BLOCK = 1024
"""Lanes of a block on CPU."""
BLOCK_BYTES = 1 << 30
"""Of the histories of a block on an accelerator."""


def minimize_batch(
    fun: Callable[..., Any],
    x0: PyTree,
    args: tuple[PyTree, ...] = (),
    *,
    in_axes: tuple[Any, Any, Any] = (0, 0, 0),
    bounds: Any = None,
    maxcor: int = 10,
    ftol: Any = None,
    gtol: Any = None,
    gtol_rel: Any = 0.0,
    maxiter: Any = 15000,
    maxfun: Any = 15000,
    maxls: Any = 20,
    value_and_grad: bool = False,
    has_aux: bool = False,
    progress: bool = False,
    trace: int | None = None,
    trace_x: bool = False,
) -> OptimizeResult:
    """Minimise one function from many starts, on many data sets, in many boxes.

    Every lane is a solve of its own, with its own status and counts; a lane that fails or
    meets NaN harms no other.  `jax.vmap` of `minimize` computes the same inside of a
    larger program; this streams, on all cores, and shows its progress.

    Parameters
    ----------
    fun
        ``fun(x, *args)`` of one lane, as for `minimize`.
    x0, args, bounds
        As for `minimize`, with a lane axis where `in_axes` says so.
    in_axes
        The lane axes of x0, args and bounds, as for `jax.vmap`: an int, None, or a pytree
        of these for each.  A bound that is a scalar or None is that of all lanes.
    maxcor, ftol, gtol, gtol_rel, maxiter, maxfun, maxls, value_and_grad, has_aux
        As for `minimize`; the same for all lanes.
    progress
        Show a bar of lanes done; needs the package tqdm.
    trace, trace_x
        As for `minimize`: ``result.trace[3].table()`` is what lane 3 did.

    Returns
    -------
    OptimizeResult
        With a leading lane axis on every field; `hess_inv` is None, since the histories
        of a batch are many times larger than its solutions.

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense.  Bounds of a lane that no point satisfies end in
        the `reason` of that lane.
    ImportError
        For ``progress=True`` without tqdm.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import minimize_batch
    >>> def fun(x, a):
    ...     return jnp.sum((x - a) ** 2)
    >>> result = minimize_batch(fun, jnp.zeros((3, 2)), (jnp.arange(3.0),), bounds=(0.0, 1.5))
    >>> result.x[:, 0].tolist(), result.success.tolist()
    ([0.0, 1.0, 1.5], [True, True, True])
    """
    if not (isinstance(in_axes, tuple) and len(in_axes) == 3):
        raise ValueError(
            f"in_axes must be a tuple of three, for x0, args and bounds; it is {in_axes!r}."
        )
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple; it is a {type(args).__name__}. Write args=(a,).")
    if isinstance(bounds, Bounds):
        bounds = (bounds.lb, bounds.ub)
    batch = _lanes_first((x0, args, bounds), in_axes)
    in_turn = jax.default_backend() == "cpu"
    if in_turn:
        batch = batch.on_host()
    x_lane, args_lane, bounds_lane = batch.lane(0)
    x_lane = checked_x0(x_lane)
    sides = checked_bounds(bounds_lane, x_lane)
    m = checked_maxcor(maxcor)
    dtype = dtype_of(x_lane)
    options = checked_options(dtype, ftol, gtol, gtol_rel, maxiter, maxfun, maxls)
    returns = Returns(gradient=value_and_grad, aux=has_aux)
    program, data = traced(fun, x_lane, args_lane, returns, sides)

    recording = checked_trace(trace, trace_x)
    problem = BatchProblem(program, m, batch.tree, batch.mapped, recording)
    solve_block = solve_in_turn if in_turn else solve_in_step
    n = sum(leaf.size for leaf in jax.tree.leaves(x_lane))
    size = _block_size(batch.size, 2 * m * n * dtype.itemsize, in_turn)

    settings = _Settings.of_this_thread()
    starts = range(0, batch.size, size)
    bar = new_bar("problem", batch.size) if progress else contextlib.nullcontext()
    done: dict[int, OptimizeResult] = {}
    left = iter(starts)

    def solve_blocks(most: int | None = None) -> None:
        """One block after the other, as long as there are any; a failure ends it for all."""
        try:
            for start in itertools.islice(left, most):
                leaves = batch.block(start, size)
                with settings.applied():
                    done[start] = jax.block_until_ready(
                        solve_block(problem, data.consts, leaves, options)
                    )
                if shown is not None:
                    shown.update(min(size, batch.size - start))
        except BaseException:
            collections.deque(left, maxlen=0)
            raise

    helpers = min(os.cpu_count() or 1, len(starts)) - 1 if in_turn else 0
    with bar as shown, ThreadPoolExecutor(max(helpers, 1)) as threads:
        key = (problem, size, settings)
        if not _compiled.get(key):  # one thread compiles for all
            solve_blocks(1)
            _compiled.put(key, True)
        helping = [threads.submit(solve_blocks) for _ in range(helpers)]
        solve_blocks()
        for helper in helping:
            helper.result()
    blocks = (done[start] for start in starts)
    return jax.device_put(jax.tree.map(lambda *of: _joined(of, batch.size, in_turn), *blocks))


def _joined(parts: tuple[jax.Array, ...], size: int, on_cpu: bool) -> np.ndarray | jax.Array:
    """The blocks of one array of the result, without what fills up the last one."""
    if on_cpu and _is_plain(parts[0]):  # a copy, where JAX would dispatch programs
        return np.concatenate([np.asarray(part) for part in parts])[:size]
    return jnp.concatenate(parts)[:size]


def _is_plain(array: Any) -> bool:
    """True for what NumPy can look at where it lies: numbers, in the memory of the host."""
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.extended)
    return not (is_key or isinstance(array, jax.core.Tracer))


_compiled: Recent[bool] = Recent(1024)


class _Settings(NamedTuple):
    """The settings of JAX that belong to a thread."""

    enable_x64: bool
    default_device: Any

    @classmethod
    def of_this_thread(cls) -> _Settings:
        return cls(*(getattr(jax.config, f"jax_{name}") for name in cls._fields))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        with jax.enable_x64(self.enable_x64), jax.default_device(self.default_device):
            yield


class _Batch(NamedTuple):
    """Leaves of ``(x0, args, bounds)``, the mapped ones with their lanes first."""

    leaves: list[Any]
    tree: Any
    mapped: tuple[bool, ...]
    size: int

    def lane(self, i: int) -> Any:
        leaves = [x[i] if m else x for x, m in zip(self.leaves, self.mapped, strict=True)]
        return jax.tree.unflatten(self.tree, leaves)

    def on_host(self) -> _Batch:
        """With mapped leaves that NumPy can cut up, which copies and compiles nothing."""
        leaves = [
            np.asarray(leaf) if is_mapped and _is_plain(leaf) else leaf
            for leaf, is_mapped in zip(self.leaves, self.mapped, strict=True)
        ]
        return self._replace(leaves=leaves)

    def block(self, start: int, size: int) -> list[Any]:
        """Lanes from `start` on; past the end, the last one again."""
        part: Any = slice(start, start + size)
        if start + size > self.size:
            part = np.minimum(np.arange(start, start + size), self.size - 1)
        return [x[part] if m else x for x, m in zip(self.leaves, self.mapped, strict=True)]


def _lanes_first(given: tuple[Any, Any, Any], in_axes: tuple[Any, Any, Any]) -> _Batch:
    leaves, tree = jax.tree.flatten(given)
    shared = object()  # for None, which is no leaf
    axes = jax.tree.map(lambda a: shared if a is None else a, in_axes, is_leaf=lambda a: a is None)
    try:
        axes = jax.tree.leaves(jax.tree.broadcast(axes, given))
    except ValueError as error:
        raise ValueError(f"in_axes does not fit (x0, args, bounds): {error}") from None
    first_bound = len(leaves) - len(jax.tree.leaves(given[2]))
    mapped, sizes = [], set()
    for i, (leaf, axis) in enumerate(zip(leaves, axes, strict=True)):
        is_mapped = axis is not shared and not (i >= first_bound and np.ndim(leaf) == 0)
        mapped.append(is_mapped)
        if not is_mapped:
            continue
        if not -np.ndim(leaf) <= axis < np.ndim(leaf):
            raise ValueError(
                f"in_axes asks for axis {axis} of an array of shape {np.shape(leaf)}; give None "
                "in in_axes for what all lanes share."
            )
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        sizes.add(array.shape[axis])
        leaves[i] = array if axis == 0 else jnp.moveaxis(array, axis, 0)
    if len(sizes) != 1 or sizes == {0}:
        found = f"the lengths {sorted(sizes)}" if sizes else "none"
        raise ValueError(
            f"All lane axes must have one length, at least 1; found: {found}. Give None in "
            "in_axes for what all lanes share, such as in_axes=(None, 0, None)."
        )
    return _Batch(leaves, tree, tuple(mapped), sizes.pop())


def _block_size(lanes: int, lane_bytes: int, in_turn: bool) -> int:
    """Equal blocks; on CPU as many for each core."""
    cores = (os.cpu_count() or 1) if in_turn else 1
    largest = CPU_BLOCK if in_turn else max(1, BLOCK_BYTES // lane_bytes)
    count = -(-lanes // largest)
    return -(-lanes // min(-(-count // cores) * cores, lanes))
