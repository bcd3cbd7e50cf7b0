"""The flags of training that are about tasks: what it begins with, what stays, what weighs more."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags

from mtrl_jax.types import EnvSpec

__all__ = ["applied", "begin_from", "weights_of"]

_BEGIN_FROM = flags.DEFINE_string(
    "begin_from",
    None,
    "Directory of a run with which this one begins, of the same algorithm and network. Tasks are "
    "matched by name, and there may be more, fewer or other ones: shared parameters go over, and a "
    "task's own to the task of that name; heads of new tasks, optimisers, surgery and replay begin "
    "anew. A table says so. (default: fresh parameters)",
)
_FREEZE = flags.DEFINE_list(
    "freeze",
    [],
    "Parameters that stay as they are, by parts of their names with commas between them: torso "
    "(what is shared but for output layers), shared, actor, dense0, shared/critic*, ... A part "
    "that names nothing lists the names.",
)
_WEIGHTS = flags.DEFINE_list(
    "task_weights",
    [],
    "What the tasks' losses are multiplied by for the shared parameters, before surgery: a number "
    "a task (1,1,.5), or by name (door-open=2,reach=.5; the others 1). Only their ratios count; "
    "with 0 a task teaches the others nothing.",
)
_CURRICULUM = flags.DEFINE_string(
    "curriculum",
    "",
    "What moves those weights while training: success (towards tasks that fail) or progress "
    "(towards tasks whose scores change), with :rate=, :slow= and :floor= behind it. With "
    ":over=environments they say how many environments of a task step in the next rollout, while "
    "the others rest, and losses weigh the same; --total_env_steps counts those that rest too.",
)


def begin_from() -> str | None:
    """The value of --begin_from."""
    return _BEGIN_FROM.value


def applied(config: Any, spec: EnvSpec) -> Any:
    """The config of an algorithm, with what the flags say of its tasks.

    Raises:
      ValueError: for weights that no task is named for, or that are no numbers.
    """
    values: dict[str, Any] = {}
    if _WEIGHTS.present:
        values["task_weights"] = weights_of(_WEIGHTS.value, spec.task_names)
    if _CURRICULUM.present:
        values["curriculum"] = _CURRICULUM.value
    if _FREEZE.present:
        values["freeze"] = tuple(text.strip() for text in _FREEZE.value)
    return dataclasses.replace(config, **values)


def weights_of(given: Sequence[str], names: Sequence[str]) -> tuple[float, ...]:
    """One weight a task, from `1,.5` or `name=2,other=.5`.

    Raises:
      ValueError: for a name that no task has, a name twice, or what is no number.
    """
    pairs = [text.strip().rpartition("=") for text in given]
    named = [bool(equals) for _, equals, _ in pairs]
    if any(named) and not all(named):
        raise ValueError(
            f"--task_weights must be numbers, or name=number throughout; got {','.join(given)!r}"
        )
    try:
        numbers = [float(text) for _, _, text in pairs]
    except ValueError:
        raise ValueError(f"--task_weights must hold numbers; got {','.join(given)!r}") from None
    if not any(named):
        return tuple(numbers)
    weights = dict.fromkeys(names, 1.0)
    for n, (name, _, _) in enumerate(pairs):
        if name not in weights:
            raise ValueError(
                f"--task_weights: {name!r} is no task of the suite; it has {', '.join(names)}"
            )
        if name in [before for before, _, _ in pairs[:n]]:
            raise ValueError(f"--task_weights must name each task once; got {name!r} twice")
        weights[name] = numbers[n]
    return tuple(weights.values())
