r"""Policy distillation (Rusu et al. 2015): teachers' policies into smaller networks, or into one.

    python -m experiments.distill                                  # a student a game, a quarter
    python -m experiments.distill --student=multi --losses=kl,nll,mse
    python -m experiments.distill --config_overrides=actor=student  # who meets its own mistakes
    python -m experiments.distill --suite=small_games:catch,snake --teachers=runs/dqn/games

Trains a DQN for each game first, unless --teachers names runs of experiments.dqn; then a student
for each loss, on what the teachers see while they play, or the student itself. Prints what the
students keep of their teachers' scores. The same command continues what was stopped.
"""

from absl import flags

from mtrl_jax.algorithms import distill

from ..common import binary, given, run_flags
from . import runs

LOSSES = ("kl", "nll", "mse")
STUDENTS = {"single": "separate", "multi": "controllers"}

_LOSSES = flags.DEFINE_list(
    "losses", ["kl"], f"A student for each of these, any of {', '.join(LOSSES)}."
)
_STUDENT = flags.DEFINE_enum(
    "student",
    "single",
    list(STUDENTS),
    "One student for each game, or one for all of them with a "
    "controller for each, which is told the game.",
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature",
    0.01,
    "Of the teachers' values, in points, for kl: the smaller, the sharper.",
    0.0,
)


def main() -> None:
    losses = given.names(_LOSSES, LOSSES)
    outputs, temperature = STUDENTS[_STUDENT.value], _TEMPERATURE.value
    students = {
        loss: distill.Config(loss=loss, outputs=outputs, actor="teacher", temperature=temperature)
        for loss in losses
    }
    runs.run("distill", students)


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(runs)
    flags.FLAGS.set_default("suite", runs.DEFAULT_SUITE)
    binary.main(main)
