"""Writing to tables: batches with equal keys in them, and which keys make room."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_bool, assert_shape, check_range
from mtrl_jax.episodic import tables
from mtrl_jax.episodic.tables import Table
from mtrl_jax.types import Array

__all__ = ["move", "touch", "write_max", "write_towards"]

_LONG_AGO = 2**30  # ticks after which ages are not told apart
_UNUSED = 2**31 - 1
_LEAST_NORMAL, _INFINITY = 0x00800000, 0x7F800000  # of float32


def touch(table: Table, index: Array, valid: Array | None = None) -> Table:
    """Counts slots int `[...]` as used, in order, the last of them last; not where not `valid`."""
    index = index.reshape(-1)
    where = index if valid is None else jnp.where(valid.reshape(-1), index, table.values.shape[0])
    return _use(table, where, jnp.arange(index.size, dtype=jnp.int32), index.size)


def write_max(table: Table, keys: Array, values: Array, valid: Array | None = None) -> Table:
    """MFEC's write, of an episode or any other batch.

    Blundell et al. 2016, section 3:

        Q_EC(s, a) := max(Q_EC(s, a), R)

    or R where the key is new. That is optimistic: of random returns it keeps the best.

    Args:
      table: one.
      keys: `[M, D]`.
      values: `[M]`, Monte-Carlo returns.
      valid: bool `[M]`, what is to be written, as `action == a`; None: all.

    Raises:
      ValueError: for a wrong shape, or `valid` not bool.
    """
    return _write(table, keys, values, valid, jnp.maximum)


def write_towards(
    table: Table, keys: Array, values: Array, rate: float | Array, valid: Array | None = None
) -> Table:
    """NEC's write: a new key is stored as it is, of one that is there the value moves.

    Pritzel et al. 2017, section 3:

        Q_i := Q_i + alpha (Q^(N)(s, a) - Q_i)

    Args:
      table, keys, valid: as in `write_max`, with the same errors.
      values: `[M]`, n-step targets.
      rate: alpha in [0, 1].
    """
    check_range("rate", rate, 0.0, 1.0)
    return _write(table, keys, values, valid, lambda old, new: old + rate * (new - old))


def move(table: Table, index: Array, key_steps: Array, value_steps: Array) -> Table:
    """Adds to keys and values: what a gradient step does to those that were read.

    Args:
      table: one.
      index: int `[P]`, slots; the steps of one that is there twice add up, and one that is not used
        stays so.
      key_steps: `[P, D]`.
      value_steps: `[P]`.
    """
    keys = table.keys.at[index].add(key_steps)
    moved = tables.plain(keys[index])
    half_norm = jnp.where(tables.filled(table)[index], tables.half_norm(moved), tables.FREE)
    return table._replace(
        keys=keys.at[index].set(moved),
        values=table.values.at[index].add(value_steps),
        half_norms=table.half_norms.at[index].set(half_norm),
        hashes=table.hashes.at[:, index].set(tables.hash_of(moved)),
    )


def _write(
    table: Table,
    keys: Array,
    values: Array,
    valid: Array | None,
    combine: Callable[[Array, Array], Array],
) -> Table:
    n, dim = table.keys.shape
    assert_shape("[M, D]", (None, dim), keys=keys)
    m = keys.shape[0]
    valid = jnp.ones(m, bool) if valid is None else valid
    assert_shape("[M]", (m,), values=values, valid=valid)
    assert_bool(valid=valid)
    keys, values = tables.plain(keys), jnp.asarray(values).astype(jnp.float32)
    valid &= (tables.half_norm(keys) < tables.FREE) & jnp.isfinite(values)
    # Equal keys next to each other, in order; what is not valid behind all others.
    high, low = tables.hash_of(keys)
    order = jnp.lexsort((jnp.arange(m), low, high, ~valid)).astype(jnp.int32)
    keys, values, valid = keys[order], values[order], valid[order]
    follows = jnp.append(False, (keys[1:] == keys[:-1]).all(1) & valid[1:])
    slot = _find(table, keys)
    known = slot < n

    def one(value, row):
        new, follows, known, old = row
        value = jnp.where(follows, value, jnp.where(known, old, new))
        value = jnp.where(follows | known, combine(value, new), value)
        return value, value

    old = table.values.at[slot].get(mode="fill", fill_value=0.0)
    _, values = jax.lax.scan(one, jnp.float32(0.0), (values, follows, known, old))
    ends = valid & ~jnp.append(follows[1:], False)  # the last of equal keys has seen them all
    hit = jnp.where(ends & known, slot, n)
    table = _use(table, hit, order, m)
    table = table._replace(values=table.values.at[hit].set(values, mode="drop"))
    # The newest of the new keys against the slot that is longest unused, and so on, as long as the
    # key is the newer one.
    age = _age(table)
    new_age = jnp.where(ends & ~known, m - 1 - order, _UNUSED)
    best = jnp.argsort(new_age)[: min(m, n)]
    oldest = jax.lax.top_k(_ordered(age), min(m, n))[1]
    oldest_age = age[oldest]
    slot = jnp.where(new_age[best] < oldest_age, oldest, n)
    return Table(
        table.keys.at[slot].set(keys[best], mode="drop"),
        table.values.at[slot].set(values[best], mode="drop"),
        table.half_norms.at[slot].set(tables.half_norm(keys[best]), mode="drop"),
        table.hashes.at[:, slot].set(tables.hash_of(keys[best]), mode="drop"),
        table.used.at[slot].set(table.clock - new_age[best], mode="drop"),
        table.clock,
    )


def _find(table: Table, keys: Array) -> Array:
    """int32 `[M]`, slots of the keys, N where they are not. Of two that share a hash of 64 bits
    one is overlooked."""
    n = table.values.shape[0]

    def one(hashes):  # a key at a time: XLA:CPU would write all [M, N] comparisons down
        same = (table.hashes == hashes[:, None]).all(0) & tables.filled(table)
        return jnp.where(same, jnp.arange(n, dtype=jnp.int32), -1).max()

    slot = jax.lax.map(one, tables.hash_of(keys).T)
    there = (slot >= 0) & (table.keys[slot] == keys).all(1)
    return jnp.where(there, slot, n)


def _use(table: Table, slot: Array, order: Array, ticks: int) -> Table:
    """Slots `[P]` (N for none) used at ticks `order` of the next `ticks`."""
    clock = table.clock + ticks
    age = jnp.minimum(clock - table.used, _LONG_AGO)
    age = age.at[slot].min(ticks - 1 - order, mode="drop")
    return table._replace(used=clock - age, clock=clock)


def _ordered(age: Array) -> Array:
    """Floats in the order of ages: normal ones that have the same bits. XLA:CPU finds the largest
    of them in a fortieth of the time that it takes with integers."""
    bits = jnp.where(age < _UNUSED, age + _LEAST_NORMAL, _INFINITY)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _age(table: Table) -> Array:
    """int32 `[N]`, ticks since the last use; differences are right though the clock goes round."""
    return jnp.where(tables.filled(table), table.clock - table.used, _UNUSED)
