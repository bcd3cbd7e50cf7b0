"""What envpool says about its environments, as one `EnvSpec` for a list of ids. No pool is built
here.

envpool has many families with different observations; four kinds of encoding cover them (see
`Encoding`). Actions are discrete or one bounded vector; several players and mixed spaces are
refused.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.types import EnvSpec

__all__ = ["PAD", "Encoding", "TaskSpec", "describe", "shared_spec"]

PAD = "--pad makes one suite of them (mtrl_jax.envs.pad)"  # what helps, where that does

# Object, colour and state of a MiniGrid cell; the numbering is MiniGrid's own.
MINIGRID_CELL = (11, 6, 3)
NO_LIMIT = 2**31 - 1  # what envpool reports for families that end by themselves only

# Atari as Machado et al. 2018 (arXiv:1709.06009) evaluate it: sticky actions, the whole action
# set, no episode end at a lost life. Rewards are raw scores: clip or normalise them in the learner.
ATARI_OPTIONS = {
    "full_action_space": True,
    "repeat_action_probability": 0.25,
    "noop_max": 1,
    "use_fire_reset": False,
    "episodic_life": False,
    "reward_clip": False,
}
# The goal is part of the observation, as in the multi-task sets of Meta-World (envpool's default
# hides it, and a task whose goal moves cannot be learnt then). Rewards are the V2 ones, raw.
METAWORLD_OPTIONS = {"partially_observable": False}


class Encoding(NamedTuple):
    """How one environment's raw state becomes an observation and a success flag.

    Attributes:
      kind: "minigrid" (image and direction as one categorical vector; the mission text is dropped),
        "image" (uint8 as it is), "category" (one class number) or "vector" (everything else,
        flattened to float32).
      success: "reward" (positive reward on the last step), the name of an info key, or "".
      keys: the raw state arrays that are read, in order.
    """

    kind: str
    success: str
    keys: tuple[str, ...]


class TaskSpec(NamedTuple):
    """One environment id: its spaces, and the options its pool must be made with."""

    env_id: str
    options: dict[str, Any]
    encoding: Encoding
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    vocabulary: np.ndarray | None
    num_actions: int  # 0 where actions are continuous
    episode_limit: int
    padded_actions: bool  # missing actions may be sent as no-ops (action 0)
    action_low: np.ndarray | None = None  # [A], bounds of a continuous action
    action_high: np.ndarray | None = None
    action_dtype: np.dtype = np.dtype(np.int32)  # what the pool takes
    name: str = ""  # of the task, if not its id
    # (raw, memory) -> (reward, success, ...), memory: replaces what envpool says, row by row.
    score: Callable[..., Any] | None = None


def describe(env_id: str, image_size: int = 0) -> TaskSpec:
    """Looks one id up; `image_size` is that of Atari's pictures, 0 for envpool's own.

    Raises:
      ValueError: unknown id (the message holds the nearest ones), actions that are neither discrete
        nor one bounded vector, several players, or an image size of anything but Atari.
      ImportError: envpool, or a system library that the family needs, is not installed.
    """
    raw, options = _raw_spec(env_id, image_size)
    if getattr(raw.config, "max_num_players", 1) != 1:
        raise ValueError(f"{env_id} has several players; only single-player ids are supported")
    limit = int(raw.config.max_episode_steps)
    actions = _action_space(env_id, raw.action_space)
    seen = _observation_space(raw)
    return TaskSpec(
        env_id=env_id,
        options=options,
        encoding=Encoding(seen.kind, _success(raw, seen.kind), seen.keys),
        observation_shape=seen.shape,
        observation_dtype=seen.dtype,
        vocabulary=seen.vocabulary,
        num_actions=actions.number,
        episode_limit=0 if limit >= NO_LIMIT else limit,
        padded_actions=type(raw).__name__ == "AtariEnvSpec",
        action_low=actions.low,
        action_high=actions.high,
        action_dtype=actions.dtype,
    )


class _Actions(NamedTuple):
    """The fields of a `TaskSpec` that say what an action is."""

    number: int
    low: np.ndarray | None
    high: np.ndarray | None
    dtype: np.dtype


def _action_space(env_id: str, space: Any) -> _Actions:
    """As `describe` for errors."""
    if hasattr(space, "n"):
        return _Actions(int(space.n), None, None, np.dtype(np.int32))
    low, high = (np.asarray(getattr(space, name, np.nan)) for name in ("low", "high"))
    if not (low.ndim == 1 and np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(
            f"{env_id} has actions ({space}) that are neither discrete nor one bounded vector"
        )
    return _Actions(0, low, high, np.dtype(space.dtype))


class _Observations(NamedTuple):
    """What an encoding (see `Encoding`) reads, and what it makes of it."""

    kind: str
    keys: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    vocabulary: np.ndarray | None = None


def _observation_space(raw: Any) -> _Observations:
    keys = tuple(key for key in raw._state_keys if key == "obs" or key.startswith("obs:"))
    specs = dict(zip(raw._state_keys, raw._state_spec, strict=True))
    byte = np.dtype(np.uint8)
    if keys == ("obs:direction", "obs:image", "obs:mission"):
        cells = int(np.prod(_shape(specs["obs:image"])[:2]))
        vocabulary = np.array(MINIGRID_CELL * cells + (4,))
        return _Observations("minigrid", keys, vocabulary.shape, byte, vocabulary)
    if len(keys) == 1:
        space, only = raw.observation_space, specs[keys[0]]
        if hasattr(space, "n") and not space.shape:
            dtype = byte if space.n <= 256 else np.dtype(np.int32)
            return _Observations("category", keys, (1,), dtype, np.array([space.n]))
        if only[0] == np.uint8 and len(_shape(only)) == 3:
            return _Observations("image", keys, _shape(only), byte)
    size = sum(int(np.prod(_shape(specs[key]))) for key in keys)
    return _Observations("vector", keys, (size,), np.dtype(np.float32))


def _success(raw: Any, kind: str) -> str:
    """`Encoding.success`: MiniGrid pays for nothing else; others may have an info key."""
    if kind == "minigrid":
        return "reward"
    keys = ("info:success", "info:is_success", "info:prev_level_complete")
    return next((key for key in keys if key in raw._state_keys), "")


def shared_spec(tasks: Sequence[TaskSpec]) -> EnvSpec:
    """The `EnvSpec` of a suite of ids, which must have one observation and one action space.

    Atari games that lack some of the 18 actions get a mask instead (Skiing has 9).

    Raises:
      ValueError: no ids, an id twice, or two ids that do not go together (both are named).
    """
    if not tasks:
        raise ValueError("a suite needs at least one envpool id, got none")
    names = tuple(task.name or task.env_id for task in tasks)
    if len(set(names)) != len(names):
        raise ValueError(f"an id may appear once in a suite, got {', '.join(names)}")
    widest = max(tasks, key=lambda task: task.num_actions)
    first = tasks[0]
    for task in tasks:
        same_classes = np.array_equal(task.vocabulary, first.vocabulary)  # type: ignore[arg-type]
        if (
            task.observation_shape != first.observation_shape
            or task.observation_dtype != first.observation_dtype
            or not same_classes
        ):
            raise ValueError(
                f"{first.env_id} and {task.env_id} have different observations: "
                f"{_observation(first)} and {_observation(task)}{_remedy(first, task)}"
            )
        same_size = (task.num_actions, _size(task)) == (widest.num_actions, _size(widest))
        if not same_size and not (task.padded_actions and widest.padded_actions):
            raise ValueError(
                f"{widest.env_id} and {task.env_id} have different action spaces: "
                f"{_actions(widest, task)}{_remedy(widest, task)}"
            )
    num_actions = np.array([task.num_actions for task in tasks])
    return EnvSpec(
        task_names=names,
        observation_shape=first.observation_shape,
        observation_dtype=first.observation_dtype,
        vocabulary=first.vocabulary,
        num_actions=widest.num_actions,
        action_mask=np.arange(widest.num_actions) < num_actions[:, None],
        episode_limit=np.array([task.episode_limit for task in tasks]),
        has_success=all(task.encoding.success for task in tasks),
        action_size=_size(first),
    )


def library() -> Any:
    """The module envpool, which suites in pure JAX do without.

    Raises:
      ImportError: it is not installed, with the extra that brings it.
    """
    try:
        import envpool
    except ImportError as error:
        raise ImportError(
            "this suite needs envpool, which comes with the extra rl (python -m pip install "
            "'mtrl_jax[rl]'); maze8 and small_games do without"
        ) from error
    return envpool


def _raw_spec(env_id: str, image_size: int) -> tuple[Any, dict[str, Any]]:
    envpool = library()
    known = envpool.list_all_envs()
    if env_id not in known:
        near = difflib.get_close_matches(env_id, known, n=3, cutoff=0.4)
        hint = f"; the nearest ids are {', '.join(near)}" if near else ""
        raise ValueError(f"envpool has no environment {env_id!r}{hint}")
    try:
        raw = envpool.make_spec(env_id)
    except ImportError as error:
        if "Qt" in str(error):
            raise ImportError(
                f"{env_id} (Procgen) needs the system library libQt5Gui.so.5, which is not here: "
                "apt-get install libqt5gui5 (envpool 1.2.7 brings its own)"
            ) from error
        raise
    except (RuntimeError, OSError) as error:
        raise ValueError(f"envpool cannot describe {env_id}: {error}") from error
    by_family: dict[str, dict[str, Any]] = {
        "AtariEnvSpec": ATARI_OPTIONS,
        "MetaWorldEnvSpec": METAWORLD_OPTIONS,
    }
    family = type(raw).__name__
    options = dict(by_family.get(family, {}))
    if image_size:
        if family != "AtariEnvSpec":
            raise ValueError(f"{env_id} is no Atari game; only their pictures have another size")
        options |= {"img_height": image_size, "img_width": image_size}
    return (envpool.make_spec(env_id, **options) if options else raw), options


def _shape(array_spec: Any) -> tuple[int, ...]:
    """Of one environment, from (dtype, shape, ...); a leading -1 stands for the players."""
    return tuple(size for size in array_spec[1] if size != -1)


def _size(task: TaskSpec) -> int:
    return 0 if task.action_low is None else len(task.action_low)


def _actions(*tasks: TaskSpec) -> str:
    kinds = [
        (t.num_actions, "actions") if t.num_actions else (_size(t), "coordinates") for t in tasks
    ]
    (a, kind_a), (b, kind_b) = kinds
    return f"{a} and {b} {kind_b}" if kind_a == kind_b else f"{a} {kind_a} and {b} {kind_b}"


def _remedy(a: TaskSpec, b: TaskSpec) -> str:
    """What to do about two that do not go together, if `envs/pad.py` can do it."""
    vectors = all(t.observation_dtype == np.float32 for t in (a, b))
    seen = [(t.observation_shape, t.observation_dtype, str(t.vocabulary)) for t in (a, b)]
    kinds = bool(a.num_actions) == bool(b.num_actions)
    return f"; {PAD}" if kinds and (vectors or seen[0] == seen[1]) else ""


def _observation(task: TaskSpec) -> str:
    return f"{task.observation_dtype} {list(task.observation_shape)}"
