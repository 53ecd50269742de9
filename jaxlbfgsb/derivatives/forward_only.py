"""An identity that forward mode passes through and reverse mode does not.

JAX can differentiate a `while_loop` in forward mode only.  What it says otherwise names
the loop, not the way out: this says both, and says it first, since reverse mode meets the
outputs of a function before its loops.
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Tree = TypeVar("Tree")

_identity = Primitive("forward_only")
_identity.def_impl(lambda x, *, message: x)
_identity.def_abstract_eval(lambda x, *, message: x)
mlir.register_lowering(_identity, lambda ctx, x, *, message: [x])
batching.defvectorized(_identity)


def _refuse(cotangent: Any, x: Any, *, message: str) -> NoReturn:
    raise ValueError(message)


ad.deflinear2(_identity, _refuse)


def forward_only(tree: Tree, message: str) -> Tree:
    """The same values; ValueError with this message in reverse mode.

    Examples
    --------
    >>> import jax
    >>> from jaxlbfgsb.derivatives.forward_only import forward_only
    >>> jax.jvp(lambda x: forward_only(x * 2, "no"), (1.0,), (1.0,))[1].item()
    2.0
    """

    def leaf(x: Any) -> Any:
        return _identity.bind(x, message=message) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return jax.tree.map(leaf, tree)
