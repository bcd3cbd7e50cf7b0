r"""Restores a run, plays whole episodes of every task with its policies, and records GIFs.

    python -m experiments.evaluate --workdir=runs/distral/minigrid_ladder-kl_ent_2col-seed0
    python -m experiments.evaluate --workdir=runs/... --episodes=500 --seed=1 --nogifs

Prints a table, and writes evaluation.json and gifs/<task>.gif into the directory of the run. The
rest of it is only read; it may go on training meanwhile, its newest checkpoint counts.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from experiments import agents, common, distral
from mtrl_jax import checkpoint, engines, evaluate, plots, record, rollout, workdir
from mtrl_jax.types import Agent, ArrayTree, EnvSpec, FunctionalSuite, HostSuite, Timestep

_EPISODES = flags.DEFINE_integer("episodes", 100, "Episodes of every task for each policy.", 1)
_GIFS = flags.DEFINE_bool("gifs", True, "Record one episode of every task and policy.")

# Whose runs can be rebuilt: binary to (spec, settings, num_updates) -> agent. The number of updates
# matters to training only, but a learning rate that decays has a counter in the checkpoint.
AGENTS: dict[str, Callable[[EnvSpec, dict[str, Any], int], Agent]] = {
    "distral": distral.make_agent,
    "metaworld": agents.metaworld,
    "dqn": agents.dqn_agent,
}


def read_run(folder: pathlib.Path) -> tuple[dict[str, Any], engines.RunConfig]:
    """The settings of a run that this binary understands.

    Raises:
      ValueError: if `folder` holds no such run.
    """
    settings = workdir.read_config(folder)
    names = {field.name for field in dataclasses.fields(engines.RunConfig)}
    lacking = ({"binary", "suite", "permute_actions"} | names) - settings.keys()
    if lacking or settings["binary"] not in AGENTS:
        what = f"it lacks {sorted(lacking)[0]}" if lacking else f"binary is {settings['binary']!r}"
        raise ValueError(
            f"--workdir: {folder} holds no run of {' or '.join(AGENTS)} (config.json: {what})"
        )
    config = engines.RunConfig(**{name: settings[name] for name in names})
    return settings, dataclasses.replace(config, num_devices=1)


def restore(
    folder: pathlib.Path,
    config: engines.RunConfig,
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
) -> tuple[int, ArrayTree]:
    """Step and agent state `[S, ...]` of the newest checkpoint; nothing is written.

    Raises:
      ValueError: if there is none yet, or it cannot be read.
    """
    path = folder / "checkpoints"
    found = None

    def saved(key):  # what `engines` saves; only its shapes are asked for, nothing runs
        if isinstance(suite, HostSuite):
            return {"state": agent.init(key)}
        index = rollout.env_indices(suite.spec.num_tasks, config.num_envs_per_task)
        loop = rollout.init_env_loop(suite, key, jnp.asarray(index), agent.init_actor)
        return {"state": agent.init(key), "loop": loop}

    if path.is_dir():
        shapes = jax.eval_shape(engines.over_seeds(config, saved), engines.root_key(config))
        target = checkpoint.abstract(shapes)
        with checkpoint.open_manager(path, read_only=True) as manager:
            found = checkpoint.restore_latest(manager, target)
    if found is None:
        raise ValueError(f"--workdir: {folder} has no checkpoint yet")
    step, tree, _ = found
    return step, tree["state"]


def scores(
    config: engines.RunConfig,
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    state: ArrayTree,
    *,
    episodes: int,
    seed: int,
    distilled: bool,
) -> evaluate.Score:
    """Scores `[S, K, episodes]` of one policy, with a progress bar where they take long."""
    policy = agent.policy(state)
    key = engines.stream(jax.random.key(seed), "eval")
    title = f"{'distilled' if distilled else 'task'} policies"
    if isinstance(suite, FunctionalSuite):
        print(f"{title}: {episodes} episodes a task, as one program ...", flush=True)
        score = evaluate.scorer(suite, agent, episodes, distilled=distilled)
        all_seeds = engines.over_seeds(config, score, in_axes=(0, None))
        result = jax.device_get(jax.jit(all_seeds)(policy, key))
        return result if config.num_seeds > 1 else jax.tree.map(lambda x: x[None], result)

    with tqdm.tqdm(
        desc=title, total=suite.spec.num_tasks * episodes, unit="episode", dynamic_ncols=True
    ) as bar:

        def on_row(timestep: Timestep, alive: np.ndarray) -> None:
            bar.update(alive.size - int(alive.sum()) - bar.n)

        score = evaluate.host_scorer(suite, agent, episodes, distilled=distilled, on_row=on_row)
        result = score(policy, key)
        bar.update(bar.total - bar.n)
    return jax.tree.map(lambda x: np.asarray(x)[None], result)


def summary(spec: EnvSpec, score: evaluate.Score) -> dict[str, dict[str, dict[str, float]]]:
    """Task to quantity to mean, low and high.

    95 % intervals: over seeds where there are several, else over the episodes of the one.
    """
    fields = {"return": score.episode_return, "success": score.success, "length": score.length}
    if not spec.has_success:
        del fields["success"]
    result: dict[str, dict[str, dict[str, float]]] = {}
    for k, task in enumerate(spec.task_names):
        result[task] = {}
        for name, values in fields.items():
            one = values[:, k].astype(np.float64)
            if len(one) > 1:
                low, high = plots.bootstrap_interval(one.mean(-1))
            elif name == "success":
                low, high = plots.wilson_interval(one.sum(), one.size)
            else:
                low, high = plots.bootstrap_interval(one[0])
            result[task][name] = {"mean": float(one.mean()), "low": float(low), "high": float(high)}
    return result


def table(results: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """Lines of text: a row for each task and policy."""
    lines: list[tuple[str, ...]] = [("task", "policy", "return", "success", "length")]
    for task in next(iter(results.values())):
        for policy, tasks in results.items():
            cells = [tasks[task].get(name) for name in lines[0][2:]]
            shown = [
                "-" if cell is None else "{mean:.2f} [{low:.2f}, {high:.2f}]".format(**cell)
                for cell in cells
            ]
            lines.append((task, policy.removesuffix("_policy"), *shown))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main() -> None:
    common.start()
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write, as asked
    common.refuse_others("workdir", "seed")
    folder = common.existing_workdir()
    settings, config = read_run(folder)
    suite = common.make_suite(settings)
    agent = AGENTS[settings["binary"]](suite.spec, settings, 1)
    step, state = restore(folder, config, suite, agent)
    spec, episodes = suite.spec, _EPISODES.value
    print(f"{folder}: step {step:,}, {spec.num_tasks} tasks of {settings['suite']}")

    # ---------------------------------------------------------------------- scores
    kinds = {"task_policy": False}
    if agent.has_distilled and not settings.get("config/separate"):  # alone, nothing is shared
        kinds["distilled_policy"] = True
    results = {}
    for name, distilled in kinds.items():
        score = scores(
            config, suite, agent, state, episodes=episodes, seed=common.seed(), distilled=distilled
        )
        results[name] = summary(spec, score)
    over = f"{config.num_seeds} seeds" if config.num_seeds > 1 else "episodes"
    kind = "likeliest" if agent.greedy_eval else "sampled"
    print(f"\nMeans of {episodes} episodes, {kind} actions [95 % interval over {over}]:")
    print(table(results))
    written = {"step": step, "episodes": episodes, "seed": common.seed(), **results}
    (folder / "evaluation.json").write_text(json.dumps(written, indent=1) + "\n")
    print(f"\nscores  {folder / 'evaluation.json'}")

    # ---------------------------------------------------------------------- pictures
    if not _GIFS.value:
        return
    if not record.can_render(suite):
        print(f"gifs    none: {settings['suite']} cannot draw itself")
        return
    one = jax.tree.map(lambda x: x[0], state) if config.num_seeds > 1 else state
    key = jax.random.fold_in(engines.stream(jax.random.key(common.seed()), "eval"), 1)
    for name, distilled in kinds.items():
        episode = record.episode_frames(suite, agent, agent.policy(one), key, distilled=distilled)
        for task, frames in zip(spec.task_names, episode, strict=True):
            suffix = "-distilled" if distilled else ""
            path = folder / "gifs" / f"{task.replace('/', '-')}{suffix}.gif"
            record.write_gif(frames, path)
            print(f"gif     {path} ({name.removesuffix('_policy')}, {len(frames) - 1} actions)")


if __name__ == "__main__":
    flags.declare_key_flag("workdir")
    flags.declare_key_flag("seed")
    common.main(main)
