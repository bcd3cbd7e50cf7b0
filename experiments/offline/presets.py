"""Numbers: of the teachers that data are recorded from, and of offline learning."""

from typing import Any

from mtrl_jax import engines
from mtrl_jax.algorithms import dqn, offline, sac
from mtrl_jax.types import EnvSpec

from ..common import runs

__all__ = ["UPDATES", "numbers", "teacher"]

CHECKPOINTS = 12  # of a teacher, evenly over its training: medium is one of them
_DQN: dict[str, Any] = {
    "hidden": (64, 64),
    "discount": 0.95,
    "epsilon": 0.1,
    "epsilon_steps": 8_000,
    "replay_ratio": 16.0,
    "learning_rate": 1e-3,
}
_SAC: dict[str, Any] = {
    "hidden": (64, 64),
    "discount": 0.95,
    "warmup": 500,
    "batch_size": 64,
    "capacity": 20_000,
    "updates_per_step": 0.5,
    "temperature": 0.02,  # of rewards that are paid once an episode
    "target_entropy": -0.5,
    "learning_rate": 1e-3,
}
_STEPS = {False: 15_000, True: 8_000}  # of each task, by whether actions are continuous


def teacher(
    suite: str, spec: EnvSpec, seed: int, steps: int
) -> tuple[dict[str, Any], engines.RunConfig]:
    """Settings, as config.json holds them, and length of the run that data are recorded from: DQN,
    or SAC where actions are continuous. `steps` are of each task; 0: the preset's."""
    continuous = spec.action_size > 0
    total = (steps or _STEPS[continuous]) * spec.num_tasks
    run = engines.RunConfig(
        total_env_steps=total,
        num_envs_per_task=8,
        seed=seed,
        log_every=max(total // 50, 1),
        eval_every=10 * total,
        checkpoint_every=max(total // CHECKPOINTS, 1),
        keep=CHECKPOINTS + 1,
        writers=(),
    )
    named = {"suite": suite, "permute_actions": None}
    if continuous:
        made = runs.settings_of("metaworld", named, run, sac.Config(**_SAC), algorithm="sac")
    else:
        made = runs.settings_of("dqn", named, run, dqn.Config(**_DQN))
    return made, run


UPDATES = 3_000
_STRENGTH = 0.1  # of CQL; rewards are 1 at most


def numbers(base: str, updates: int) -> offline.Config:
    """Of offline learning, without a rule. The rate falls to 0, since with a constant one scores
    change by a tenth from one evaluation to the next."""
    return offline.Config(base=base, cql_strength=_STRENGTH, decay_steps=updates)
