"""Numbers of each algorithm that meets a sequence; flags and overrides win over these."""

from typing import Any

from mtrl_jax.algorithms import continual, dqn, ppo, sac

from ..dqn.presets import preset_of
from ..metaworld.presets import PRESETS

__all__ = ["ALGORITHMS", "numbers_of", "run_of"]

# A module with a `Config` and an `agent(spec, config, num_updates, collectives)`.
ALGORITHMS: dict[str, Any] = {"ppo": ppo, "dqn": dqn, "sac": sac}
_PPO: dict[str, Any] = {
    "hidden": (64, 64),
    "activation": "relu",
    "unroll_length": 32,
    "epochs": 8,
    "minibatches": 4,
    "target_kl": 0.0,
    "discount": 0.97,
    "lambda_": 0.95,
    "learning_rate": 2e-3,
    "entropy_cost": 1e-2,
}


def run_of(algorithm: str) -> dict[str, Any]:
    """Environments of a task and episodes of an evaluation."""
    return {"num_envs_per_task": 2 if algorithm == "sac" else 8, "eval_episodes": 16}


def numbers_of(algorithm: str, sequence: str, network: str, steps: int) -> continual.Numbers:
    """The algorithm's `Config`.

    Args:
      algorithm: a key of `ALGORITHMS`.
      sequence: DQN has other numbers on Atari than elsewhere.
      network: what tasks share.
      steps: of a task; of DQN, epsilon falls over the first quarter of them.
    """
    if algorithm == "ppo":
        return ppo.Config(network=network, **_PPO)
    if algorithm == "sac":
        return sac.Config(network=network, **PRESETS["sac", "laptop"]["config"])
    values = {**preset_of(sequence)["config"], "epsilon_steps": max(steps // 4, 1)}
    return dqn.Config(network=network, **values)
