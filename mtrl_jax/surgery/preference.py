"""How much each task counts, for the methods that combine rows of something linearly."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mtrl_jax.surgery.method import Inputs

__all__ = ["Preference", "preferred"]

Preference = Sequence[float] | Array | None


def preferred(preference: Preference, inputs: Inputs) -> Array:
    """The preference among the tasks that are present, `[K]`, sum 1; 0 for absent tasks.

    Args:
      preference: `[K]`, not negative, of which only the ratios count; None: equal.
      inputs: see `Inputs`.

    Raises:
      ValueError: if it is not one number a task, or one is negative.
    """
    if preference is None:
        return inputs.ones / inputs.num_present
    given = jnp.asarray(preference, inputs.dtype)
    if given.shape != (inputs.num_tasks,):
        raise ValueError(
            f"preference must be {inputs.num_tasks} numbers, one a task; got shape {given.shape}."
        )
    if not isinstance(preference, jax.Array) and not (np.asarray(preference) >= 0).all():
        raise ValueError(f"preference must not be negative, got {preference!r}.")
    given = given * inputs.ones
    return given / given.sum()
