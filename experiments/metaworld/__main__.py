r"""Trains one agent on many manipulation tasks of Meta-World, or on any continuous-action suite.

    python -m experiments.metaworld                                        # MT10 on a laptop
    python -m experiments.metaworld --benchmark=reach,window-open --surgery=pcgrad
    python -m experiments.metaworld --algorithm=sac --surgery=pcgrad
    python -m experiments.metaworld --benchmark=mt50 --preset=paper --num_devices=0
    python -m experiments.metaworld --benchmark=envpool:WalkerStand-v1,WalkerWalk-v1,WalkerRun-v1

The same command continues a run that was stopped, killed or given more --total_env_steps.
"""

from absl import flags

from mtrl_jax import processes, surgery

from ..common import binary, run_flags, task_flags
from . import report, run

_SURGERY = flags.DEFINE_enum(
    "surgery", "mean", list(surgery.METHODS), "How the tasks' gradients of it combine."
)


def main() -> None:
    run_flags.start()
    binary.refuse("suite", "permute_actions", "num_seeds")
    plan = run.plan(_SURGERY.value, run_flags.seed())
    folder = run_flags.workdir("metaworld", plan.name)
    results = run.train_and_score(plan, folder)
    if processes.is_chief():
        report.show(plan.suite.spec, results, folder)


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(run)
    flags.adopt_module_key_flags(task_flags)
    binary.main(main)
