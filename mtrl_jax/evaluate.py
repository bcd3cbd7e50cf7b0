"""Scores of a policy, apart from training: whole episodes, one an environment, all tasks at once.

Each environment plays exactly one episode, so that short episodes do not count more often than long
ones. Randomness is the caller's key alone: evaluating never changes what training draws.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import rollout
from mtrl_jax.envs import functional
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import (
    Agent,
    ArrayTree,
    EnvSpec,
    FunctionalSuite,
    HostSuite,
    Key,
    Timestep,
)


class Score(NamedTuple):
    """Of one episode each, `[K, episodes]`: undiscounted return, success, length in actions, and
    whether it ended (the others were cut off at `episode_limit`, and count as far as they went)."""

    episode_return: Any
    success: Any
    length: Any
    finished: Any


DEFAULT_LIMIT = 27_000  # actions; for suites that declare no episode limit


def episode_limit(spec: EnvSpec) -> int:
    """Actions after which the longest episode of a suite has ended, or counts as ended."""
    limits = np.asarray(spec.episode_limit)
    return int(limits.max()) if (limits > 0).all() else DEFAULT_LIMIT


def random_agent(spec: EnvSpec) -> Agent:
    """Uniform over each task's actions, or over their box; it learns nothing."""
    mask = jnp.asarray(spec.action_mask)

    def act(policy: ArrayTree, actor_state: ArrayTree, timestep: Timestep, keys: Key, **_: Any):
        if spec.action_size:

            def draw(key):
                return jax.random.uniform(key, spec.action_shape, minval=-1.0)

            has = spec.coordinate_mask
            if has is None:
                has = np.ones((spec.num_tasks, spec.action_size), bool)
            action = jnp.where(jnp.asarray(has)[:, None], jax.vmap(jax.vmap(draw))(keys), 0.0)
            log_prob = jnp.asarray(-has.sum(1)[:, None] * np.log(2.0), jnp.float32)
            return action, jnp.broadcast_to(log_prob, keys.shape), actor_state
        logits = jnp.where(mask, 0.0, -jnp.inf)[:, None]
        logits = jnp.broadcast_to(logits, (*keys.shape, spec.num_actions))
        action = jax.vmap(jax.vmap(jax.random.categorical))(keys, logits)
        log_prob = -jnp.log(mask.sum(-1, dtype=jnp.float32))[:, None]
        return action, jnp.broadcast_to(log_prob, keys.shape), actor_state

    return Agent(
        init=lambda key: (),
        init_actor=lambda num_envs: (),
        policy_params=lambda state: (),
        act=act,
        update=lambda state, rollout: (state, {}),
        unroll_length=1,
        has_distilled=False,
    )


def functional_scorer(
    suite: FunctionalSuite,
    agent: Agent,
    episodes: int,
    *,
    distilled: bool = False,
    greedy: bool | None = None,
) -> Callable[[ArrayTree, Key], Score]:
    """A jitted `(policy, key, tasks=suite.tasks) -> Score` over a functional suite; build it once.

    A larger program may have the tasks as an argument of its own.
    """
    env_index = jnp.asarray(rollout.env_indices(suite.spec.num_tasks, episodes))
    limit = episode_limit(suite.spec)
    act = rollout.acting(agent, distilled=distilled, greedy=greedy)

    def score(policy: ArrayTree, key: Key, tasks: ArrayTree = suite.tasks) -> Score:
        reset_key, unroll_key = jax.random.split(key)
        games = suite._replace(tasks=tasks)
        loop = rollout.init_env_loop(games, reset_key, env_index, agent.init_actor)
        _, step = functional.auto_reset_batch(suite.env)

        def going_on(carry):
            t, *_, alive = carry
            return (t <= limit) & alive.any()

        def one(carry):
            t, env_state, timestep, actor_state, score, alive = carry
            keys = rollout.step_keys(unroll_key, t, env_index)
            pair = jax.vmap(jax.vmap(jax.random.split))(keys)
            action, _, actor_state = act(policy, actor_state, timestep, pair[..., 0])
            env_state, timestep = step(pair[..., 1], env_state, action, tasks)
            alive &= ~timestep.first  # the row behind an episode says that it has ended
            counts = alive & (t < limit)
            score = Score(
                score.episode_return + jnp.where(counts, timestep.reward, 0.0),
                score.success | (counts & timestep.success),
                score.length + counts,
                ~alive,
            )
            return t + 1, env_state, timestep, actor_state, score, alive

        shape = env_index.shape
        none = jnp.zeros(shape, bool)
        zero = Score(jnp.zeros(shape), none, jnp.zeros(shape, jnp.int32), none)
        carry = (0, loop.env_state, loop.timestep, loop.actor_state, zero, ~none)
        return jax.lax.while_loop(going_on, one, carry)[4]

    return jax.jit(score)


def host_scorer(
    suite: HostSuite,
    agent: Agent,
    episodes: int,
    *,
    distilled: bool = False,
    greedy: bool | None = None,
    on_row: Callable[[Timestep, np.ndarray], None] | None = None,
) -> Callable[[ArrayTree, Key], Score]:
    """The same over a host suite; a new pool each call, seeded from the key.

    Where the suite's environments are large (`max_envs`) the episodes are played in equal rounds,
    with a new pool each. `on_row(timestep, alive)` sees every row of a round, and which of all
    episodes have not ended, `[K, rounds * envs]`.
    """
    rounds = -(-episodes // (suite.max_envs or episodes))
    width = -(-episodes // rounds)
    env_index = rollout.env_indices(suite.spec.num_tasks, width)
    act = rollout.act_at(rollout.acting(agent, distilled=distilled, greedy=greedy))
    limit = episode_limit(suite.spec)

    def play(policy: ArrayTree, key: Key, number: int) -> Score:
        seed = int(jax.random.randint(key, (), 0, 2**30))
        pool = suite.make_pool(width, seed, 1)
        try:
            timestep = pool.reset(0)
            actor_state = rollout.host_actor(agent.init_actor, width)
            alive = np.ones(env_index.shape, bool)
            total = Score(
                np.zeros(alive.shape, np.float32),
                np.zeros_like(alive),
                np.zeros(alive.shape, int),
                np.zeros_like(alive),
            )
            for t in range(limit + 1):
                if on_row is not None:
                    ended, to_come = np.zeros_like(alive), np.ones_like(alive)
                    rest = [to_come] * (rounds - number - 1)
                    on_row(timestep, np.concatenate([ended] * number + [alive, *rest], axis=1))
                action, _, actor_state = act(policy, actor_state, timestep, key, t, env_index)
                pool.send(0, np.asarray(action))
                timestep = pool.recv(0)
                alive = alive & ~timestep.first
                counts = alive & (t < limit)
                total = Score(
                    total.episode_return + np.where(counts, timestep.reward, 0.0),
                    total.success | (counts & timestep.success),
                    total.length + counts,
                    ~alive,
                )
                if not alive.any():
                    break
        finally:
            pool.close()
        return total

    def score(policy: ArrayTree, key: Key) -> Score:
        # Steps of a round fold their number into its key, so no round may have another's.
        keys = [key] if rounds == 1 else list(jax.random.split(key, rounds))
        played = [play(policy, key, n) for n, key in enumerate(keys)]
        return Score(*(np.concatenate(x, axis=1)[:, :episodes] for x in zip(*played, strict=True)))

    return score


def scorer(
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    episodes: int,
    *,
    distilled: bool = False,
    greedy: bool | None = None,
) -> Callable[[ArrayTree, Key], Score]:
    """`(policy, key) -> Score` with `episodes` episodes of every task, on either kind of suite;
    `distilled` and `greedy` as in `rollout.acting`.

    Raises:
      ValueError: if `episodes` is not positive, or as `rollout.acting`.
    """
    check_value("episodes", episodes, Count)
    if isinstance(suite, FunctionalSuite):
        return functional_scorer(suite, agent, episodes, distilled=distilled, greedy=greedy)
    return host_scorer(suite, agent, episodes, distilled=distilled, greedy=greedy)


def summary(spec: EnvSpec, score: Score) -> dict[str, Any]:
    """Means over episodes, `<task>/{return, success, length}`; success where it means anything.

    Where episodes were cut off, `<task>/unfinished` says how many, and so does a warning.
    """
    metrics = {}
    for k, name in enumerate(spec.task_names):
        metrics[f"{name}/return"] = np.mean(score.episode_return[..., k, :], axis=-1)
        if spec.has_success:
            metrics[f"{name}/success"] = np.mean(score.success[..., k, :], axis=-1)
        metrics[f"{name}/length"] = np.mean(score.length[..., k, :], axis=-1)
    cut = unfinished(spec, score)
    return {**metrics, **{f"{name}/unfinished": count for name, count in cut.items()}}


def unfinished(spec: EnvSpec, score: Score) -> dict[str, int]:
    """Number of episodes of each task that were cut off, of the tasks that have any; warns."""
    counts = {
        name: int(np.sum(~np.asarray(score.finished)[..., k, :]))
        for k, name in enumerate(spec.task_names)
    }
    cut = {name: count for name, count in counts.items() if count}
    if cut:
        each = ", ".join(f"{count} of {name}" for name, count in cut.items())
        warnings.warn(
            f"episodes cut off after {episode_limit(spec)} actions count as far as they went: "
            f"{each}",
            stacklevel=2,
        )
    return cut


def check_limit(spec: EnvSpec, score: Score, name: str) -> None:
    """Refuses a suite whose episodes are longer than it says: most of each would not count.

    Args:
      spec: of the suite.
      score: of some policy.
      name: of the suite, for the message.

    Raises:
      ValueError: naming the first task of which an episode went on behind its limit.
    """
    for k, (task, limit) in enumerate(zip(spec.task_names, spec.episode_limit, strict=True)):
        beyond = ~np.asarray(score.finished)[..., k, :] | (score.length[..., k, :] > limit)
        if limit > 0 and beyond.any():
            raise ValueError(
                f"suite {name}: its spec says that an episode of {task!r} has at most {limit} "
                f"actions (episode_limit), but {beyond.sum()} of {beyond.size} went on behind them"
            )
