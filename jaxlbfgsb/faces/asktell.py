"""Ask and tell: the machine of `core` for functions that live anywhere."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.core import advance
from jaxlbfgsb.method.ending import halt
from jaxlbfgsb.method.state import Event, Options, Phase, State, init
from jaxlbfgsb.method.sums import unknown_sums
from jaxlbfgsb.options import checked_maxcor, checked_options, strict_options
from jaxlbfgsb.precision import precision_of
from jaxlbfgsb.pytrees import BoundLeaves, checked_bounds, checked_x0, raveled_box
from jaxlbfgsb.result import OptimizeResult, result_of
from jaxlbfgsb.status import TABLE, Reason
from jaxlbfgsb.xla.kernel import one_kernel, step_is_one_kernel
from jaxlbfgsb.xla.packing import Packed, Packing


@functools.cache
def _packing(dtype: np.dtype, sums: bool | None) -> Packing[State]:
    """Of a state in any number of variables: its scalars together, its arrays as they are.

    `sums` is None where the state carries none on, else whether these are for a run with bounds.
    """

    def example() -> State:
        state = init(jnp.zeros(1, dtype), Box(None, None), 1)
        if sums is None:
            return state
        return state._replace(sums=unknown_sums(1, 1, dtype, bounded=sums))

    with precision_of(dtype):
        return Packing(jax.eval_shape(example), scalars_only=True)


def _pack(state: State) -> Packed:
    sums = None if state.sums is None else state.sums.free is not None
    return _packing(state.x.dtype, sums).pack(state)


def _packing_of(packed: Packed) -> Packing[State]:
    kinds = (_packing(np.dtype(packed.floats.dtype), sums) for sums in (None, False, True))
    return next(packing for packing in kinds if packing.arrays == len(packed.arrays))


def _unpack(packed: Packed) -> State:
    return _packing_of(packed).unpack(packed)


@functools.partial(jax.jit, static_argnums=0)
def _begin(
    m: int, x0: jax.Array, lower: BoundLeaves, upper: BoundLeaves, options: Options
) -> tuple[Packed, Box, Options]:
    """One program: to dispatch its operations one by one takes longer than many a run."""
    box = raveled_box(lower, upper, [x0])
    return _pack(init(x0.ravel(), box, m)), box, strict_options(options, x0.dtype)


@functools.partial(jax.jit, donate_argnums=0)
def _advance(
    packed: Packed,
    value: jax.Array,
    gradient: jax.Array,
    box: Box,
    options: Options,
    evaluations: jax.Array,
) -> Packed:
    state = _unpack(packed)
    in_one = step_is_one_kernel(*state.memory.pairs.shape, bounded=not box.is_everything)
    step = one_kernel(advance) if in_one else advance
    return _pack(step(state, value, gradient, box, options, evaluations))


@jax.jit
def _halt(packed: Packed) -> Packed:
    return _pack(halt(_unpack(packed)))


@jax.jit
def _result(packed: Packed, box: Box, options: Options) -> OptimizeResult:
    return result_of(_unpack(packed), box, options)


_LOOKED_AT = ("phase", "event", "reason", "trial", "x", "value")
"""Fields of a packed state that are read without a program."""


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
            begun = _begin(checked_maxcor(maxcor), x0, lower, upper, options)
        self._state: Packed = begun[0]
        self._box: Box = begun[1]
        self._options: Options = begun[2]
        self._shape: tuple[int, ...] = x0.shape
        packing = _packing_of(self._state)
        self._position: dict[str, int] = {name: packing.position(name) for name in _LOOKED_AT}

    @property
    def done(self) -> bool:
        """True once the run has ended."""
        return self._integer("phase") == Phase.DONE

    @property
    def accepted(self) -> bool:
        """True if the last `tell` ended an iteration: its point is the current iterate."""
        return self._integer("event") == Event.ACCEPTED

    def _integer(self, name: str) -> int:
        return int(np.asarray(self._state.words)[self._position[name]])

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(self._state.floats.dtype)

    def ask(self) -> np.ndarray:
        """The point to evaluate next: a fresh array in the shape and dtype of x0."""
        return np.array(self._state.arrays[self._position["trial"]]).reshape(self._shape)

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
        with precision_of(dtype):
            self._state = _advance(
                self._state,
                value.reshape(()).astype(dtype),
                gradient.ravel().astype(dtype),
                self._box,
                self._options,
                np.int32(evaluations),
            )

    def iterate(self) -> tuple[np.ndarray, float]:
        """The last accepted point, a fresh array like x0, and the value there."""
        x = np.array(self._state.arrays[self._position["x"]]).reshape(self._shape)
        return x, float(self._state.floats[self._position["value"]])

    def stop(self) -> None:
        """End the run at the current iterate, with reason CALLBACK."""
        self._state = _halt(self._state)

    def result(self) -> OptimizeResult:
        """The best accepted point so far, with NumPy arrays; `aux` is None."""
        with precision_of(self._dtype):
            result = _result(self._state, self._box, self._options)
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
            leaves = [jnp.asarray(arrays[name]) for name in _named(self._contents())]
            contents = jax.tree.unflatten(jax.tree.structure(self._contents()), leaves)
            self._state = _pack(contents["state"])
            self._box, self._options = contents["box"], contents["options"]
        return self

    def _contents(self) -> dict[str, Any]:
        return {"state": _unpack(self._state), "box": self._box, "options": self._options}


def _named(contents: dict[str, Any]) -> dict[str, Any]:
    """Leaves by a readable name, such as ``state.memory.theta``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(contents)
    return {jax.tree_util.keystr(path, simple=True, separator="."): v for path, v in leaves}
