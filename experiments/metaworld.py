r"""Trains one agent on many manipulation tasks of Meta-World, or on any continuous-action suite.

    python -m experiments.metaworld                                        # MT10 on a laptop
    python -m experiments.metaworld --benchmark=reach,window-open --surgery=pcgrad
    python -m experiments.metaworld --algorithm=sac --surgery=pcgrad
    python -m experiments.metaworld --benchmark=mt50 --preset=paper --num_devices=0
    python -m experiments.metaworld --benchmark=envpool:WalkerStand-v1,WalkerWalk-v1,WalkerRun-v1

The same command continues a run that was stopped, killed or given more --total_env_steps.
"""

import contextlib
import dataclasses
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import agents, common
from mtrl_jax import engines, evaluate, metrics, plots, processes, surgery, train
from mtrl_jax.envs.metaworld import BENCHMARKS
from mtrl_jax.networks import multitask
from mtrl_jax.types import Agent, ArrayTree, EnvSpec

_BENCHMARK = flags.DEFINE_string(
    "benchmark", "mt10", f"Tasks: {', '.join(BENCHMARKS)}, Meta-World tasks with commas between "
    "them, or envpool:<id>,<id> with continuous actions."
)  # fmt: skip
_ALGORITHM = flags.DEFINE_enum("algorithm", "ppo", list(agents.ALGORITHMS), "How to learn.")
_NETWORK = flags.DEFINE_enum(
    "network", "multihead", list(multitask.NETWORKS), "How one network serves all tasks."
)
_SURGERY = flags.DEFINE_enum(
    "surgery", "mean", list(surgery.METHODS), "How the tasks' gradients of it combine."
)
_PRESET = flags.DEFINE_enum(
    "preset", "laptop", ["laptop", "paper"], "Sizes: something to look at within half an hour on "
    "two CPU cores, or the published protocol's, for an accelerator."
)  # fmt: skip
_FINAL_EPISODES = flags.DEFINE_integer(
    "final_episodes", 50, "Episodes of every task in the last evaluation; 50 is the official "
    "protocol.", 1
)  # fmt: skip

# Any flag or override wins over these.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("ppo", "laptop"): {
        "run": {"total_env_steps": 1_500_000, "num_envs_per_task": 4},
        "often": {"eval_every": 500_000, "eval_episodes": 10},
        # What did best in docs/results/metaworld_tuning.jsonl.
        "config": {"unroll_length": 100, "epochs": 10, "minibatches": 4, "clip": 0.3,
                   "lambda_": 0.95, "initial_std": 1.0, "target_kl": 0.0, "overlap": False},
    },
    ("ppo", "paper"): {
        "run": {"total_env_steps": 20_000_000, "num_envs_per_task": 20},
        "often": {"eval_every": 1_000_000, "eval_episodes": 50},
        "config": {"hidden": (400, 400, 400), "unroll_length": 512, "epochs": 16,
                   "minibatches": 32, "learning_rate": 3e-4, "entropy_cost": 5e-3},
    },
    ("sac", "laptop"): {
        "run": {"total_env_steps": 500_000, "num_envs_per_task": 2},
        "often": {"eval_every": 250_000, "eval_episodes": 10},
        "config": {"capacity": 50_000, "batch_size": 64, "warmup": 1_000, "statistics": "task",
                   "updates_per_step": 0.5},
    },
    ("sac", "paper"): {
        "run": {"total_env_steps": 20_000_000, "num_envs_per_task": 2},
        "often": {"eval_every": 1_000_000, "eval_episodes": 50},
        "config": {"hidden": (400, 400, 400), "layer_norm": False},
    },
}  # fmt: skip


def suite_name(benchmark: str) -> str:
    """The name of a benchmark in the table of suites."""
    return benchmark if benchmark in BENCHMARKS or ":" in benchmark else f"metaworld:{benchmark}"


def main() -> None:
    common.start()
    common.refuse("suite", "permute_actions", "num_seeds")
    preset = PRESETS[_ALGORITHM.value, _PRESET.value]
    suite_settings = {"suite": suite_name(_BENCHMARK.value), "permute_actions": None}
    suite = common.make_suite(suite_settings)
    if not suite.spec.action_size:
        raise ValueError(f"--benchmark: the actions of {_BENCHMARK.value} are discrete")
    config = agents.ALGORITHMS[_ALGORITHM.value].Config(
        network=_NETWORK.value, surgery=_SURGERY.value, **preset["config"]
    )
    config = common.override(config, common.overrides())
    run_config = common.run_config(preset["run"])
    given = {k: v for k, v in preset["often"].items() if not flags.FLAGS[k].present}
    run_config = dataclasses.replace(run_config, **given)
    engines.check(run_config, suite)
    agents.check_devices(suite.spec, config, run_config)
    settings = {
        "binary": "metaworld",
        "algorithm": _ALGORITHM.value,
        **suite_settings,
        **dataclasses.asdict(run_config),
        **{f"config/{k}": v for k, v in dataclasses.asdict(config).items()},
    }
    settings = json.loads(json.dumps(settings))  # tuples as config.json will hold them
    per_update = config.unroll_length * suite.spec.num_tasks * run_config.num_envs_per_task
    agent = agents.metaworld(suite.spec, settings, -(-run_config.total_env_steps // per_update))
    name = f"{_BENCHMARK.value}-{_ALGORITHM.value}-{config.network}-{config.surgery}"
    folder = common.workdir("metaworld", f"{name}-seed{run_config.seed}")
    title = f"{_ALGORITHM.value} on {_BENCHMARK.value}"
    with contextlib.closing(common.Progress(title, suite.spec.task_names)) as progress:
        result = train.run(run_config, suite, agent, folder, settings, progress)
    if not result.finished:
        common.stop(result.step, folder)
    if processes.is_chief():
        _report(suite, run_config, agent, result.state, folder)


def _report(
    suite: Any, config: engines.RunConfig, agent: Agent, state: ArrayTree, folder: pathlib.Path
) -> None:
    """The last evaluation, its table and results.json, the learning curves, and what to do next."""
    spec: EnvSpec = suite.spec
    episodes = _FINAL_EPISODES.value
    print(f"\nPlaying {episodes} episodes of each task ...", flush=True)
    began = time.monotonic()
    key = jax.random.fold_in(engines.stream(jax.random.key(config.seed), "eval"), 2**30)
    score = jax.device_get(evaluate.scorer(suite, agent, episodes)(agent.policy(state), key))
    print(f"done in {time.monotonic() - began:.0f} s: likeliest actions, success at any step")
    width = max(map(len, (*spec.task_names, "mean over tasks")))
    results, lines = {}, []
    for k, task in enumerate(spec.task_names):
        values = {"return": float(score.episode_return[k].mean())}
        shown = f"{task.ljust(width)}  {values['return']:10.1f}"
        if spec.has_success:
            low, high = plots.wilson_interval(score.success[k].sum(), episodes)
            values |= {"success": float(score.success[k].mean()), "low": float(low),
                       "high": float(high)}  # fmt: skip
            shown += f"  {values['success']:7.2f}  [{low:.2f}, {high:.2f}]"
        results[task] = values
        lines.append(shown)
    heads = f"{'task'.ljust(width)}  {'return':>10}"
    print(heads + "  success  95 % interval" * spec.has_success, *lines, sep="\n")
    means = {q: float(np.mean([v[q] for v in results.values()])) for q in ("return", "success")
             if q in results[spec.task_names[0]]}  # fmt: skip
    print("mean over tasks".ljust(width), "".join(f"{m:12.2f}" for m in means.values())[2:])
    written = {"episodes": episodes, "mean": means, "tasks": results}
    (folder / "results.json").write_text(json.dumps(written, indent=1) + "\n")
    picture = folder / "plots" / "learning_curves.png"
    plots.learning_curves(
        {"training episodes": [metrics.read_jsonl(folder / "metrics.jsonl")]},
        spec.task_names,
        picture,
        quantity="episode/success" if spec.has_success else "episode/return",
        mean_panel=True,
    )
    print(f"""
learning curves  {picture}
results          {folder / "results.json"}
checkpoints      {folder / "checkpoints"}
to continue      the same command with a larger --total_env_steps (now {config.total_env_steps})
to record GIFs   python -m experiments.evaluate --workdir={folder}""")


if __name__ == "__main__":
    flags.adopt_module_key_flags(common)
    common.main(main)
