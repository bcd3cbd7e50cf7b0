"""Environments with gymnax's interface as a suite: JAX functions, compiled with the learner::

    python -m experiments.dqn --suite=gymnax:CartPole-v1
    python -m experiments.dqn --suite=gymnax:CartPole-v1:length=[.25,.5,1.0]:gravity=9.8

One environment, whose parameters are the tasks (Lange 2022, *gymnax: A JAX-based reinforcement
learning environment library*). What is used of it:

    reset_env(key, params) -> (observation, state)
    step_env(key, state, action, params) -> (observation, state, reward, ended, info)
    observation_space(params), action_space(params)
    is_truncated(state, params), since gymnax 1.0; before that is_terminal(state, params)

Its own auto-reset (`step`) is not used: the row that ends an episode carries the final observation
here. Since 1.0 `ended` means terminated. Before, it is terminated or out of time, and what would
have ended without `params.max_steps_in_episode` is terminated: whether an environment is of that
kind is seen from its having no `is_truncated`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.functional import restart, strong, transition
from mtrl_jax.types import Array, ArrayTree, EnvSpec, FunctionalSuite, Key, Timestep

__all__ = ["Gymnax", "gymnax_suite", "make_suite"]

NEVER = 2**30  # steps


class Gymnax(NamedTuple):
    """A `FunctionalEnv`; a task is the environment's parameters.

    Attributes:
      env: of gymnax, or like one.
      shape: of an observation, as the agent sees it.
      classes: whether it is a class.
      low, high: bounds of continuous actions, flat; () of discrete ones.
      action_shape: of the environment's own continuous action.
    """

    env: Any
    shape: tuple[int, ...]
    classes: bool
    low: tuple[float, ...]
    high: tuple[float, ...]
    action_shape: tuple[int, ...]

    def reset(self, key: Key, task: ArrayTree) -> tuple[ArrayTree, Timestep]:
        observation, state = self.env.reset_env(key, task)
        return strong(state), restart(self._observe(observation))

    def step(
        self, key: Key, state: ArrayTree, action: Array, task: ArrayTree
    ) -> tuple[ArrayTree, Timestep, Array]:
        if self.low:  # stretched from [-1, 1], and cut off there
            low, high = jnp.array(self.low), jnp.array(self.high)
            action = low + 0.5 * (jnp.clip(action, -1.0, 1.0) + 1.0) * (high - low)
            action = action.reshape(self.action_shape)
        observation, state, reward, ended, info = self.env.step_env(key, state, action, task)
        terminated, truncated = self._ends(state, jnp.asarray(ended, bool), task)
        row = transition(
            self._observe(observation),
            reward,
            1.0 - terminated.astype(jnp.float32),
            info.get("success", False),
        )
        return strong(state), row, terminated | truncated

    def _observe(self, observation: Array) -> Array:
        dtype = jnp.int32 if self.classes else jnp.float32
        return jnp.asarray(observation).astype(dtype).reshape(self.shape)

    def _ends(self, state: ArrayTree, ended: Array, params: ArrayTree) -> tuple[Array, Array]:
        """Whether it is terminated, and whether truncated."""
        if hasattr(self.env, "is_truncated"):
            return ended, jnp.asarray(self.env.is_truncated(state, params), bool)
        if not hasattr(params, "max_steps_in_episode"):
            return ended, jnp.bool_(False)
        for_ever = params.replace(max_steps_in_episode=jnp.int32(NEVER))
        terminated = ended & jnp.asarray(self.env.is_terminal(state, for_ever), bool)
        return terminated, ended & ~terminated


def gymnax_suite(env: Any, params: Sequence[ArrayTree], names: Sequence[str]) -> FunctionalSuite:
    """A suite of one environment with several parameters.

    Args:
      env: as at the head of this file.
      params: K pytrees of one structure, such as `env.default_params.replace(length=0.25)`.
      names: K names.

    Raises:
      ValueError: not as many names as parameters, none, or spaces that are not supported or not
        the same for all parameters.
    """
    if not params or len(names) != len(params):
        raise ValueError(
            f"names must be as many as params, at least one; got {len(names)} and {len(params)}"
        )
    title = getattr(env, "name", type(env).__name__)
    seen = {repr(_observations(title, env.observation_space(p))) for p in params}
    acted = {repr(_actions(title, env.action_space(p))) for p in params}
    if len(seen) > 1 or len(acted) > 1:
        different = seen if len(seen) > 1 else acted
        raise ValueError(
            f"{title} has different spaces in its tasks: {sorted(different)}; suites of one task "
            "each can be joined by mtrl_jax.envs.pad.join"
        )
    shape, number_of_classes = _observations(title, env.observation_space(params[0]))
    number, low, high, action_shape = _actions(title, env.action_space(params[0]))
    limits = [int(getattr(p, "max_steps_in_episode", 0)) for p in params]
    has_success = "success" in _info(env, params[0], low, action_shape)
    spec = EnvSpec(
        task_names=tuple(names),
        observation_shape=shape,
        observation_dtype=np.dtype(np.int32 if number_of_classes else np.float32),
        vocabulary=np.array([number_of_classes]) if number_of_classes else None,
        num_actions=number,
        action_mask=np.ones((len(params), number), bool),
        episode_limit=np.array(limits),
        has_success=has_success,
        action_size=len(low),
    )
    family = Gymnax(env, shape, bool(number_of_classes), low, high, action_shape)
    return FunctionalSuite(spec, family, jax.tree.map(_stacked, *params))


def make_suite(env_id: str, /, **params: Any) -> FunctionalSuite:
    """A suite of one of gymnax's environments by its id.

    Args:
      env_id: of `gymnax.make`.
      **params: fields of its parameters; those that are lists of K values make K tasks, named by
        what differs.

    Raises:
      ValueError: an unknown id or field, lists of different lengths, or as `gymnax_suite`.
      ImportError: gymnax is not installed.
    """
    try:
        import gymnax
    except ImportError as error:
        raise ImportError(
            "this suite needs gymnax, which comes with the extra gymnax (python -m pip install "
            "'mtrl_jax[gymnax]')"
        ) from error
    try:
        env, defaults = gymnax.make(env_id)
    except Exception as error:
        raise ValueError(f"gymnax has no environment {env_id!r}: {error}") from error
    for name in params:
        if not hasattr(defaults, name):
            known = ", ".join(vars(defaults))
            raise ValueError(f"{env_id} has the parameters {known}; got {name}")
    lists = {name: x for name, x in params.items() if isinstance(x, list | tuple)}
    if len({len(x) for x in lists.values()}) > 1 or not all(lists.values()):
        raise ValueError(f"{env_id} needs lists of one length, of its tasks' values; got {lists}")
    count = len(next(iter(lists.values()), [0]))
    each = [params | {name: x[k] for name, x in lists.items()} for k in range(count)]
    names = [
        ",".join(f"{name}={x[k]}" for name, x in lists.items()) or env_id for k in range(count)
    ]
    return gymnax_suite(env, [defaults.replace(**one) for one in each], names)


def _stacked(*leaves: Any) -> np.ndarray:
    stacked = np.stack([np.asarray(x) for x in leaves])
    return stacked.astype(np.float32) if stacked.dtype == np.float64 else _small(stacked)


def _small(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int32) if x.dtype == np.int64 else x


def _observations(title: str, space: Any) -> tuple[tuple[int, ...], int]:
    """Shape and, of a class, their number.

    Raises:
      ValueError: for spaces that are neither a box nor classes.
    """
    shape = getattr(space, "shape", None)
    if hasattr(space, "n"):
        return (1,), int(space.n)
    if shape is None or not hasattr(space, "low"):
        raise ValueError(
            f"{title} has observations ({type(space).__name__}) that are neither a box nor classes"
        )
    return tuple(shape) if len(shape) in (1, 2) else (int(np.prod(shape)),), 0


def _actions(
    title: str, space: Any
) -> tuple[int, tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Number of actions, or bounds and shape of continuous ones.

    Raises:
      ValueError: for spaces that are neither discrete nor a bounded box.
    """
    if hasattr(space, "n"):
        return int(space.n), (), (), ()
    shape = tuple(getattr(space, "shape", ()))
    bounds = [
        np.broadcast_to(np.asarray(getattr(space, name, np.nan), np.float64), shape).reshape(-1)
        for name in ("low", "high")
    ]
    if not np.isfinite(bounds).all():
        raise ValueError(f"{title} has actions ({space}) that are neither discrete nor bounded")
    low, high = (tuple(x.tolist()) for x in bounds)
    return 0, low, high, shape


def _info(env: Any, params: ArrayTree, low: tuple[float, ...], shape: tuple[int, ...]) -> Any:
    """What a step says besides; nothing runs."""
    action = jnp.zeros(shape, jnp.float32) if low else jnp.int32(0)

    def step(key):
        _, state = env.reset_env(key, params)
        return env.step_env(key, state, action, params)[-1]

    return jax.eval_shape(step, jax.random.key(0))
