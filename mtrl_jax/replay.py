"""Uniform experience replay on the device: a ring for each task, any pytree of items.

Lin 1992, *Self-improving reactive agents based on reinforcement learning, planning and teaching*;
as Mnih et al. 2015 use it: the newest `capacity` items are kept, a batch is drawn uniformly with
replacement. With K rings every batch holds equally much of each task, whatever each task has added.

State in, state out: all of it jits, vmaps over seeds, scans, and works in place where the state is
donated. On several devices let all hold the same rings: gather what is added over the devices, draw
one `indices` with one key and give each device its share of the columns.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import memory
from mtrl_jax._checks import assert_bool, assert_shape
from mtrl_jax.ranges import Count, Steps, check_value
from mtrl_jax.types import Array, ArrayTree, Key

__all__ = [
    "ReplayState",
    "add",
    "check_memory",
    "indices",
    "init",
    "nbytes",
    "sample",
    "size",
    "take",
]


class ReplayState(NamedTuple):
    """K rings.

    Attributes:
      items: leaves `[K, capacity, ...]`, dtypes as given to `init`.
      position: int32 `[K]`, where the next item goes, in [0, capacity).
      stored: int32 `[K]`, how many slots hold an item; slots 0 to stored - 1 do.
    """

    items: ArrayTree
    position: Array
    stored: Array


def init(item_spec: ArrayTree, num_tasks: int, capacity: int) -> ReplayState:
    """Empty rings.

    Args:
      item_spec: one item: arrays or `jax.ShapeDtypeStruct`, without leading axes.
      num_tasks: K.
      capacity: items kept of each task.

    Raises:
      ValueError: `num_tasks` or `capacity` below 1, or an item without leaves.
    """
    _check_sizes(item_spec, num_tasks, capacity)

    def rings(x):
        return jnp.zeros((num_tasks, capacity, *jnp.shape(x)), x.dtype)

    def zeros():
        return jnp.zeros(num_tasks, jnp.int32)  # two, or they could not be donated

    return ReplayState(jax.tree.map(rings, item_spec), zeros(), zeros())


def add(state: ReplayState, items: ArrayTree, valid: Array | None = None) -> ReplayState:
    """Appends N items to each ring, in order, over the oldest ones.

    Args:
      state: rings.
      items: leaves `[K, N, ...]` of the dtypes of the rings.
      valid: bool `[K, N]`: items that are not valid are not stored and take no slot, so that rings
        may fill at different speeds. None: all are.

    Of more than `capacity` valid items the last `capacity` are kept. No gradient passes.

    Raises:
      ValueError: a leaf of another shape or dtype than the rings', or `valid` not bool `[K, N]`.
    """
    num_tasks, n = _check_items(state, items)
    if valid is None:
        valid = jnp.ones((num_tasks, n), bool)
    assert_shape("[K, N]", (num_tasks, n), valid=valid)
    assert_bool(valid=valid)
    capacity = _capacity(state)
    rank = jnp.cumsum(valid, axis=1, dtype=jnp.int32)  # from 1
    count = rank[:, -1:]
    slot = (state.position[:, None] + rank - 1) % capacity
    # Slots are unique: what a later item of this very call would overwrite is not written at all.
    slot = jnp.where(valid & (rank > count - capacity), slot, capacity)
    task = jnp.broadcast_to(jnp.arange(num_tasks)[:, None], slot.shape)

    # Invalid items share the slot past the end, which is dropped.
    def put(ring, x):
        return ring.at[task, slot].set(x, mode="drop")

    return ReplayState(
        jax.tree.map(put, state.items, items),
        (state.position + count[:, 0]) % capacity,
        jnp.minimum(state.stored + count[:, 0], capacity),
    )


def sample(state: ReplayState, key: Key, batch_size: int) -> ArrayTree:
    """B items of each task, uniform over what is stored, with replacement; leaves `[K, B, ...]`.

    An empty ring gives zeros: look at `size` before learning.
    """
    return take(state, indices(state, key, batch_size))


def indices(state: ReplayState, key: Key, batch_size: int) -> Array:
    """Slots int32 `[K, B]` for `take`, drawn as `sample` does."""
    check_value("batch_size", batch_size, Count)
    shape = (state.stored.shape[0], batch_size)
    filled = jnp.broadcast_to(state.stored[:, None], shape)
    return jax.random.randint(key, shape, 0, filled)


def take(state: ReplayState, index: Array) -> ArrayTree:
    """Items at slots int `[K, B]`, each below `size`; leaves `[K, B, ...]`."""
    task = jnp.broadcast_to(jnp.arange(index.shape[0])[:, None], index.shape)
    return jax.tree.map(lambda ring: ring[task, index], state.items)


def size(state: ReplayState) -> Array:
    """int32 `[K]`: items stored of each task."""
    return state.stored


# ------------------------------------------------------------------------------------------ memory


def nbytes(item_spec: ArrayTree, num_tasks: int, capacity: int) -> int:
    """Bytes of the rings that `init` makes of the same arguments, whose errors it raises."""
    _check_sizes(item_spec, num_tasks, capacity)
    one = sum(
        int(np.prod(jnp.shape(x), dtype=np.int64)) * np.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(item_spec)
    )
    return one * num_tasks * capacity


def check_memory(
    item_spec: ArrayTree, num_tasks: int, capacity: int, copies: int = 1, free: int | None = None
) -> None:
    """Raises ValueError, saying how much is needed, if so many rings do not fit into free memory.

    To be called before training: an allocation that fails, or a machine that swaps, says less.

    Args:
      item_spec, num_tasks, capacity: as `init`.
      copies: seeds times devices, each of which has rings of its own.
      free: bytes; None asks the machine (`memory.free_bytes`), and passes where it does not know.
    """
    what = f"capacity of {capacity} items for each of {num_tasks} tasks in {copies} copies"
    memory.check(what, nbytes(item_spec, num_tasks, capacity) * copies, capacity, free)


# ------------------------------------------------------------------------------------------ checks


def _capacity(state: ReplayState) -> int:
    return jax.tree.leaves(state.items)[0].shape[1]


def _check_sizes(item_spec: ArrayTree, num_tasks: int, capacity: int) -> None:
    for name, value in (("num_tasks", num_tasks), ("capacity", capacity)):
        check_value(name, value, Steps)  # what is too large is `check_memory`'s to say
    if not jax.tree.leaves(item_spec):
        raise ValueError("item_spec must have at least one leaf")


def _check_items(state: ReplayState, items: ArrayTree) -> tuple[int, int]:
    """K and N."""
    (num_tasks,), rings = state.stored.shape, jax.tree.leaves(state.items)
    have: Any = jax.tree.structure(items)
    want: Any = jax.tree.structure(state.items)
    if have != want:
        raise ValueError(f"items must have the structure of the rings, {want}; got {have}")
    leaves: list[Any] = jax.tree.leaves_with_path(items)
    n = jnp.shape(leaves[0][1])[1] if jnp.ndim(leaves[0][1]) > 1 else 0
    for (path, x), ring in zip(leaves, rings, strict=True):
        shape = (num_tasks, n, *ring.shape[2:])
        if n < 1 or jnp.shape(x) != shape or x.dtype != ring.dtype:
            raise ValueError(
                f"items{jax.tree_util.keystr(path)} must be {ring.dtype} of shape [K, N, ...] = "
                f"{(num_tasks, 'N', *ring.shape[2:])}; got {x.dtype}{jnp.shape(x)}"
            )
    return num_tasks, n
