"""MAML on host environments: episodes are played action by action, and learnt from as elsewhere.

The losses and the inner step are those of `algorithms.maml`. Every episode of a task has a copy of
its slot's environment (`envs.trials`), so that they are of one goal; those that one policy plays
step together. M policies that have adapted, one a slot, act as one program.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import distributions
from mtrl_jax.algorithms import few_shot, maml
from mtrl_jax.algorithms.few_shot import Episodes, HostLearner, Score
from mtrl_jax.envs.trials import TrialFamily, TrialPool
from mtrl_jax.types import Array, ArrayTree, Key, Metrics

__all__ = ["Programs", "compiled", "learner_of", "play"]


class Programs(NamedTuple):
    """What a learner compiles, with a leading M where policies have one.

    Attributes:
      act: `(policies, observation [M, C, ...], key) -> (action, log_prob)`.
      adapt: `(params, policies, block [M, E, T, ...]) -> policies`, an inner step of each.
      learn: `(state, blocks [M, inner steps, E, T, ...], outer [M, E, T, ...]) -> (state,
        metrics)`.
    """

    parts: maml.Parts
    act: Any
    adapt: Any
    learn: Any


def compiled(parts: maml.Parts) -> Programs:
    """The programs; nothing is compiled yet."""

    def one_act(policy: ArrayTree, observation: Array, key: Key) -> tuple[Array, Array]:
        head = maml.policy_of(parts, policy, observation[:, None])
        keys = jax.random.split(key, observation.shape[0])[:, None]
        action = distributions.sample(head, keys)
        return action[:, 0], distributions.log_prob(head, action)[:, 0]

    @jax.jit
    def act(policies: ArrayTree, observation: Array, key: Key) -> Any:
        return jax.vmap(one_act)(policies, observation, jax.random.split(key, len(observation)))

    @jax.jit
    def adapt(params: maml.Params, policies: ArrayTree, block: Episodes) -> ArrayTree:
        def one(policy: ArrayTree, block: Episodes) -> ArrayTree:
            only = jax.tree.map(lambda x: x[None], block)
            return maml.adapt_to(parts, params._replace(policy=policy), only)

        return jax.vmap(one)(policies, block)

    learn = jax.jit(lambda state, blocks, outer: maml.learn(parts, state, blocks, outer))
    return Programs(parts, act, adapt, learn)


def learner_of(family: TrialFamily, config: maml.Config, curve: tuple[int, ...]) -> HostLearner:
    """MAML on trials of host environments; `curve` as in `maml.learner_of`.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    parts = maml.make(family, config, curve)
    few_shot.check_host(family, config.meta_batch, config.train_tasks)
    programs = compiled(parts)
    episodes = config.inner_steps * config.episodes + config.outer_episodes
    left = sum(point % config.episodes for point in curve)
    whole = curve[-1] // config.episodes * config.episodes

    def init(key: Key) -> maml.State:
        params = maml.fresh(parts, key)
        return maml.State(params, parts.optimiser.init(params), ())

    return HostLearner(
        init=jax.jit(init),
        update=lambda state, pool, key: update(programs, state, pool, key),
        evaluate=lambda state, pool, key: evaluate(programs, state.params, pool, key),
        num_slots=config.meta_batch,
        train_tasks=config.train_tasks,
        copies=episodes,
        eval_copies=whole + left + len(curve) * config.eval_episodes,
        episodes_per_update=config.meta_batch * episodes,
    )


def play(
    programs: Programs, policies: ArrayTree, pool: TrialPool, copies: Sequence[int], key: Key
) -> tuple[Episodes, np.ndarray]:
    """An episode of each of C copies, on their next draw.

    Args:
      programs: of `compiled`.
      policies: M of them, one a slot.
      pool: of M slots.
      copies: which of them.
      key: of the actions.

    Returns:
      Episodes, NumPy leaves `[M, C, T, ...]`, and whether they were solved at any action, float32
      `[M, C]`.
    """
    family: TrialFamily = programs.parts.family
    observation, rows, solved = family.read(pool.reset(copies)), [], []
    for step in jax.random.split(key, family.episode_length):
        action, log_prob = (np.asarray(x) for x in programs.act(policies, observation, step))
        following, reward, success = pool.step(copies, action)
        rows.append(Episodes(observation, action, log_prob, reward))  # type: ignore[arg-type]
        solved.append(success)
        observation = family.read(following)
    episodes = jax.tree.map(lambda *x: np.stack(x, 2), *rows)
    return episodes, np.max(np.asarray(solved, np.float32), 0)


def _of_each(policy: ArrayTree, num_slots: int) -> ArrayTree:
    """One policy for all slots."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_slots, *x.shape)), policy)


def update(
    programs: Programs, state: maml.State, pool: TrialPool, key: Key
) -> tuple[maml.State, Metrics]:
    """As `maml.update`, on the tasks of the pool's next draw."""
    config = programs.parts.config
    policies = _of_each(state.params.policy, pool.num_slots)
    copies, blocks, solved = iter(range(pool.num_copies)), [], []
    for n in range(config.inner_steps):
        chosen = [next(copies) for _ in range(config.episodes)]
        block, success = play(programs, policies, pool, chosen, jax.random.fold_in(key, n))
        policies = programs.adapt(state.params, policies, block)
        blocks.append(block)
        solved.append(success)
    after = jax.random.fold_in(key, config.inner_steps)
    outer, success = play(programs, policies, pool, list(copies), after)
    solved.append(success)
    inner = jax.tree.map(lambda *x: np.stack(x, 1), *blocks) if blocks else _none_of(outer)
    state, metrics = programs.learn(state, inner, outer)
    return state, metrics | {"success/before": solved[0].mean(), "success/after": success.mean()}


def _none_of(outer: Episodes) -> Episodes:
    """No block, in the shape of blocks."""
    return jax.tree.map(lambda x: np.zeros((len(x), 0, *x.shape[1:]), x.dtype), outer)  # type: ignore[no-any-return]


def evaluate(programs: Programs, params: maml.Params, pool: TrialPool, key: Key) -> Score:
    """As `maml.evaluate`, of the tasks of the pool's next draw."""
    config, curve = programs.parts.config, programs.parts.curve
    copies = iter(range(pool.num_copies))

    def played(policies: ArrayTree, episodes: int) -> tuple[Episodes, np.ndarray]:
        chosen = [next(copies) for _ in range(episodes)]
        return play(programs, policies, pool, chosen, jax.random.fold_in(key, chosen[0]))

    policies = _of_each(params.policy, pool.num_slots)
    chain, online = [policies], []
    for _ in range(curve[-1] // config.episodes):
        block, _ = played(policies, config.episodes)
        policies = programs.adapt(params, policies, block)
        chain.append(policies)
        online.append(block.reward.sum(2))
    earned, solved = [], []
    for point in curve:
        policies, left = chain[point // config.episodes], point % config.episodes
        if left:
            block, _ = played(policies, left)
            policies = programs.adapt(params, policies, block)
            online += [block.reward.sum(2)] if point == curve[-1] else []
        scored, success = played(policies, config.eval_episodes)
        earned.append(scored.reward.sum(2).mean(1))
        solved.append(success.mean(1))
    first = np.concatenate([np.asarray(x) for x in online], 1).mean(1) if online else earned[0]
    return Score(np.stack(earned, 1), first, np.stack(solved, 1))
