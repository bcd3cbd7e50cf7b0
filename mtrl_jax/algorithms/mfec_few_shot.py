"""Episodic control as a few-shot learner: tables that are empty when a task begins.

Blundell et al. 2016, *Model-free episodic control*, arXiv 1606.04460, on one task at a time: an
action's value is the best discounted return that ever followed it there, or the mean of its nearest
keys' where it was not taken there, or infinity where it was never taken at all. An episode is
written when it is over. Nothing is learnt from training tasks, so there is nothing to update.

As `algorithms.mfec` but for the tables' size, which holds every row that is adapted on: nothing has
to make room. Observations are the keys, classes as one-hot vectors.
"""

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import episodic, ranges
from mtrl_jax.algorithms import embeddings, few_shot
from mtrl_jax.algorithms.few_shot import Episodes, Learner, Score
from mtrl_jax.algorithms.mfec import best_actions
from mtrl_jax.envs.task_family import TaskFamily
from mtrl_jax.ranges import Count, CountOr0, Range, Unit
from mtrl_jax.types import Array, ArrayTree, Key

__all__ = ["Config", "empty_tables", "evaluate", "learner_of", "make", "play", "write"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one learner. `train_tasks` are only scored on."""

    neighbours: Count = 5
    discount: Unit = 1.0
    epsilon: Annotated[float, Range(0, 1)] = 0.0
    train_tasks: CountOr0 = 1000
    eval_episodes: Count = 20


class Parts(NamedTuple):
    """What is bound once."""

    family: TaskFamily
    config: Config
    curve: tuple[int, ...]
    embedding: embeddings.Embedding


def make(family: TaskFamily, config: Config, curve: tuple[int, ...]) -> Parts:
    """Raises ValueError as `learner_of`."""
    if family.spec.action_size:
        raise ValueError("tasks must have discrete actions for episodic; got continuous ones")
    ranges.check(config)
    few_shot.check_curve(curve)
    return Parts(family, config, curve, embeddings.identity(family.spec))


def learner_of(family: TaskFamily, config: Config, curve: tuple[int, ...]) -> Learner:
    """Episodic control on a family; `curve` are the numbers of episodes after which `evaluate`
    asks. The state is the training tasks.

    Raises:
      ValueError: for continuous actions, and for numbers out of range, naming the field.
    """
    parts = make(family, config, curve)
    return Learner(
        init=lambda key: few_shot.training_tasks(family, key, config.train_tasks),
        update=lambda state, key: (state, {}),
        tasks=lambda state: state,
        evaluate=lambda state, tasks, key: evaluate(parts, tasks, key),
        episodes_per_update=0,
    )


def evaluate(parts: Parts, tasks: ArrayTree, key: Key) -> Score:
    """Plays and writes episode after episode of every task by itself; at a point of the curve plays
    `eval_episodes` more that are not written."""
    last, empty = parts.curve[-1], empty_tables(parts)

    def one_task(task: ArrayTree, key: Key) -> Score:
        for_episodes, for_scores = jax.random.split(key)

        def episode(tables: episodic.Table, key: Key) -> tuple[episodic.Table, tuple[Array, Array]]:
            for_this, for_score = jax.random.split(key)
            many = jax.random.split(for_score, parts.config.eval_episodes)
            scored = play(parts, tables, task, many).reward.sum(1).mean()
            one = play(parts, tables, task, for_this[None])
            return write(parts, tables, one), (scored, one.reward.sum())

        tables, (before, earned) = jax.lax.scan(
            episode, empty, jax.random.split(for_episodes, last)
        )
        end = play(parts, tables, task, jax.random.split(for_scores, parts.config.eval_episodes))
        curve = jnp.append(before, end.reward.sum(1).mean())[jnp.array(parts.curve)]
        return Score(curve, earned.mean() if last else curve[0])

    (num_tasks, *_) = (x.shape[0] for x in jax.tree.leaves(tasks))
    return jax.vmap(one_task)(tasks, jax.random.split(key, num_tasks))


def empty_tables(parts: Parts) -> episodic.Table:
    """`[A, ...]`, with room for all that is adapted on."""
    capacity = max(parts.curve[-1], 1) * parts.family.episode_length
    return episodic.init(capacity, parts.embedding.dim, (parts.family.spec.num_actions,))


def play(parts: Parts, tables: episodic.Table, task: ArrayTree, keys: Key) -> Episodes:
    """Episodes by the best actions that the tables know of."""
    config, mask = parts.config, parts.family.spec.action_mask

    def act(observation: Array, key: Key) -> tuple[Array, Array]:
        query = parts.embedding.apply((), observation[None])

        def value(table: episodic.Table) -> Array:
            found = episodic.nearest(table, query, config.neighbours)
            return episodic.mean_value(table, query, found, empty=jnp.inf)[0]

        q = jax.vmap(value)(tables)
        epsilon = jnp.float32(config.epsilon)
        action, log_prob = best_actions(q[None, None], mask, epsilon, key[None, None])
        return action[0, 0], log_prob[0, 0]

    return few_shot.play(parts.family, act, task, keys)


def write(parts: Parts, tables: episodic.Table, episodes: Episodes) -> episodic.Table:
    """Tables `[A, ...]` that know episodes `[E, T, ...]` too: of each row what followed it, nothing
    being bootstrapped."""
    e, t = episodes.reward.shape
    value = few_shot.returns_to_go(episodes.reward, parts.config.discount).reshape(e * t)
    observation = episodes.observation.reshape(e * t, *episodes.observation.shape[2:])
    query, action = parts.embedding.apply((), observation), episodes.action.reshape(e * t)
    chosen = action[None] == jnp.arange(parts.family.spec.num_actions)[:, None]
    return jax.vmap(episodic.write_max, (0, None, None, 0))(tables, query, value, chosen)
