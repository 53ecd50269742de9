"""The trace of a run: a few numbers of each iterate, in arrays of a length that is fixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlbfgsb.method.box import Box, active_bounds
from jaxlbfgsb.method.state import Event, Phase, State
from jaxlbfgsb.types import Integer, PyTree, Vector
from jaxlbfgsb.xla.varying import vary_over, varying_axes


class Recording(NamedTuple):
    """How much of a run is recorded: static."""

    iterations: int
    x: bool


COLUMNS = ("fun", "pg_norm", "step", "nfev", "active")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """What a run looked like: row 0 is the start, row k the iterate after iteration k.

    A pytree, with a leading lane axis on every field under `vmap`.  It has as many rows as
    were asked for and one for the start.  Iterations beyond them are counted in `nit` and not
    recorded; rows that were not reached hold NaN, and -1 in the columns of integers.

    Attributes
    ----------
    fun
        f, in the dtype of the variables.
    pg_norm
        The largest entry of the projected gradient in absolute value.
    step
        The step length of the line search that led there, 1 for the full quasi-Newton step;
        0 at the start.
    nfev
        Evaluations so far (int32).
    active
        Variables on a bound (int32).
    x
        The iterates, if they were asked for: like x0, with a leading axis of rows; else None.
    nit
        Iterations made, recorded or not (int32).
    rows
        Rows that hold an iterate (int32): ``nit + 1``, or all of them.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxlbfgsb import minimize
    >>> result = minimize(lambda x: jnp.sum(x**4), jnp.array([2.0, 1.0]), trace=3)
    >>> table = result.trace.table()
    >>> table.iteration.tolist(), table.nfev.tolist()
    ([0, 1, 2, 3], [1, 2, 3, 4])
    >>> table.fun[0].item(), table[0].active.item()
    (17.0, 0)
    >>> result.trace
    <Trace of 17 iterations, the first 3 recorded: fun, pg_norm, step, nfev, active>
    """

    fun: jax.Array
    pg_norm: jax.Array
    step: jax.Array
    nfev: jax.Array
    active: jax.Array
    x: PyTree
    nit: jax.Array
    rows: jax.Array

    def __getitem__(self, lane: Any) -> Trace:
        """The trace of one lane, or of some lanes, of a batch."""
        if np.ndim(self.rows) == 0:
            raise TypeError(
                "This trace is that of one run, which has no lanes to choose from. Its columns "
                "are trace.fun, trace.pg_norm, ...; its rows are those of trace.table()."
            )
        return jax.tree.map(lambda leaf: leaf[lane], self)

    def table(self) -> np.recarray:
        """The rows that hold an iterate, as a NumPy record array; not under `jit`.

        Returns
        -------
        numpy.recarray
            With the fields ``iteration, fun, pg_norm, step, nfev, active`` and, if the
            iterates were recorded, ``x``; for a pytree x0 one field for each of its arrays,
            for example ``x['rate']``.

        Raises
        ------
        TypeError
            Under `jit`, and for the trace of a batch: choose a lane, ``trace[3].table()``.
        """
        if isinstance(self.rows, jax.core.Tracer):
            raise TypeError(
                "The table exists outside of jit only; inside, use the columns trace.fun, ..."
            )
        if np.ndim(self.rows):
            raise TypeError(
                f"This trace is that of a batch of shape {np.shape(self.rows)}; choose a lane: "
                "trace[3].table()."
            )
        rows = int(self.rows)
        columns = {"iteration": np.arange(rows, dtype=np.int32)}
        columns |= {name: np.asarray(getattr(self, name))[:rows] for name in COLUMNS}
        columns |= {name: np.asarray(leaf)[:rows] for name, leaf in self._named_x()}
        kinds = [(name, column.dtype, column.shape[1:]) for name, column in columns.items()]
        table = np.recarray(rows, dtype=kinds)
        for name, column in columns.items():
            table[name] = column
        return table

    def to_pandas(self) -> Any:
        """The table as a `pandas.DataFrame`, by iteration; needs pandas.

        Each entry of x has a column, for example ``x[0]``.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("to_pandas() needs the package pandas: pip install pandas.") from None
        table = self.table()
        columns: dict[str, np.ndarray] = {}
        for name in table.dtype.names or ():
            column = table[name]
            for place in np.ndindex(column.shape[1:]):
                entry = str(list(place)) if place else ""
                columns[name + entry] = column[(slice(None), *place)]
        return pandas.DataFrame(columns).set_index("iteration")

    def _named_x(self) -> Iterator[tuple[str, Any]]:
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.x)
        for path, leaf in leaves:
            yield "x" + jax.tree_util.keystr(path), leaf

    def __repr__(self) -> str:
        names = [*COLUMNS, *(name for name, _ in self._named_x())]
        if isinstance(self.rows, jax.core.Tracer) or np.ndim(self.rows):
            what = f"with columns of shape {np.shape(self.fun)}"
        else:
            made, kept = int(self.nit), int(self.rows) - 1
            what = f"of {made} iteration{'' if made == 1 else 's'}"
            what += f", the first {kept} recorded" if 0 <= kept < made else ""
        return f"<Trace {what}: {', '.join(names)}>"


def checked_trace(trace: Any, trace_x: Any) -> Recording | None:
    """What the keywords of a front door ask to be recorded."""
    if not isinstance(trace_x, bool):
        raise TypeError(f"trace_x must be True or False; it is {trace_x!r}.")
    if trace is None:
        if trace_x:
            raise ValueError("trace_x=True records x in the trace; give its length too: trace=100.")
        return None
    if isinstance(trace, bool) or not isinstance(trace, int | np.integer) or trace < 0:
        raise ValueError(
            "trace is how many iterations are recorded at most, an integer of at least 0, for "
            f"example trace=100; it is {trace!r}."
        )
    return Recording(int(trace), trace_x)


def begun(recording: Recording | None, x: Vector) -> Trace | None:
    """A trace with no row yet, whose last row takes what is not to be kept; or None."""
    if recording is None:
        return None
    rows = recording.iterations + 2
    real = jnp.full(rows, jnp.nan, x.dtype)
    whole = jnp.full(rows, -1, jnp.int32)
    points = jnp.full((rows, x.size), jnp.nan, x.dtype) if recording.x else None
    none = jnp.zeros((), jnp.int32)
    blank = Trace(real, real, real, whole, whole, points, none, none)
    return vary_over(varying_axes(x), blank)


def recorded(trace: Trace | None, before: State, after: State, box: Box) -> Trace | None:
    """The trace after an evaluation; None if nothing is recorded."""
    if trace is None:
        return None
    starts = before.phase == Phase.START
    is_new = starts | (after.event == Event.ACCEPTED)
    last = trace.fun.shape[0] - 1
    place = jnp.where(is_new, jnp.minimum(after.nit, last), last)
    row = Trace(
        fun=after.value,
        pg_norm=after.pg_norm,
        step=jnp.where(starts, 0, before.search.step),
        nfev=after.nfev,
        active=active_count(after, box),
        x=None if trace.x is None else after.x,
        nit=after.nit,
        rows=jnp.where(is_new, jnp.minimum(after.nit + 1, last), trace.rows),
    )

    def written(column: jax.Array, entry: jax.Array) -> jax.Array:
        entry = jax.lax.stop_gradient(entry)
        if column.ndim == 0:
            return entry
        return jax.lax.dynamic_update_index_in_dim(column, entry, place, 0)

    return jax.tree.map(written, trace, row)


def active_count(state: State, box: Box) -> Integer:
    """Variables on a bound."""
    return jnp.sum(active_bounds(state.x, state.gradient, box) != 0, dtype=jnp.int32)


def finished(trace: Trace | None, unravel: Callable[[Vector], PyTree]) -> Trace | None:
    """The trace without its last row, and with iterates in the structure of x0."""
    if trace is None:
        return None
    last = trace.fun.shape[0] - 1
    kept = jax.tree.map(lambda leaf: leaf[:last] if leaf.ndim else leaf, trace)
    return kept if kept.x is None else dataclasses.replace(kept, x=jax.vmap(unravel)(kept.x))
