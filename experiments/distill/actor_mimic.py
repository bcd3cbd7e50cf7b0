r"""Actor-Mimic (Parisotto et al. 2015): one network, told no game's name, imitates all experts.

    python -m experiments.distill.actor_mimic
    python -m experiments.distill.actor_mimic --temperature=0.1 --feature_costs=0
    python -m experiments.distill.actor_mimic --suite=small_games:catch,snake --teachers=runs/dqn/x

Trains a DQN for each game first, unless --teachers names runs of experiments.dqn; then a student
for each cost of feature regression, on what the student sees while it plays. Prints what it keeps
of the experts' scores. The same command continues what was stopped.
"""

from absl import flags

from mtrl_jax.algorithms import distill

from ..common import binary, given, run_flags
from . import runs

_TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "Of the experts' values, in points: the smaller, the sharper.", 0.0
)
_FEATURE_COSTS = flags.DEFINE_list(
    "feature_costs", ["0", "0.01"], "A student for each of these weights of feature regression."
)


def main() -> None:
    students = {}
    for cost in given.numbers(_FEATURE_COSTS):
        title = f"policy and {cost:g} features" if cost else "policy"
        students[title] = distill.Config(
            loss="actor_mimic",
            outputs="shared",
            actor="student",
            temperature=_TEMPERATURE.value,
            epsilon=0.1,
            feature_cost=cost,
        )
    runs.run("actor_mimic", students)


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(runs)
    flags.FLAGS.set_default("suite", runs.DEFAULT_SUITE)
    binary.main(main)
