"""The one dtype in which surgery computes."""

import functools
from typing import Any

import jax.numpy as jnp

__all__ = ["accumulator"]


def accumulator(*dtypes: Any) -> Any:
    """The dtype in which everything between such inputs and outputs is computed: float32, or
    float64 if one of them is."""
    return functools.reduce(jnp.promote_types, dtypes, jnp.float32)
