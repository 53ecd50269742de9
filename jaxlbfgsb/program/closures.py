"""What a function would compute with: its code and every value that it closes over.

`fingerprint` turns a function into a hashable key.  Two keys are equal only if the
functions would be traced to the same program: same code, same cells, defaults and
attributes of a bound method, same values of the globals that the code names.  Numbers
and small NumPy arrays count by value, since they can be overwritten; JAX arrays, which
can't, by identity.  What can't be seen through has no fingerprint, and the function is
then traced at each call.

Globals of installed packages are not followed, and neither are class attributes.
A variable that the function itself assigns (``nonlocal``, ``global``) is no input.

Most calls bring a function that was seen before, and nothing of what it closes over has
changed since.  So each walk leaves behind what it found in every object that can change, and
a second one compares that, object for object, before it walks again.
"""

from __future__ import annotations

import dis
import functools
import operator
import os
import sysconfig
import types
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from jaxlbfgsb.program.recent import Recent

BUDGET = 2000
"""Values visited before a function counts as one that can't be seen through."""
LARGEST_COPY = 1 << 20
"""Bytes of a NumPy array that are copied to see whether they change."""
LARGEST_KEPT = 1 << 24
"""Bytes of arrays that a remembered walk may keep alive."""
REMEMBERED = 64
"""Functions whose walk is remembered."""

_INSTALLED = (
    *{sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    os.path.dirname(
        os.path.dirname(__file__)
    ),  # this package, wherever it lies: a function may call a solver
)
_PLAIN = (type(None), bool, int, str, bytes, type(Ellipsis))
_BY_IDENTITY = (type, types.CodeType, types.ModuleType, jax.Array, np.ufunc, np.dtype)


_PartsOf: TypeAlias = Callable[[Any], Sequence[Any]]
"""From a value to its parts."""


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


class Fingerprint:
    """A key of all that a function would compute with; hashed once."""

    __slots__ = ("_hash", "pieces")

    def __init__(self, pieces: tuple[Hashable, ...]) -> None:
        self.pieces = pieces
        self._hash = hash(pieces)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Fingerprint)
            and self._hash == other._hash
            and self.pieces == other.pieces
        )

    def __hash__(self) -> int:
        return self._hash


class _Remembered(NamedTuple):
    """What a walk found, to see later whether it still holds."""

    roots: tuple[Any, ...]
    fingerprint: Fingerprint
    values: list[tuple[_PartsOf, Any]]
    parts: list[Any]
    """Of all values, with `_END` after those of each."""
    arrays: list[tuple[np.ndarray, Hashable]]

    def holds(self) -> bool:
        now = _parts(self.values)
        if len(now) != len(self.parts) or not all(map(operator.is_, now, self.parts)):
            return False
        return all(_content_of(array) == then for array, then in self.arrays)


def _parts(values: list[tuple[_PartsOf, Any]]) -> list[Any]:
    found: list[Any] = []
    for parts_of, value in values:
        found += parts_of(value)
        found.append(_END)
    return found


_remembered: Recent[_Remembered] = Recent(REMEMBERED)


def fingerprint(*values: Any) -> Fingerprint | None:
    """A key of all that functions and other values compute with, or None if it can't be told."""
    roots = tuple(root for value in values for root in _roots(value))
    identity = tuple(map(id, roots))
    known = _remembered.get(identity)
    if known is not None and known.holds():
        return known.fingerprint
    walk = _Walk()
    try:
        for value in values:
            walk.visit(value)
    except _Opaque:
        return None
    found = Fingerprint(tuple(walk.pieces))
    if walk.nbytes <= LARGEST_KEPT:
        remembered = _Remembered(roots, found, walk.values, walk.parts, walk.arrays)
        _remembered.put(identity, remembered)
    return found


def _roots(value: Any) -> tuple[Any, ...]:
    """What stays the same object from call to call: a bound method is made anew each time."""
    if isinstance(value, types.MethodType):
        return (types.MethodType, value.__func__, value.__self__)
    return (value,)


class _Walk:
    """A depth-first walk that collects hashable pieces."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.keep: list[Any] = []
        self.pieces: list[Hashable] = []
        self.values: list[tuple[_PartsOf, Any]] = []
        self.parts: list[Any] = []
        self.arrays: list[tuple[np.ndarray, Hashable]] = []
        self.nbytes = 0

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
            self.nbytes += value.nbytes if isinstance(value, jax.Array) else 0
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
            content = _content_of(value)
            self.nbytes += value.nbytes
            self.pieces.append(content)
            if isinstance(value, np.ndarray):
                self.arrays.append((value, content))
        elif isinstance(value, types.FunctionType):
            self._visit_parts(value, _parts_of_function)
        elif isinstance(value, types.MethodType):
            self._visit_parts(value, _parts_of_method)
        elif isinstance(value, types.BuiltinFunctionType):
            if not isinstance(value.__self__, types.ModuleType | type(None)):
                raise _Opaque
            self.pieces.append(_Same(value))
        elif isinstance(value, functools.partial):
            self._visit_parts(value, _parts_of_partial)
        elif isinstance(value, set | frozenset):
            if not all(isinstance(item, _PLAIN) for item in value):
                raise _Opaque
            self.pieces.append(frozenset(value))
            self._remember(tuple, value, tuple(value))
        elif isinstance(value, dict):
            self._visit_parts(value, _parts_of_dict)
        elif isinstance(value, tuple | list):
            self._visit_parts(value, _parts_of_sequence)
        elif callable(getattr(value, "__wrapped__", None)):
            self.pieces.append(_Same(value))
            self._visit_parts(value, _parts_of_wrapper)
        elif all(_is_python_class(kind) for kind in type(value).__mro__[:-1]):
            self._visit_parts(value, _parts_of_object)
        else:
            raise _Opaque

    def _visit_parts(self, value: Any, parts_of: _PartsOf) -> None:
        parts = parts_of(value)
        if type(value) is not tuple:  # which can't change
            self._remember(parts_of, value, parts)
        self.pieces.append((parts_of, len(parts)))
        for part in parts:
            self.visit(part)

    def _remember(self, parts_of: _PartsOf, value: Any, parts: Sequence[Any]) -> None:
        self.values.append((parts_of, value))
        self.parts += (*parts, _END)


def _content_of(array: np.ndarray | np.generic) -> Hashable:
    return type(array), array.dtype.str, array.shape, array.tobytes()


# The parts of a value are all that tell it from others of its kind.


def _parts_of_function(function: types.FunctionType) -> list[Any]:
    code = function.__code__
    cells, names = _reads(code)
    parts: list[Any] = [code, function.__defaults__, function.__kwdefaults__]
    if cells:
        closure = function.__closure__ or ()
        parts += [_content(closure[i]) for i in cells]
    if names:
        value_of = function.__globals__.get
        parts += [value_of(name, _MISSING) for name in names]
    parts += _attributes(function)
    return parts


def _parts_of_method(method: types.MethodType) -> tuple[Any, ...]:
    return method.__func__, method.__self__


def _parts_of_partial(partial: functools.partial[Any]) -> tuple[Any, ...]:
    return partial.func, partial.args, partial.keywords


def _parts_of_wrapper(wrapper: Any) -> tuple[Any, ...]:
    return (getattr(wrapper, "__wrapped__", _MISSING),)


def _parts_of_dict(container: dict[Any, Any]) -> tuple[Any, ...]:
    return (type(container), *container, *container.values(), *_attributes(container))


def _parts_of_sequence(container: tuple[Any, ...] | list[Any]) -> tuple[Any, ...]:
    return (type(container), *container, *_attributes(container))


def _parts_of_object(value: Any) -> tuple[Any, ...]:
    """An instance of classes written in Python: its attributes are all there is."""
    kind: Any = type(value)
    slots = _slots(kind)
    if not slots:
        return (kind, *_attributes(value))
    return (kind, *[getattr(value, slot, _MISSING) for slot in slots], *_attributes(value))


def _attributes(value: Any) -> tuple[Any, ...]:
    attributes = getattr(value, "__dict__", None)
    return (*attributes, *attributes.values()) if attributes else ()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _MISSING


_MISSING = type("_MISSING", (), {})
"""Stands where a value could be and is not; a class, so that it counts by identity."""
_END = type("_END", (), {})
"""Stands after the parts of a value, and nowhere else."""


@functools.lru_cache(maxsize=1024)
def _reads(code: types.CodeType) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Which cells a function reads, by their position, and the names of its globals."""
    written = _written(code)
    cells = tuple(i for i, name in enumerate(code.co_freevars) if name not in written)
    if code.co_filename.startswith(_INSTALLED):
        return cells, ()
    return cells, tuple(dict.fromkeys(name for name in _names(code) if name not in written))


@functools.lru_cache(maxsize=1024)
def _slots(kind: Any) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__[:-1]:
        slots = base.__dict__.get("__slots__", ())
        names += (slots,) if isinstance(slots, str) else slots
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


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


@functools.lru_cache(maxsize=1024)
def _is_python_class(kind: type) -> bool:
    is_heap_type = bool(kind.__flags__ & (1 << 9))
    has_layout = "__dict__" in kind.__dict__ or "__slots__" in kind.__dict__
    inherits_layout = any(hasattr(base, "__dict__") for base in kind.__bases__)
    return is_heap_type and "__module__" in kind.__dict__ and (has_layout or inherits_layout)
