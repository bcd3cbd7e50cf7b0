"""The task sets of Meta-World (Yu et al. 2019, arXiv 1910.10897) on envpool's native port.

What differs from the official benchmark: a goal and an object's place are drawn anew from the whole
box at every reset, not from fifty stored ones. The goal is visible in every set unless it is hidden
(`:goal=hidden`), as the ML sets do officially. Rewards are the V2 ones, an episode has 500 actions,
and nothing ends it earlier: it is truncated, so its last row bootstraps.
"""

import difflib
from collections.abc import Sequence

from mtrl_jax.envs.envpool_spec import describe
from mtrl_jax.envs.pool import suite_of
from mtrl_jax.types import HostSuite

__all__ = ["BENCHMARKS", "GOALS", "env_id", "metaworld_suite"]

GOALS = ("visible", "hidden")

MT10 = (
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-open",
    "drawer-close",
    "button-press-topdown",
    "peg-insert-side",
    "window-open",
    "window-close",
)
MT25 = (
    *MT10,
    "coffee-pull",
    "pick-out-of-hole",
    "disassemble",
    "pick-place-wall",
    "basketball",
    "stick-pull",
    "button-press-wall",
    "faucet-open",
    "door-lock",
    "lever-pull",
    "sweep-into",
    "faucet-close",
    "coffee-button",
    "button-press-topdown-wall",
    "dial-turn",
)
MT50 = (
    "assembly",
    "basketball",
    "bin-picking",
    "box-close",
    "button-press-topdown",
    "button-press-topdown-wall",
    "button-press",
    "button-press-wall",
    "coffee-button",
    "coffee-pull",
    "coffee-push",
    "dial-turn",
    "disassemble",
    "door-close",
    "door-lock",
    "door-open",
    "door-unlock",
    "hand-insert",
    "drawer-close",
    "drawer-open",
    "faucet-open",
    "faucet-close",
    "hammer",
    "handle-press-side",
    "handle-press",
    "handle-pull-side",
    "handle-pull",
    "lever-pull",
    "pick-place-wall",
    "pick-out-of-hole",
    "pick-place",
    "plate-slide",
    "plate-slide-side",
    "plate-slide-back",
    "plate-slide-back-side",
    "peg-insert-side",
    "peg-unplug-side",
    "soccer",
    "stick-push",
    "stick-pull",
    "push",
    "push-wall",
    "push-back",
    "reach",
    "reach-wall",
    "shelf-place",
    "sweep-into",
    "sweep",
    "window-open",
    "window-close",
)
ML10_TRAIN = (
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-close",
    "button-press-topdown",
    "peg-insert-side",
    "window-open",
    "sweep",
    "basketball",
)
ML10_TEST = ("drawer-open", "door-close", "shelf-place", "sweep-into", "lever-pull")
ML45_TEST = ("bin-picking", "box-close", "hand-insert", "door-lock", "door-unlock")

# Suite name to its tasks, in the order of their numbers.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "mt10": MT10,
    "mt25": MT25,
    "mt50": MT50,
    "ml10": ML10_TRAIN,
    "ml10_test": ML10_TEST,
    "ml45": tuple(task for task in MT50 if task not in ML45_TEST),
    "ml45_test": ML45_TEST,
}


def env_id(task: str) -> str:
    """envpool's id of a task by its Meta-World name, as in `pick-place`.

    Raises:
      ValueError: unknown name; the message holds the nearest ones.
    """
    if task not in MT50:
        near = difflib.get_close_matches(task, MT50, n=3, cutoff=0.4)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise ValueError(f"Meta-World has no task {task!r}{hint}")
    return f"MetaWorld/{''.join(part.capitalize() for part in task.split('-'))}-v3"


def metaworld_suite(tasks: Sequence[str], goal: str = "visible") -> HostSuite:
    """A suite of Meta-World tasks; task k is `tasks[k]`, and its number is no part of the
    observation (39 numbers: this frame, the last one, the goal).

    Args:
      tasks: names, as in `BENCHMARKS`.
      goal: one of `GOALS`. Hidden, the last three numbers are 0: an agent has to find out by its
        rewards where the goal is, which only one with a memory can carry from step to step.

    Raises:
      ValueError: no task, an unknown one, one twice, or another `goal`.
      ImportError: envpool is not installed.
    """
    if goal not in GOALS:
        raise ValueError(f"goal must be one of {', '.join(GOALS)}; got {goal!r}")
    hidden = {"partially_observable": goal == "hidden"}
    found = [(task, describe(env_id(task))) for task in tasks]
    return suite_of([one._replace(name=task, options=one.options | hidden) for task, one in found])
