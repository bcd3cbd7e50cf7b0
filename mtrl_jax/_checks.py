"""Checks at the door of the maths: one sentence that names the argument, before anything
compiles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_shape(name: str, x: Any, shape: tuple[int, ...], axes: str) -> None:
    """Raises ValueError unless `x` has `shape`; `axes` says it in the letters of `types.py`.

    Args:
      name: the argument as the caller spells it.
      x: array, or anything with a shape.
      shape: what was expected.
      axes: the same in letters, as in ``"[T, A]"``.
    """
    if jnp.shape(x) != shape:
        raise ValueError(f"{name} must have shape {axes} = {shape}, got {jnp.shape(x)}")


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
    above = value > low if open_low else value >= low
    if not np.all(above & (value <= high)):  # NaN fails both comparisons
        bracket = "(" if open_low else "["
        raise ValueError(f"{name} must lie in {bracket}{low}, {high}], got {x}")


def at_least_float32(x: Any) -> jax.Array:
    """Casts to float32, or leaves float64 as it is: sums and log-softmax are not for bfloat16."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
