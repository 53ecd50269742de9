"""The user's function, traced once to a jaxpr that everything else evaluates.

A `Program` is the jaxpr without the arrays that the function closes over: those are
arguments of the compiled solve.  Programs compare by structure, so that the same
function closing over new data is traced anew, in milliseconds, and not compiled anew.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from jaxlbfgsb.program.closures import fingerprint
from jaxlbfgsb.program.jaxprs import structure
from jaxlbfgsb.program.recent import Recent, forget_everything
from jaxlbfgsb.types import PyTree
from jaxlbfgsb.xla.fits import fits_one_kernel
from jaxlbfgsb.xla.varying import vary_over, varying_axes

CACHED = 64
"""Functions whose trace is remembered."""
LARGEST_CACHED = 1 << 24
"""Bytes of closed-over arrays that a remembered trace may keep alive."""


class Returns(NamedTuple):
    """What the user's function returns."""

    gradient: bool
    """``(value, gradient)`` rather than the value."""
    aux: bool
    """``(value, aux)`` in place of the value."""


class Program:
    """A traced function of ``(x, args)``: static, hashable, without data.

    Attributes
    ----------
    returns
        What the function returns.
    out_tree
        Structure of ``(value, gradient or None, aux or None)``.
    fits_one_kernel
        True if the function and its derivative can be compiled inside of a kernel.
    """

    def __init__(
        self,
        jaxpr: Jaxpr,
        returns: Returns,
        out_tree: Any,
        key: Hashable,
        fits_one_kernel: bool,
    ) -> None:
        self.jaxpr = jaxpr
        self.fits_one_kernel = fits_one_kernel
        self.returns = returns
        self.out_tree = out_tree
        self._key = (returns, out_tree, key)
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Program) and self._hash == other._hash and self._key == other._key
        )

    def __hash__(self) -> int:
        return self._hash

    def __call__(self, data: Data, x_leaves: list[jax.Array]) -> tuple[Any, Any, Any]:
        """``(value, gradient or None, aux or None)`` at x, given as its leaves."""
        function = jaxpr_as_fun(ClosedJaxpr(self.jaxpr, data.consts))
        return jax.tree.unflatten(self.out_tree, function(*x_leaves, *data.args))


class Data(NamedTuple):
    """The arrays that go with a program: a pytree of arguments."""

    consts: list[Any]
    args: list[Any]


_traces: Recent[tuple[Program, list[Any]]] = Recent(CACHED)
_programs: Recent[Program] = Recent(4 * CACHED)


def clear_cache() -> None:
    """Forget every trace, and with it the arrays that the traced functions close over."""
    forget_everything()


def trace(
    fun: Callable[..., Any],
    x0: PyTree,
    args: tuple[PyTree, ...],
    returns: Returns,
    differs: PyTree = (),
) -> tuple[Program, Data]:
    """Trace ``fun(x, *args)`` at the shapes and dtypes given, or recall its trace.

    Leaves of `args` that are no arrays or numbers (strings, functions) are static.
    Inside `shard_map`, x differs wherever x0, `args` or `differs` do.
    """
    x_leaves, x_tree = jax.tree.flatten(x0)
    arg_leaves, arg_tree = jax.tree.flatten(args)
    is_array = [_is_array_like(leaf) for leaf in arg_leaves]
    arrays = [a for a, dynamic in zip(arg_leaves, is_array, strict=True) if dynamic]
    statics = [a for a, dynamic in zip(arg_leaves, is_array, strict=True) if not dynamic]

    def current_key() -> Hashable | None:
        described = fingerprint(fun, *statics)
        if described is None:
            return None
        avals = tuple(_abstract(leaf) for leaf in (*x_leaves, *arrays))
        return (described, x_tree, arg_tree, tuple(is_array), avals, returns, settings_of_jax())

    key = current_key()
    known = None if key is None else _traces.get(key)
    if known is not None:
        return known[0], Data(known[1], arrays)

    def flat(x_leaves: list[Any], arrays: list[Any]) -> Any:
        rest, static = iter(arrays), iter(statics)
        leaves = [next(rest) if dynamic else next(static) for dynamic in is_array]
        out = fun(jax.tree.unflatten(x_tree, x_leaves), *jax.tree.unflatten(arg_tree, leaves))
        return _checked_output(out, x_leaves, x_tree, returns)

    axes = varying_axes(x_leaves, arrays, differs)
    x_leaves = vary_over(axes, x_leaves)
    try:
        closed, out_shapes = jax.make_jaxpr(flat, return_shape=True)(x_leaves, arrays)
    except TypeError as error:
        _explain(error, x0)
        raise
    consts = list(closed.consts)
    if not varying_axes(consts) <= axes:  # known only now: trace once more
        return trace(fun, x0, args, returns, (differs, consts))
    out_tree = jax.tree.structure(out_shapes)
    program = _shared_program(closed, returns, out_tree, x_leaves, arrays)
    # The key as it is after the trace: a function may count its calls.
    key = current_key()
    if key is not None and can_be_kept(consts):
        _traces.put(key, (program, consts))
    return program, Data(consts, arrays)


_NOT_JAX = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def can_be_kept(consts: list[Any]) -> bool:
    """Whether closed-over arrays are few bytes, and their values known."""
    small = sum(getattr(c, "nbytes", 0) for c in consts) <= LARGEST_CACHED
    return small and not any(isinstance(c, jax.core.Tracer) for c in consts)


def _explain(error: TypeError, x0: PyTree) -> None:
    """Add what may have led to an error in the user's function, and what to do."""
    if isinstance(error, _NOT_JAX):
        error.add_note(
            "minimize traces fun: it must be written with JAX (jax.numpy, jax.lax). For a "
            "function of NumPy use jaxlbfgsb.fmin_l_bfgs_b, for anything else jaxlbfgsb.AskTell."
        )
    if isinstance(x0, list):
        error.add_note(
            "x0 is a list, which is a pytree: fun gets a list of scalars. For a vector write "
            "jnp.array(x0)."
        )


def _shared_program(
    closed: ClosedJaxpr, returns: Returns, out_tree: Any, x_leaves: list[Any], arrays: list[Any]
) -> Program:
    """The program of an earlier trace with the same structure, if there is one.

    Compared is the jaxpr that the solver compiles, with its derivative: custom rules
    are functions, of which no two traces have the same.
    """

    def derived(consts: list[Any], x: list[Any], arrays: list[Any]) -> Any:
        def value_and_rest(x: list[Any]) -> tuple[Any, Any]:
            out = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))(*x, *arrays)
            return out[0], out[1:]

        if returns.gradient:
            return value_and_rest(x)
        return jax.value_and_grad(value_and_rest, has_aux=True)(x)

    with_gradient = jax.make_jaxpr(derived)(list(closed.consts), x_leaves, arrays)
    key = structure(with_gradient)
    full_key = (returns, out_tree, key, settings_of_jax())
    program = _programs.get(full_key)
    if program is None:
        fits = fits_one_kernel(with_gradient)
        program = Program(closed.jaxpr, returns, out_tree, (key, settings_of_jax()), fits)
        _programs.put(full_key, program)
    return program


def _is_array_like(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind in "biufcV"
    return isinstance(leaf, jax.Array | np.generic | bool | int | float | complex)


def _abstract(leaf: Any) -> Hashable:
    """Shape, dtype and weak type: all that tracing sees of an array."""
    if isinstance(leaf, bool | int | float | complex):
        return (type(leaf),)
    if isinstance(leaf, jax.Array):
        return jax.typeof(leaf)
    return (leaf.shape, leaf.dtype.str)


_settings = operator.attrgetter(
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_matmul_precision",
    "jax_debug_nans",
    "jax_default_prng_impl",
)


def settings_of_jax() -> Hashable:
    """The settings of JAX that change what a function is traced to."""
    return _settings(jax.config)


def _checked_output(out: Any, x_leaves: list[Any], x_tree: Any, returns: Returns) -> Any:
    """``(value, gradient, aux)`` of what the function returned, or an error that teaches."""
    gradient = aux = None
    if returns.gradient:
        value, gradient = _pair(out, "value_and_grad=True wants fun to return (value, gradient)")
        if returns.aux:
            value, aux = _pair(
                value,
                "value_and_grad=True with has_aux=True wants fun to return "
                "((value, aux), gradient), as jax.value_and_grad does",
            )
        gradient = _checked_gradient(gradient, x_leaves, x_tree)
    elif returns.aux:
        value, aux = _pair(out, "has_aux=True wants fun to return (value, aux)")
    else:
        value = out
    return _checked_value(value), gradient, aux


def _pair(out: Any, wanted: str) -> tuple[Any, Any]:
    if not (isinstance(out, tuple | list) and len(out) == 2):
        raise TypeError(f"{wanted}; it returned {_described(out)}.")
    return out[0], out[1]


def _checked_value(value: Any) -> jax.Array:
    if isinstance(value, tuple | list):
        raise TypeError(
            f"fun must return a scalar; it returned {_described(value)}. For (value, gradient) "
            "give value_and_grad=True, for (value, aux) give has_aux=True."
        )
    try:
        value = jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"fun must return a scalar; it returned {_described(value)}.") from None
    if value.shape != ():
        raise ValueError(
            f"fun must return a scalar; it returned an array of shape {value.shape}. "
            "Reduce it, for example with jnp.sum."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"fun must return a real floating number; it returned dtype {value.dtype}.")
    return value


def _checked_gradient(gradient: Any, x_leaves: list[Any], x_tree: Any) -> list[jax.Array]:
    leaves, tree = jax.tree.flatten(gradient)
    if tree != x_tree:
        raise ValueError(f"The gradient must have the structure of x0, {x_tree}; it has {tree}.")
    out = []
    for given, x in zip(leaves, x_leaves, strict=True):
        array = jnp.asarray(given)
        if array.shape != x.shape:
            raise ValueError(
                f"The gradient must have the shape of x0, {x.shape}; it has {array.shape}."
            )
        out.append(array.astype(x.dtype))
    return out


def _described(out: Any) -> str:
    if isinstance(out, tuple | list):
        return f"a {type(out).__name__} of {len(out)}"
    return "None" if out is None else f"a {type(out).__name__}"
