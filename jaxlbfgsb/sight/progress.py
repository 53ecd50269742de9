"""Bars of progress, by tqdm: of one run and of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np


def checked_progress(progress: Any) -> int:
    """Iterations between two updates; 0 for no bar."""
    if isinstance(progress, bool):
        return int(progress)
    if not isinstance(progress, int | np.integer) or progress < 1:
        raise ValueError(
            "progress must be True, False, or the number of iterations between two updates; "
            f"it is {progress!r}."
        )
    return int(progress)


def new_bar(unit: str, total: int | None = None) -> Any:
    """A bar of tqdm, in the terminal or in a notebook."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError(
            "progress=True needs the package tqdm: pip install 'jaxlbfgsb[progress]'."
        ) from None
    return tqdm(total=total, unit=unit)


class RunBar:
    """The bar of a run, open from its first to its last update."""

    def __init__(self) -> None:
        self.bar: Any = None

    def show(self, nit: int, fun: float, pg_norm: float, nfev: int, active: int) -> None:
        if self.bar is None:
            self.bar = new_bar(" iterations")
        self.bar.set_postfix_str(
            f"f={fun:.6g}, pg_norm={pg_norm:.2e}, nfev={nfev}, active={active}", refresh=False
        )
        self.bar.update(nit - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None
