"""Programs that differ between a CPU and an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from jax import lax
from jax.extend.backend import backends

_Out = TypeVar("_Out")


def by_platform(*args: Any, cpu: Callable[..., _Out], default: Callable[..., _Out]) -> _Out:
    """``cpu(*args)`` where the program runs on a CPU, ``default(*args)`` on an accelerator.

    A process that has no accelerator traces the first only, which shortens its first calls; what it
    exports for an accelerator has the form for a CPU.
    """
    if backends().keys() <= {"cpu"}:
        return cpu(*args)
    return lax.platform_dependent(*args, cpu=cpu, default=default)
