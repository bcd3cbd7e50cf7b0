"""What `experiments.distill` and `actor_mimic` share: teachers, students, and where they live.

<workdir>/teachers/   a run as of `experiments.dqn`, a network for each game; not with --teachers
<workdir>/<student>/  a run for each kind of student
<workdir>/results.jsonl, table.txt, plots/students.png
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import agents, common, distill_report
from mtrl_jax import checkpoint, engines, evaluate, metrics, processes, replay, train, workdir
from mtrl_jax.algorithms import distill, dqn, q_network, teachers
from mtrl_jax.types import FunctionalSuite

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
TEACHER: dict[str, Any] = {**agents.DQN_ON_SMALL_GAMES, "hidden": (64,)}


class Teachers(NamedTuple):
    """Teachers of a suite's games, in its order.

    Attributes:
      masters: one a game.
      hidden: widths of the first one's layers.
      size: parameters of all of them, those that they share counted once.
      digest: of all their parameters, by which a run knows them again.
    """

    masters: tuple[teachers.Teacher, ...]
    hidden: tuple[int, ...]
    size: int
    digest: str


def _settings(
    binary: str, suite_settings: dict[str, Any], run: engines.RunConfig, config: Any, **more: Any
) -> dict[str, Any]:
    values = {
        "binary": binary,
        **suite_settings,
        **dataclasses.asdict(run),
        **{f"config/{k}": v for k, v in dataclasses.asdict(config).items()},
        **more,
    }
    return json.loads(json.dumps(values))  # tuples as config.json will hold them


def _finished(folder: pathlib.Path, settings: dict[str, Any], total: int) -> bool:
    """Whether this very run is done, so that it need not be opened, which would compile it."""
    if not workdir.check(folder, settings):
        return False
    with checkpoint.open_manager(folder / "checkpoints", read_only=True) as manager:
        return (manager.latest_step() or 0) >= total


def _train(
    title: str,
    suite: Any,
    agent: Any,
    run: engines.RunConfig,
    settings: dict[str, Any],
    folder: pathlib.Path,
    begin_from: Any = lambda state: state,
) -> list[dict[str, Any]]:
    """Trains what is left of a run; an interrupt ends the process, after saving."""
    if not _finished(folder, settings, run.total_env_steps):
        with contextlib.closing(common.Progress(title, suite.spec.task_names)) as progress:
            result = train.run(run, suite, agent, folder, settings, progress, begin_from=begin_from)
        if not result.finished:
            common.stop(result.step, folder)
    return metrics.read_jsonl(folder / "metrics.jsonl") if processes.is_chief() else []


def train_teachers(
    suite: Any, suite_settings: dict[str, Any], run: engines.RunConfig, folder: pathlib.Path
) -> None:
    """A DQN for each game, all in one run.

    Raises:
      ValueError: for images, whose convolutions the games would share.
    """
    config = dqn.Config(network="separate", **TEACHER)
    dqn.check(suite.spec, config)
    total = _TEACHER_STEPS.value * suite.spec.num_tasks
    run = dataclasses.replace(
        run,
        total_env_steps=total,
        log_every=max(total // 50, 1),
        eval_every=total,
        checkpoint_every=max(total // 4, 1),
    )
    settings = _settings("dqn", suite_settings, run, config)
    agents.check_devices(suite.spec, config, run)
    agent = agents.dqn_agent(suite.spec, settings)
    _train("teachers", suite, agent, run, settings, folder)


def restore_teachers(
    folders: list[pathlib.Path], suite: Any, *, features: bool = False
) -> Teachers:
    """Teachers for the games of `suite` from runs of `experiments.dqn`.

    Raises:
      ValueError: for what is no such run, or a game that none has learnt.
    """
    from experiments import evaluate as runs  # it defines flags of its own

    def count(tree):
        return sum(x.size for x in jax.tree.leaves(tree))

    found: dict[str, tuple[teachers.Teacher, tuple[int, ...]]] = {}
    size = 0
    for folder in folders:
        try:
            settings, run = runs.read_run(folder)
            if settings["binary"] != "dqn":
                raise ValueError(f"--workdir: {folder} holds no run of dqn")
            theirs = common.make_suite(settings)
            agent = agents.dqn_agent(theirs.spec, settings)
            _, state = runs.restore(folder, run, theirs, agent)
        except ValueError as error:
            sentence = str(error).removeprefix("--").removeprefix("workdir: ")
            raise ValueError(f"--teachers: {sentence}") from error
        config = agents.config_of(dqn.Config, settings)
        net = q_network.make(theirs.spec, config.network, config.torso, config.hidden)
        one = run.num_seeds == 1
        params = jax.tree.map(
            lambda x, one=one: x[None] if one else x, jax.device_get(state.params)
        )
        taught = [name for name in theirs.spec.task_names if name in suite.spec.task_names]
        new = [name for name in taught if name not in found]
        for name in new:
            number = theirs.spec.task_names.index(name)
            found[name] = (teachers.make(net, params, number, features=features), config.hidden)
        own = count(params.task) // theirs.spec.num_tasks * len(new)
        size += (own + bool(new) * count(params.shared)) // run.num_seeds
    lacking = [name for name in suite.spec.task_names if name not in found]
    if lacking:
        raise ValueError(f"--teachers: no run has learnt {', '.join(lacking)}")
    chosen = [found[name] for name in suite.spec.task_names]
    masters = tuple(master for master, _ in chosen)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves([(m.shared, m.task, m.number) for m in masters]):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return Teachers(masters, chosen[0][1], size, digest.hexdigest()[:16])


def scores(suite: Any, agent: Any, policies: Any, run: engines.RunConfig) -> dict[str, np.ndarray]:
    """Mean returns `[S]` of each game, for policies `[S, ...]` of an agent that does not learn."""
    scorer = evaluate.scorer(suite, agent, run.eval_episodes)
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
    common.start()
    suite_settings = common.suite_settings()
    suite = common.make_suite(suite_settings)
    spec = suite.spec
    total = STEPS_OF_A_TASK * spec.num_tasks
    run_config = common.run_config({**RUN, "total_env_steps": total})
    if not flags.FLAGS["eval_every"].present:
        every = max(run_config.total_env_steps // 10, 1)
        run_config = dataclasses.replace(run_config, eval_every=every)
    engines.check(run_config, suite)
    for config in students.values():
        common.override(config, common.overrides())
    name = f"{suite_settings['suite']}-seed{run_config.seed}"
    folder = common.workdir(binary, name)

    # ---------------------------------------------------------------------- teachers
    folders = [pathlib.Path(path) for path in _TEACHERS.value]
    if not folders:
        folders = [folder / "teachers"]
        train_teachers(suite, suite_settings, run_config, folders[0])

    # ---------------------------------------------------------------------- students
    rows, sizes = {}, {}
    for title, config in students.items():
        wanted = common.override(config, common.overrides()).feature_cost > 0
        found = restore_teachers(folders, suite, features=wanted)
        bodies = 1 if config.outputs == "separate" else spec.num_tasks
        hidden = tuple(max(round(w * _SHARE.value * bodies), 1) for w in found.hidden)
        config = common.override(dataclasses.replace(config, hidden=hidden), common.overrides())
        num_sets = teachers.num_sets(found.masters)
        more = {"teachers": found.digest}
        settings = _settings(binary, suite_settings, run_config, config, **more)
        agent = distill.agent(spec, config, found.masters)
        width = teachers.num_features(found.masters) if config.feature_cost else 0
        replay.check_memory(
            distill.item_spec(spec, width),
            spec.num_tasks,
            config.replay_size,
            run_config.num_seeds + 2,
        )
        rows[title] = _train(
            title,
            suite,
            agent,
            run_config,
            settings,
            folder / title.replace(" ", "_"),
            lambda state, n=num_sets: distill.assign_teachers(state, n),
        )
        state = jax.eval_shape(agent.init, jax.random.key(0))
        sizes[title] = distill_report.num_parameters(state.params)

    # ---------------------------------------------------------------------- table
    if processes.is_chief():
        random = scores(suite, evaluate.random_agent(spec), np.zeros(1, np.int32), run_config)
        which = np.arange(run_config.num_seeds, dtype=np.int32) % num_sets
        masters = scores(suite, teachers.agent(spec, found.masters), which, run_config)
        distill_report.report(spec, rows, random, masters, sizes, found.size, run_config, folder)
