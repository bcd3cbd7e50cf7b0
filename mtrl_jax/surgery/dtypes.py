"""The one dtype in which surgery computes."""

from typing import Any

import jax.numpy as jnp

__all__ = ["accumulator"]


def accumulator(*dtypes: Any) -> Any:
    """The dtype in which everything between such inputs and outputs is computed: float32, or
    float64 if one of them is."""
    widest: Any = jnp.float32
    for dtype in dtypes:
        widest = jnp.promote_types(widest, dtype)
    return widest
