"""Episodic memory on the device: tables from keys to values, read by nearest neighbours.

Blundell et al. 2016, *Model-free episodic control* (MFEC), arXiv 1606.04460; Pritzel et al. 2017,
*Neural episodic control* (NEC), arXiv 1703.01988. An agent has a table for each of its actions.
Everything here is one table, for a vmap over actions and another over tasks, `[K, A]`; `init` makes
tables with leading axes. State in, state out: it jits, scans, and works in place where donated.

What holds of every table:
  * A key is `[D]` floats. Two keys are one if all their numbers are equal; 0 and -0 are.
  * `nearest` takes one product and a top-k, which choose by |k|^2 / 2 - q . k. That difference
    cancels where norms are large beside distances, so the distances of what was chosen are computed
    anew, and a key that is in the table is found by a hash of its bits, whatever its norm. Keys
    whose squared norms are a million times the distances that matter want scaling or centring.
  * A write is one batch, as if all of it stood in the table at once and then the keys that were
    used least recently were thrown out until it fits. Equal keys of a batch all count, in order.
  * Reading counts as use once `touch` is told of it.
  * Keys and values that are not finite are never stored; a query that is not finite reads NaN.

Targets are `returns.n_step_returns` (NEC) and, with values of 0, `returns.discounted_returns`
(MFEC, which must not bootstrap).
"""

from mtrl_jax.episodic.reading import (
    Neighbours,
    kernel_value,
    mean_value,
    nearest,
    random_projection,
)
from mtrl_jax.episodic.tables import Table, check_memory, init, nbytes, size
from mtrl_jax.episodic.writing import move, touch, write_max, write_towards

__all__ = [
    "Neighbours",
    "Table",
    "check_memory",
    "init",
    "kernel_value",
    "mean_value",
    "move",
    "nbytes",
    "nearest",
    "random_projection",
    "size",
    "touch",
    "write_max",
    "write_towards",
]
