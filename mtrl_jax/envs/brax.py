"""Environments with brax's interface, which MuJoCo Playground has too, as a suite; bring them so::

    def make_suite():
        names = ("CheetahRun", "HopperHop")
        return brax_suite([registry.load(name) for name in names], names, episode_length=1000)

Freeman et al. 2021, *Brax: a differentiable physics engine* (arXiv 2106.13281). Used of it are
`reset(rng) -> state` and `step(state, action) -> state` with `state.obs`, `reward`, `done`,
`metrics` and `info`, and `observation_size` and `action_size`; no wrapper for training, as rows are
reset and counted here. `done` is a true end, and the time limit is this suite's: what it cuts off
bootstraps. Actions are cut off to [-1, 1]. Each task's environment is compiled into the program.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, strong, transition
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, ArrayTree, EnvSpec, FunctionalSuite, Key, Timestep

__all__ = ["Brax", "BraxState", "brax_suite"]


class BraxState(NamedTuple):
    """The environment's own state, and actions so far, int32."""

    own: ArrayTree
    time: Array


class Brax(NamedTuple):
    """The family; a task is an int32, the place of its environment in `envs`.

    Attributes:
      envs: of brax, or like those.
      episode_length: actions after which an episode is cut off.
      key: of the observation, where it is a dictionary; else "".
    """

    envs: tuple[Any, ...]
    episode_length: int
    key: str

    def reset(self, key: Key, task: Array) -> tuple[BraxState, Timestep]:
        """A new episode."""
        return self._switch(self._reset, task, key)

    def step(
        self, key: Key, state: BraxState, action: Array, task: Array
    ) -> tuple[BraxState, Timestep, Array]:
        """One action; randomness is in the environment's own state."""
        return self._switch(self._step, task, state, action)

    def reset_tasks(self, key: Key, tasks: Array) -> tuple[BraxState, Timestep]:
        """`reset` with keys `[K, E]` and tasks `[K]`, each computed for its own rows only."""
        return self._each(self._reset, tasks, key)

    def step_tasks(
        self, key: Key, state: BraxState, action: Array, tasks: Array
    ) -> tuple[BraxState, Timestep, Array]:
        """`step` with leaves `[K, E, ...]` and tasks `[K]`."""
        return self._each(self._step, tasks, state, action)

    def _reset(self, env: Any, key: Key) -> tuple[BraxState, Timestep]:
        own = env.reset(jax.random.key_data(key))
        return BraxState(strong(own), jnp.int32(0)), restart(self._observe(own))

    def _step(self, env: Any, state: BraxState, action: Array) -> tuple[BraxState, Timestep, Array]:
        own = env.step(state.own, jnp.clip(action, -1.0, 1.0))
        done, time = jnp.asarray(own.done, bool), state.time + 1
        success = jnp.asarray(own.metrics.get("success", False)) > 0
        row = transition(self._observe(own), own.reward, 1.0 - done.astype(jnp.float32), success)
        return BraxState(strong(own), time), row, done | (time >= self.episode_length)

    def _observe(self, own: Any) -> Array:
        observation = own.obs[self.key] if self.key else own.obs
        return jnp.asarray(observation, jnp.float32).reshape(-1)

    def _switch(self, fn: Callable[..., Any], task: Array, *args: Any) -> Any:
        branches = [lambda *args, env=env: fn(env, *args) for env in self.envs]
        return branches[0](*args) if len(branches) == 1 else jax.lax.switch(task, branches, *args)

    def _each(self, fn: Callable[..., Any], tasks: Array, *args: Any) -> Any:
        if isinstance(tasks, jax.core.Tracer):  # which tasks these are is not known yet

            def one(task, *args):
                return jax.vmap(lambda *row: self._switch(fn, task, *row))(*args)

            return jax.vmap(one)(tasks, *args)
        results = []
        for k, task in enumerate(np.asarray(tasks)):
            rows = jax.tree.map(lambda x, k=k: x[k], args)
            env = self.envs[int(task)]
            results.append(jax.vmap(lambda *row, env=env: fn(env, *row))(*rows))
        return jax.tree.map(lambda *x: jnp.stack(x), *results)


def brax_suite(
    envs: Sequence[Any], names: Sequence[str], *, episode_length: int = 1000, key: str = ""
) -> FunctionalSuite:
    """A suite of environments with equal observations, actions and states.

    Args:
      envs: K, as at the head of this file, without wrappers for training.
      names: K names.
      episode_length: actions after which an episode is cut off.
      key: which observation the agent sees, where there is a dictionary of them.

    Raises:
      ValueError: not as many names as environments, none, or two that do not go together.
    """
    check_value("episode_length", episode_length, Count)
    if not envs or len(names) != len(envs):
        raise ValueError(
            f"names must be as many as envs, at least one; got {len(names)} and {len(envs)}"
        )
    family = Brax(tuple(envs), episode_length, key)
    shapes = [_shapes(env, name) for env, name in zip(envs, names, strict=True)]
    for name, other in zip(names, shapes, strict=True):
        if (envs[0].action_size, *shapes[0]) != (envs[names.index(name)].action_size, *other):
            raise ValueError(
                f"{names[0]} and {name} have different actions, observations or states; a suite of "
                "each can be joined with others by mtrl_jax.envs.pad.join"
            )
    first = jax.eval_shape(envs[0].reset, jax.eval_shape(jax.random.PRNGKey, 0))
    if isinstance(first.obs, dict) != bool(key) or (key and key not in first.obs):
        known = f"one of {', '.join(first.obs)}" if isinstance(first.obs, dict) else "''"
        raise ValueError(f"key must be {known} for the observations of {names[0]}; got {key!r}")
    seen = first.obs[key] if key else first.obs
    count = len(envs)
    spec = EnvSpec(
        task_names=tuple(names),
        observation_shape=(int(np.prod(seen.shape)),),
        observation_dtype=np.dtype(np.float32),
        vocabulary=None,
        num_actions=0,
        action_mask=np.ones((count, 0), bool),
        episode_limit=np.full(count, episode_length),
        has_success="success" in first.metrics,
        action_size=int(envs[0].action_size),
    )
    return FunctionalSuite(spec, family, np.arange(count, dtype=np.int32))


def _shapes(env: Any, name: str) -> tuple[Any, list[Any]]:
    """How a state is built, and shapes and dtypes of its leaves; nothing runs."""
    try:
        state = jax.eval_shape(env.reset, jax.eval_shape(jax.random.PRNGKey, 0))
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"{name} cannot be reset: {type(error).__name__}: {text}") from error
    leaves, structure = jax.tree.flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
