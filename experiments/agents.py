"""From the settings of a run to its agent, for binaries that train and for those that only read."""

import dataclasses
from typing import Any

from mtrl_jax.algorithms import ppo
from mtrl_jax.types import Agent, EnvSpec

# A module with a `Config` and an `agent(spec, config, num_updates)`, for each algorithm that runs
# on continuous actions.
ALGORITHMS: dict[str, Any] = {"ppo": ppo}


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
