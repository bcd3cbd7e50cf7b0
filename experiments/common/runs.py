"""A run of training and its directory: settings, training what is left, and reading it again."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import (
    checkpoint,
    engines,
    evaluations,
    learner,
    memory,
    metrics,
    processes,
    rollout,
    train,
    workdir,
    writers,
)
from mtrl_jax.envs import suites
from mtrl_jax.types import Agent, ArrayTree, FunctionalSuite, HostSuite

from . import agents, binary
from .progress import Progress

# Fields of a RunConfig that runs of version 0.1.0 lack.
LATER = {"keep", "keep_best", "early_episodes", "writers"}

__all__ = [
    "add_picture",
    "existing",
    "finished",
    "learn",
    "make_suite",
    "newest_step",
    "read",
    "restore",
    "rows",
    "schedule",
    "settings_of",
    "step_of",
]


def settings_of(
    name: str, suite: dict[str, Any], run: engines.RunConfig, config: Any, **more: Any
) -> dict[str, Any]:
    """What config.json is to hold.

    Args:
      name: of the binary.
      suite: what says which suite.
      run: how long, from which seed, on how many environments.
      config: of the algorithm; its fields come under `config/`.
      **more: what else makes it another run.
    """
    count = len(learner.local_devices(run.num_devices))  # whatever it was spelt as
    values = {
        "binary": name,
        **suite,
        **dataclasses.asdict(run),
        "num_devices": count,
        **{f"config/{k}": v for k, v in agents.values_of(config).items()},
        **more,
    }
    return json.loads(json.dumps(values))  # tuples as config.json will hold them


def schedule(
    folder: pathlib.Path, num_tasks: int, run: engines.RunConfig, config: Any
) -> tuple[int, dict[str, int]]:
    """Updates over which a decaying learning rate falls: those that the run was to make when it
    first began. A run that goes on for longer keeps the schedule, and then the final rate: with
    a new schedule the rate would jump.

    Args:
      folder: of the run, new or not.
      num_tasks: K.
      run: as asked for now.
      config: of an algorithm with an `unroll_length` and perhaps a `final_learning_rate`.

    Returns:
      The number, and what config.json is to hold of it.
    """

    def updates(total: int, num_envs: int) -> int:
        return -(-total // (config.unroll_length * num_tasks * num_envs))

    now = first = updates(run.total_env_steps, run.num_envs_per_task)
    with processes.all_or_none():
        if processes.is_chief() and (folder / "config.json").exists():
            saved = workdir.read_config(folder)
            total, num_envs = saved.get("total_env_steps"), saved.get("num_envs_per_task")
            if total and num_envs:  # else it is no run of this kind, which is for others to say
                first = saved.get("schedule_updates", updates(total, num_envs))
    first = int(processes.from_chief(np.array([first]), np.array([0]))[0])
    if first != now and getattr(config, "final_learning_rate", 1.0) != 1.0 and processes.is_chief():
        print(
            f"The learning rate goes on as planned at the first start: its last value from update "
            f"{first:,} on ({now:,} updates are asked for now)."
        )
    return first, {"schedule_updates": first}


def make_suite(settings: dict[str, Any]) -> FunctionalSuite | HostSuite:
    """The suite that a run's settings name."""
    return suites.make(settings["suite"], settings["permute_actions"], settings.get("pad", False))


def finished(
    folder: pathlib.Path,
    settings: dict[str, Any],
    run: engines.RunConfig,
    suite: FunctionalSuite | HostSuite,
    unroll_length: int,
) -> bool:
    """Whether this very run is done, so that it need not be opened, which would compile it.

    Raises:
      ValueError: if it has done more than `run` asks for, or the folder is another run's.
    """
    free = workdir.may_change(environments=isinstance(suite, HostSuite))
    if not workdir.check(folder, settings, free):
        return False
    step, one = newest_step(folder), engines.dispatch_steps(run, suite, unroll_length)
    return step >= train.end_of(folder, step, run.total_env_steps, one)


def newest_step(folder: pathlib.Path) -> int:
    """Environment steps of the newest checkpoint of a run, 0 if there is none."""
    path = folder / "checkpoints"  # where a name without a suffix is of a finished write
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def learn(
    title: str,
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    run: engines.RunConfig,
    settings: dict[str, Any],
    folder: pathlib.Path,
    begin_from: Callable[[Any], Any] | None = None,
    evaluation: evaluations.Evaluation | None = None,
) -> train.Result:
    """Trains what is left of a run; an interrupt ends the process, after saving. The last two are
    those of `train.Options`."""
    memory.free_programs()  # of the runs before this one, in a study
    with contextlib.closing(Progress(title, suite.spec.task_names)) as progress:
        result = train.run(
            *(run, suite, agent, folder, settings, progress),
            begin_from=begin_from,
            evaluation=evaluation,
        )
    if not result.finished:
        binary.stop(result.step, folder)
    return result


def add_picture(folder: pathlib.Path, step: int, name: str, path: pathlib.Path) -> None:
    """Hands a figure of a run that has ended to the writers that it has beside metrics.jsonl."""
    names = workdir.read_config(folder).get("writers", ())
    for writer in writers.open_extra(names, folder, step, (), {}):
        with contextlib.closing(writer):
            writer.picture(step, name, path)


def rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The metrics of a run that has ended, the last row its evaluation at the end; of several
    processes the first one has them, the others nothing.

    Raises:
      ValueError: if the last row is no evaluation of what the newest checkpoint holds.
    """
    if not processes.is_chief():
        return []
    path, step = folder / "metrics.jsonl", newest_step(folder)
    found = metrics.read_jsonl(path)
    last = found[-1] if found else {"step": 0}
    if last["step"] != step or not any(key.startswith("eval/") for key in last):
        raise ValueError(
            f"workdir: {path} does not end with an evaluation at step {step}, of the newest "
            f"checkpoint, but with a row of step {last['step']}; nothing is reported of it"
        )
    return found


def existing(workdir: str | None) -> pathlib.Path:
    """The directory that --workdir names, for binaries that read a run.

    Raises:
      ValueError: if the flag is missing or there is no such directory.
    """
    if workdir is None:
        raise ValueError("--workdir must name the directory of a run")
    if not pathlib.Path(workdir).is_dir():
        raise ValueError(f"--workdir: {workdir} is not a directory")
    return pathlib.Path(workdir)


def read(folder: pathlib.Path) -> tuple[dict[str, Any], engines.RunConfig]:
    """The settings of a run whose agent can be rebuilt.

    Raises:
      ValueError: if `folder` holds no such run.
    """
    settings = workdir.read_config(folder)
    names = {field.name for field in dataclasses.fields(engines.RunConfig)}
    lacking = ({"binary", "suite", "permute_actions"} | names) - settings.keys() - LATER
    if lacking or settings["binary"] not in agents.BINARIES:
        known = " or ".join(agents.BINARIES)
        what = f"it lacks {sorted(lacking)[0]}" if lacking else f"binary is {settings['binary']!r}"
        raise ValueError(f"--workdir: {folder} holds no run of {known} (config.json: {what})")
    values = {name: settings[name] for name in names & settings.keys()}
    config = engines.RunConfig(**{**values, "writers": tuple(values.get("writers", ()))})
    return settings, dataclasses.replace(config, num_devices=1)


def restore(
    folder: pathlib.Path,
    config: engines.RunConfig,
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    step: int | str | None = None,
) -> tuple[int, ArrayTree]:
    """Step and agent state `[S, ...]` of the newest checkpoint, of that of `step`, or of the one
    that is "best" by the run's --keep_best; nothing is written.

    Raises:
      ValueError: if there is none yet, or not that one, or it cannot be read.
    """
    path = folder / "checkpoints"
    found: tuple[int, ArrayTree, Any] | None = None

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
            if not isinstance(step, int) or not manager.all_steps():
                found = checkpoint.restore_latest(manager, target)
                step = _best_step(found[2]) if found and step == "best" else None
            if step is not None:
                found = (step, *checkpoint.restore_step(manager, step, target))
    if found is None:
        raise ValueError(f"--workdir: {folder} has no checkpoint yet")
    step, tree, _ = found
    return step, tree["state"]


def step_of(text: str | None) -> int | str | None:
    """The value of a flag --step, as `restore` takes it.

    Raises:
      ValueError: if it is neither a number nor "best".
    """
    if text is None or text == "best":
        return text
    if not text.replace("_", "").isdecimal():
        raise ValueError(f"--step must be a number of environment steps or best; got {text!r}")
    return int(text)


def _best_step(meta: dict[str, Any]) -> int:
    best = meta.get("best")
    if not best:
        raise ValueError(
            "--step=best: the run has kept none: it was trained without --keep_best, or has not "
            "been evaluated since"
        )
    return int(best["step"])
