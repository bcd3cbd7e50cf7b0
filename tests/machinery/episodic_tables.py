"""Episodic tables for the tests that read and write them: jitted once a shape, and filled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import episodic
from mtrl_jax.episodic import tables

N, D, M = 16, 3, 24  # a batch may be larger than the table


@functools.cache
def writer(rule="max"):
    if rule == "max":
        return jax.jit(episodic.write_max)
    return jax.jit(
        lambda table, keys, values, valid: episodic.write_towards(table, keys, values, 0.5, valid)
    )


@functools.cache
def _reader(k, recall):
    @jax.jit
    def read(table, query, empty):
        found = episodic.nearest(table, query, k, recall)
        return found, episodic.mean_value(table, query, found, empty)

    return read


def read(table, query, k, recall=1.0, empty=0.0):
    """Neighbours and MFEC's value. Queries are made 40: a program for each shape takes its time."""
    query = np.asarray(query, np.float32)
    padded = np.concatenate([query, np.zeros((40 - len(query), query.shape[1]), np.float32)])
    results = _reader(k, recall)(table, padded, jnp.float32(empty))
    found, value = jax.tree.map(lambda x: np.asarray(x)[: len(query)], results)
    return found, value


toucher = jax.jit(episodic.touch)


def filled(keys, values, capacity):
    """A table with these in it, written at once; made 500 or 24 rows by what is not valid."""
    table = episodic.init(capacity, keys.shape[1])
    rows = 500 if len(keys) > M else M
    more = rows - len(keys)
    keys = np.concatenate([keys, np.zeros((more, keys.shape[1]), np.float32)])
    values = np.concatenate([values, np.full(more, 1e9, np.float32)])
    return writer()(table, keys, values, np.arange(rows) < rows - more)


def contents(table):
    """{bytes of the key: value}."""
    keys, values, used = map(np.asarray, (table.keys, table.values, tables.filled(table)))
    stored = {keys[i].tobytes(): values[i] for i in np.flatnonzero(used)}
    assert len(stored) == used.sum() == int(episodic.size(table))  # no key twice
    return stored
