"""RL^2 on host environments: trials are played one action at a time, and learnt from as elsewhere.

The maths, the network and the inputs are those of `algorithms.rl2`. A trial of N episodes is played
in the N copies of a slot, one behind the other (`envs.trials`): they have one goal, and the memory
goes on from copy to copy. There are no reset rows: an episode's first row has, beside what its
environment shows, the action and reward that ended the episode before.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.algorithms import few_shot, rl2
from mtrl_jax.algorithms.few_shot import HostLearner, Score
from mtrl_jax.envs.trials import TrialFamily, TrialPool
from mtrl_jax.types import Array, ArrayTree, Key, Metrics

__all__ = ["Played", "learner_of", "play_trials"]


class Played(NamedTuple):
    """Whole trials on the host, and success bool `[L, M]` of each action."""

    trials: rl2.Trials
    success: np.ndarray


class _Compiled(NamedTuple):
    """The two programs of a learner.

    Attributes:
      act: `(params, inputs, core, key) -> (action, log_prob, value, core)`.
      following: `rl2.following`.
    """

    parts: rl2.Parts
    act: Any
    following: Any


def compiled(parts: rl2.Parts) -> _Compiled:
    """The programs that play; nothing is compiled yet."""

    @jax.jit
    def act(params: ArrayTree, inputs: rl2.Inputs, core: Array, key: Key) -> Any:
        keys = jax.random.split(key, inputs.begins.shape[0])
        return rl2.act(parts, params, inputs, core, keys)

    @jax.jit
    def following(observation: Array, ended: Array, action: Array, reward: Array) -> rl2.Inputs:
        return rl2.following(parts, observation, ended, action, reward)

    return _Compiled(parts, act, following)


def learner_of(family: TrialFamily, config: rl2.Config, curve: tuple[int, ...]) -> HostLearner:
    """RL^2 on trials of host environments; `curve` as in `rl2.learner_of`.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    parts = rl2.make(family, config, curve)
    few_shot.check_host(family, config.meta_batch, config.train_tasks)
    if config.eval_trials != 1:
        raise ValueError(
            "eval_trials must be 1 on host environments, where a task is met once; got "
            f"{config.eval_trials}"
        )
    programs, episodes = compiled(parts), curve[-1] + 1
    learn = jax.jit(lambda state, trials: rl2.learn(parts, state, trials))

    def init(key: Key) -> rl2.State:
        params = rl2.fresh(parts, key)
        return rl2.State(params, parts.optimiser.init(params), ())

    def update(state: rl2.State, pool: TrialPool, key: Key) -> tuple[rl2.State, Metrics]:
        played = play_trials(programs, state.params, pool, key, episodes)
        solved = success_of(played, family.episode_length).mean(1)
        state, metrics = learn(state, played.trials)
        return state, metrics | {"success/before": solved[0], "success/after": solved[-1]}

    def evaluate(state: rl2.State, pool: TrialPool, key: Key) -> Score:
        played = play_trials(programs, state.params, pool, key, episodes)
        earned = np.asarray(rl2.by_episode(parts, played.trials))
        solved = success_of(played, family.episode_length)
        online, points = earned[: max(curve[-1], 1)].mean(0), list(curve)
        return Score(earned[points].T, online, solved[points].T)

    return HostLearner(
        init=jax.jit(init),
        update=update,
        evaluate=evaluate,
        num_slots=config.meta_batch,
        train_tasks=config.train_tasks,
        copies=episodes,
        eval_copies=episodes,
        episodes_per_update=config.meta_batch * episodes,
    )


def play_trials(
    programs: _Compiled, params: ArrayTree, pool: TrialPool, key: Key, episodes: int
) -> Played:
    """A trial of each slot of `pool`, on its next draw, by drawn actions.

    Args:
      programs: of `compiled`.
      params: of the column.
      pool: with as many copies as there are episodes, all at the same draw.
      key: of the actions.
      episodes: of a trial, N.

    Returns:
      Trials with L = N T rows.
    """
    parts, length = programs.parts, programs.parts.family.episode_length
    core, rows = rl2.memory(parts, pool.num_slots), []
    keys = jax.random.split(key, episodes * length)
    read = parts.family.read
    inputs = rl2.first_inputs(parts, jnp.asarray(read(pool.reset([0])[:, 0])))
    for t in range(episodes * length):
        copy, ended = t // length, (t + 1) % length == 0
        action, log_prob, value, core = programs.act(params, inputs, core, keys[t])
        observation, reward, success = pool.step([copy], np.asarray(action)[:, None])
        reward, success = reward[:, 0], success[:, 0]
        rows.append((rl2.Trials(inputs, action, log_prob, value, reward), success))
        if ended and copy + 1 < episodes:
            observation = pool.reset([copy + 1])
        over = np.full(pool.num_slots, ended)
        inputs = programs.following(read(observation[:, 0]), over, action, reward)
    trials, success = jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x]), *rows)
    return Played(trials, success)


def success_of(played: Played, length: int) -> np.ndarray:
    """Whether each episode was solved at any of its actions, float32 `[N, M]`."""
    solved: np.ndarray = np.asarray(played.success, np.float32)
    return np.max(solved.reshape(-1, length, solved.shape[1]), axis=1)
