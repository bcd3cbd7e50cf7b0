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
    "replay_ratio": 4.0, "n_step": 5, "unroll_length": 16, "discount": 0.97, "epsilon": 0.05,
    "epsilon_steps": 30_000,
}  # fmt: skip


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
    return kind(**{
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in fields
    })  # fmt: skip


def metaworld(spec: EnvSpec, settings: dict[str, Any], num_updates: int = 0) -> Agent:
    """The agent of a run of `experiments.metaworld`."""
    algorithm = ALGORITHMS[settings["algorithm"]]
    return algorithm.agent(spec, config_of(algorithm.Config, settings), num_updates)


def dqn_agent(spec: EnvSpec, settings: dict[str, Any], num_updates: int = 0) -> Agent:
    """The agent of a run of `experiments.dqn`."""
    return dqn.agent(spec, config_of(dqn.Config, settings), num_updates)
