"""The state of every surgery transform."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.curvature import CurvatureState
from mtrl_jax.surgery.options import Seed

__all__ = ["Record", "SurgeryState", "empty_record", "key_data", "new_key", "wrap_key"]

Array = jax.Array


class Record(NamedTuple):
    """What `surgery.diagnostics` is computed from; G groups (1 for `scope='global'`). Floats are
    float32, or float64 for float64 parameters.

    Attributes:
      gram: `[G, K, K]`, of the shared leaves; zero for absent tasks. Of a method that averages
        gradients over time, of their means.
      weights: `[G, K]`, or None for a method without weights.
      converged: bool `[G]`, whether the weights are what the method claims: False where its solver
        gave up, or where those of an earlier update stand in. True for a method without weights.
      norm_before: `[]`, norm of the plain sum (or mean, if the method's scale is that of a mean) of
        the task gradients over the shared leaves.
      norm_after: `[]`, norm of the update over the shared leaves.
    """

    gram: Array
    weights: Any
    converged: Array
    norm_before: Array
    norm_after: Array


class SurgeryState(NamedTuple):
    """State of every transform in `mtrl_jax.surgery`; nothing in it is of the size of the
    parameters unless `diagnostics='curvature'` asks for that, or the method remembers gradients.
    All leaves are plain arrays, whose dtypes follow from the parameters.

    Attributes:
      step: int32 `[]`, number of updates so far.
      key: uint32, the data of a key, or None for deterministic methods. Constant: update n draws
        from `fold_in(key, n)`, so that a resumed run draws what the uninterrupted one would have.
      method: what the method remembers, leaves `[G, ...]`.
      record: a `Record`, or None without diagnostics.
      curvature: a `CurvatureState`, or None unless asked for.
      weights: `[G, K]`, of the last sound update (each task's of the last in which it was present);
        equal ones at first. They stand in where a method has none. None for a method without.
      unsound: int32 `[]`, number of updates so far from which the method did not learn, because
        what it saw was not finite or outside its domain.
      scope: int32 `[]`, position in `SCOPES`; says what a group is to code that has the state alone
        (`networks.morph.carry`).
      memory: of a method that has one (see `Memory`): a list, leaf by leaf of the parameters, of
        trees of arrays (None for a leaf that is task-specific); else None.
    """

    step: Array
    key: Any
    method: Any
    record: Record | None
    curvature: CurvatureState | None
    weights: Any
    unsound: Array
    scope: Array
    memory: Any = None


def empty_record(num_groups: int, num_tasks: int, has_weights: bool, dtype: Any) -> Record:
    """The `Record` before the first update."""
    return Record(
        gram=jnp.zeros((num_groups, num_tasks, num_tasks), dtype),
        weights=jnp.zeros((num_groups, num_tasks), dtype) if has_weights else None,
        converged=jnp.ones((num_groups,), bool),
        norm_before=jnp.zeros((), dtype),
        norm_after=jnp.zeros((), dtype),
    )


def _is_key(seed: Any) -> bool:
    return isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)


def new_key(seed: Seed) -> Array:
    """A typed key in a buffer of its own, so that donating the state cannot delete the caller's."""
    if _is_key(seed):
        return jax.random.fold_in(jnp.asarray(seed), 0)
    if jnp.shape(seed) != ():
        raise ValueError(
            f"seed must be an integer or a typed key (jax.random.key), got shape "
            f"{jnp.shape(seed)}; wrap raw keys with jax.random.wrap_key_data."
        )
    return jax.random.key(seed)


def key_data(seed: Seed) -> Array:
    """The data of `new_key(seed)`, uint32: a plain array, which any code can write and read."""
    return jax.random.key_data(new_key(seed))


def wrap_key(data: Array, seed: Seed) -> Array:
    """A typed key from its data, of the kind that `seed` is (JAX's default for an integer)."""
    impl = jax.random.key_impl(seed) if _is_key(seed) else None
    key: Array = jax.random.wrap_key_data(data, impl=impl)
    return key
