"""What each task has of its own: so many episodes of so many levels, drawn anew for every seed."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtrl_jax import recorded
from mtrl_jax.algorithms import offline_data
from mtrl_jax.types import EnvSpec

from . import record

__all__ = ["Mix", "Own", "check", "few_tasks", "mix_of", "read", "splits"]

Mix = tuple[tuple[str, int], ...]  # levels, and how many episodes of each
Files = dict[str, recorded.Recording]


class Own(NamedTuple):
    """What tasks have: `few` is the first half's, if it is not empty, and `own` the others'."""

    own: Mix
    few: Mix


def mix_of(flag: str, text: str) -> Mix:
    """Of text such as `expert:100` or `random:50+expert:5`.

    Raises:
      ValueError: naming the flag, for anything else.
    """
    found = []
    for part in text.split("+"):
        level, _, count = part.partition(":")
        if level not in record.LEVELS or not count.isdecimal() or not int(count):
            raise ValueError(
                f"--{flag} must be <level>:<episodes>, with + between several, levels being "
                f"{', '.join(record.LEVELS)}; got {text!r}"
            )
        found.append((level, int(count)))
    if len({level for level, _ in found}) != len(found):
        raise ValueError(f"--{flag} must name each level once; got {text!r}")
    return tuple(found)


def few_tasks(num_tasks: int, few: Mix) -> int:
    """How many tasks, the first ones, have what `few` says."""
    return num_tasks // 2 if few else 0


def read(folder: pathlib.Path, spec: EnvSpec, suite: str, own: Own) -> Files:
    """The files that are needed.

    Raises:
      ValueError: as `recorded.load`.
    """
    wanted = {level for level, _ in own.own + own.few}
    return {
        level: recorded.load(record.path_of(folder, level), spec, suite)
        for level in record.LEVELS
        if level in wanted
    }


def check(files: Files, spec: EnvSpec, own: Own) -> None:
    """Raises ValueError if there are fewer episodes than are asked for."""
    for k in range(spec.num_tasks):
        for level, count in _of_task(k, spec.num_tasks, own):
            there = len(np.unique(files[level].episode[files[level].task == k]))
            if there < count:
                raise ValueError(
                    f"{level}: {count} episodes of each task are asked for, but of "
                    f"{spec.task_names[k]} there are {there}"
                )


def _of_task(k: int, num_tasks: int, own: Own) -> Mix:
    return own.few if k < few_tasks(num_tasks, own.few) else own.own


def splits(files: Files, num_tasks: int, own: Own, seeds: Sequence[int]) -> offline_data.Split:
    """Leaves `[S, ...]`, of transitions numbered through all files in their order."""
    begin = np.concatenate([[0], np.cumsum([len(one.task) for one in files.values()])])
    starts = dict(zip(files, begin, strict=False))

    def of_seed(seed: int) -> offline_data.Split:
        rng = np.random.default_rng([seed, 1])
        found = []
        for k in range(num_tasks):
            parts = []
            for level, count in _of_task(k, num_tasks, own):
                one = files[level]
                mine = np.flatnonzero(one.task == k)
                chosen = rng.permutation(np.unique(one.episode[mine]))[:count]
                parts.append(starts[level] + mine[np.isin(one.episode[mine], chosen)])
            found.append(np.concatenate(parts))
        return offline_data.split(found)

    return offline_data.stack([of_seed(seed) for seed in seeds])
