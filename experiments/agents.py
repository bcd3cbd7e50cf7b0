"""From the settings of a run to its agent, for binaries that train and for those that only read."""

import dataclasses
from typing import Any

import jax

from mtrl_jax import learner, replay
from mtrl_jax.algorithms import dqn, experience, ppo, sac
from mtrl_jax.engines import RunConfig
from mtrl_jax.types import Agent, EnvSpec

# A module with a `Config` and an `agent(spec, config, num_updates)`, for each algorithm that runs
# on continuous actions.
ALGORITHMS: dict[str, Any] = {"ppo": ppo, "sac": sac}

# What experiments.dqn and the teachers of experiments.distill use on them.
DQN_ON_SMALL_GAMES: dict[str, Any] = {
    "replay_ratio": 4.0,
    "n_step": 5,
    "unroll_length": 16,
    "discount": 0.97,
    "epsilon": 0.05,
    "epsilon_steps": 30_000,
}

# Of experiments.dqn on Atari: the published numbers but for Adam, three-step double targets and
# the size of the replay, which takes 56 KB for each transition of 84 x 84 pixels: 1.1 GB a game.
DQN_ON_ATARI: dict[str, Any] = {
    "run": {"num_envs_per_task": 16, "steps_of_a_task": 1_000_000, "eval_episodes": 4},
    "config": {
        "hidden": (512,),
        "learning_rate": 1e-4,
        "reward_clip": 1.0,
        "replay_size": 20_000,
        "min_replay": 5_000,
        "epsilon": 0.01,
        "epsilon_steps": 100_000,
        "eval_epsilon": 0.01,
        "target_period": 2_000,
    },
}

# Of experiments.metaworld, by algorithm and --preset; any flag or override wins over these.
METAWORLD_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("ppo", "laptop"): {
        "run": {"total_env_steps": 3_000_000, "num_envs_per_task": 20, "stagger": True},
        "often": {"eval_every": 1_000_000, "eval_episodes": 10},
        # What did best in docs/results/metaworld_tuning.jsonl, for as long as half an hour allows.
        "config": {
            "unroll_length": 100,
            "epochs": 10,
            "minibatches": 10,
            "clip": 0.2,
            "lambda_": 0.97,
            "initial_std": 0.7,
            "target_kl": 0.0,
            "overlap": False,
            "final_learning_rate": 0.1,
        },
    },
    ("ppo", "paper"): {
        "run": {"total_env_steps": 20_000_000, "num_envs_per_task": 20},
        "often": {"eval_every": 1_000_000, "eval_episodes": 50},
        "config": {
            "hidden": (400, 400, 400),
            "unroll_length": 512,
            "epochs": 16,
            "minibatches": 32,
            "learning_rate": 3e-4,
            "entropy_cost": 5e-3,
        },
    },
    ("sac", "laptop"): {
        "run": {"total_env_steps": 400_000, "num_envs_per_task": 2},
        "often": {"eval_every": 250_000, "eval_episodes": 10},
        # Of docs/results/metaworld_tuning.jsonl; BUILD_NOTES.md says why rewards are not scaled.
        "config": {
            "hidden": (128, 128),
            "capacity": 50_000,
            "batch_size": 64,
            "warmup": 1_000,
            "statistics": "task",
            "updates_per_step": 0.5,
            "learning_rate": 1e-3,
            "temperature": 0.1,
            "temperature_learning_rate": 1e-3,
        },
    },
    ("sac", "paper"): {
        "run": {"total_env_steps": 20_000_000, "num_envs_per_task": 2},
        "often": {"eval_every": 1_000_000, "eval_episodes": 50},
        "config": {"hidden": (400, 400, 400), "layer_norm": False},
    },
}


def check_devices(spec: EnvSpec, config: Any, run: RunConfig) -> None:
    """What an agent cannot know: on how many devices it is to run.

    Raises:
      ValueError: the devices do not divide a batch, or their rings do not fit into one memory.
    """
    if not isinstance(config, sac.Config | dqn.Config):
        return
    local = learner.local_devices(run.num_devices)
    everywhere = len(local) * jax.process_count()
    if config.batch_size % everywhere:
        raise ValueError(
            f"batch_size must be a multiple of {everywhere} devices; got {config.batch_size}"
        )
    copies = len(local) if local[0].platform == "cpu" else 1
    if isinstance(config, sac.Config):
        experience.check_memory(spec, config.capacity, copies)
        return
    # While a run starts or saves, two more copies are on their way.
    replay.check_memory(
        dqn.item_spec(spec), spec.num_tasks, config.replay_size, copies * run.num_seeds + 2
    )


def config_of(kind: Any, settings: dict[str, Any]) -> Any:
    """The `Config` that config.json holds under `config/`."""
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {k.removeprefix("config/"): v for k, v in settings.items() if k.startswith("config/")}
    return kind(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in fields}
    )


def metaworld(spec: EnvSpec, settings: dict[str, Any], num_updates: int = 0) -> Agent:
    """The agent of a run of `experiments.metaworld`."""
    algorithm = ALGORITHMS[settings["algorithm"]]
    return algorithm.agent(spec, config_of(algorithm.Config, settings), num_updates)


def dqn_agent(spec: EnvSpec, settings: dict[str, Any], num_updates: int = 0) -> Agent:
    """The agent of a run of `experiments.dqn`."""
    return dqn.agent(spec, config_of(dqn.Config, settings), num_updates)
