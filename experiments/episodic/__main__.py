r"""Trains episodic control: actions that were followed by the most in the most similar situations.

    python -m experiments.episodic                                  # MFEC on twelve small games
    python -m experiments.episodic --suite=small_games:catch,snake --algorithm=nec --num_seeds=5
    python -m experiments.episodic --suite=atari42:MsPacman-v5      # 42 x 42 pixels, for CPUs
    python -m experiments.episodic --suite=rooms --embedding=runs/beta_vae/rooms

The same command continues a run that was stopped, killed or given more --total_env_steps.
"""

import dataclasses

from absl import flags

from mtrl_jax import engines, learner, processes

from ..common import agents, binary, report, run_flags, runs
from ..common.override import override
from .presets import SMALL_GAMES, preset_of

_ALGORITHM = flags.DEFINE_enum(
    "algorithm",
    "mfec",
    list(agents.EPISODIC),
    "Model-free episodic control (mfec), which learns nothing by gradient, or neural episodic "
    "control (nec), whose keys are a network's.",
)
_EMBEDDING = flags.DEFINE_string(
    "embedding",
    None,
    "What makes keys of observations for mfec: projection (random), identity, or the directory of "
    "a run of experiments.beta_vae, whose latents they are then. (default: projection)",
)


def main() -> None:
    run_flags.start()
    suite_settings = run_flags.suite_settings()
    if not flags.FLAGS["suite"].present:
        suite_settings["suite"] = SMALL_GAMES
    suite = runs.make_suite(suite_settings)
    name, preset = _ALGORITHM.value, preset_of(suite_settings["suite"])
    algorithm = agents.EPISODIC[name]
    config = override(algorithm.Config(**preset[name]), run_flags.overrides())
    total = preset["run"]["steps_of_a_task"] * suite.spec.num_tasks
    defaults = {**preset["run"], "total_env_steps": total}
    run_config = run_flags.run_config(defaults, suite.spec)
    if _EMBEDDING.value is not None:
        if name != "mfec":
            raise ValueError(f"--embedding means nothing to {name}")
        config = dataclasses.replace(config, embedding=_EMBEDDING.value)
    engines.check(run_config, suite)
    settings = runs.settings_of("episodic", suite_settings, run_config, config, algorithm=name)
    collectives = learner.across(run_config.num_devices)
    agent = agents.make(suite.spec, settings, collectives=collectives)
    agents.check_devices(suite.spec, config, run_config)
    run_flags.explain(run_config, defaults)
    folder = run_flags.workdir(
        "episodic", f"{suite_settings['suite']}-{name}-seed{run_config.seed}"
    )
    runs.learn(name, suite, agent, run_config, settings, folder)
    if processes.is_chief():
        report.report(suite, run_config, {name: runs.rows(folder)}, folder, actions="best actions")


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    binary.main(main)
