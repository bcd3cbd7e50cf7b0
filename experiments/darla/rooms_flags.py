"""The flags that DARLA's commands share: which rooms, and how long it is learnt to see."""

import pathlib
from typing import Any

from absl import flags

from mtrl_jax.benchmark import regime
from mtrl_jax.envs import rooms

from ..common import run_flags
from . import plan

__all__ = ["USED", "asked", "where"]

# Of `run_flags`; the rest would mean nothing here.
USED = (
    *("workdir", "seed", "num_seeds", "total_env_steps", "num_envs_per_task", "log_every"),
    *("eval_every", "checkpoint_every", "keep", "writers", "eval_episodes", "early_episodes"),
    "config_overrides",
)
_FOLD = flags.DEFINE_enum("fold", "0", ["0", "1"], "Which conjunction is the target: B1 or A2.")
_SIZE = flags.DEFINE_enum("size", "32", [str(n) for n in rooms.SIZES], "Pixels of a side.")
flags.DEFINE_integer("num_latents", plan.SEEING["num_latents"], "Of a beta-VAE.", 1)
flags.DEFINE_integer("num_frames", plan.SEEING["num_frames"], "Images to learn to see from.", 1)
flags.DEFINE_integer("steps", plan.SEEING["steps"], "Optimiser steps of learning to see.", 1)
flags.DEFINE_integer(
    "denoising_steps", plan.SEEING["denoising_steps"], "Of the denoising autoencoder before.", 1
)
flags.DEFINE_integer("batch_size", plan.SEEING["batch_size"], "Images in each of them.", 1)
flags.DEFINE_float("learning_rate", plan.SEEING["learning_rate"], "Step size of both.", 0.0)


def where() -> plan.Where:
    """Which rooms."""
    return plan.Where(int(_FOLD.value), int(_SIZE.value))


def asked(vision: str, policy: str, folder: pathlib.Path, **more: Any) -> plan.Asked:
    """What the flags ask for; `more` are fields of `plan.Asked`, of which `seeing` is added to."""
    told = regime.stream_spec(plan.suite(where(), "source").spec)
    given = {name: flags.FLAGS[name].value for name in plan.SEEING if flags.FLAGS[name].present}
    return plan.Asked(
        vision,
        policy,
        where(),
        folder,
        run_flags.run_config({**plan.RUN, **plan.POLICIES[policy].run}, told),
        run_flags.overrides(),
        seed=run_flags.seed(),
        **{**more, "seeing": {**given, **more.get("seeing", {})}},
    )
