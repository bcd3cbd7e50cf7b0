"""The flags of a matrix, and what they ask for."""

import pathlib
from typing import NamedTuple

from absl import flags

from mtrl_jax.benchmark import cells, regime, regime_pool
from mtrl_jax.benchmark.compiled import Entry
from mtrl_jax.envs import suites
from mtrl_jax.types import FunctionalSuite, HostSuite

from ..common import given, run_flags
from . import agents

_AGENT = flags.DEFINE_list(
    "agent",
    ["dqn"],
    "Agents of experiments/benchmark/agents.py, or "
    "module:function of your own, with :name=value behind it; several with commas.",
)
_HELP = {
    "games": "Games of the suite, with commas. (default: all)",
    "track": "no_id: nobody says which game it is. task_id: the agent has one task a game.",
    "folds": "Parts of the games; each is held out of one pre-training.",
    "fold_seed": "Of the partition into folds.",
    "seeds": "Runs of everything, from --seed on.",
    "steps_per_task": "Environment steps of a run on one game.",
    "pretrain_steps": "Environment steps of a pre-training; 0: --steps_per_task for each game.",
    "multitask_steps": "Environment steps on all games; 0: --steps_per_task for each game.",
    "evaluations": "Evaluations in each run, at equal distances.",
    "final_episodes": "Episodes of every game at the end of a run.",
}
ALLOWED = (
    "workdir",
    "seed",
    "suite",
    "list_suites",
    "pad",
    "num_envs_per_task",
    "eval_episodes",
    "config_overrides",
)


_D = cells.Settings("")
flags.DEFINE_list("games", list(_D.games), _HELP["games"])
flags.DEFINE_enum("track", _D.track, list(cells.TRACKS), _HELP["track"])
for _name in list(_HELP)[2:]:
    flags.DEFINE_integer(_name, getattr(_D, _name), _HELP[_name])


def _settings() -> cells.Settings:
    """The matrix that the flags describe.

    Raises:
      ValueError: for a flag of other binaries.
    """
    run_flags.allow(*ALLOWED)
    f = flags.FLAGS
    own = {name: getattr(f, name) for name in _HELP}
    return cells.Settings(
        suite=f.suite,
        seed=f.seed,
        num_envs=f.num_envs_per_task or _D.num_envs,
        eval_episodes=f.eval_episodes or _D.eval_episodes,
        pad=f.pad,
        **{**own, "games": tuple(own["games"])},
    )


def _suite_of(settings: cells.Settings) -> FunctionalSuite | HostSuite:
    """The games, all of them or those that were named."""
    suite = suites.make(settings.suite, pad=settings.pad)
    if not settings.games:
        return suite
    chosen = regime.choose(suite.spec, settings.games)
    if isinstance(suite, FunctionalSuite):
        return regime.subset(suite, chosen)
    return regime_pool.part(suite, chosen)


class Plan(NamedTuple):
    """What the flags ask for.

    Attributes:
      settings: of the matrix.
      suite: the games.
      entries: agents and controls.
      every: all runs, in the order in which they are handed out.
      folder: where it all goes.
    """

    settings: cells.Settings
    suite: FunctionalSuite | HostSuite
    entries: dict[str, Entry]
    every: list[cells.Cell]
    folder: pathlib.Path


def read() -> Plan:
    """The matrix of the flags.

    Raises:
      ValueError: for what cannot run; nothing is written.
    """
    settings = _settings()
    suite = _suite_of(settings)
    spec = suite.spec
    cells.check(settings, spec.num_tasks)
    named = [*agents.CONTROLS, *given.names(_AGENT)]
    entries = {
        name: agents.make(name, settings.track, run_flags.overrides(), spec) for name in named
    }
    told = spec if settings.track == "task_id" else regime.stream_spec(spec)
    for entry in entries.values():
        entry.make(told)  # what only the algorithm knows is asked now, not in a worker
    functional = isinstance(suite, FunctionalSuite)
    every: list[cells.Cell] = []
    for name, entry in entries.items():
        learns = {name: entry.learns}
        compiles = functional and not entry.hosted
        every += cells.cells(settings, spec.task_names, learns, functional=compiles)
    folder = run_flags.workdir("benchmark", f"{settings.suite}-{settings.track}")
    return Plan(settings, suite, entries, cells.in_order(every), folder)
