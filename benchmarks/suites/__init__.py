"""One module for each suite, with

- ``tasks(options)``: what to do, a list of ``(label, function that returns rows)``;
- ``summarise(rows)``: a dictionary;
- ``COLUMNS``: the entries of a row that the table shows;
- ``SETTINGS``: what the result file says about how it was measured;
- ``stem(options)``, where the result file is not named like the suite.

The first line of its docstring is its title.
"""

from __future__ import annotations

from typing import NamedTuple

NAMES = "small medium large batch steps compile memory gpu fidelity".split()


class Options(NamedTuple):
    """What the command line says to every suite."""

    quick: bool = False
    """Tiny sizes and few repetitions: only whether it runs."""
    lists: str = "bounded"
    problems: int | None = None
    limit: float | None = None
    """Seconds to repeat one pair of solvers; None: as the suite has it."""
