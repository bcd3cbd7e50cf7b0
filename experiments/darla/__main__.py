r"""DARLA: learn to see, learn to act on that, and act where neither has been (zero-shot).

    python -m experiments.darla                                  # DARLA, with a DQN behind it
    python -m experiments.darla --vision=pixels --policy=ppo     # the network sees for itself
    python -m experiments.darla --see=runs/darla/other/see --policy=a3c --num_seeds=5

Learns to see unlabelled frames of the rooms' `vision` split, then to act in its `source` split on
the frozen latents, and scores that policy in the `target` split, which nothing has seen. Prints the
table and draws it. Each stage is a directory, <workdir>/see, act and transfer, and the same command
goes on where it was stopped, at any moment.
"""

import absl.logging
from absl import flags

from mtrl_jax.benchmark import regime
from mtrl_jax.envs import rooms

from ..common import binary, run_flags
from . import plan, report, stages
from .vision import VISIONS

# Of `run_flags`; the rest would mean nothing here.
USED = (
    *("workdir", "seed", "num_seeds", "total_env_steps", "num_envs_per_task", "log_every"),
    *("eval_every", "checkpoint_every", "keep", "writers", "eval_episodes", "early_episodes"),
    "config_overrides",
)
_VISION = flags.DEFINE_enum(
    "vision",
    "darla",
    list(VISIONS),
    "What the policy reads. Frozen latents: of a beta-VAE by a denoising autoencoder's features "
    "(darla), with next to no beta (entangled), by the pixels (beta_vae); of that autoencoder "
    "itself (dae); of a network that learnt nothing (random). Or images, seen end to end (pixels).",
)
_POLICY = flags.DEFINE_enum("policy", "dqn", list(plan.POLICIES), "How it learns to act.")
_FOLD = flags.DEFINE_enum("fold", "0", ["0", "1"], "Which conjunction is the target: B1 or A2.")
_SIZE = flags.DEFINE_enum("size", "32", [str(n) for n in rooms.SIZES], "Pixels of a side.")
_SEE = flags.DEFINE_string(
    "see",
    None,
    "Directory of a run that has learnt to see: <workdir>/see of another one, or of "
    "experiments.beta_vae. (default: learnt here)",
)


flags.DEFINE_float(
    "beta", None, "Weight of the KL in learning to see. (default: the vision's)", 0.0
)
flags.DEFINE_integer("num_latents", plan.SEEING["num_latents"], "Of a beta-VAE.", 1)
flags.DEFINE_integer("num_frames", plan.SEEING["num_frames"], "Images to learn to see from.", 1)
flags.DEFINE_integer("steps", plan.SEEING["steps"], "Optimiser steps of learning to see.", 1)
flags.DEFINE_integer(
    "denoising_steps", plan.SEEING["denoising_steps"], "Of the denoising autoencoder before.", 1
)


def main() -> None:
    run_flags.start()
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write, as asked
    run_flags.allow(*USED)
    vision, policy, seed = _VISION.value, _POLICY.value, run_flags.seed()
    where = plan.Where(int(_FOLD.value), int(_SIZE.value))
    name = f"{vision}-{policy}-fold{where.fold}-size{where.size}-seed{seed}"
    told = regime.stream_spec(plan.suite(where, "source").spec)
    given = {n: flags.FLAGS[n].value for n in ("beta", *plan.SEEING) if flags.FLAGS[n].present}
    defaults = {**plan.RUN, **plan.POLICIES[policy].run}
    planned = plan.make(
        plan.Asked(
            vision,
            policy,
            where,
            run_flags.workdir("darla", name),
            run_flags.run_config(defaults, told),
            run_flags.overrides(),
            given,
            _SEE.value,
            seed,
        )
    )
    stages.run(planned)
    report.show([planned])


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    binary.main(main)
