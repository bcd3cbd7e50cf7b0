"""From the settings of a run to its agent, for binaries that train and for those that only read."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from mtrl_jax import episodic, learner, replay
from mtrl_jax.algorithms import distral, dqn, embeddings, experience, mfec, nec, ppo, sac, unreal
from mtrl_jax.engines import RunConfig
from mtrl_jax.networks import autoencoder
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec

# A module with a `Config` and an `agent(spec, config, num_updates, collectives)`, for each
# algorithm of experiments.metaworld.
ON_METAWORLD: dict[str, Any] = {"ppo": ppo, "sac": sac}
# The same for experiments.episodic.
EPISODIC: dict[str, Any] = {"mfec": mfec, "nec": nec}


def check_devices(spec: EnvSpec, config: Any, run: RunConfig) -> None:
    """What an agent cannot know: on how many devices it is to run.

    Raises:
      ValueError: the devices do not divide a batch, or their rings or tables do not fit into one
        memory.
    """
    if not isinstance(config, sac.Config | dqn.Config | mfec.Config | nec.Config):
        return
    local = learner.local_devices(run.num_devices)
    copies = len(local) if local[0].platform == "cpu" else 1
    every = copies * run.num_seeds + 2  # while a run starts or saves, two more are on their way
    tables = (spec.num_tasks, spec.num_actions)
    if isinstance(config, mfec.Config):
        dim = embedding_of(spec, config).dim
        episodic.check_memory(config.capacity, dim, tables, every)
        return
    everywhere = len(local) * jax.process_count()
    if config.batch_size % everywhere:
        raise ValueError(
            f"batch_size must be a multiple of {everywhere} devices; got {config.batch_size}"
        )
    if isinstance(config, sac.Config):
        experience.check_memory(spec, config.capacity, copies)
        return
    if isinstance(config, nec.Config):
        episodic.check_memory(config.capacity, config.dim, tables, every)
    item = (nec if isinstance(config, nec.Config) else dqn).item_spec(spec)
    replay.check_memory(item, spec.num_tasks, config.replay_size, every)


# Fields of a Config that are saved where they say something, so that older runs, which lack them,
# go on.
IF_SET = ("task_weights", "curriculum", "freeze")


def values_of(config: Any) -> dict[str, Any]:
    """The fields of an algorithm's `Config` that identify a run, for `config_of` to read."""
    return {k: v for k, v in dataclasses.asdict(config).items() if v or k not in IF_SET}


def config_of(kind: Any, settings: dict[str, Any]) -> Any:
    """The `Config` that config.json holds under `config/`."""
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {k.removeprefix("config/"): v for k, v in settings.items() if k.startswith("config/")}
    return kind(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in fields}
    )


# Binary to the module of its algorithm, which a run of experiments.metaworld names.
BINARIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "distral": lambda settings: distral,
    "metaworld": lambda settings: ON_METAWORLD[settings["algorithm"]],
    "auxiliary": lambda settings: unreal,
    "dqn": lambda settings: dqn,
    "episodic": lambda settings: EPISODIC[settings["algorithm"]],
}


def make(
    spec: EnvSpec,
    settings: dict[str, Any],
    num_updates: int = 0,
    collectives: learner.Collectives = learner.ALONE,
) -> Agent:
    """The agent of a run's config.json.

    Args:
      spec: of the run's suite.
      settings: of the run; `binary` is a key of `BINARIES`.
      num_updates: of the whole run. It matters to training only, but where a learning rate decays
        the checkpoint holds a counter, so whoever restores one passes a number above 0.
      collectives: of the devices that the run is to be trained on.
    """
    algorithm = BINARIES[settings["binary"]](settings)
    config = config_of(algorithm.Config, settings)
    if isinstance(config, mfec.Config):
        embedding = embedding_of(spec, config)
        return mfec.agent(spec, config, num_updates, collectives, embedding)
    return algorithm.agent(spec, config, num_updates, collectives)


def embedding_of(spec: EnvSpec, config: mfec.Config) -> embeddings.Embedding:
    """What makes the keys of MFEC: by its name, or what a run of experiments.beta_vae has learnt.

    Raises:
      ValueError: for neither, a run that is not done, or one of other images than the suite's.
    """
    if config.embedding in embeddings.EMBEDDINGS:
        return embeddings.make(spec, config.embedding, config.dim)
    from ..beta_vae import run, train  # which few runs need

    folder = pathlib.Path(config.embedding)
    if not folder.is_dir():
        known = ", ".join(embeddings.EMBEDDINGS)
        raise ValueError(f"embedding must be {known} or a directory; got {config.embedding!r}")
    seen = run.read(folder)
    shape = run.shape_of(seen)
    if (shape[2], *shape[:2]) != tuple(spec.observation_shape):
        raise ValueError(
            f"embedding: {folder} sees images of {(shape[2], *shape[:2])}, but the suite's "
            f"observations are {tuple(spec.observation_shape)}"
        )
    nets, params = run.encoder_of(seen, shape), run.restore(folder, seen, shape)["encoder"]

    def encode(params: ArrayTree, observation: Array) -> Array:
        return train.encode(nets, params, autoencoder.pixels(observation))

    return embeddings.encoder(encode, params, spec)
