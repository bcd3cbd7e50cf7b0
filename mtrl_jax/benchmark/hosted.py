"""One cell of the matrix with an agent of five functions (`protocol.HostAgent`), step by step.

A run is cut into as many parts as it has evaluations. Each part begins with new episodes and with
what `restore` makes of what `save` gave at the end of the part before, so going on after a kill is
what every run does all the time: given an agent that restores what it saves, the results are the
same to the bit.
"""

import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import evaluate, metrics, rollout, train, workdir
from mtrl_jax.benchmark import compiled, imitation, protocol, regime, regime_pool
from mtrl_jax.benchmark.cells import Cell, Settings, training_games, values
from mtrl_jax.benchmark.compiled import Entry, Stopped
from mtrl_jax.benchmark.protocol import HostAgent, Spec
from mtrl_jax.benchmark.results import table_rows
from mtrl_jax.envs import functional
from mtrl_jax.types import EnvSpec, FunctionalSuite, HostSuite, Pool, Timestep

__all__ = ["FunctionalPool", "pool_maker", "run", "run_any"]

Suite = FunctionalSuite | HostSuite
Maker = Callable[..., Pool]


class Player(NamedTuple):
    """An agent of five functions.

    Attributes:
      name: in the table, for messages.
      agent: guarded, so that what its functions raise names it.
      spec: what it is told of the games.
    """

    name: str
    agent: HostAgent
    spec: Spec


def run(
    cell: Cell,
    settings: Settings,
    suite: Suite,
    entry: Entry,
    folder: pathlib.Path,
    on_progress: train.OnProgress = lambda step, total, row: None,
) -> list[dict[str, Any]]:
    """Trains and scores one cell of one seed from wherever `folder/<cell>` says it is.

    Raises:
      Stopped: on Ctrl-C or SIGTERM.
      AgentError: if the agent raises, or returns what it should not; also on the track on which
        the task is given.
      ValueError: for a folder of another run.
    """
    if settings.track == "task_id":
        raise protocol.AgentError(
            f"agent {cell.agent}: an agent of five functions has no task id to read; its track is "
            "no_id"
        )
    began, (seed,) = time.monotonic(), cell.seeds
    path, n, num_envs = folder / cell.name, suite.spec.num_tasks, settings.num_envs
    player = _player(cell.agent, entry, suite.spec)
    _claim(path, {**values(settings), "cell": cell.name, **entry.settings})
    data, rows = _resume(player, cell, settings, path, folder)
    # ------------------------------------------------------------------ what it plays
    games = training_games(settings, cell, n)
    scored = games if len(games) == 1 else list(range(n))
    training, own = pool_maker(suite, games, stream=True), pool_maker(suite, scored)
    every, limit = pool_maker(suite, range(n)), evaluate.episode_limit(suite.spec)
    num_rows = max(round(cell.steps / settings.evaluations / num_envs), 1)  # in a part
    total = num_rows * num_envs * settings.evaluations
    # ------------------------------------------------------------------ part after part
    with train.interrupts() as asked:
        for part in range(len(rows), settings.evaluations + 1):
            step = part * num_rows * num_envs
            if part:
                begin = step - num_rows * num_envs

                def tick(t, begin=begin):
                    on_progress(begin + t * num_envs, total, {})
                    if asked.is_set():
                        raise Stopped

                pool = training(num_envs, _seed(seed, 1, part), 1)
                data = _train(player, pool, data, num_rows, num_envs, tick)
            episodes, at = settings.eval_episodes, _seed(seed, 2, part)
            means = _scores(player, data, own, len(scored), episodes, at, limit)
            names = (suite.spec.task_names[i] for i in scored)
            row = {f"eval/task_policy/{g}/return": x for g, x in zip(names, means, strict=True)}
            rows.append({"step": step, **row})
            _keep(path, part, data, rows[-1])
            on_progress(step, total, {})
    episodes, at = settings.final_episodes, _seed(seed, 3, 0)
    final = _scores(player, data, every, n, episodes, at, limit)
    seconds = time.monotonic() - began
    last = rows[-1]["step"]
    return table_rows(cell, settings, suite.spec, rows, np.array([final]), last, seconds)


def run_any(
    cell: Cell,
    settings: Settings,
    suite: Suite,
    entry: Entry,
    folder: pathlib.Path,
    on_progress: train.OnProgress,
) -> list[dict[str, Any]]:
    """`run`, `imitation.run` or `compiled.run`, whichever the agent and the cell are for."""
    several = cell.kind in ("pretrain", "multitask")
    fn = run if entry.hosted else imitation.run if entry.imitation and several else compiled.run
    return fn(cell, settings, suite, entry, folder, on_progress)


def _player(name: str, entry: Entry, spec: EnvSpec) -> Player:
    stream = regime.stream_spec(spec)
    return Player(name, _guarded(name, entry.make(stream)), protocol.spec_of(stream))


def _claim(path: pathlib.Path, identity: dict[str, Any]) -> None:
    """Makes the cell's directory, or finds it again."""
    identity = json.loads(json.dumps(identity))  # as config.json will hold it: lists, no tuples
    workdir.check(path, identity)
    workdir.create(path, identity)


def _resume(
    player: Player, cell: Cell, settings: Settings, path: pathlib.Path, folder: pathlib.Path
) -> tuple[bytes, list[dict[str, Any]]]:
    """The agent and the rows of the last part that was finished, or a fresh start."""
    file = path / "metrics.jsonl"
    rows = metrics.read_jsonl(file)
    saved = _saved(path, len(rows) - 1)
    if rows and saved.exists():
        metrics.drop_after(file, rows[-1]["step"])  # a line cut short
        return saved.read_bytes(), rows
    file.unlink(missing_ok=True)
    if not cell.needs:
        agent = player.agent
        return agent.save(agent.init(player.spec, settings.num_envs, cell.seeds[0])), []
    source = _saved(folder / cell.needs, settings.evaluations)
    if not source.exists():
        raise ValueError(f"{cell.name} needs {cell.needs}, of which there is no {source}")
    return source.read_bytes(), []


def _saved(path: pathlib.Path, part: int) -> pathlib.Path:
    """Where a cell's directory holds the agent of the end of a part."""
    return path / f"agent-{part}.bin"


def _keep(path: pathlib.Path, part: int, data: bytes, row: dict[str, Any]) -> None:
    """The agent first, then the row that says that it is there."""
    temporary = _saved(path, part).with_suffix(".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, _saved(path, part))
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
    _saved(path, part - 1).unlink(missing_ok=True)


def _train(
    player: Player,
    pool: Pool,
    data: bytes,
    num_rows: int,
    num_envs: int,
    tick: Callable[[int], None],
) -> bytes:
    """One part: what `save` gives at its end. `tick` hears of every row, and may raise."""
    name, agent, spec = player
    try:
        state = agent.restore(spec, num_envs, data)
        step = protocol.step_of(pool.reset(0))
        for t in range(num_rows):
            action, state = agent.act(state, step, True)
            action = protocol.checked_action(name, spec, action, num_envs)
            pool.send(0, action[None])
            next_step = protocol.step_of(pool.recv(0))
            state = agent.update(state, step, action, next_step)
            step = next_step
            tick(t + 1)
    finally:
        pool.close()
    return agent.save(state)


def _scores(
    player: Player,
    data: bytes,
    make_pool: Maker,
    num_games: int,
    episodes: int,
    seed: int,
    limit: int,
) -> list[float]:
    """Mean return, for each of N games, of a copy of an agent, one episode an environment, without
    learning."""
    name, agent, spec = player
    size = num_games * episodes
    state = agent.restore(spec, size, data)
    pool = make_pool(episodes, seed, 1)
    try:
        step = protocol.step_of(pool.reset(0))
        alive, total = np.ones(size, bool), np.zeros(size)
        for _ in range(limit + 1):
            action, state = agent.act(state, step, False)
            action = protocol.checked_action(name, spec, action, size)
            pool.send(0, action.reshape(num_games, episodes, *action.shape[1:]))
            step = protocol.step_of(pool.recv(0))
            alive &= ~step.first
            if not alive.any():
                break
            total += np.where(alive, step.reward, 0.0)
    finally:
        pool.close()
    return total.reshape(num_games, episodes).mean(1).tolist()


def _guarded(name: str, agent: HostAgent) -> HostAgent:
    """Whatever the agent's functions raise becomes one sentence that names it."""

    def guard(what: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            try:
                result = fn(*args)
                if what == "act":
                    action, state = result
                    return action, state
                if what == "save" and not isinstance(result, bytes):
                    raise TypeError(f"bytes were expected, got {type(result).__name__}")
                return result
            except Exception as error:
                kind = type(error).__name__
                raise protocol.AgentError(f"agent {name}: {what}: {kind}: {error}") from error

        return call

    return HostAgent(*(guard(what, fn) for what, fn in agent._asdict().items()))


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 2)


# ---------------------------------------------------------------------- functional suites as pools


def pool_maker(suite: Suite, games: Sequence[int], *, stream: bool = False) -> Maker:
    """`make_pool(num_envs, seed, num_groups)` of some games, side by side or as one stream."""
    if isinstance(suite, FunctionalSuite):
        played = (regime.random_games if stream else regime.each_game)(suite, games)
        programs = _programs_once(played.env)
        return lambda num_envs, seed, num_groups: FunctionalPool(played, programs, num_envs, seed)
    if stream:
        return regime_pool.random_games(suite, games).make_pool
    if list(games) == list(range(suite.spec.num_tasks)):
        return suite.make_pool
    return regime_pool.part(suite, games).make_pool


def _programs_once(env: Any) -> Any:
    try:
        return _cached_programs(env)
    except TypeError:  # it cannot be hashed
        return _programs(env)


@functools.lru_cache(4)
def _cached_programs(env: Any) -> Any:
    return _programs(env)


def _programs(env: Any) -> Any:
    reset, step = functional.auto_reset_batch(env)

    def first(key, index, task):
        return reset(rollout.step_keys(key, 0, index), task)

    def advance(key, t, index, state, action, task):
        return step(rollout.step_keys(key, t, index), state, action, task)

    return jax.jit(first), jax.jit(advance)


class FunctionalPool:
    """The environments of a functional suite behind the calls of a pool of one group."""

    num_groups = 1

    def __init__(self, suite: FunctionalSuite, programs: Any, num_envs: int, seed: int) -> None:
        self.spec = suite.spec
        self._tasks = suite.tasks
        self._reset, self._step = programs
        self._key = jax.random.key(seed)
        self._index = jnp.asarray(rollout.env_indices(suite.spec.num_tasks, num_envs))
        self._time = 0
        self._row: Any = None
        self._state: Any = None

    def reset(self, group: int) -> Timestep:
        """The first rows, `[K, E, ...]`."""
        self._state, row = self._reset(self._key, self._index, self._tasks)
        return jax.device_get(row)

    def send(self, group: int, action: np.ndarray) -> None:
        """Steps with actions `[K, E, ...]`."""
        self._time += 1
        self._state, self._row = self._step(
            self._key, self._time, self._index, self._state, jnp.asarray(action), self._tasks
        )

    def recv(self, group: int) -> Timestep:
        """The rows that `send` led to."""
        return jax.device_get(self._row)

    def close(self) -> None:
        """Nothing to end."""
