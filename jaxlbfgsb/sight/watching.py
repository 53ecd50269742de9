"""What is seen of a run while it runs: its trace, and calls of the host.

Eager calls with a callback let the loop go for one iteration at a time.  Inside of `jit` the
compiled loop itself calls the host.  There it waits for the answer, which says whether to
stop: so the calls come once for each iteration and in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import io_callback
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxlbfgsb.method.box import Box
from jaxlbfgsb.method.ending import halt
from jaxlbfgsb.method.state import Event, Phase, State
from jaxlbfgsb.sight.callbacks import Callback, Listener
from jaxlbfgsb.sight.progress import RunBar
from jaxlbfgsb.sight.recording import Recording, active_count
from jaxlbfgsb.types import Boolean, PyTree, Vector


class Iterate(NamedTuple):
    """An iterate as the host sees it."""

    x: PyTree
    fun: Any
    accepted: Any
    """True if an iteration ended here; False where a run ends without one."""
    done: Any
    pg_norm: Any = None
    nfev: Any = None
    nit: Any = None
    active: Any = None
    """For a bar, as the three before it."""


def iterate_of(state: State, box: Box, unravel: Callable[[Vector], PyTree]) -> Iterate:
    """The last accepted point, and what is known of it."""
    return Iterate(
        x=unravel(state.x),
        fun=state.value,
        pg_norm=state.pg_norm,
        nfev=state.nfev,
        nit=state.nit,
        active=active_count(state, box),
        accepted=state.event == Event.ACCEPTED,
        done=state.phase == Phase.DONE,
    )


class Observer:
    """What the host does after an iteration.

    Parameters
    ----------
    callback
        The user's, or None.
    every
        Iterations between two updates of a bar; 0 for no bar.
    """

    def __init__(self, callback: Callback | None, every: int) -> None:
        self.listener = None if callback is None else Listener(callback)
        self.every = every
        self.bar = RunBar()

    def is_due(self, iterate: Iterate) -> Boolean:
        """Whether the host wants to see this iterate."""
        if self.listener is not None or self.every == 1:
            return iterate.accepted | iterate.done
        return (iterate.accepted & (iterate.nit % self.every == 0)) | iterate.done

    def __call__(self, iterate: Iterate) -> bool:
        """Show it; True if the run is to stop."""
        if self.every and (iterate.done or iterate.nit % self.every == 0):
            self.bar.show(
                int(iterate.nit),
                float(iterate.fun),
                float(iterate.pg_norm),
                int(iterate.nfev),
                int(iterate.active),
            )
        stops = False
        if self.listener is not None and iterate.accepted:
            stops = self.listener.wants_to_stop(iterate.x, iterate.fun, by_return=True)
        if stops or iterate.done:
            self.bar.close()
        return stops

    def close(self) -> None:
        self.bar.close()


class Watch(NamedTuple):
    """What is to be seen of a run: static."""

    recording: Recording | None = None
    observer: Observer | None = None
    """What a compiled loop calls."""


UNWATCHED = Watch()


def telling(observer: Observer, unravel: Callable[[Vector], PyTree]) -> Callable[..., State]:
    """A function of a loop that shows its states to the observer, and stops where it says so."""

    def on_host(iterate: Iterate) -> np.ndarray:
        return np.asarray(observer(jax.tree.map(np.array, iterate)))

    def tell(_: State, state: State, box: Box) -> State:
        iterate = lax.stop_gradient(iterate_of(state, box, unravel))
        flag = jax.ShapeDtypeStruct((), bool)
        stops = lax.cond(
            observer.is_due(iterate),
            lambda iterate: io_callback(on_host, flag, iterate),
            lambda _: jnp.asarray(False),
            iterate,
        )
        halted = halt(state)
        return state._replace(
            reason=jnp.where(stops, halted.reason, state.reason),
            phase=jnp.where(stops, halted.phase, state.phase),
        )

    return tell


_one_lane = Primitive("jaxlbfgsb_one_lane")
_one_lane.def_impl(lambda x: x)
_one_lane.def_abstract_eval(lambda x: x)
mlir.register_lowering(_one_lane, lambda ctx, x: [x])
ad.deflinear2(_one_lane, lambda cotangent, _: [cotangent])


def _refuse(*_: Any) -> NoReturn:
    raise ValueError(
        "callback and progress show one run at a time, and this one is under vmap. Record its "
        "lanes with trace=..., or use minimize_batch(..., progress=True), or jax.lax.map in "
        "place of jax.vmap."
    )


batching.primitive_batchers[_one_lane] = _refuse


def one_lane(tree: PyTree) -> PyTree:
    """The same values; ValueError where they are different in the lanes of a `vmap`."""
    return jax.tree.map(_one_lane.bind, tree)
