"""Array aliases with named axes.

The names of the axes are checked in the tests, where `jaxtyping` is installed;
without it they are plain arrays, so it is no run-time dependency.

=====  ==========================================
axis   meaning
=====  ==========================================
``n``  variables
``m``  correction pairs that the memory can hold
``k``  rows of ``W`` transposed, ``k = 2 m``
=====  ==========================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import jax

if TYPE_CHECKING:
    Vector: TypeAlias = jax.Array
    Mask: TypeAlias = jax.Array
    PairRows: TypeAlias = jax.Array
    Coefficients: TypeAlias = jax.Array
    MiddleMatrix: TypeAlias = jax.Array
    SmallMatrix: TypeAlias = jax.Array
    SquareMatrix: TypeAlias = jax.Array
    AnyMatrix: TypeAlias = jax.Array
    Scalar: TypeAlias = jax.Array
    Integer: TypeAlias = jax.Array
    Sides: TypeAlias = jax.Array
    Ages: TypeAlias = jax.Array
    Boolean: TypeAlias = jax.Array
else:
    try:
        from jaxtyping import Array, Bool, Float, Int
    except ImportError:
        Vector = Mask = PairRows = Coefficients = jax.Array
        MiddleMatrix = SmallMatrix = Scalar = Integer = Boolean = Sides = Ages = jax.Array
        SquareMatrix = AnyMatrix = jax.Array
    else:
        Vector = Float[Array, "n"]
        Mask = Bool[Array, "n"]
        PairRows = Float[Array, "k n"]
        Coefficients = Float[Array, "k"]
        MiddleMatrix = Float[Array, "k k"]
        SmallMatrix = Float[Array, "m m"]
        SquareMatrix = Float[Array, "size size"]
        AnyMatrix = Float[Array, "_ _"]
        Scalar = Float[Array, ""]
        Integer = Int[Array, ""]
        Sides = Int[Array, "n"]
        Ages = Int[Array, "m"]
        Boolean = Bool[Array, ""]

PyTree: TypeAlias = Any
