"""One episode of every task as pictures, and pictures as a GIF."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import rollout
from mtrl_jax.envs import functional
from mtrl_jax.types import Agent, ArrayTree, FunctionalSuite, HostSuite, Key

__all__ = ["can_render", "episode_frames", "write_gif"]

MAX_ACTIONS = 1000  # of a recording; an Atari episode can be many times as long


def can_render(suite: FunctionalSuite | HostSuite) -> bool:
    """Whether `episode_frames` works; a functional environment need not know how to draw itself."""
    return isinstance(suite, HostSuite) or hasattr(suite.env, "render")


def episode_frames(
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    policy: ArrayTree,
    key: Key,
    *,
    distilled: bool = False,
    max_actions: int = MAX_ACTIONS,
) -> list[list[np.ndarray]]:
    """Plays one episode of every task and draws each of its rows.

    Args:
      suite: of either kind; a functional one needs `env.render(state, task)`, a host one a pool that
        takes `render=True` and has `render(group)`.
      agent: who acts.
      policy: `agent.policy(state)`.
      key: of the episode; nothing else is random.
      distilled: ask for the shared policy instead of the task's own.
      max_actions: where a longer episode is cut.

    Returns:
      K lists of uint8 `[H, W, 3]`, one picture a row: the reset row and one for each action.

    Raises:
      ValueError: if the suite cannot draw, or `max_actions` is not positive.
    """
    if max_actions < 1:
        raise ValueError(f"max_actions must be at least 1; got {max_actions}")
    if not can_render(suite):
        raise ValueError("suite must have environments with a render function; this one has none")
    reset_key, act_key = jax.random.split(key)
    start = _start_functional if isinstance(suite, FunctionalSuite) else _start_host
    env = start(suite, reset_key)
    env_index = rollout.env_indices(suite.spec.num_tasks, 1)
    act = rollout.act_at(
        lambda policy, actor, timestep, keys: agent.act(
            policy, actor, timestep, keys, distilled=distilled
        )
    )
    try:
        timestep = env.reset()
        actor = rollout.host_actor(agent.init_actor, 1)
        frames = [[picture] for picture in env.render(range(suite.spec.num_tasks))]
        running = list(range(suite.spec.num_tasks))
        for t in range(max_actions):
            action, _, actor = act(policy, actor, timestep, act_key, t, env_index)
            timestep = env.step(action, t)
            running = [k for k in running if not timestep.first[k, 0]]
            if not running:
                break
            for k, picture in zip(running, env.render(running), strict=True):
                frames[k].append(picture)
    finally:
        env.close()
    return frames


class _start_functional:
    """K functional environments, one a task, behind reset, step and render."""

    def __init__(self, suite: FunctionalSuite, key: Key):
        self._suite, self._key = suite, key
        self._index = jnp.asarray(rollout.env_indices(suite.spec.num_tasks, 1))
        reset, step = functional.auto_reset(suite.env)
        self._reset = jax.jit(rollout.over_tasks_and_envs(reset, 1))
        self._step = jax.jit(rollout.over_tasks_and_envs(step, 3))

    def reset(self) -> Any:
        keys = rollout.step_keys(self._key, 0, self._index)
        self._state, timestep = self._reset(keys, self._suite.tasks)
        return timestep

    def step(self, action: Any, t: int) -> Any:
        keys = rollout.step_keys(self._key, t + 1, self._index)
        self._state, timestep = self._step(keys, self._state, action, self._suite.tasks)
        return jax.device_get(timestep)

    def render(self, tasks: Sequence[int]) -> list[np.ndarray]:
        state, layouts = jax.device_get((self._state.env, self._suite.tasks))
        return [
            self._suite.env.render(  # type: ignore[attr-defined]
                jax.tree.map(lambda x: x[k, 0], state), jax.tree.map(lambda x: x[k], layouts)
            )
            for k in tasks
        ]

    def close(self) -> None:
        pass
