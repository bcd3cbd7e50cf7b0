"""What offline learning reads: recorded transitions of all tasks, which of them are whose, batches.

Transitions lie once in memory, whatever shares them; a split says by their numbers what each task
has of its own, and every seed may have a split of its own. Axes besides those of `types.py`::

    N  transitions recorded
    M  transitions of one split, task by task
    B  samples of one task in a batch, own ones first
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.recorded import Labels, Recording
from mtrl_jax.types import Array, Key

__all__ = ["Batch", "Data", "Split", "draw_batch", "draw_own", "gather", "join", "split", "stack"]


class Data(NamedTuple):
    """Transitions and their labels for every task.

    Attributes:
      observation, action, next_observation: `[N, ...]`.
      reward: float32 `[K, N]`.
      ended: bool `[K, N]`.
      source: int32 `[N]`, the task that a transition was recorded for.
    """

    observation: Any
    action: Any
    next_observation: Any
    reward: Any
    ended: Any
    source: Any


class Split(NamedTuple):
    """Whose the transitions are.

    Attributes:
      index: int32 `[M]`, numbers of transitions: those of task 0, then of task 1, and so on;
        behind the last one anything.
      start, count: int32 `[K]`, where each task's begin, and how many there are.
    """

    index: Any
    start: Any
    count: Any


class Batch(NamedTuple):
    """Samples, leaves `[K, B, ...]`, labelled for the task that learns from them; `own` bool."""

    observation: Any
    action: Any
    reward: Any
    ended: Any
    next_observation: Any
    source: Any
    own: Any


def join(parts: Sequence[tuple[Recording, Labels]]) -> Data:
    """Several recordings of one suite as one, in their order."""
    recordings, labels = zip(*parts, strict=True)

    def rows(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in recordings])

    return Data(
        rows("observation"),
        rows("action"),
        rows("next_observation"),
        np.concatenate([one.reward for one in labels], 1),
        np.concatenate([one.ended for one in labels], 1),
        rows("task"),
    )


def split(own: Sequence[np.ndarray]) -> Split:
    """Of the numbers of the transitions that each of K tasks has of its own.

    Raises:
      ValueError: for a task that has none.
    """
    count = np.array([len(one) for one in own], np.int32)
    if not len(own) or count.min() < 1:
        raise ValueError(f"every task must have data of its own; got {count.tolist()} transitions")
    start = np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int32)
    return Split(np.concatenate(own).astype(np.int32), start, count)


def stack(splits: Sequence[Split]) -> Split:
    """Splits of S seeds, leaves `[S, ...]`, the shorter ones filled up with a number that nobody
    reads."""
    longest = max(len(one.index) for one in splits)
    filled = [one._replace(index=np.resize(one.index, longest)) for one in splits]
    return Split(*(np.stack(leaves) for leaves in zip(*filled, strict=True)))


def draw_own(which: Split, key: Key, size: int) -> Array:
    """int32 `[K, size]`, numbers of own transitions, uniform, with replacement."""
    count = jnp.broadcast_to(which.count[:, None], (len(which.count), size))
    at = jax.random.randint(key, count.shape, 0, count)
    return which.index[at + which.start[:, None]]


def _draw_others(which: Split, key: Key, size: int) -> Array:
    """int32 `[K, size]`, of what the other tasks have, each transition as likely as any other."""
    others = jnp.broadcast_to((which.count.sum() - which.count)[:, None], (len(which.count), size))
    at = jax.random.randint(key, others.shape, 0, jnp.maximum(others, 1))
    behind = at >= which.start[:, None]
    return which.index[at + jnp.where(behind, which.count[:, None], 0)]


def gather(data: Data, index: Array, own: Array, least_reward: Array | float | None) -> Batch:
    """Transitions as samples of each task.

    Args:
      data: of all.
      index: int32 `[K, B]`.
      own: bool `[B]`.
      least_reward: what samples that are not own are relabelled with, none of them an end, since
        nobody knows where a task ends whose rewards are not known; None: the task's own labels.
    """
    tasks = jnp.broadcast_to(jnp.arange(len(index))[:, None], index.shape)
    mine = jnp.broadcast_to(own, index.shape)
    reward, ended = data.reward[tasks, index], data.ended[tasks, index]
    if least_reward is not None:
        reward, ended = jnp.where(mine, reward, least_reward), ended & mine
    rows = (data.observation[index], data.action[index], reward, ended)
    return Batch(*rows, data.next_observation[index], data.source[index], mine)


def draw_batch(
    data: Data, which: Split, key: Key, sizes: tuple[int, int], least_reward: float | None
) -> Batch:
    """A batch of every task.

    Args:
      data: of all.
      which: what is whose.
      key: of this batch.
      sizes: how many own samples and how many of the other tasks'.
      least_reward: as in `gather`.
    """
    data, which = jax.tree.map(jnp.asarray, (data, which))
    own_key, other_key = jax.random.split(key)
    index = draw_own(which, own_key, sizes[0])
    if sizes[1]:
        index = jnp.concatenate([index, _draw_others(which, other_key, sizes[1])], 1)
    own = jnp.arange(sum(sizes)) < sizes[0]
    return gather(data, index, own, least_reward)
