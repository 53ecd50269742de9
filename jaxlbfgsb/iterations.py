"""A run that the host lets go for one iteration at a time, and looks at in between."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import jax

from jaxlbfgsb.loop import Driver, by_fastest
from jaxlbfgsb.method.ending import halt
from jaxlbfgsb.method.state import Event, Options, Phase, Run, is_small
from jaxlbfgsb.program.tracing import Data, Program
from jaxlbfgsb.pytrees import BoundLeaves, raveled
from jaxlbfgsb.recall import Prepared
from jaxlbfgsb.result import OptimizeResult
from jaxlbfgsb.sight.recording import Recording, Trace, active_count, begun
from jaxlbfgsb.sight.watching import Iterate, Observer
from jaxlbfgsb.solve import begin, finish, objective
from jaxlbfgsb.types import Integer, PyTree, Scalar
from jaxlbfgsb.xla.packing import PackedTree


def solve_from_host(prepared: Prepared, observer: Observer) -> OptimizeResult:
    """What `solve` computes, shown to the observer, which may stop it."""
    program, m, _, watch, data, x0, *more = prepared
    watched, trace = _begun(m, watch.recording, data, x0, *more)
    done = _number(watched, "phase") == Phase.DONE
    with contextlib.closing(observer):
        while not done:
            watched, trace, x, value = _one_iteration(program, data, x0, watched, trace)
            done = _number(watched, "phase") == Phase.DONE
            accepted = _number(watched, "event") == Event.ACCEPTED
            numbers = _numbers_of_a_bar(watched) if observer.every else {}
            if observer(Iterate(x, value, accepted=accepted, done=done, **numbers)):
                watched, done = _halted(watched), True
    return _finished(program, data, x0, watched, trace)


class _Watched(NamedTuple):
    """What goes on from one iteration to the next, and all that the host looks at."""

    run: Run
    active: Integer


def _watched(run: Run) -> PackedTree[_Watched]:
    state, box, _ = run
    watched = _Watched(run, active_count(state, box))
    return PackedTree.of(watched, scalars_only=not is_small(state, box))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begun(
    m: int,
    recording: Recording | None,
    data: Data,
    x0: PyTree,
    lower: BoundLeaves,
    upper: BoundLeaves,
    options: Options,
) -> tuple[PackedTree[_Watched], Trace | None]:
    run = Run(*begin(m, data, x0, lower, upper, options))
    return _watched(run), begun(recording, run.state.x)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(3, 4))
def _one_iteration(
    program: Program, data: Data, x0: PyTree, watched: PackedTree[_Watched], trace: Trace | None
) -> tuple[PackedTree[_Watched], Trace | None, PyTree, Scalar]:
    """With x in the structure of x0, and its value."""
    unravel = raveled(x0)[1]

    def iteration(
        driver: Driver, data: Data, watched: PackedTree[_Watched], trace: Trace | None
    ) -> tuple[PackedTree[_Watched], Trace | None, PyTree, Scalar]:
        state, box, options = watched.tree.run
        value_and_grad = objective(program, data, unravel(state.x))
        state, trace = driver(value_and_grad, state, box, options, trace, one_iteration=True)
        return _watched(Run(state, box, options)), trace, unravel(state.x), state.value

    small = not watched.packing.arrays
    fits = program.fits_one_kernel and trace is None
    return by_fastest(iteration, small, fits)(data, watched, trace)


@jax.jit
def _halted(watched: PackedTree[_Watched]) -> PackedTree[_Watched]:
    state, box, options = watched.tree.run
    return _watched(Run(halt(state), box, options))


@functools.partial(jax.jit, static_argnums=0)
def _finished(
    program: Program, data: Data, x0: PyTree, watched: PackedTree[_Watched], trace: Trace | None
) -> OptimizeResult:
    return finish(program, data, x0, *watched.tree.run, trace)


def _numbers_of_a_bar(watched: PackedTree[_Watched]) -> dict[str, Any]:
    numbers = {name: _number(watched, name) for name in ("pg_norm", "nfev", "nit")}
    return numbers | {"active": watched.look("active")[0]}


def _number(watched: PackedTree[_Watched], name: str) -> Any:
    return watched.look("run", "state", name)[0]
