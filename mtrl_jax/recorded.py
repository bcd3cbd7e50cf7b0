"""Transitions recorded from policies: a file, and what every task's reward makes of them.

A file is a NumPy archive (`.npz`), which NumPy alone reads with `allow_pickle=False`; a file that
would need a pickle is refused. Its arrays are of N transitions, in the order in which they happened
within an episode::

    header            text: JSON with `format`, `version`, `suite`, `task_names`, `level`, `source`
    observation       [N, *observation_shape], of the suite's dtype
    action            int32 [N], or float32 [N, A] in [-1, 1]
    reward            float32 [N], of the task that it was recorded for
    ended             bool [N], a true end; not a time limit
    next_observation  [N, *observation_shape]; where an episode was cut off, its last one
    task              int32 [N], the task that it was recorded for
    episode           int32 [N], the number of its episode within its task, from 0 on

Relabelling asks an environment for rewards of (s, a, s') alone: see `Relabels`.
"""

import json
import os
import pathlib
import zipfile
import zlib
from typing import IO, Any, NamedTuple, Protocol

import jax
import numpy as np

from mtrl_jax.types import Array, ArrayTree, EnvSpec, FunctionalSuite, HostSuite

__all__ = ["Labels", "Recording", "Relabels", "check_relabels", "load", "relabel", "save"]

FORMAT, VERSION = "mtrl_jax recorded transitions", 1
_TEXTS = ("format", "suite", "level")  # of the header


class Recording(NamedTuple):
    """What a file holds; leaves `[N, ...]`, and `header`, a dict that JSON can hold."""

    header: dict[str, Any]
    observation: Any
    action: Any
    reward: Any
    ended: Any
    next_observation: Any
    task: Any
    episode: Any


class Labels(NamedTuple):
    """What N transitions are to K tasks: `reward` float32 and `ended` bool, `[K, N]`."""

    reward: Any
    ended: Any


class Relabels(Protocol):
    """What an environment needs besides `FunctionalEnv`, for data to be shared between its tasks.

    `relabel(observation, action, next_observation, task) -> (reward, discount)`, pure, of one
    transition, is what `step` pays; `discount` is 0 at a true end. `least_reward` is the smallest
    reward that any task pays. Where a reward depends on more than an observation shows, data cannot
    be relabelled from observations, and the environment should not claim that they can.
    """

    @property
    def least_reward(self) -> float: ...

    def relabel(
        self, observation: Array, action: Array, next_observation: Array, task: ArrayTree
    ) -> tuple[Array, Array]: ...


def check_relabels(suite: FunctionalSuite | HostSuite, name: str) -> FunctionalSuite:
    """`suite`, called `name`, if it is functional and its environment is one of `Relabels`.

    Raises:
      ValueError: if not.
    """
    if isinstance(suite, FunctionalSuite):
        if hasattr(suite.env, "relabel") and hasattr(suite.env, "least_reward"):
            return suite
    raise ValueError(
        f"suite {name}: data can be shared between tasks only if the environment is functional "
        "and has relabel(observation, action, next_observation, task) and least_reward"
    )


def relabel(suite: FunctionalSuite, recording: Recording, name: str = "") -> Labels:
    """Rewards and ends of every transition for every task.

    Args:
      suite: whose environment is one of `Relabels`.
      recording: of that suite.
      name: of the recording, for the message.

    Raises:
      ValueError: as `check_relabels`, or if what was recorded is not what its own task's label
        says: it was recorded under other rewards.
    """
    check_relabels(suite, recording.header["suite"])
    env: Any = suite.env
    rows = (recording.observation, recording.action, recording.next_observation)
    one = jax.vmap(env.relabel, (0, 0, 0, None))
    reward, discount = jax.device_get(
        jax.jit(jax.vmap(one, (None, None, None, 0)))(*rows, suite.tasks)
    )
    labels = Labels(np.asarray(reward, np.float32), np.asarray(discount) == 0)
    own = (recording.task, np.arange(len(recording.task)))
    wrong = np.abs(labels.reward[own] - recording.reward) > 1e-5
    wrong |= labels.ended[own] != recording.ended
    if wrong.any():
        raise ValueError(
            f"{name or 'recording'}: {wrong.sum()} of {len(wrong)} transitions have another reward "
            f"or end than suite {recording.header['suite']} gives them, first number "
            f"{int(wrong.argmax())}"
        )
    return labels


# ------------------------------------------------------------------------------------------- files


def save(path: pathlib.Path, recording: Recording) -> None:
    """Writes a file in one atomic step; equal recordings are equal files."""
    header = {"format": FORMAT, "version": VERSION, **recording.header}
    arrays: dict[str, Any] = {k: np.asarray(v) for k, v in recording._asdict().items()}
    arrays["header"] = np.array(json.dumps(header))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, path)


def load(path: pathlib.Path, spec: EnvSpec, suite: str) -> Recording:
    """Reads a file and holds it against a suite; nothing in it is run.

    Args:
      path: of the file.
      spec: of the suite that it must be of.
      suite: the suite's name.

    Raises:
      ValueError: in one sentence with the path, for what is no such file, a pickle, a truncated
        one, one of another suite, or arrays of wrong shapes, dtypes or values.
    """
    found = _arrays(path)
    try:
        header = json.loads(str(found.pop("header")[()]))
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError
    except ValueError:
        raise ValueError(f"{path}: its header is not that of {FORMAT}") from None
    if header.get("version") != VERSION:
        raise ValueError(f"{path}: version {header.get('version')!r} is not {VERSION}")
    if not all(isinstance(header.get(name), str) for name in _TEXTS):
        raise ValueError(f"{path}: its header lacks one of {', '.join(_TEXTS)}")
    names = header.get("task_names")
    if header["suite"] != suite or names != list(spec.task_names):
        raise ValueError(
            f"{path}: recorded on suite {header['suite']} with tasks {names}, not on {suite} with "
            f"{list(spec.task_names)}"
        )
    recording = Recording(header, **found)
    _check_shapes(path, recording, spec)
    _check_values(path, recording, spec)
    return recording


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"{path} is no file; --record makes one")
    with path.open("rb") as file:  # NumPy does not close what it cannot read
        if file.read(4) != b"PK\x03\x04":
            raise ValueError(f"{path} is no .npz archive; pickles are never read")
        file.seek(0)
        try:
            return _members(file)
        except (zipfile.BadZipFile, EOFError, OSError, zlib.error, KeyError) as error:
            raise ValueError(f"{path} is damaged or cut off: {error}") from error
        except ValueError as error:  # also NumPy's, of an array that only a pickle could hold
            raise ValueError(f"{path}: {error}") from error


def _members(file: IO[bytes]) -> dict[str, np.ndarray]:
    names = {"header", *Recording._fields}
    with np.load(file, allow_pickle=False) as archive:
        if {*archive.files} != names:
            raise ValueError(
                f"must hold the arrays {', '.join(sorted(names))}; got "
                f"{', '.join(sorted(archive.files))}"
            )
        return {name: archive[name] for name in archive.files}


def _check_shapes(path: pathlib.Path, recording: Recording, spec: EnvSpec) -> None:
    n = len(recording.task) if np.ndim(recording.task) else 0
    if not n:
        raise ValueError(f"{path}: there is no transition in it")
    observation = (spec.observation_shape, np.dtype(spec.observation_dtype))
    of_one: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        "observation": observation,
        "next_observation": observation,
        "action": (spec.action_shape, spec.action_dtype),
        "reward": ((), np.dtype(np.float32)),
        "ended": ((), np.dtype(np.bool_)),
        "task": ((), np.dtype(np.int32)),
        "episode": ((), np.dtype(np.int32)),
    }
    for name, (shape, dtype) in of_one.items():
        x = getattr(recording, name)
        if x.dtype != dtype or x.shape != (n, *shape):
            raise ValueError(
                f"{path}: {name} must be {dtype} of shape {(n, *shape)}; got {x.dtype} of {x.shape}"
            )


def _check_values(path: pathlib.Path, recording: Recording, spec: EnvSpec) -> None:
    def within(name: str, high: Any) -> None:
        x = getattr(recording, name)
        if (x < 0).any() or (x >= high).any():
            raise ValueError(f"{path}: {name} must lie in [0, {high}); got {x.min()} to {x.max()}")

    for name, x in recording._asdict().items():
        if name != "header" and x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ValueError(f"{path}: {name} must be finite")
    within("task", spec.num_tasks)
    within("episode", len(recording.task))
    if spec.num_actions:
        within("action", spec.num_actions)
    elif np.abs(recording.action).max() > 1.0:
        raise ValueError(f"{path}: action must lie in [-1, 1]")
    if spec.vocabulary is not None:
        for name in ("observation", "next_observation"):
            within(name, spec.vocabulary)
    absent = np.setdiff1d(np.arange(spec.num_tasks), recording.task)
    if len(absent):
        raise ValueError(f"{path}: there is nothing of task {spec.task_names[absent[0]]}")
