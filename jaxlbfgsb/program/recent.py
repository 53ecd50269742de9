"""A dictionary that forgets what was not asked for lately."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

_Value = TypeVar("_Value")


_all: list[Recent[Any]] = []


def forget_everything() -> None:
    """Empty every such dictionary."""
    for recent in _all:
        recent.entries.clear()


class Recent(Generic[_Value]):
    """The most recently used entries of a dictionary; made once, as a global of a module."""

    def __init__(self, size: int) -> None:
        _all.append(self)
        self.size = size
        self.entries: OrderedDict[Hashable, _Value] = OrderedDict()

    def get(self, key: Hashable) -> _Value | None:
        found = self.entries.get(key)
        if found is not None and 2 * len(self.entries) > self.size:  # before, none is forgotten
            with contextlib.suppress(KeyError):  # forgotten just now in another thread
                self.entries.move_to_end(key)
        return found

    def put(self, key: Hashable, value: _Value) -> None:
        self.entries[key] = value
        self.entries.move_to_end(key)
        if len(self.entries) > self.size:
            self.entries.popitem(last=False)
