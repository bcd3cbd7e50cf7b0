"""Checks at the door of the maths, before anything compiles: chex's, told the argument's name.

A wrong argument is a ValueError everywhere in the library, so that is what chex raises here. Values
are checked by hand, since chex refuses arrays and tracers where it looks at a number.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np


def assert_shape(axes: str, shape: tuple[int | None, ...], /, **arrays: Any) -> None:
    """`chex.assert_shape` of each argument by its name.

    Args:
      axes: what was expected in the letters of `types.py`, as in ``"[T, A]"``.
      shape: the same in numbers; None where any number will do.
      **arrays: arrays or numbers, named as the caller spells them.

    Raises:
      ValueError: naming the first whose shape differs, what came and what was expected.
    """
    for name, x in arrays.items():
        message = f"{name} must have shape {axes}"
        chex.assert_shape([x], shape, custom_message=message, exception_type=ValueError)


def assert_bool(**arrays: Any) -> None:
    """`chex.assert_type` of each argument by its name: a mask of numbers is a mistake.

    Raises:
      ValueError: naming the first that is not bool, and its type.
    """
    for name, x in arrays.items():
        message = f"{name} must be bool"
        chex.assert_type([x], bool, custom_message=message, exception_type=ValueError)


def check_range(name: str, x: Any, low: float, high: float, *, open_low: bool = False) -> None:
    """Raises ValueError unless every element of `x` lies in `[low, high]`; traced values pass.

    Args:
      name: the argument as the caller spells it.
      x: scalar or array. A tracer has no value yet and is let through.
      low: smallest allowed value, excluded where `open_low`.
      high: largest allowed value.
      open_low: whether `low` itself is refused.
    """
    if isinstance(x, jax.core.Tracer):
        return
    value = np.asarray(x)
    if isinstance(x, bool) or value.dtype.kind in "OSU":
        raise ValueError(f"{name} must be a number, got {x!r}")
    above = value > low if open_low else value >= low
    if not np.all(above & (value <= high)):  # NaN fails both comparisons
        bracket = "(" if open_low else "["
        raise ValueError(f"{name} must lie in {bracket}{low}, {high}], got {x}")


def at_least_float32(x: Any) -> jax.Array:
    """Casts to float32, or leaves float64 as it is: sums and log-softmax are not for bfloat16."""
    x = jnp.asarray(x)
    wide: jax.Array = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return wide
