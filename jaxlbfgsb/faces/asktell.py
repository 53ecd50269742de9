"""Ask and tell: the machine of `core` for functions that live anywhere."""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.core import advance
from jaxlbfgsb.method.ending import halt
from jaxlbfgsb.method.state import Event, Options, Phase, State, init
from jaxlbfgsb.options import checked_maxcor, checked_options, strict_options
from jaxlbfgsb.precision import precision_of
from jaxlbfgsb.pytrees import BoundLeaves, checked_bounds, checked_x0, is_bounded, raveled_box
from jaxlbfgsb.result import OptimizeResult, result_of
from jaxlbfgsb.status import TABLE, Reason
from jaxlbfgsb.xla.kernel import one_kernel, step_is_one_kernel
from jaxlbfgsb.xla.packing import Packed, Packing, Place


class _Run(NamedTuple):
    """All that a run goes on with."""

    state: State
    box: Box
    options: Options


@functools.lru_cache(maxsize=64)
def _packing(m: int, n: int, dtype: np.dtype, bounded: bool) -> Packing[_Run]:
    """As few arrays as can be; none that is large is copied."""

    def example() -> _Run:
        x = jnp.zeros(n, dtype)
        box = Box(x, x) if bounded else Box(None, None)
        options = Options(*(jnp.zeros(()),) * 6)
        return _Run(init(x, box, m), box, strict_options(options, dtype))

    in_one = step_is_one_kernel(2 * m, n, bounded=bounded)
    return Packing(jax.eval_shape(example), scalars_only=not in_one)


# Each is one program: to dispatch its operations one by one takes longer than many a run.


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begin(
    packing: Packing[_Run],
    m: int,
    x0: jax.Array,
    lower: BoundLeaves,
    upper: BoundLeaves,
    options: Options,
) -> Packed:
    box = raveled_box(lower, upper, [x0])
    return packing.pack(_Run(init(x0.ravel(), box, m), box, strict_options(options, x0.dtype)))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _advance(
    packing: Packing[_Run], packed: Packed, told: jax.Array, evaluations: jax.Array
) -> Packed:
    """Given the value and the gradient in one array."""

    def step(packed: Packed, told: jax.Array, evaluations: jax.Array) -> Packed:
        run = packing.unpack(packed)
        state = advance(run.state, told[0], told[1:], run.box, run.options, evaluations)
        return packing.pack(run._replace(state=state))

    return (step if packing.arrays else one_kernel(step))(packed, told, evaluations)


@functools.partial(jax.jit, static_argnums=0)
def _halt(packing: Packing[_Run], packed: Packed) -> Packed:
    run = packing.unpack(packed)
    return packing.pack(run._replace(state=halt(run.state)))


@functools.partial(jax.jit, static_argnums=0)
def _result(packing: Packing[_Run], packed: Packed) -> OptimizeResult:
    return result_of(*packing.unpack(packed))


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
            m, bounded = checked_maxcor(maxcor), is_bounded(lower, upper)
            self._packing = _packing(m, x0.size, x0.dtype, bounded)
            self._packed: Packed = _begin(self._packing, m, x0, lower, upper, options)
        self._shape: tuple[int, ...] = x0.shape
        self._places: Any = self._packing.places().state

    @property
    def done(self) -> bool:
        """True once the run has ended."""
        return self._integer("phase") == Phase.DONE

    @property
    def accepted(self) -> bool:
        """True if the last `tell` ended an iteration: its point is the current iterate."""
        return self._integer("event") == Event.ACCEPTED

    def _look(self, name: str) -> np.ndarray:
        """A field of the state."""
        place: Place = getattr(self._places, name)
        return place.look(self._packed)

    def _integer(self, name: str) -> int:
        return int(self._look(name)[0])

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(self._packed.floats.dtype)

    def ask(self) -> np.ndarray:
        """The point to evaluate next: a fresh array in the shape and dtype of x0."""
        return np.array(self._look("trial")).reshape(self._shape)

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
            self._packed = _advance(self._packing, self._packed, told, np.int32(evaluations))

    def iterate(self) -> tuple[np.ndarray, float]:
        """The last accepted point, a fresh array like x0, and the value there."""
        x = np.array(self._look("x")).reshape(self._shape)
        return x, float(self._look("value")[0])

    def stop(self) -> None:
        """End the run at the current iterate, with reason CALLBACK."""
        self._packed = _halt(self._packing, self._packed)

    def result(self) -> OptimizeResult:
        """The best accepted point so far, with NumPy arrays; `aux` is None."""
        with precision_of(self._dtype):
            result = _result(self._packing, self._packed)
        result = jax.tree.map(np.array, result)
        return result.with_shape(self._shape)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the whole run to an ``.npz`` file of plain NumPy arrays."""
        arrays = {"shape": np.array(self._shape, np.int64), **_named(self._contents())}
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
            run = self._contents()
            leaves = [jnp.asarray(arrays[name]) for name in _named(run)]
            self._packed = self._packing.pack(jax.tree.unflatten(jax.tree.structure(run), leaves))
        return self

    def _contents(self) -> _Run:
        return self._packing.unpack(self._packed)


def _named(run: _Run) -> dict[str, Any]:
    """Leaves by a readable name, such as ``state.memory.theta``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(run)
    return {jax.tree_util.keystr(path, simple=True, separator="."): v for path, v in leaves}
