"""What both binaries of distillation share: teachers, students, and where they live.

<workdir>/teachers/   a run as of `experiments.dqn`, a network for each game; not with --teachers
<workdir>/<student>/  a run for each kind of student
<workdir>/results.jsonl, table.txt, plots/students.png
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

from mtrl_jax import engines, evaluate, learner, processes, ranges, replay
from mtrl_jax.algorithms import distill, teacher
from mtrl_jax.types import FunctionalSuite

from ..common import given, progress, run_flags, runs
from ..common.override import override
from . import report
from .teachers import learnt, restore_teachers, train_teachers

_TEACHERS = flags.DEFINE_list(
    "teachers",
    [],
    "Directories of runs of experiments.dqn, with all games of the suite among "
    "them and equally many seeds each. (default: trained first, for --teacher_steps)",
)
_TEACHER_STEPS = flags.DEFINE_integer(
    "teacher_steps", 200_000, "Environment steps of each game for teachers trained here.", 1
)
_SHARE = flags.DEFINE_float(
    "share",
    0.25,
    "Width of the student's layers as a share of its teachers' widths, those of all "
    "games together where it has one body for all.",
    0.0,
)

DEFAULT_SUITE = "small_games:catch,dodge,pong,collect"
RUN = {"num_envs_per_task": 8, "eval_episodes": 128}
STEPS_OF_A_TASK = 100_000


def scores(
    title: str, suite: Any, agent: Any, policies: Any, run: engines.RunConfig
) -> dict[str, np.ndarray]:
    """Mean returns `[S]` of each game, for policies `[S, ...]` of an agent that does not learn."""
    scorer = progress.scorer(title, suite, agent, run.eval_episodes)
    key = engines.stream(jax.random.key(run.seed), "eval")
    if isinstance(suite, FunctionalSuite):
        result = jax.device_get(jax.jit(jax.vmap(scorer, (0, None)))(policies, key))
    else:
        each = [scorer(policy, key) for policy in policies]
        result = jax.tree.map(lambda *x: np.stack(x), *each)
    means = result.episode_return.mean(-1)
    return {name: means[:, k] for k, name in enumerate(suite.spec.task_names)}


def run(binary: str, students: Mapping[str, distill.Config]) -> None:
    """Teachers, then each student, then the table; the same command continues.

    Args:
      binary: the name under `runs`.
      students: name to numbers; `hidden` is computed from the teachers, and overrides win.
    """
    run_flags.start()
    suite_settings = run_flags.suite_settings()
    suite = runs.make_suite(suite_settings)
    spec = suite.spec
    total = STEPS_OF_A_TASK * spec.num_tasks
    defaults = {**RUN, "total_env_steps": total, "eval_every": run_flags.part_of(total, 10)}
    run_config = run_flags.run_config(defaults, spec)
    engines.check(run_config, suite)
    engines.check_best(run_config.keep_best, spec, has_distilled=False)
    ranges.check_value("--share", _SHARE.value, ranges.Positive)
    for config in students.values():
        distill.check_numbers(spec, override(config, run_flags.overrides()))
    name = f"{suite_settings['suite']}-seed{run_config.seed}"
    folder = run_flags.workdir(binary, name)

    # ---------------------------------------------------------------------- teachers
    folders = [pathlib.Path(path) for path in _TEACHERS.value and given.names(_TEACHERS)]
    if not folders:
        folders = [folder / "teachers"]
        train_teachers(suite, suite_settings, run_config, _TEACHER_STEPS.value, folders[0])

    # ---------------------------------------------------------------------- students
    rows: dict[str, list[dict[str, Any]]] = {}
    sizes = {}
    for title, config in students.items():
        wanted = override(config, run_flags.overrides()).feature_cost > 0
        found = restore_teachers(folders, suite, features=wanted)
        bodies = 1 if config.outputs == "separate" else spec.num_tasks
        hidden = tuple(max(round(w * _SHARE.value * bodies), 1) for w in found.hidden)
        config = override(dataclasses.replace(config, hidden=hidden), run_flags.overrides())
        num_sets = teacher.num_sets(found.teachers)
        more = {"teachers": found.digest}
        settings = runs.settings_of(binary, suite_settings, run_config, config, **more)
        collectives = learner.across(run_config.num_devices)
        agent = distill.agent(spec, config, found.teachers, collectives=collectives)
        width = teacher.num_features(found.teachers) if config.feature_cost else 0
        replay.check_memory(
            distill.item_spec(spec, width),
            spec.num_tasks,
            config.replay_size,
            run_config.num_seeds + 2,
        )
        if not rows:  # nothing is refused any more
            run_flags.explain(run_config, defaults)
        rows[title] = learnt(
            title,
            suite,
            agent,
            run_config,
            settings,
            folder / title.replace(" ", "_"),
            functools.partial(distill.assign_teachers, num_sets=num_sets),
        )
        state = jax.eval_shape(agent.init, jax.random.key(0))
        sizes[title] = report.num_parameters(state.params)

    # ---------------------------------------------------------------------- table
    if processes.is_chief():
        played = rows[next(iter(rows))][-1].get("eval/episodes", run_config.eval_episodes)
        run_config = dataclasses.replace(run_config, eval_episodes=played)
        random = scores(
            "random policy", suite, evaluate.random_agent(spec), np.zeros(1, np.int32), run_config
        )
        which = np.arange(run_config.num_seeds, dtype=np.int32) % num_sets
        teachers = scores("teachers", suite, teacher.agent(spec, found.teachers), which, run_config)
        report.report(spec, rows, random, teachers, sizes, found, run_config, folder)
