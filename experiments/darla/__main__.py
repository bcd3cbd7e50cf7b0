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

from ..common import binary, run_flags
from . import plan, report, rooms_flags, stages
from .vision import VISIONS

_VISION = flags.DEFINE_enum(
    "vision",
    "darla",
    list(VISIONS),
    "What the policy reads. Frozen latents: of a beta-VAE by a denoising autoencoder's features "
    "(darla), with next to no beta (entangled), by the pixels (beta_vae); of that autoencoder "
    "itself (dae); of a network that learnt nothing (random). Or images, seen end to end, from "
    "scratch (pixels) or beginning with darla's encoder (finetuned).",
)
_POLICY = flags.DEFINE_enum("policy", "dqn", list(plan.POLICIES), "How it learns to act.")
_SEE = flags.DEFINE_string(
    "see",
    None,
    "Directory of a run that has learnt to see: <workdir>/see of another one, or of "
    "experiments.beta_vae. (default: learnt here)",
)

_BETA = flags.DEFINE_float(
    "beta", None, "Weight of the KL in learning to see. (default: the vision's)", 0.0
)


def main() -> None:
    run_flags.start()
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write, as asked
    run_flags.allow(*rooms_flags.USED)
    vision, policy, where = _VISION.value, _POLICY.value, rooms_flags.where()
    name = f"{vision}-{policy}-fold{where.fold}-size{where.size}-seed{run_flags.seed()}"
    folder = run_flags.workdir("darla", name)
    seeing = {} if _BETA.value is None else {"beta": _BETA.value}
    planned = plan.make(rooms_flags.asked(vision, policy, folder, borrow=_SEE.value, seeing=seeing))
    stages.run(planned)
    report.show([planned])


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(rooms_flags)
    binary.main(main)
