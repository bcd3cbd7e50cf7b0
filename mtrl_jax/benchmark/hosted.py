"""One cell of the matrix with an agent of five functions (`protocol.HostAgent`), step by step.

A run is cut into as many parts as it has evaluations. Each part begins with new episodes and with
what `restore` makes of what `save` gave at the end of the part before, so going on after a kill is
what every run does all the time: given an agent that restores what it saves, the results are the
same to the bit.
"""

import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import metrics, rollout, train, workdir
from mtrl_jax.benchmark import compiled, protocol, regime, regime_pool, taught
from mtrl_jax.benchmark.cells import Cell, Settings, training_games
from mtrl_jax.benchmark.compiled import Entry, Stopped, table_rows
from mtrl_jax.benchmark.protocol import HostAgent, Spec
from mtrl_jax.envs import functional
from mtrl_jax.evaluate import DEFAULT_LIMIT
from mtrl_jax.types import FunctionalSuite, HostSuite, Pool, Timestep

__all__ = ["FunctionalPool", "pool_maker", "run", "run_any", "scores"]

Suite = FunctionalSuite | HostSuite
Maker = Callable[..., Pool]


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
    path, n = folder / cell.name, suite.spec.num_tasks
    told = protocol.spec_of(regime.stream_spec(suite.spec))
    agent = _guarded(cell.agent, entry.make(regime.stream_spec(suite.spec)))
    games = training_games(settings, cell, n)
    identity = {**dataclasses.asdict(settings), "cell": cell.name, **entry.settings}
    identity = json.loads(json.dumps(identity))
    workdir.check(path, identity)
    workdir.create(path, identity)
    data, rows = _resume(cell, settings, agent, told, path, folder)
    per_part = max(round(cell.steps / settings.evaluations / settings.num_envs), 1)
    total = per_part * settings.num_envs * settings.evaluations
    scored = games if len(games) == 1 else list(range(n))
    make_stream, make_scored = pool_maker(suite, games, stream=True), pool_maker(suite, scored)
    names = suite.spec.task_names

    def score(part: int, data: bytes) -> dict[str, Any]:
        means = scores(
            cell.agent,
            agent,
            told,
            make_scored,
            len(scored),
            settings.eval_episodes,
            data,
            _seed(seed, 2, part),
            suite,
        )
        return {
            f"eval/task_policy/{names[i]}/return": float(x)
            for i, x in zip(scored, means, strict=True)
        }

    with train.interrupts() as asked:
        for part in range(len(rows), settings.evaluations + 1):
            step = part * per_part * settings.num_envs
            if part:
                pool = make_stream(settings.num_envs, _seed(seed, 1, part), 1)
                state = agent.restore(told, settings.num_envs, data)
                begin = step - per_part * settings.num_envs

                def tick(t, begin=begin):
                    return on_progress(begin + t * settings.num_envs, total, {})

                try:
                    state = _train(
                        cell.agent,
                        agent,
                        told,
                        pool,
                        state,
                        per_part,
                        asked.is_set,
                        settings.num_envs,
                        tick,
                    )
                finally:
                    pool.close()
                data = agent.save(state)
            _write(path / f"agent-{part}.bin", data)
            rows.append({"step": step, **score(part, data)})
            with (path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
                file.flush()
                os.fsync(file.fileno())
            (path / f"agent-{part - 1}.bin").unlink(missing_ok=True)
            on_progress(step, total, {})
    every = pool_maker(suite, range(n))
    final = scores(
        cell.agent, agent, told, every, n, settings.final_episodes, data, _seed(seed, 3, 0), suite
    )
    seconds = time.monotonic() - began
    return table_rows(cell, settings, suite.spec, rows, final[None], rows[-1]["step"], seconds)


def run_any(
    cell: Cell,
    settings: Settings,
    suite: Suite,
    entry: Entry,
    folder: pathlib.Path,
    on_progress: train.OnProgress,
) -> list[dict[str, Any]]:
    """`run`, `taught.run` or `compiled.run`, whichever the agent and the cell are for."""
    several = cell.kind in ("pretrain", "multitask")
    fn = run if entry.hosted else taught.run if entry.imitation and several else compiled.run
    return fn(cell, settings, suite, entry, folder, on_progress)


def _resume(
    cell: Cell,
    settings: Settings,
    agent: HostAgent,
    told: Spec,
    path: pathlib.Path,
    folder: pathlib.Path,
) -> tuple[bytes, list[dict[str, Any]]]:
    """The agent and the rows of the last part that was finished, or a fresh start."""
    file = path / "metrics.jsonl"
    rows = metrics.read_jsonl(file)
    saved = path / f"agent-{len(rows) - 1}.bin"
    if rows and saved.exists():
        metrics.drop_after(file, rows[-1]["step"])  # a line cut short
        return saved.read_bytes(), rows
    file.unlink(missing_ok=True)
    if not cell.needs:
        return agent.save(agent.init(told, settings.num_envs, cell.seeds[0])), []
    source = folder / cell.needs / f"agent-{settings.evaluations}.bin"
    if not source.exists():
        raise ValueError(f"{cell.name} needs {cell.needs}, of which there is no {source}")
    return source.read_bytes(), []


def _train(
    name: str,
    agent: HostAgent,
    told: Spec,
    pool: Pool,
    state: Any,
    rows: int,
    stop: Callable[[], bool],
    num_envs: int,
    tick: Callable[[int], None],
) -> Any:
    step = protocol.step_of(pool.reset(0))
    for t in range(rows):
        action, state = agent.act(state, step, True)
        action = protocol.checked_action(name, told, action, num_envs)
        pool.send(0, action[None])
        next_step = protocol.step_of(pool.recv(0))
        state = agent.update(state, step, action, next_step)
        step = next_step
        tick(t + 1)
        if stop():
            raise Stopped
    return state


def scores(
    name: str,
    agent: HostAgent,
    told: Spec,
    make_pool: Maker,
    num_games: int,
    episodes: int,
    data: bytes,
    seed: int,
    suite: Suite,
) -> np.ndarray:
    """Mean return `[N]` of a copy of an agent, one episode an environment, without learning."""
    limits = np.asarray(suite.spec.episode_limit)
    limit = int(limits.max()) if (limits > 0).all() else DEFAULT_LIMIT
    size = num_games * episodes
    state = agent.restore(told, size, data)
    pool = make_pool(episodes, seed, 1)
    try:
        step = protocol.step_of(pool.reset(0))
        alive, total = np.ones(size, bool), np.zeros(size)
        for _ in range(limit + 1):
            action, state = agent.act(state, step, False)
            action = protocol.checked_action(name, told, action, size)
            pool.send(0, action.reshape(num_games, episodes, *action.shape[1:]))
            step = protocol.step_of(pool.recv(0))
            alive &= ~step.first
            if not alive.any():
                break
            total += np.where(alive, step.reward, 0.0)
    finally:
        pool.close()
    return total.reshape(num_games, episodes).mean(1)


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


def _write(path: pathlib.Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


# ---------------------------------------------------------------------- functional suites as pools


def pool_maker(suite: Suite, games: Sequence[int], *, stream: bool = False) -> Maker:
    """`make_pool(num_envs, seed, num_groups)` of some games, side by side or as one stream."""
    if isinstance(suite, FunctionalSuite):
        arena = (regime.random_games if stream else regime.each_game)(suite, games)
        programs = _programs_once(arena.env)
        return lambda num_envs, seed, num_groups: FunctionalPool(arena, programs, num_envs, seed)
    if stream:
        return regime_pool.random_games(suite.spec, games).make_pool
    if list(games) == list(range(suite.spec.num_tasks)):
        return suite.make_pool
    return regime_pool.part(suite.spec, games).make_pool


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
