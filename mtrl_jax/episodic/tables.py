"""The record that a table is: its slots, what is known of keys, and how much memory it takes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import memory
from mtrl_jax.ranges import Count, Steps, check_value
from mtrl_jax.types import Array

__all__ = [
    "FREE",
    "Table",
    "check_memory",
    "filled",
    "half_norm",
    "hash_of",
    "init",
    "nbytes",
    "plain",
    "same_bits",
    "size",
]

FREE = np.finfo(np.float32).max  # more than any key's; finite, as everything in a state should be

# Of the hash: a factor and a summand for each of two words and each coordinate.
_ODD, _SHIFT = np.random.Generator(np.random.Philox(1606)).integers(
    0, 2**32, (2, 2, 4096), dtype=np.uint32
)


class Table(NamedTuple):
    """N slots.

    Attributes:
      keys: float32 `[N, D]`.
      values: float32 `[N]`.
      half_norms: float32 `[N]`, |key|^2 / 2; `FREE` where a slot is not used.
      hashes: uint32 `[2, N]`, of the keys' bits.
      used: int32 `[N]`, the tick of the last use, modulo 2^32.
      clock: int32 `[]`, ticks so far: one for each key that was written or touched.
    """

    keys: Array
    values: Array
    half_norms: Array
    hashes: Array
    used: Array
    clock: Array


def init(capacity: int, dim: int, lead: tuple[int, ...] = ()) -> Table:
    """Empty tables.

    Args:
      capacity: N, keys of one table.
      dim: D, numbers of one key.
      lead: leading axes, as (K, A).

    Raises:
      ValueError: for a number that is no integer of at least 1, or a D above 4,096.
    """
    _check_sizes(capacity, dim, lead)
    shape = (*lead, capacity)
    return Table(
        jnp.zeros((*shape, dim)),
        jnp.zeros(shape),
        jnp.full(shape, FREE),
        jnp.zeros((*lead, 2, capacity), jnp.uint32),
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(lead, jnp.int32),
    )


def size(table: Table) -> Array:
    """int32, keys stored; of tables with leading axes those axes."""
    return filled(table).sum(-1, dtype=jnp.int32)


def filled(table: Table) -> Array:
    """bool `[N]`, slots that hold a key."""
    return table.half_norms < FREE


def plain(keys: Array) -> Array:
    """In float32, with one zero; adding 0 would be simplified away."""
    keys = jnp.asarray(keys).astype(jnp.float32)
    return jnp.where(keys == 0.0, 0.0, keys)


def half_norm(keys: Array) -> Array:
    """|key|^2 / 2 of the last axis; not finite where a key is not."""
    return 0.5 * jnp.square(keys).sum(-1)


def hash_of(keys: Array) -> Array:
    """uint32 `[2, M]` of keys `[M, D]`: sums over the coordinates' mixed bits."""
    bits = jax.lax.bitcast_convert_type(keys, jnp.uint32)[None]
    odd, shift = (
        jnp.broadcast_to(jnp.asarray(x)[:, None, : keys.shape[1]], (2, *keys.shape))
        for x in (_ODD | 1, _SHIFT)
    )
    x = bits * odd + shift
    for by, times in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> by)) * jnp.uint32(times)
    return (x ^ (x >> 16)).sum(-1, dtype=jnp.uint32)


def same_bits(table: Table, keys: Array) -> Array:
    """bool `[M, N]`, by hashes."""
    (high, low), (stored_high, stored_low) = hash_of(keys), table.hashes
    same = (high[:, None] == stored_high[None]) & (low[:, None] == stored_low[None])
    return same & filled(table)[None]


# ------------------------------------------------------------------------------------------ memory


def nbytes(capacity: int, dim: int, lead: tuple[int, ...] = ()) -> int:
    """Bytes of the tables that `init` makes of the same arguments, whose errors it raises."""
    _check_sizes(capacity, dim, lead)
    return int(np.prod(lead, dtype=np.int64)) * (capacity * 4 * (dim + 5) + 4)


def check_memory(
    capacity: int, dim: int, lead: tuple[int, ...] = (), copies: int = 1, free: int | None = None
) -> None:
    """Raises ValueError, saying how much is needed, if so many tables do not fit into free memory.

    Args:
      capacity, dim, lead: as `init`.
      copies: seeds times devices, each of which has tables of its own.
      free: bytes; None asks the machine (`memory.free_bytes`), and passes where it does not know.
    """
    tables = int(np.prod(lead, dtype=np.int64))
    what = f"capacity of {capacity} keys of {dim} numbers in {tables} tables and {copies} copies"
    memory.check(what, nbytes(capacity, dim, lead) * copies, capacity, free)


def _check_sizes(capacity: int, dim: int, lead: tuple[int, ...]) -> None:
    check_value("capacity", capacity, Steps)  # what is too large is `check_memory`'s to say
    check_value("dim", dim, Count)
    check_value("lead", lead, tuple[Count, ...])
    if dim > _ODD.shape[1]:
        raise ValueError(f"dim must be at most {_ODD.shape[1]}; got {dim}")
