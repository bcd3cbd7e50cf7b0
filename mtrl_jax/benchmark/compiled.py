"""One cell of the matrix with an agent of the library (`types.Agent`), through `train.run`.

Everything on a functional suite is one program: games, agent and seeds. Cells whose arrays have the
same shapes (all runs on one game, say) share it through JAX's compile cache, since what tells games
apart is an argument of the program.
"""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import checkpoint, engines, evaluate, evaluations, metrics, train
from mtrl_jax.benchmark import protocol, regime, regime_pool
from mtrl_jax.benchmark.cells import Cell, Settings, training_games, values
from mtrl_jax.benchmark.results import table_rows
from mtrl_jax.types import Agent, ArrayTree, EnvSpec, FunctionalSuite, HostSuite

__all__ = [
    "Entry",
    "Imitation",
    "Stopped",
    "Twin",
    "everything",
    "final_scores",
    "identity",
    "make_agent",
    "parameters",
    "run",
    "run_config",
    "save",
    "shared_parameters",
    "side_by_side",
    "training_suite",
]

Suite = FunctionalSuite | HostSuite
DISPATCHES = 4  # between two evaluations, where an update is small enough


class Stopped(Exception):
    """The cell was asked to stop, and has saved."""


class Imitation(NamedTuple):
    """What an agent does instead of playing the stream, before it has to play alone.

    Attributes:
      teachers: `(spec) -> Agent` for K games, with nothing shared between them.
      student: `(spec, the teachers' state [S, ...]) -> Agent` of the same games.
      assign: `(student's fresh state [S, ...]) -> the same`, of which seed n has teachers n.
      graduate: `(student's state, fresh state) -> state` of the agent that `Entry.make` gives.
    """

    teachers: Callable[[EnvSpec], Agent]
    student: Callable[[EnvSpec, ArrayTree], Agent]
    assign: Callable[[ArrayTree], ArrayTree]
    graduate: Callable[[ArrayTree, ArrayTree], ArrayTree]


class Twin(NamedTuple):
    """Another agent that does the same, to the bit, in cells of some kinds: it need not be run.

    Attributes:
      agent: its name.
      kinds: of cells.
      settings: that it has to have.
    """

    agent: str
    kinds: tuple[str, ...]
    settings: dict[str, Any]


class Entry(NamedTuple):
    """An agent of the benchmark.

    Attributes:
      make: `(spec) -> Agent`, or a `protocol.HostAgent`.
      transfer: `(pretrained state, fresh state) -> state`: what a new game begins with.
      settings: JSON values that identify the agent.
      learns: False for a control, which is scored and not trained.
      hosted: whether `make` gives a `protocol.HostAgent`.
      pretrain: `(spec) -> Agent` of the pre-training where that is another one, a smaller say;
        `transfer` then gets arrays of one seed, and need not compile.
      imitation: of the cells with several games, where those are not played as a stream.
      twin: whose runs some of its own would repeat.
    """

    make: Callable[[EnvSpec], Any]
    transfer: Callable[[ArrayTree, ArrayTree], ArrayTree]
    settings: dict[str, Any]
    learns: bool = True
    hosted: bool = False
    pretrain: Callable[[EnvSpec], Any] | None = None
    imitation: Imitation | None = None
    twin: Twin | None = None


def everything(pretrained: ArrayTree, fresh: ArrayTree) -> ArrayTree:
    """The whole state goes on, optimiser included: the agent is not told that anything changed."""
    return pretrained


def parameters(pretrained: Any, fresh: Any) -> Any:
    """`params` go over, shared and task's own; optimiser and all else start anew."""
    return fresh._replace(params=pretrained.params)


def shared_parameters(pretrained: Any, fresh: Any) -> Any:
    """What all tasks share goes over; parameters of the new task alone and the optimiser are fresh.

    For agents that are told the task, whose pre-training had other tasks, and as many of them. A
    layer that reads the task's number has another shape then: the part that both have goes over.
    """

    def overlap(old: Any, new: Any) -> Any:
        both = tuple(slice(min(a, b)) for a, b in zip(old.shape, new.shape, strict=True))
        return new.at[both].set(old[both])

    shared = jax.tree.map(overlap, pretrained.params.shared, fresh.params.shared)
    return fresh._replace(params=fresh.params._replace(shared=shared))


def run(
    cell: Cell,
    settings: Settings,
    suite: Suite,
    entry: Entry,
    folder: pathlib.Path,
    on_progress: train.OnProgress = lambda step, total, row: None,
) -> list[dict[str, Any]]:
    """Trains and scores one cell from wherever `folder/<cell>` says it is; a row for each seed.

    Raises:
      Stopped: on Ctrl-C or SIGTERM.
      ValueError: for an agent that breaks the protocol or a folder of another run.
      FloatingPointError: as `train.run`.
    """
    began = time.monotonic()
    if cell.kind == "control":
        return _control(cell, settings, suite, entry)
    spec, path = suite.spec, folder / cell.name
    n = spec.num_tasks
    games = training_games(settings, cell, n)
    training = training_suite(settings, suite, games)
    agent = make_agent(entry, training.spec, pretraining=cell.kind == "pretrain")
    config = run_config(settings, cell, agent, training)
    protocol.check_types_agent(cell.agent, agent, training.spec, config.num_envs_per_task)
    given = settings.track == "task_id"
    evaluation = None
    if not given:
        scored = games if len(games) == 1 else list(range(n))
        evaluation = evaluations.Evaluation(
            side_by_side(suite, scored), regime.blind(agent, len(scored))
        )

    def begin_from(fresh: ArrayTree) -> ArrayTree:
        if not cell.needs:
            return fresh
        learnt = _load(settings, cell, suite, entry, config, folder / cell.needs / "final")
        return _transferred(entry, config, learnt, fresh)

    def watch(step: int, total: int, row: dict[str, Any]) -> None:
        _check_range(cell.agent, row, spec.num_actions)
        on_progress(step, total, row)

    agent = _watched(agent, training.spec)
    result = train.run(
        config,
        training,
        agent,
        path,
        identity(cell, settings, spec, entry),
        watch,
        evaluation=evaluation,
        begin_from=begin_from,
    )
    if not result.finished:
        raise Stopped
    if cell.kind in ("pretrain", "multitask"):
        save(path / "final", result.step, result.state)
    rows = metrics.read_jsonl(path / "metrics.jsonl")
    last = None if given else final_scores(settings, config, suite, agent, result.state, range(n))
    seconds = time.monotonic() - began
    return table_rows(cell, settings, spec, rows, last, result.step, seconds)


def _control(cell: Cell, settings: Settings, suite: Suite, entry: Entry) -> list[dict[str, Any]]:
    """The rows of an agent that does not learn."""
    began, spec = time.monotonic(), suite.spec
    agent = entry.make(regime.stream_spec(spec))
    config = engines.RunConfig(1, 1, seed=cell.seeds[0], num_seeds=len(cell.seeds))

    def init(key):
        return agent.init(engines.stream(key, "params"))

    state = jax.jit(engines.over_seeds(config, init))(engines.root_key(config))
    final = final_scores(settings, config, suite, agent, state, range(spec.num_tasks))
    return table_rows(cell, settings, spec, [], final, 0, time.monotonic() - began)


def _transferred(
    entry: Entry, config: engines.RunConfig, pretrained: ArrayTree, fresh: ArrayTree
) -> ArrayTree:
    """What every seed of a new game begins with, `[S, ...]`."""
    if entry.pretrain is None:
        return jax.jit(engines.over_seeds(config, entry.transfer))(pretrained, fresh)
    if config.num_seeds == 1:
        return entry.transfer(pretrained, fresh)

    def pick(s):
        return jax.tree.map(lambda x: x[s], (pretrained, fresh))

    grown = [entry.transfer(*pick(s)) for s in range(config.num_seeds)]
    return jax.tree.map(lambda *x: jnp.stack(x), *grown)


def identity(cell: Cell, settings: Settings, spec: EnvSpec, entry: Entry) -> dict[str, Any]:
    """JSON values that a cell's directory is known by."""
    task = spec.task_names[cell.task] if cell.task >= 0 else ""
    return {
        **values(settings),
        "games": list(settings.games),
        "agent": cell.agent,
        "kind": cell.kind,
        "task": task,
        "fold": cell.fold,
        "cell_seeds": list(cell.seeds),
        "steps": cell.steps,
        **entry.settings,
    }


def training_suite(settings: Settings, suite: Suite, games: Sequence[int]) -> Suite:
    """What an agent of the matrix is trained on: games as tasks if it is told which it plays, one
    stream of them if not."""
    if settings.track == "task_id":
        return _part(suite, games)
    if isinstance(suite, FunctionalSuite):
        return regime.random_games(suite, games)
    return regime_pool.random_games(suite, games)


def make_agent(entry: Entry, spec: EnvSpec, *, pretraining: bool) -> Agent:
    """The agent for a training suite, which may be another one in the pre-training."""
    return (entry.pretrain or entry.make)(spec) if pretraining else entry.make(spec)


def run_config(settings: Settings, cell: Cell, agent: Agent, training: Suite) -> engines.RunConfig:
    """Evaluations at equal distances, each a whole number of dispatches after the last one."""
    per_update = agent.unroll_length * training.spec.num_tasks * settings.num_envs
    updates = max(round(cell.steps / settings.evaluations / per_update), 1)
    per_dispatch = -(-updates // DISPATCHES)
    interval = per_update * per_dispatch * -(-updates // per_dispatch)
    if isinstance(training, HostSuite):
        per_dispatch = 1
    return engines.RunConfig(
        total_env_steps=interval * settings.evaluations,
        num_envs_per_task=settings.num_envs,
        seed=cell.seeds[0],
        num_seeds=len(cell.seeds),
        updates_per_dispatch=per_dispatch,
        log_every=interval,
        eval_every=interval,
        checkpoint_every=interval,
        eval_episodes=settings.eval_episodes,
    )


def _part(suite: Suite, indices: Sequence[int]) -> Suite:
    if isinstance(suite, FunctionalSuite):
        return regime.subset(suite, indices)
    if list(indices) == list(range(suite.spec.num_tasks)):
        return suite
    return regime_pool.part(suite, indices)


def side_by_side(suite: Suite, indices: Sequence[int]) -> Suite:
    """Games as tasks, under the rules of the stream: what an agent that is told nothing is scored
    on."""
    if isinstance(suite, FunctionalSuite):
        return regime.each_game(suite, indices)
    found = _part(suite, indices)
    if found.spec.num_actions == suite.spec.num_actions or len(indices) > 1:
        return found
    # Alone, this game has fewer actions than the agent: let the stream turn the others into no-ops.
    one = regime_pool.random_games(suite, indices)
    return one._replace(spec=one.spec._replace(task_names=found.spec.task_names))


def final_scores(
    settings: Settings,
    config: engines.RunConfig,
    suite: Suite,
    agent: Agent,
    state: ArrayTree,
    games: Sequence[int],
) -> np.ndarray:
    """Mean return of every seed on every game, float `[S, N]`, on episodes of their own."""
    many, apart = regime.blind(agent, len(games)), side_by_side(suite, games)
    score: Any = evaluate.scorer(apart, many, settings.final_episodes)

    def key_at(key):
        return jax.random.fold_in(engines.stream(key, "eval"), 2**31 - 1)

    keys = engines.over_seeds(config, key_at)(engines.root_key(config))
    if isinstance(apart, FunctionalSuite):
        score = evaluations.seeds_scorer(config, apart, score)
    found = score(agent.policy_params(state), keys)
    means = np.asarray(found.episode_return, np.float64).mean(-1)
    return means.reshape(len(config_seeds(config)), len(games))


def config_seeds(config: engines.RunConfig) -> range:
    """The seeds of a run."""
    return range(config.seed, config.seed + config.num_seeds)


# ---------------------------------------------------------------------------- the pre-trained agent


def save(path: pathlib.Path, step: int, state: ArrayTree) -> None:
    """Keeps an agent's state, once: a step that is there already is not written again."""
    with checkpoint.open_manager(path) as manager:
        if manager.latest_step() != step:
            checkpoint.save(manager, step, {"state": state}, {})


def _load(
    settings: Settings,
    cell: Cell,
    suite: Suite,
    entry: Entry,
    config: engines.RunConfig,
    path: pathlib.Path,
) -> ArrayTree:
    """The agent of the pre-training that `cell` starts from, `[S, ...]`."""
    source = cell._replace(kind="pretrain", task=-1)
    games = training_games(settings, source, suite.spec.num_tasks)
    spec = training_suite(settings, suite, games).spec
    agent = make_agent(entry, spec, pretraining=True)
    init = engines.over_seeds(config, lambda key: {"state": agent.init(key)})
    target = checkpoint.abstract(jax.eval_shape(init, engines.root_key(config)))
    found = None
    if path.is_dir():
        with checkpoint.open_manager(path, read_only=True) as manager:
            found = checkpoint.restore_latest(manager, target)
    if found is None:
        raise ValueError(f"{cell.name} needs {cell.needs}, of which {path} holds no agent")
    return found[1]["state"]


# ---------------------------------------------------------------------------- actions out of range


_OUT = "agent/out_of_range"


def _watched(agent: Agent, spec: EnvSpec) -> Agent:
    """Counts actions that do not exist: a compiled environment would take them for others."""
    if spec.action_size:
        return agent

    def update(state: ArrayTree, rollout: Any) -> Any:
        outside = (rollout.action < 0) | (rollout.action >= spec.num_actions)
        # A loss of such an action is not finite, which would hide why.
        rollout = rollout._replace(action=rollout.action.clip(0, spec.num_actions - 1))
        state, values = agent.update(state, rollout)
        return state, {**values, _OUT: outside.any((0, 2)).astype(np.float32)}

    return agent._replace(update=update)


def _check_range(name: str, row: dict[str, Any], num_actions: int) -> None:
    for key, value in row.items():
        if key.endswith(_OUT) and np.any(np.asarray(value) > 0):
            raise protocol.AgentError(
                f"agent {name}: action must be in [0, {num_actions}), got others"
            )
