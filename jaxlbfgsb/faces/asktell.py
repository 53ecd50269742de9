"""Ask and tell: the machine of `core` for functions that live anywhere."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.method.core import advance
from jaxlbfgsb.method.ending import halt
from jaxlbfgsb.method.state import Event, Options, Phase, Run, init, is_small
from jaxlbfgsb.options import checked_maxcor, checked_options, strict_options
from jaxlbfgsb.precision import precision_of
from jaxlbfgsb.pytrees import BoundLeaves, checked_bounds, checked_x0, raveled_box
from jaxlbfgsb.result import OptimizeResult, result_of
from jaxlbfgsb.status import TABLE, Reason
from jaxlbfgsb.xla.kernel import one_kernel
from jaxlbfgsb.xla.packing import PackedTree


def _packed(run: Run) -> PackedTree[Run]:
    """In as few arrays as can be; none that is large is copied."""
    return PackedTree.of(run, scalars_only=not is_small(run.state, run.box))


# Each is one program: to dispatch its operations one by one takes longer than many a run.


@functools.partial(jax.jit, static_argnums=0)
def _begin(
    m: int, x0: jax.Array, lower: BoundLeaves, upper: BoundLeaves, options: Options
) -> PackedTree[Run]:
    box = raveled_box(lower, upper, [x0])
    return _packed(Run(init(x0.ravel(), box, m), box, strict_options(options, x0.dtype)))


@functools.partial(jax.jit, donate_argnums=0)
def _advance(run: PackedTree[Run], told: jax.Array, evaluations: jax.Array) -> PackedTree[Run]:
    """Given the value and the gradient in one array."""

    def step(run: PackedTree[Run], told: jax.Array, evaluations: jax.Array) -> PackedTree[Run]:
        state, box, options = run.tree
        state = advance(state, told[0], told[1:], box, options, evaluations)
        return _packed(Run(state, box, options))

    return (step if run.packing.arrays else one_kernel(step))(run, told, evaluations)


@jax.jit
def _halt(run: PackedTree[Run]) -> PackedTree[Run]:
    state, box, options = run.tree
    return _packed(Run(halt(state), box, options))


@jax.jit
def _result(run: PackedTree[Run]) -> OptimizeResult:
    return result_of(*run.tree)


class AskTell:
    """L-BFGS-B for a function of any kind: a simulator, a service, another framework.

    Ask for a point, evaluate the function and its gradient there, tell them; until done.

    Parameters
    ----------
    x0
        The start, a float32 or float64 array of any shape.  float64 stays float64
        whatever JAX's global setting.
    bounds, maxcor, ftol, gtol, gtol_rel, maxiter, maxfun, maxls
        As in `jaxlbfgsb.minimize`.

    Raises
    ------
    TypeError, ValueError
        As `jaxlbfgsb.minimize`.

    Examples
    --------
    >>> import numpy as np
    >>> from jaxlbfgsb import AskTell
    >>> solver = AskTell(np.array([3.0, -1.0]), bounds=(0.5, None))
    >>> while not solver.done:
    ...     x = solver.ask()
    ...     solver.tell(np.sum(x**2), 2 * x)
    >>> solver.result().x.tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        x0: Any,
        *,
        bounds: Any = None,
        maxcor: int = 10,
        ftol: Any = None,
        gtol: Any = None,
        gtol_rel: Any = 0.0,
        maxiter: Any = 15000,
        maxfun: Any = 15000,
        maxls: Any = 20,
    ) -> None:
        x0 = checked_x0(x0)
        if not isinstance(x0, np.ndarray | jax.Array):
            raise TypeError(
                "AskTell wants x0 to be one array; ravel a pytree first, with "
                "jax.flatten_util.ravel_pytree."
            )
        x0 = np.asarray(x0)
        with precision_of(x0.dtype):
            lower, upper = checked_bounds(bounds, x0)
            options = checked_options(x0.dtype, ftol, gtol, gtol_rel, maxiter, maxfun, maxls)
            self._run = _begin(checked_maxcor(maxcor), x0, lower, upper, options)
        self._shape: tuple[int, ...] = x0.shape

    @property
    def done(self) -> bool:
        """True once the run has ended."""
        return self._integer("phase") == Phase.DONE

    @property
    def accepted(self) -> bool:
        """True if the last `tell` ended an iteration: its point is the current iterate."""
        return self._integer("event") == Event.ACCEPTED

    def _integer(self, name: str) -> int:
        return int(self._run.look("state", name)[0])

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(self._run.packed.floats.dtype)

    def ask(self) -> np.ndarray:
        """The point to evaluate next: a fresh array in the shape and dtype of x0."""
        return np.array(self._run.look("state", "trial")).reshape(self._shape)

    def tell(self, value: Any, gradient: Any, evaluations: int = 1) -> None:
        """Take the function's value and gradient at the point last asked for.

        Parameters
        ----------
        value
            A real number, or an array of size 1.  NaN and infinity make the line search
            back off.
        gradient
            Array of the shape of x0.
        evaluations
            What they cost, for `nfev` and `maxfun`.

        Raises
        ------
        RuntimeError
            After the end.
        ValueError
            For a value that is no scalar, or a gradient of another shape.
        """
        if self.done:
            ending = TABLE[Reason(self._integer("reason"))]
            raise RuntimeError(f"The run has ended, nothing more can be told: {ending.sentence}")
        dtype = self._dtype
        value, gradient = np.asarray(value), np.asarray(gradient)
        if value.size != 1:
            raise ValueError(f"value must be a scalar; it has shape {value.shape}.")
        if gradient.shape != self._shape:
            raise ValueError(
                f"gradient must have the shape of x0, {self._shape}; it has {gradient.shape}."
            )
        if np.iscomplexobj(value) or np.iscomplexobj(gradient):
            raise TypeError("value and gradient must be real; one of them is complex.")
        told = np.empty(1 + gradient.size, dtype)
        told[0], told[1:] = value.item(), gradient.ravel()
        with precision_of(dtype):
            self._run = _advance(self._run, told, np.int32(evaluations))

    def iterate(self) -> tuple[np.ndarray, float]:
        """The last accepted point, a fresh array like x0, and the value there."""
        x = np.array(self._run.look("state", "x")).reshape(self._shape)
        return x, float(self._run.look("state", "value")[0])

    def stop(self) -> None:
        """End the run at the current iterate, with reason CALLBACK."""
        self._run = _halt(self._run)

    def result(self) -> OptimizeResult:
        """The best accepted point so far, with NumPy arrays; `aux` is None."""
        with precision_of(self._dtype):
            result = _result(self._run)
        result = jax.tree.map(np.array, result)
        return result.with_shape(self._shape)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the whole run to an ``.npz`` file of plain NumPy arrays."""
        arrays = {"shape": np.array(self._shape, np.int64), **_named(self._run.tree)}
        np.savez(file, **arrays)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> AskTell:
        """Go on with a run from `save`, to the same bits."""
        with np.load(file) as saved:
            arrays = dict(saved)
        start = np.zeros(arrays.pop("shape"), arrays["state.x"].dtype)
        bounds = (-np.inf, np.inf) if "box.lower" in arrays else None
        self = cls(start, bounds=bounds, maxcor=arrays["state.memory.pairs"].shape[0] // 2)
        with precision_of(start.dtype):
            run = self._run.tree
            leaves = [jnp.asarray(arrays[name]) for name in _named(run)]
            self._run = _packed(jax.tree.unflatten(jax.tree.structure(run), leaves))
        return self


def _named(run: Run) -> dict[str, Any]:
    """Leaves by a readable name, such as ``state.memory.theta``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(run)
    return {jax.tree_util.keystr(path, simple=True, separator="."): v for path, v in leaves}
