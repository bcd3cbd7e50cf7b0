"""What one run of DARLA consists of, and that nothing is wrong before anything is written."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import engines, ranges, workdir
from mtrl_jax.algorithms import distral, dqn, mfec, nec, ppo
from mtrl_jax.benchmark import regime
from mtrl_jax.envs import rooms
from mtrl_jax.networks import torsos
from mtrl_jax.networks.autoencoder import Autoencoder
from mtrl_jax.types import ArrayTree, EnvSpec, FunctionalSuite

from ..beta_vae import run as see
from ..beta_vae.train import Shape, vae_nets
from ..common import agents, runs
from ..common.override import override
from .vision import VISIONS, Vision

__all__ = [
    "POLICIES",
    "RUN",
    "SEEING",
    "Asked",
    "Plan",
    "Where",
    "fits",
    "make",
    "networks",
    "restored",
    "seeing",
    "shape",
    "suite",
    "told",
]

# What of `beta_vae.Config` may be asked for, and what stands for it where nobody does.
# Chosen on seed 100 of fold 1 by errors on unlabelled frames: with as many images, 64 at a step of
# 5e-4, neither network saw more than palettes.
SEEING: dict[str, Any] = {
    "num_latents": 32,
    "num_frames": 20_000,
    "steps": 8_000,
    "denoising_steps": 6_000,
    "batch_size": 32,
    "learning_rate": 1e-3,
}
RUN = {"total_env_steps": 400_000, "num_envs_per_task": 16, "eval_episodes": 200}


TABLES = {"total_env_steps": 100_000, "num_envs_per_task": 8}


class Policy(NamedTuple):
    """An algorithm.

    Attributes:
      module: with `Config` and `agent`.
      config: its numbers here.
      run: what differs from `RUN`: tables are slower to read than networks, and quicker to learn.
    """

    module: Any
    config: Any
    run: Mapping[str, Any] = {}


POLICIES = {
    "dqn": Policy(
        dqn,
        dqn.Config(
            network="blind", hidden=(128,), replay_ratio=4.0, epsilon=0.05, epsilon_steps=30_000
        ),
    ),
    "a3c": Policy(
        distral,
        distral.Config(
            algorithm="a3c", entropy_cost=1e-2, lambda_=0.95, learning_rate=1e-3, hidden=(128, 128)
        ),
    ),
    "ppo": Policy(
        ppo,
        ppo.Config(
            hidden=(128, 128),
            unroll_length=64,
            minibatches=4,
            epochs=4,
            lambda_=0.95,
            entropy_cost=1e-2,
        ),
    ),
    "mfec": Policy(mfec, mfec.Config(discount=0.97, longest=64), TABLES),
    "nec": Policy(nec, nec.Config(network="blind", discount=0.97), TABLES),
}


class Where(NamedTuple):
    """Of the rooms: which conjunction is the target, pixels of a side, actions in an episode."""

    fold: int
    size: int
    episode_length: int = 50


class Asked(NamedTuple):
    """What somebody wants.

    Attributes:
      vision, policy: keys of `VISIONS` and `POLICIES`.
      where: which rooms.
      folder: of the run.
      run: how long the policy learns.
      overrides: `name=value` of its algorithm's `Config`.
      seeing: numbers of `SEEING`, and `beta`, that are not to be what they are by default.
      borrow: directory of a run that has learnt to see, None if this one is to learn it.
      seed: of seeing.
    """

    vision: str
    policy: str
    where: Where
    folder: pathlib.Path
    run: engines.RunConfig
    overrides: Sequence[str] = ()
    seeing: Mapping[str, Any] = {}
    borrow: str | None = None
    seed: int = 0


class Plan(NamedTuple):
    """One run.

    Attributes:
      asked: what it was made of.
      see: the settings by which it is learnt to see, None where nothing is.
      see_folder: where.
      config: of the policy's algorithm.
      settings: what config.json is to hold.
    """

    asked: Asked
    see: see.Config | None
    see_folder: pathlib.Path
    config: Any
    settings: dict[str, Any]


def suite(where: Where, split: str) -> FunctionalSuite:
    """The rooms of a split, side by side."""
    return rooms.rooms(split, where.fold, where.size, where.episode_length)


def make(asked: Asked) -> Plan:
    """The run that is asked for; nothing is written.

    Raises:
      ValueError: for what cannot be, in one sentence.
    """
    kind = VISIONS[asked.vision]
    config, see_folder = _seeing(asked, kind)
    nets = networks(config, kind, asked.where)
    rooms = suite(asked.where, "source")
    stream = regime.random_games(rooms, range(rooms.spec.num_tasks))
    engines.check(asked.run, stream)
    policy, spec = POLICIES[asked.policy], told(stream.spec, nets if kind.frozen else None)
    base = _finetuning(asked, nets) if nets is not None and not kind.frozen else policy.config
    algorithm = override(base, asked.overrides)
    policy.module.agent(spec, algorithm)  # raises
    agents.check_devices(spec, algorithm, asked.run)
    learnt = config is not None and asked.borrow is None
    numbers = json.loads(json.dumps(dataclasses.asdict(config))) if learnt and config else {}
    settings = runs.settings_of(
        "darla",
        {"vision": asked.vision, "policy": asked.policy, **asked.where._asdict()},
        asked.run,
        algorithm,
        see=asked.borrow or "",
        **{f"see/{name}": value for name, value in numbers.items()},
    )
    workdir.check(asked.folder, settings)
    planned = Plan(asked, config, see_folder, algorithm, settings)
    if asked.borrow is not None or (learnt and (see_folder / see.report.LATENTS).exists()):
        restored(planned)  # raises
    return planned


def _finetuning(asked: Asked, nets: Autoencoder) -> Any:
    """The numbers of a policy whose network begins with an encoder.

    Raises:
      ValueError: if it has none that could, or the encoder is another one.
    """
    if not fits(asked.vision, asked.policy):
        able = ", ".join(name for name in POLICIES if fits(asked.vision, name))
        raise ValueError(
            f"--vision={asked.vision} needs a --policy whose network can begin with an encoder, "
            f"{able}; got {asked.policy}"
        )
    if nets.num_latents != torsos.NUM_LATENTS:
        raise ValueError(
            f"--vision={asked.vision} needs an encoder of {torsos.NUM_LATENTS} latents; got "
            f"{nets.num_latents}"
        )
    return dataclasses.replace(POLICIES[asked.policy].config, torso="encoder")


def fits(vision: str, policy: str) -> bool:
    """Whether there is such a policy: only some networks can begin with an encoder."""
    kind = VISIONS[vision]
    return kind.frozen or not kind.objective or hasattr(POLICIES[policy].config, "torso")


def told(spec: EnvSpec, nets: Autoencoder | None) -> EnvSpec:
    """What an agent is told of a stream: images, or latents where there are `nets`."""
    if nets is None:
        return spec
    size = (nets.num_latents,)
    return spec._replace(observation_shape=size, observation_dtype=np.dtype(np.float32))


def _seeing(asked: Asked, kind: Vision) -> tuple[see.Config | None, pathlib.Path]:
    """How, and where, it is or has been learnt to see."""
    vision, borrow, own = asked.vision, asked.borrow, asked.folder / "see"
    given = next(iter(asked.seeing), None)
    if not kind.objective:
        if borrow is not None or given:
            name = "see" if borrow is not None else given
            raise ValueError(f"--{name} means nothing with --vision={vision}, which learns nothing")
        return None, own
    if borrow is not None:
        if given:
            raise ValueError(f"--{given} means nothing with --see, which has learnt already")
        return _borrowed(vision, kind, asked.where, pathlib.Path(borrow)), pathlib.Path(borrow)
    config = seeing(kind, asked.where, asked.seed, asked.seeing)
    workdir.check(own, see.settings_of(config))
    return config, own


def seeing(kind: Vision, where: Where, seed: int, given: Mapping[str, Any]) -> see.Config:
    """The settings by which a kind of vision learns, with what is `given` in place of defaults.

    Raises:
      ValueError: for a number that is out of its range.
    """
    config = see.Config(
        suite=f"rooms:split=vision:fold={where.fold}:size={where.size}",
        objective=kind.objective,
        seed=seed,
        **{"beta": kind.beta, **SEEING, **given},
    )
    ranges.check(config)
    return config


def _borrowed(vision: str, kind: Vision, where: Where, folder: pathlib.Path) -> see.Config:
    """The settings of somebody else's run, if it has learnt what is wanted here.

    Raises:
      ValueError: if it is none, or of other images, or of another kind.
    """
    try:
        config = see.read(folder)
    except ValueError as error:
        raise ValueError(f"--see: {error}") from error
    allowed = {kind.objective, *(["features"] if vision == "dae" else [])}
    if config.objective not in allowed:
        raise ValueError(
            f"--see: {folder} has learnt by {config.objective}; --vision={vision} needs one that "
            f"has by {' or '.join(sorted(allowed))}"
        )
    specs = [suite(where, "vision").spec]
    if config.suite:
        specs.append(see.image_suite(config.suite).spec)
    first, last = ((spec.task_names, spec.observation_shape) for spec in (specs[0], specs[-1]))
    if len(specs) < 2 or first != last:
        raise ValueError(
            f"--see: {folder} has seen {config.suite or config.images}; needed is "
            f"rooms:split=vision:fold={where.fold}:size={where.size}"
        )
    return config


def shape(where: Where) -> Shape:
    """Of the rooms' images."""
    return where.size, where.size, 3


def networks(config: see.Config | None, kind: Vision, where: Where) -> Autoencoder | None:
    """The networks whose encoder stands in front of the rooms, or is what a policy begins with;
    None where there is none."""
    if not kind.frozen and not kind.objective:
        return None
    if config is None:  # of one that has learnt nothing
        return vae_nets(shape(where), SEEING["num_latents"], "pixels")
    denoising = kind.objective == "denoising"
    return see.encoder_of(config, shape(where), denoising=denoising)


def restored(planned: Plan) -> ArrayTree:
    """Parameters of the encoder that has learnt to see.

    Raises:
      ValueError: if it has not yet, or what it has learnt is damaged.
    """
    asked = planned.asked
    if planned.see is None:
        raise ValueError(f"--vision={asked.vision} learns nothing")
    denoising, size = VISIONS[asked.vision].objective == "denoising", shape(asked.where)
    try:
        return see.restore(planned.see_folder, planned.see, size, denoising=denoising)["encoder"]
    except ValueError as error:
        if asked.borrow is None:
            raise
        raise ValueError(f"--see: {error}") from error
