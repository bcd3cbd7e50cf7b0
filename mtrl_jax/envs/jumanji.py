"""Environments with Jumanji's interface as suites: JAX functions, compiled with the learner::

    python -m experiments.dqn --suite=jumanji:Snake-v1
    python -m experiments.dqn --suite=jumanji:Snake-v1,Tetris-v0 --pad

Bonnet et al. 2024, *Jumanji: a diverse suite of scalable reinforcement learning environments in
JAX* (arXiv 2306.09884). What is used of it, dm_env's records as JAX types::

    reset(key) -> (state, timestep), step(state, action) -> (state, timestep)
    timestep.observation, .reward, .discount, .step_type (2 where the episode has ended)
    action_spec.num_values, time_limit

An observation is all that the environment shows, its mask of actions too, as one vector of floats
in the order of its names. Several discrete numbers make one action: all combinations, the last
number changing first. Which actions are legal in a state is the environment's to say: it ends the
episode, or does nothing. An episode that ends with discount 1 bootstraps.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, strong, transition
from mtrl_jax.types import Array, ArrayTree, EnvSpec, FunctionalSuite, Key, Timestep

__all__ = ["Jumanji", "jumanji_suite", "make_suite"]

LAST = 2
MOST_ACTIONS = 4096


class Jumanji(NamedTuple):
    """A `FunctionalEnv` of one task, which is not looked at.

    Attributes:
      env: of Jumanji, or like one.
      numbers: values that each number of an action has; () where it is one number.
    """

    env: Any
    numbers: tuple[int, ...]

    def reset(self, key: Key, task: ArrayTree) -> tuple[ArrayTree, Timestep]:
        state, timestep = self.env.reset(jax.random.key_data(key))
        return strong(state), restart(_flat(timestep.observation))

    def step(
        self, key: Key, state: ArrayTree, action: Array, task: ArrayTree
    ) -> tuple[ArrayTree, Timestep, Array]:
        if self.numbers:
            action = jnp.stack(jnp.unravel_index(action, self.numbers)).astype(jnp.int32)
        state, timestep = self.env.step(state, action)
        row = transition(_flat(timestep.observation), timestep.reward, timestep.discount)
        return strong(state), row, timestep.step_type == LAST


def jumanji_suite(env: Any, name: str) -> FunctionalSuite:
    """A suite of one environment.

    Args:
      env: as at the head of this file.
      name: of its task.

    Raises:
      ValueError: actions that are not discrete or too many, several agents' rewards, or an
        environment that cannot be reset.
    """
    values = getattr(env.action_spec, "num_values", None)
    if values is None:
        kind = type(env.action_spec).__name__
        raise ValueError(f"{name} has actions ({kind}) that are not discrete")
    numbers = tuple(int(n) for n in np.ravel(np.asarray(values)))
    if math.prod(numbers) > MOST_ACTIONS:
        raise ValueError(
            f"{name} has {math.prod(numbers):,} actions, all combinations of {numbers}; at most "
            f"{MOST_ACTIONS:,} are supported"
        )
    family = Jumanji(env, numbers if np.ndim(values) else ())
    try:
        _, timestep = jax.eval_shape(env.reset, jax.eval_shape(jax.random.PRNGKey, 0))
        size = jax.eval_shape(_flat, timestep.observation).shape
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"{name} cannot be reset: {type(error).__name__}: {text}") from error
    shapes = timestep.reward.shape, timestep.discount.shape
    if shapes != ((), ()):
        raise ValueError(f"{name} has a reward or discount for each of several agents: {shapes}")
    spec = EnvSpec(
        task_names=(name,),
        observation_shape=size,
        observation_dtype=np.dtype(np.float32),
        vocabulary=None,
        num_actions=math.prod(numbers),
        action_mask=np.ones((1, math.prod(numbers)), bool),
        episode_limit=np.array([int(getattr(env, "time_limit", 0) or 0)]),
        has_success=False,
    )
    return FunctionalSuite(spec, family, np.zeros(1, np.int32))


def make_suite(env_id: str, /, **options: Any) -> FunctionalSuite:
    """A suite of one of Jumanji's environments by its id.

    Args:
      env_id: of `jumanji.make`.
      **options: of `jumanji.make`, for the environment.

    Raises:
      ValueError: an unknown id or option, or as `jumanji_suite`.
      ImportError: jumanji is not installed.
    """
    try:
        import jumanji
    except ImportError as error:
        raise ImportError("this suite needs jumanji (python -m pip install jumanji)") from error
    try:
        env = jumanji.make(env_id, **options)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"jumanji cannot make {env_id!r}: {text}") from error
    return jumanji_suite(env, env_id)


def _flat(observation: ArrayTree) -> Array:
    leaves = [jnp.ravel(jnp.asarray(x)).astype(jnp.float32) for x in jax.tree.leaves(observation)]
    return jnp.concatenate(leaves)
