"""Uniform experience replay on the device: a ring for each task, any pytree of items.

Lin 1992, *Self-improving reactive agents based on reinforcement learning, planning and teaching*;
as Mnih et al. 2015 use it: the newest `capacity` items are kept, a batch is drawn uniformly with
replacement. With K rings every batch holds equally much of each task, whatever each task has added.

State in, state out: all of it jits, vmaps over seeds, scans, and works in place where the state is
donated. On several devices let all hold the same rings: gather what is added over the devices, draw
one `indices` with one key and give each device its share of the columns.

Items are stored flat, as many side by side in a row as fill whole tiles of a TPU, whose rows are
128 numbers: a ring of 8 x 8 bytes an item would take many times its bytes there, or be copied whole
whenever it is read. On a CPU the bytes lie where they would lie anyway, and are read and written as
if there were no rows: XLA:CPU takes longer to find a place in a row.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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

_LANES = 128  # numbers in a row of a tile of a TPU
_ROWS = 8  # and rows in a tile
_ROW = 8192  # numbers in a row of several items, where fewer do not fill tiles


class ReplayState(NamedTuple):
    """K rings.

    Attributes:
      rows: leaves `[K, capacity / p, p * n]` of an item's n numbers, p items a row, in order;
        p divides the capacity.
      item: one item of zeros, `[1, ...]`, whose shapes and dtypes are those of all.
      position: int32 `[K]`, where the next item goes, in [0, capacity).
      stored: int32 `[K]`, how many slots hold an item; slots 0 to stored - 1 do.
    """

    rows: ArrayTree
    item: ArrayTree
    position: Array
    stored: Array

    @property
    def items(self) -> ArrayTree:
        """Leaves `[K, capacity, ...]`, to look at: off the CPU this is a copy."""
        return jax.tree.map(
            lambda x, one: x.reshape(x.shape[0], _capacity(self), *one.shape[1:]),
            self.rows,
            self.item,
        )


def init(item_spec: ArrayTree, num_tasks: int, capacity: int) -> ReplayState:
    """Empty rings.

    Args:
      item_spec: one item: arrays or `jax.ShapeDtypeStruct`, without leading axes.
      num_tasks: K.
      capacity: items kept of each task; on a TPU one with many divisors.

    Raises:
      ValueError: `num_tasks` or `capacity` below 1, or an item without leaves.
    """
    _check_sizes(item_spec, num_tasks, capacity)

    def rings(x):
        n = math.prod(jnp.shape(x))
        p = _per_row(n, capacity)
        return jnp.zeros((num_tasks, capacity // p, p * n), x.dtype)

    def zeros():
        return jnp.zeros(num_tasks, jnp.int32)  # two, or they could not be donated

    one = jax.tree.map(lambda x: jnp.zeros((1, *jnp.shape(x)), x.dtype), item_spec)
    return ReplayState(jax.tree.map(rings, item_spec), one, zeros(), zeros())


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
    def flat(ring, x):
        whole = ring.reshape(num_tasks, capacity, *x.shape[2:])
        return whole.at[task, slot].set(x, mode="drop").reshape(ring.shape)

    def in_rows(ring, x):
        x = x.reshape(num_tasks, n, -1)
        where = _where(task, slot, capacity // ring.shape[1], x.shape[2])
        numbers = lax.ScatterDimensionNumbers((2,), (0, 1), (0, 1, 2))
        return lax.scatter(ring, where, x, numbers, mode=lax.GatherScatterMode.FILL_OR_DROP)

    def put(ring, x):
        return lax.platform_dependent(ring, x, cpu=flat, default=in_rows)

    return ReplayState(
        jax.tree.map(put, state.rows, items),
        state.item,
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
    capacity = _capacity(state)

    def get(ring, one):
        def flat(ring):
            return ring.reshape(ring.shape[0], capacity, *one.shape[1:])[task, index]

        def in_rows(ring):
            where = _where(task, index, capacity // ring.shape[1], one.size)
            numbers, sizes = lax.GatherDimensionNumbers((2,), (0, 1), (0, 1, 2)), (1, 1, one.size)
            found = lax.gather(ring, where, numbers, sizes, mode=lax.GatherScatterMode.CLIP)
            return found.reshape(*index.shape, *one.shape[1:])

        return lax.platform_dependent(ring, cpu=flat, default=in_rows)

    return jax.tree.map(get, state.rows, state.item)


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


# ------------------------------------------------------------------------------------------ layout


def _per_row(n: int, capacity: int) -> int:
    """How many items of n numbers share a row: the divisor of the capacity with which a row fills
    its tiles best, the least of equal ones.

    Compiled, not run (libtpu 0.0.42, v5e): an item that is one of several in a row of whole tiles
    is read and written in place, one that fills its last tile in part is not. Where no row fills
    its tiles, whole tiles of rows keep the compiler from another layout of the state.
    """
    most = max(_ROW // max(n, 1), _LANES // math.gcd(n, _LANES))
    divisors = [p for p in range(1, most + 1) if capacity % p == 0]

    def cost(p: int) -> tuple[bool, float]:
        whole = -(-p * n // _LANES) * _LANES
        return whole != p * n and capacity // p % _ROWS != 0, whole / max(p * n, 1)

    return min(divisors, key=cost)


def _capacity(state: ReplayState) -> int:
    ring, one = jax.tree.leaves(state.rows)[0], jax.tree.leaves(state.item)[0]
    return ring.shape[1] * (ring.shape[2] // max(one.size, 1) or 1)


def _where(task: Array, slot: Array, per_row: int, n: int) -> Array:
    """Task, row and first column of slots int `[K, N]`: int32 `[K, N, 3]`."""
    return jnp.stack([task, slot // per_row, slot % per_row * n], -1)


# ------------------------------------------------------------------------------------------ checks


def _check_sizes(item_spec: ArrayTree, num_tasks: int, capacity: int) -> None:
    for name, value in (("num_tasks", num_tasks), ("capacity", capacity)):
        check_value(name, value, Steps)  # what is too large is `check_memory`'s to say
    if not jax.tree.leaves(item_spec):
        raise ValueError("item_spec must have at least one leaf")


def _check_items(state: ReplayState, items: ArrayTree) -> tuple[int, int]:
    """K and N."""
    (num_tasks,), ones = state.stored.shape, jax.tree.leaves(state.item)
    have: Any = jax.tree.structure(items)
    want: Any = jax.tree.structure(state.item)
    if have != want:
        raise ValueError(f"items must have the structure of the rings, {want}; got {have}")
    leaves: list[Any] = jax.tree.leaves_with_path(items)
    n = jnp.shape(leaves[0][1])[1] if jnp.ndim(leaves[0][1]) > 1 else 0
    for (path, x), one in zip(leaves, ones, strict=True):
        shape = (num_tasks, n, *one.shape[1:])
        if n < 1 or jnp.shape(x) != shape or x.dtype != one.dtype:
            raise ValueError(
                f"items{jax.tree_util.keystr(path)} must be {one.dtype} of shape [K, N, ...] = "
                f"{(num_tasks, 'N', *one.shape[1:])}; got {x.dtype}{jnp.shape(x)}"
            )
    return num_tasks, n
