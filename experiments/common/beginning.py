"""Training that begins with what another run has learnt: --begin_from, its checks and its table."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import absl.logging
import jax
import numpy as np

from mtrl_jax import begin, engines, processes, workdir
from mtrl_jax.types import Agent, ArrayTree, EnvSpec

from . import agents, runs

__all__ = ["Beginning", "beginning"]

# Settings of an agent without which its parameters mean something else.
SAME = (
    "binary",
    "algorithm",
    *(
        f"config/{name}"
        for name in (
            "algorithm",
            "network",
            "torso",
            "hidden",
            "activation",
            "layer_norm",
            "statistics",
            "observation_limit",
            "state_std",
            "core",
            "core_size",
            "num_critics",
            "separate",
        )
    ),
)


class Beginning(NamedTuple):
    """How a run begins.

    Attributes:
      settings: what config.json is to hold of it; {} for a run that begins with nothing.
      state: for `train.run`'s `begin_from`; None for such a run.
    """

    settings: dict[str, Any]
    state: Callable[[ArrayTree], ArrayTree] | None


def beginning(
    source: str | None,
    folder: pathlib.Path,
    spec: EnvSpec,
    settings: dict[str, Any],
    run: engines.RunConfig,
) -> Beginning:
    """What --begin_from asks for, looked at before anything is computed; the table is printed.

    A run that has checkpoints of its own goes on from them: the other run is not opened again, and
    may be gone. One that was stopped before its first asks for the same checkpoint once more.

    Args:
      source: the other run's directory; None: what the run in `folder` began with, if it did.
      folder: of the run.
      spec: of its suite.
      settings: of it, without what begins it.
      run: how it is to go.

    Raises:
      ValueError: if there is no such run, or none whose agent is of the same kind, with the first
        thing that differs.
    """
    found, chief = Beginning({}, None), processes.is_chief()
    with processes.all_or_none():
        if chief:
            found = _looked_at(source, folder, spec, settings, run)
    asks = bool(processes.from_chief(np.array([found.state is not None]), np.array([False]))[0])
    if not asks:
        return found

    def state(fresh: ArrayTree) -> ArrayTree:
        begun = fresh
        with processes.all_or_none():
            if chief:
                assert found.state is not None
                begun = found.state(fresh)
        return processes.from_chief(begun, fresh)

    return Beginning(found.settings, state)


def _looked_at(
    source: str | None,
    folder: pathlib.Path,
    spec: EnvSpec,
    settings: dict[str, Any],
    run: engines.RunConfig,
) -> Beginning:
    recorded = workdir.read_config(folder) if (folder / "config.json").exists() else {}
    source, step = source or recorded.get("begin_from"), recorded.get("begin_from_step")
    if not source:
        return Beginning({}, None)
    path = pathlib.Path(source)
    if path.resolve() == folder.resolve():
        raise ValueError(f"--begin_from: {path} is this run's own directory; name another run's")
    if runs.newest_step(folder):
        return Beginning({"begin_from": str(path), "begin_from_step": step}, None)
    try:
        other = _Other.of(path)
        step = step or runs.newest_step(path)
        _check_kind(other, spec, settings, run)
        tasks, moves = _plan(other, spec, settings)
    except ValueError as error:  # of functions that know the directory by another flag
        words = str(error)
        for flag in ("--workdir: ", "workdir: "):
            words = words.removeprefix(flag)
        raise ValueError(f"--begin_from: {path}: {words.removeprefix(f'{path} ')}") from error
    print(f"Begins with step {step:,} of {path}:\n{begin.table(moves, tasks)}", flush=True)

    def state(fresh: ArrayTree) -> ArrayTree:
        verbosity = absl.logging.get_verbosity()
        absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write
        try:
            _, learnt = runs.restore(path, other.run, other.suite, other.agent, step)
        finally:
            absl.logging.set_verbosity(verbosity)
        several = run.num_seeds > 1
        if several and other.run.num_seeds == 1:  # all seeds begin with the one
            learnt = jax.tree.map(_repeated(run.num_seeds), learnt)
        return begin.carry(learnt, fresh, moves, tasks, run.num_seeds)

    return Beginning({"begin_from": str(path), "begin_from_step": step}, state)


def _repeated(n: int) -> Callable[[Any], Any]:
    def one(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):  # begins anew
            return x
        return np.broadcast_to(np.asarray(x), (n, *x.shape))

    return one


class _Other(NamedTuple):
    """The run that has learnt."""

    settings: dict[str, Any]
    run: engines.RunConfig
    suite: Any
    agent: Agent

    @classmethod
    def of(cls, path: pathlib.Path) -> "_Other":
        if not path.is_dir():
            raise ValueError("is not a directory")
        settings, run = runs.read(path)
        if not runs.newest_step(path):
            raise ValueError("has no checkpoint yet")
        suite = runs.make_suite(settings)
        return cls(settings, run, suite, agents.make(suite.spec, settings, 1))


def _check_kind(
    other: _Other, spec: EnvSpec, settings: dict[str, Any], run: engines.RunConfig
) -> None:
    """Raises ValueError for a run whose parameters would mean something else here."""
    pairs = [(key, other.settings.get(key), settings.get(key)) for key in SAME]
    before = other.suite.spec
    pairs += [
        ("observation_shape", before.observation_shape, spec.observation_shape),
        ("observation_dtype", np.dtype(before.observation_dtype), np.dtype(spec.observation_dtype)),
        ("vocabulary", _listed(before.vocabulary), _listed(spec.vocabulary)),
        ("num_actions", before.num_actions, spec.num_actions),
        ("action_size", before.action_size, spec.action_size),
    ]
    permuted = (other.settings["permute_actions"], settings["permute_actions"])
    if permuted != (None, None) and before.task_names != spec.task_names:
        pairs.append(("permute_actions", *permuted))
        raise ValueError(
            f"its actions are permuted task by task (permute_actions={permuted[0]!r}, here "
            f"{permuted[1]!r}), so that tasks can only go over in the same order"
        )
    pairs.append(("permute_actions", *permuted))
    for name in before.task_names:
        if name in spec.task_names:
            for mask in ("action_mask", "observation_mask"):
                pairs.append((f"{mask} of {name}", *(_row(s, mask, name) for s in (before, spec))))
    for key, there, here in pairs:
        if there != here:
            raise ValueError(
                f"is a run with {key}={there!r}, this one has {here!r}: its parameters would mean "
                "something else"
            )
    if other.run.num_seeds not in (1, run.num_seeds):
        raise ValueError(
            f"is a run of {other.run.num_seeds} seeds, this one has {run.num_seeds}; give "
            "--num_seeds as many, or begin with a run of one"
        )


def _row(spec: EnvSpec, mask: str, name: str) -> Any:
    rows = getattr(spec, mask)
    return None if rows is None else np.asarray(rows)[spec.task_names.index(name)].tolist()


def _listed(x: Any) -> Any:
    return None if x is None else np.asarray(x).tolist()


def _plan(
    other: _Other, spec: EnvSpec, settings: dict[str, Any]
) -> tuple[begin.Tasks, list[begin.Move]]:
    """What goes over, from shapes alone."""
    key = jax.random.key(0)
    # Numbers of one task each have no bearing on shapes, and are not there for one task more.
    alike = {**settings, "config/task_cost_scales": [], "config/task_weights": []}
    before = jax.eval_shape(other.agent.init, key)
    now, more = (
        jax.eval_shape(agents.make(one, alike, 1).init, key)
        for one in (spec, begin.one_more_task(spec))
    )
    tasks = begin.Tasks(
        other.suite.spec.task_names,
        spec.task_names,
        together=settings.get("config/statistics") == "shared",
        separate=bool(settings.get("config/separate")),
    )
    return tasks, begin.plan(before, now, more, tasks)
