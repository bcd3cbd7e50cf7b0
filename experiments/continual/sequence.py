"""What a sequence consists of: its tasks, how long each is learnt, and in which pieces."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from mtrl_jax import engines
from mtrl_jax.algorithms import continual
from mtrl_jax.envs import suites
from mtrl_jax.types import FunctionalSuite, HostSuite

__all__ = [
    "CW10",
    "FREE",
    "METHODS",
    "MULTITASK",
    "REFERENCE",
    "Plan",
    "Suite",
    "stretch",
    "suite_of",
    "updates_of",
]

MULTITASK = "multitask"
METHODS = (*continual.METHODS, MULTITASK)
REFERENCE = "reset"  # whose scores are the scale and whose areas those of learning from scratch
# Continual World's ten (Wolczyk et al. 2021), in its order.
CW10 = (
    *("hammer", "push-wall", "faucet-close", "push-back", "stick-pull"),
    *("handle-press-side", "push", "shelf-place", "window-close", "peg-unplug-side"),
)
STRIDE = 100_003  # between the seeds of two tasks
FREE = ("writers", "keep", "log_every", "num_devices")  # what the same sequence may change
_DISPATCH = 10  # updates, at most

Suite = FunctionalSuite | HostSuite


class Plan(NamedTuple):
    """A sequence and who meets it.

    Attributes:
      suite: of all N tasks, in the order in which they are met.
      run: of the whole sequence, as the flags have it.
      algorithm: a key of `presets.ALGORITHMS`.
      numbers: of the algorithm.
      config: of the methods, without their name.
      folder: of all.
      settings: what config.json is to hold.
    """

    suite: Suite
    run: engines.RunConfig
    algorithm: str
    numbers: continual.Numbers
    config: continual.Config
    folder: pathlib.Path
    settings: dict[str, Any]


def suite_of(sequence: str, pad: bool) -> Suite:
    """The suite that --sequence names.

    Raises:
      ValueError: for an unknown one, or one of a single task.
    """
    name = f"metaworld:{','.join(CW10)}" if sequence == "cw10" else sequence
    suite = suites.make(name, None, pad)
    if suite.spec.num_tasks < 2:
        raise ValueError(f"--sequence must have at least two tasks; {sequence} has one")
    return suite


def _per_update(plan: Plan, num_tasks: int) -> int:
    return plan.numbers.unroll_length * plan.run.num_envs_per_task * num_tasks


def updates_of(plan: Plan, method: str) -> int:
    """How many updates a task has."""
    return stretch(plan, method).total_env_steps // _per_update(plan, 1)


def stretch(plan: Plan, method: str, k: int = 0) -> engines.RunConfig:
    """The run of one task, or of all at once: as many steps of each task, and evaluations at equal
    distances, a whole number of dispatches apart."""
    run, n = plan.run, plan.suite.spec.num_tasks
    steps, per_update = run.total_env_steps / n, _per_update(plan, 1)
    evaluations = max(round(steps / run.eval_every), 1)
    updates = max(round(steps / evaluations / per_update), 1)
    at_once = -(-updates // -(-updates // _DISPATCH))
    updates = at_once * -(-updates // at_once)
    all_tasks = n if method == MULTITASK else 1
    interval = updates * per_update * all_tasks
    return dataclasses.replace(
        run,
        total_env_steps=interval * evaluations,
        eval_every=interval,
        log_every=interval,
        checkpoint_every=min(run.checkpoint_every, interval),
        updates_per_dispatch=at_once,
        seed=run.seed + k * STRIDE,
    )
