"""Problems of the CUTEst collection, from the package `sif2jax`, as flat functions.

The two lists below are the problems that this project measures itself on.  `load`
returns one of them as a function of a vector, with its bounds as vectors.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

_BOUNDED = """
AIRCRFTB BIGGS3 BOX2 BQPGABIM BRANIN CHARDIS0 CYCLOOCTLS DEGTRID DEVGLA1B DGOSPEC DIAGIQE
DIAGNQB DIAGNQT DIAGPQE EGGCRATEB EXP2B EXPLIN2 HADAMALS HATFLDA HATFLDC HS110 HS25 HS38
HS4 HS5 KOEBHELB LEVYMONT10 LEVYMONT6 LEVYMONT8 LOGROS NCVXBQP2 OBSTCLAE OBSTCLBL OBSTCLBU
PALMER1A PALMER2A PALMER2E PALMER3A PALMER3E PALMER4B PALMER5B PALMER6E PALMER8A PFIT1LS
PFIT3LS PRICE4B QUDLIN S368 TORSION2 TORSION4 TORSION6 TORSIONB TORSIOND TORSIONF
"""
_UNCONSTRAINED = """
AKIVA ARGLINA ARGLINC ARWHEAD BDQRTIC BENNETT5LS BOX BOXBODLS BROWNDEN BROYDN7D CHNROSNB
CHWIRUT1LS CLIFF COATING COSINE CUBE CURLY20 CYCLIC3LS DANIWOODLS DENSCHNB DENSCHND
DENSCHNF DEVGLA2 DIXMAANB DIXMAAND DIXMAANF DIXMAANH DIXMAANJ DIXMAANL DIXMAANN DIXMAANP
DJTL DMN15103LS DQRTIC DRCAV2LQ EG2 EIGENALS EIGENCLS ENGVAL1 ERRINROS EXPFIT FLETCBV2
FLETCHCR FMINSURF GAUSS1LS GAUSS3LS GENHUMPS GROWTHLS HAIRY HATFLDE HATFLDFLS HEART8LS
HILBERTA HIMMELBCLS HIMMELBH INDEF INTEQNELS JUDGE KOWOSB LANCZOS2LS LOGHAIRY LSC2LS
LUKSAN12LS LUKSAN14LS LUKSAN16LS LUKSAN21LS MEXHAT MGH10LS MGH17LS MISRA1ALS MISRA1CLS
MSQRTALS NELSONLS NONCVXUN NONMSQRT OSBORNEB PALMER1D PALMER3C PALMER5C PALMER6C PALMER8C
POWER PRICE3 QING RAT42LS ROSENBR S308 SCURLY10 SCURLY30 SNAIL SPIN2LS TENFOLDTRLS TRIGON1
VARDIM VESUVIOLS VIBRBEAM WAYSEA2 YATP1CLS ZANGWIL2
"""
BOUNDED, UNCONSTRAINED = tuple(_BOUNDED.split()), tuple(_UNCONSTRAINED.split())
LISTS = {"bounded": BOUNDED, "unconstrained": UNCONSTRAINED}


class Problem(NamedTuple):
    """Minimise ``fun(x, *args)`` over the box, from ``x0``."""

    name: str
    fun: Callable[..., jax.Array]
    x0: np.ndarray
    lower: np.ndarray | None
    upper: np.ndarray | None
    """Both None where the problem has no bounds."""
    args: tuple[Any, ...] = ()
    numpy: Callable[[np.ndarray], tuple[float, np.ndarray]] | None = None
    """Value and gradient written with NumPy, where there is such a thing."""

    @property
    def n(self) -> int:
        """The number of variables."""
        return self.x0.size


def load(name: str, **sizes: int) -> Problem:
    """The problem of this class name in `sif2jax`, on request in other sizes; needs 64-bit mode."""
    problem = _problem_class(name)(**sizes)
    x0, unravel = ravel_pytree(problem.y0)
    args = problem.args

    def fun(x: jax.Array) -> jax.Array:
        return jnp.reshape(problem.objective(unravel(x), args), ())

    lower = upper = None
    if getattr(problem, "bounds", None) is not None:
        lower, upper = (_flat(bound, problem.y0) for bound in problem.bounds)
    return Problem(name, fun, np.array(x0, np.float64), lower, upper)


def _flat(bound: Any, like: Any) -> np.ndarray:
    """A bound, which may be a scalar for a whole leaf, as a vector."""
    full = jax.tree.map(lambda b, leaf: jnp.broadcast_to(b, jnp.shape(leaf)), bound, like)
    return np.array(ravel_pytree(full)[0], np.float64)


def _problem_class(name: str) -> type:
    families = ["_bounded_minimisation", "_quadratic_problems", "_unconstrained_minimisation"]
    if name in UNCONSTRAINED:
        families.reverse()
    for family in families:
        module = _import_family(family)
        if hasattr(module, name):
            return getattr(module, name)
    raise KeyError(f"sif2jax has no bounded or unconstrained problem {name!r}")


def _import_family(family: str) -> types.ModuleType:
    """Import one family of problems without the others.

    ``import sif2jax`` takes the better part of a minute, nearly all of it for one
    constrained problem.  While a family is imported, bare packages stand in for its
    parents; they are removed again, so that a real import later still works.
    """
    path = f"sif2jax.cutest.{family}"
    if path in sys.modules:
        return sys.modules[path]
    stand_ins = []
    try:
        for parent in ("sif2jax", "sif2jax.cutest"):
            if parent in sys.modules:
                continue
            spec = importlib.util.find_spec(parent)  # finds it, runs nothing
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError(f"no package {parent}: install the extra 'bench'")
            sys.modules[parent] = types.ModuleType(parent)
            sys.modules[parent].__path__ = list(spec.submodule_search_locations)
            stand_ins.append(parent)
            if parent == "sif2jax":  # some problems import their base class from here
                bases = vars(importlib.import_module("sif2jax._problem")).items()
                vars(sys.modules[parent]).update(
                    (name, base) for name, base in bases if name.startswith("Abstract")
                )
        return importlib.import_module(path)
    finally:
        for parent in stand_ins:
            del sys.modules[parent]
