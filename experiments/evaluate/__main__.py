r"""Restores a run, plays whole episodes of every task with its policies, and records GIFs.

    python -m experiments.evaluate --workdir=runs/distral/minigrid_ladder-kl_ent_2col-seed0
    python -m experiments.evaluate --workdir=runs/... --episodes=500 --seed=1 --nogifs
    python -m experiments.evaluate --workdir=runs/... --step=4000000 --actions=likeliest

Prints a table, and writes evaluation.json and gifs/<task>.gif (an episode, with a caption) into the
directory of the run. The
rest of it is only read; it may go on training meanwhile, its newest checkpoint counts, or that of
--step (a run keeps its newest --keep ones, and the best by its --keep_best: --step=best).
"""

import json
import sys

import absl.logging
import jax
from absl import flags

from mtrl_jax import evaluate, ranges, record
from mtrl_jax.envs import draw

from ..common import agents, binary, given, policy_flags, runs
from . import gifs
from .scores import scores, summary, table

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the episodes; other than the run's.", 0)
_EPISODES = flags.DEFINE_integer("episodes", 100, "Episodes of every task for each policy.", 1)
_GIFS = flags.DEFINE_bool("gifs", True, "Record one episode of every task and policy.")
_GIF_ACTIONS = flags.DEFINE_integer(
    "gif_actions", record.MAX_ACTIONS, "Actions after which a recording is cut.", 1
)


def main() -> None:
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write, as asked
    folder = runs.existing(_WORKDIR.value)
    given.check_folder("workdir", folder)
    ranges.check_value("--seed", _SEED.value, ranges.Seed)
    ranges.check_value("--episodes", _EPISODES.value, ranges.Count)
    step = runs.step_of(policy_flags.step())
    settings, config = runs.read(folder)
    suite = runs.make_suite(settings)
    agent = agents.make(suite.spec, settings, 1)
    step, state = runs.restore(folder, config, suite, agent, step)
    spec, episodes = suite.spec, _EPISODES.value
    greedy = policy_flags.greedy(agent)
    print(f"{folder}: step {step:,}, {spec.num_tasks} tasks of {settings['suite']}")

    # ---------------------------------------------------------------------- scores
    kinds = {"task_policy": False}
    if agent.has_distilled and not settings.get("config/separate"):  # alone, nothing is shared
        kinds["distilled_policy"] = True
    results, cut_off = {}, {}
    for name, distilled in kinds.items():
        score = scores(
            config,
            suite,
            agent,
            state,
            episodes=episodes,
            seed=_SEED.value,
            distilled=distilled,
            greedy=greedy,
        )
        results[name] = summary(spec, score)
        cut_off[name] = evaluate.unfinished(spec, score)
    over = f"{config.num_seeds} seeds" if config.num_seeds > 1 else "episodes"
    kind = "likeliest" if greedy else "drawn"
    means = f"means of {episodes} episodes, {kind} actions [95 % interval over {over}]"
    print(f"\nStep {step:,}: {means}:")
    print(table(results))
    written = {
        "step": step,
        "actions": kind,
        "episodes": episodes,
        "seed": _SEED.value,
        **results,
    }
    if any(cut_off.values()):
        written["unfinished"] = cut_off
    (folder / "evaluation.json").write_text(json.dumps(written, indent=1) + "\n")
    print(f"\nscores  {folder / 'evaluation.json'}")

    if _GIFS.value and not record.can_render(suite):
        print(f"gifs    none: {settings['suite']} cannot draw itself")
    elif _GIFS.value:
        one = jax.tree.map(lambda x: x[0], state) if config.num_seeds > 1 else state
        try:
            gifs.write(
                suite,
                agent,
                agent.policy_params(one),
                folder,
                kinds,
                gifs.Recording(step, _SEED.value, greedy, _GIF_ACTIONS.value),
            )
        except draw.CannotDraw as error:  # the scores are there all the same
            print(f"warning: no gifs: {error}", file=sys.stderr)


if __name__ == "__main__":
    flags.adopt_module_key_flags(policy_flags)
    binary.main(main)
