"""What a gymnasium environment is, asked of one that is made, and arrays on their way to it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import by_name
from mtrl_jax.envs.draw import CannotDraw
from mtrl_jax.envs.envpool_spec import Encoding, TaskSpec

__all__ = [
    "SUCCESS",
    "Maker",
    "Task",
    "called",
    "describe",
    "drawing",
    "maker",
    "observed",
    "own_action",
]

SUCCESS = ("success", "is_success")  # keys of info that are looked for

Maker = Callable[..., Any]


class Task(NamedTuple):
    """One environment.

    Attributes:
      make: makes it.
      spec: what it is; `env_id` is the task's name.
      first_class: number of the first class of each element of a categorical observation.
      first_action: number of the first action.
      action_shape: of the environment's own continuous action.
    """

    make: Maker
    spec: TaskSpec
    first_class: Any
    first_action: int
    action_shape: tuple[int, ...]


def called(env: str | Maker) -> str:
    """The name of a task whose environment is an id or a function."""
    return env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)


def maker(env: str | Maker, options: dict[str, Any]) -> Maker:
    """What makes an environment, of an id with options of `gymnasium.make`, or of a function.

    Raises:
      ValueError: for options of a function.
      ImportError: gymnasium is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(
            "this suite needs gymnasium, which comes with the extra rl (python -m pip install "
            "'mtrl_jax[rl]')"
        ) from error
    if isinstance(env, str):
        return functools.partial(gymnasium.make, env, **options)
    if options:
        raise ValueError(f"options are for ids; {called(env)} is a function, and got {options}")
    return env


def drawing(task: Task) -> Maker:
    """What makes it for pictures.

    Raises:
      CannotDraw: if its function knows of none.
    """
    if not by_name.accepts(task.make, "render_mode"):
        raise CannotDraw(
            f"{task.spec.env_id} cannot be drawn: its function takes no render_mode='rgb_array'"
        )
    return functools.partial(task.make, render_mode="rgb_array")


def describe(make: Maker, name: str, success: str) -> Task:
    """Makes an environment, asks it, steps it once, and closes it.

    Args:
      make: without arguments.
      name: of the task.
      success: the key of info that says so; by default one of `SUCCESS`, if the step's info has it.

    Raises:
      ValueError: if any of that fails, or for spaces that are not supported.
    """
    try:
        env = make()
        try:
            observation, action = env.observation_space, env.action_space
            kind, shape, dtype, vocabulary, first_class = _observations(name, observation)
            number, low, high, first_action = _actions(name, action)
            limit = getattr(env.spec, "max_episode_steps", None) or 0
            env.reset(seed=0)
            action.seed(0)
            info = env.step(action.sample())[-1]
        finally:
            env.close()
    except ValueError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{name} cannot be made and stepped: {type(error).__name__}: {text}"
        ) from error
    key = success or next((key for key in SUCCESS if key in info), "")
    spec = TaskSpec(
        env_id=name,
        options={},
        encoding=Encoding(kind, key, ()),
        observation_shape=shape,
        observation_dtype=dtype,
        vocabulary=vocabulary,
        num_actions=number,
        episode_limit=int(limit),
        padded_actions=False,
        action_low=low,
        action_high=high,
        action_dtype=np.dtype(action.dtype),
    )
    return Task(make, spec, first_class, first_action, action.shape)


def _observations(
    name: str, space: Any
) -> tuple[str, tuple[int, ...], np.dtype, np.ndarray | None, Any]:
    """Kind, shape, dtype and vocabulary of what the agent sees, and the number of the first class.

    Raises:
      ValueError: for spaces that are not supported.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        if isinstance(space, spaces.MultiBinary):
            number, start = np.full(space.shape, 2), np.array(0)
        else:
            number = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec)
            start = np.asarray(space.start)
        dtype = np.dtype(np.uint8 if number.max() <= 256 else np.int32)
        return "category", number.shape, dtype, number.astype(int), start.reshape(-1)
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"{name} has observations ({type(space).__name__}) that are neither a box nor classes; "
            "bring a function that wraps it, for example in gymnasium.wrappers.FlattenObservation"
        )
    shape = space.shape
    if space.dtype == np.uint8 and len(shape) == 3:
        if shape[2] <= 4 < shape[0]:
            return "image, colours last", (shape[2], *shape[:2]), np.dtype(np.uint8), None, 0
        return "image", shape, np.dtype(np.uint8), None, 0
    shape = shape if len(shape) in (1, 2) else (int(np.prod(shape)),)
    return "vector", shape, np.dtype(np.float32), None, 0


def observed(task: Task, raw: np.ndarray) -> np.ndarray:
    """Observations `[E, ...]` as the agent sees them."""
    if task.spec.encoding.kind == "image, colours last":
        return np.moveaxis(raw, -1, 1)
    raw = raw.reshape(len(raw), *task.spec.observation_shape)
    if task.spec.vocabulary is not None:
        raw = raw - task.first_class.reshape(1, *task.first_class.shape)
    return raw


def _actions(name: str, space: Any) -> tuple[int, np.ndarray | None, np.ndarray | None, int]:
    """Number of actions, bounds `[A]` of continuous ones, and the number of the first action.

    Raises:
      ValueError: for spaces that are not supported.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return int(space.n), None, None, int(space.start)
    if isinstance(space, spaces.Box) and space.is_bounded():
        low, high = (np.asarray(x, np.float64).reshape(-1) for x in (space.low, space.high))
        return 0, low, high, 0
    raise ValueError(f"{name} has actions ({space}) that are neither discrete nor a bounded box")


def own_action(task: Task, action: np.ndarray) -> np.ndarray:
    """Actions `[E, ...]` as the environment wants them."""
    spec = task.spec
    if spec.action_low is None or spec.action_high is None:
        return action.astype(np.int64) + task.first_action
    middle, half = spec.action_high + spec.action_low, spec.action_high - spec.action_low
    stretched = np.clip(0.5 * (middle + action * half), spec.action_low, spec.action_high)
    return stretched.astype(spec.action_dtype).reshape(len(action), *task.action_shape)
