r"""Trains DQN on one task or many, with one network or one for each.

    python -m experiments.dqn                                            # twelve small games
    python -m experiments.dqn --network=separate --num_seeds=5           # each game by itself
    python -m experiments.dqn --suite=small_games:catch,rain --network=multihead
    python -m experiments.dqn --suite=envpool:Pong-v5,Breakout-v5

The same command continues a run that was stopped, killed or given more --total_env_steps.
"""

from absl import flags

from mtrl_jax import engines, learner, processes, surgery
from mtrl_jax.algorithms import dqn
from mtrl_jax.networks import multitask

from ..common import agents, binary, report, run_flags, runs, task_flags
from ..common.beginning import beginning
from ..common.override import override
from .presets import SMALL_GAMES, preset_of

_NETWORK = flags.DEFINE_string(
    "network",
    "onehot",
    "How one network serves all tasks: told the task's number (onehot), with outputs for each "
    "(multihead), not told (blind), one network each (separate), or another of those that share "
    f"parts ({', '.join(list(multitask.NETWORKS)[3:])}); or module:class of your own, with "
    ":name=value behind it.",
)
_SURGERY = flags.DEFINE_enum(
    "surgery", "mean", list(surgery.METHODS), "How the tasks' gradients of the network combine."
)


def main() -> None:
    run_flags.start()
    suite_settings = run_flags.suite_settings()
    if not flags.FLAGS["suite"].present:
        suite_settings["suite"] = SMALL_GAMES
    suite = runs.make_suite(suite_settings)
    preset = preset_of(suite_settings["suite"])
    config = dqn.Config(network=_NETWORK.value, surgery=_SURGERY.value, **preset["config"])
    config = task_flags.applied(override(config, run_flags.overrides()), suite.spec)
    total = preset["run"]["steps_of_a_task"] * suite.spec.num_tasks
    defaults = {**preset["run"], "total_env_steps": total}
    run_config = run_flags.run_config(defaults, suite.spec)
    dqn.check(suite.spec, config)
    engines.check(run_config, suite)
    agents.check_devices(suite.spec, config, run_config)
    settings = runs.settings_of("dqn", suite_settings, run_config, config)
    collectives = learner.across(run_config.num_devices)
    agent = agents.make(suite.spec, settings, collectives=collectives)
    run_flags.explain(run_config, defaults)
    name = f"{suite_settings['suite']}-{config.network}-{config.surgery}-seed{run_config.seed}"
    folder = run_flags.workdir("dqn", name)
    title = f"dqn ({config.network})"
    begins = beginning(task_flags.begin_from(), folder, suite.spec, settings, run_config)
    settings |= begins.settings
    runs.learn(title, suite, agent, run_config, settings, folder, begins.state)
    if processes.is_chief():
        rows = {title: runs.rows(folder)}
        report.report(suite, run_config, rows, folder, actions="best actions")


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.adopt_module_key_flags(task_flags)
    binary.main(main)
