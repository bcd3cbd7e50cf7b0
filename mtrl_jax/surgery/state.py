"""The state of every surgery transform."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.curvature import CurvatureState
from mtrl_jax.surgery.options import Seed

__all__ = ["Record", "SurgeryState", "empty_record", "new_key"]

Array = jax.Array


class Record(NamedTuple):
    """What `surgery.diagnostics` is computed from; G groups (1 for `scope='global'`).

    Attributes:
      gram: float32 `[G, K, K]`, of the shared leaves.
      weights: float32 `[G, K]`, or None for a method without weights.
      converged: bool `[G]`, whether the method's solver did; True where it has none.
      norm_before: float32 `[]`, norm of the plain sum (or mean, if the method's scale is that of a
        mean) of the task gradients over the shared leaves.
      norm_after: float32 `[]`, norm of the update over the shared leaves.
    """

    gram: Array
    weights: Any
    converged: Array
    norm_before: Array
    norm_after: Array


class SurgeryState(NamedTuple):
    """State of every transform in `mtrl_jax.surgery`; nothing in it is of the size of the
    parameters unless `diagnostics='curvature'` asks for that.

    Attributes:
      step: int32 `[]`, number of updates so far.
      key: typed key, or None for deterministic methods. Constant: update n draws from
        `fold_in(key, n)`, so that a resumed run draws what the uninterrupted one would have.
      method: what the method remembers, leaves `[G, ...]`.
      record: a `Record`, or None without diagnostics.
      curvature: a `CurvatureState`, or None unless asked for.
    """

    step: Array
    key: Any
    method: Any
    record: Record | None
    curvature: CurvatureState | None


def empty_record(num_groups: int, num_tasks: int, has_weights: bool) -> Record:
    """The `Record` before the first update."""
    return Record(
        gram=jnp.zeros((num_groups, num_tasks, num_tasks), jnp.float32),
        weights=jnp.zeros((num_groups, num_tasks), jnp.float32) if has_weights else None,
        converged=jnp.ones((num_groups,), bool),
        norm_before=jnp.zeros((), jnp.float32),
        norm_after=jnp.zeros((), jnp.float32),
    )


def new_key(seed: Seed) -> Array:
    """A typed key in a buffer of its own, so that donating the state cannot delete the caller's."""
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(seed, 0)
    if jnp.shape(seed) != ():
        raise ValueError(
            f"seed must be an integer or a typed key (jax.random.key), got shape "
            f"{jnp.shape(seed)}; wrap raw keys with jax.random.wrap_key_data."
        )
    return jax.random.key(seed)
