"""What a function would compute with: its code and every value that it closes over.

`fingerprint` turns a function into a hashable key.  Two keys are equal only if the
functions would be traced to the same program: same code, same cells, defaults and
attributes of a bound method, same values of the globals that the code names.  Numbers
and small NumPy arrays count by value, since they can be overwritten; JAX arrays, which
can't, by identity.  What can't be seen through has no fingerprint, and the function is
then traced at each call.

Globals of installed packages are not followed, and neither are class attributes.
A variable that the function itself assigns (``nonlocal``, ``global``) is no input.
"""

from __future__ import annotations

import dis
import functools
import os
import sysconfig
import types
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import numpy as np

BUDGET = 2000
"""Values visited before a function counts as one that can't be seen through."""
LARGEST_COPY = 1 << 20
"""Bytes of a NumPy array that are copied to see whether they change."""

_INSTALLED = (
    *{sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    os.path.dirname(__file__),  # this package, wherever it lies: a function may call a solver
)
_PLAIN = (type(None), bool, int, str, bytes, type(Ellipsis))
_BY_IDENTITY = (type, types.ModuleType, jax.Array, np.ufunc, np.dtype)


class _Opaque(Exception):
    """Raised at a value that can't be seen through."""


class _Same:
    """Equal to another one of the very same object, which it keeps alive."""

    __slots__ = ("thing",)

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def fingerprint(function: Any) -> Hashable | None:
    """A key of all that `function` would compute with, or None if it can't be told."""
    try:
        walk = _Walk()
        walk.visit(function)
        return tuple(walk.pieces)
    except _Opaque:
        return None


class _Walk:
    """A depth-first walk that collects hashable pieces."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.keep: list[Any] = []
        self.pieces: list[Hashable] = []

    def visit(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.pieces.append((type(value), value))
            return
        if isinstance(value, float | complex):
            self.pieces.append((type(value), repr(value)))
            return
        if isinstance(value, jax.core.Tracer):
            raise _Opaque
        if isinstance(value, _BY_IDENTITY):
            self.pieces.append(_Same(value))
            return
        if id(value) in self.seen:
            self.pieces.append(("again", self.seen[id(value)]))
            return
        if len(self.seen) >= BUDGET:
            raise _Opaque
        self.seen[id(value)] = len(self.seen)
        self.keep.append(value)
        self._visit_compound(value)

    def _visit_compound(self, value: Any) -> None:
        if isinstance(value, np.ndarray | np.generic):
            if value.nbytes > LARGEST_COPY or value.dtype.hasobject:
                raise _Opaque
            self.pieces.append((type(value), value.dtype.str, value.shape, value.tobytes()))
        elif isinstance(value, types.FunctionType):
            self._visit_function(value)
        elif isinstance(value, types.MethodType):
            self.pieces.append(types.MethodType)
            self.visit(value.__func__)
            self.visit(value.__self__)
        elif isinstance(value, types.BuiltinFunctionType):
            if not isinstance(value.__self__, types.ModuleType | type(None)):
                raise _Opaque
            self.pieces.append(_Same(value))
        elif isinstance(value, functools.partial):
            self.pieces.append(functools.partial)
            for part in (value.func, value.args, value.keywords):
                self.visit(part)
        elif isinstance(value, tuple | list | dict | set | frozenset):
            self._visit_container(value)
        elif callable(getattr(value, "__wrapped__", None)):
            self.pieces.append(_Same(value))
            self.visit(value.__wrapped__)
        else:
            self._visit_object(value)

    def _visit_function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self.pieces.append(_Same(code))
        self.visit(function.__defaults__)
        self.visit(function.__kwdefaults__)
        written = _written(code)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if name in written:
                continue
            try:
                contents = cell.cell_contents
            except ValueError:  # a cell that is not filled yet
                self.pieces.append("empty")
            else:
                self.visit(contents)
        if vars(function):
            self.visit(vars(function))
        if not code.co_filename.startswith(_INSTALLED):
            for name in _names(code):
                if name in function.__globals__ and name not in written:
                    self.pieces.append(name)
                    self.visit(function.__globals__[name])

    def _visit_container(self, container: Any) -> None:
        self.pieces.append((type(container), len(container)))
        if isinstance(container, set | frozenset):
            if not all(isinstance(item, _PLAIN) for item in container):
                raise _Opaque
            self.pieces.append(frozenset(container))
        elif isinstance(container, dict):
            for key, item in container.items():
                self.visit(key)
                self.visit(item)
        else:
            for item in container:
                self.visit(item)
        if hasattr(container, "__dict__"):
            self.visit(vars(container))

    def _visit_object(self, value: Any) -> None:
        """An instance of classes written in Python: its attributes are all there is."""
        kinds = type(value).__mro__[:-1]
        if not all(_is_python_class(kind) for kind in kinds):
            raise _Opaque
        self.pieces.append(_Same(type(value)))
        if hasattr(value, "__dict__"):
            self.visit(vars(value))
        for kind in kinds:
            slots = kind.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                    self.pieces.append(slot)
                    self.visit(getattr(value, slot))


@functools.lru_cache(maxsize=1024)
def _written(code: types.CodeType) -> frozenset[str]:
    """Names outside of its own that the code, or a function inside it, assigns."""
    names = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("STORE_GLOBAL", "STORE_DEREF")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _written(constant)
    return frozenset(names)


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that the code, or a function inside it, may look up among the globals."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_python_class(kind: type) -> bool:
    is_heap_type = bool(kind.__flags__ & (1 << 9))
    has_layout = "__dict__" in kind.__dict__ or "__slots__" in kind.__dict__
    inherits_layout = any(hasattr(base, "__dict__") for base in kind.__bases__)
    return is_heap_type and "__module__" in kind.__dict__ and (has_layout or inherits_layout)
