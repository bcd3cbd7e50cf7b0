"""The loop, written once: rollout -> update -> log -> evaluate -> checkpoint, and resume.

Killing a run at any moment and starting it again continues it from its newest checkpoint. On a
functional suite the end result equals the uninterrupted run's bit for bit, metrics included; on a
host suite the learner does, and new episodes begin.
"""

import contextlib
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mtrl_jax import checkpoint, engines, evaluate, metrics, processes, workdir
from mtrl_jax.engines import RunConfig
from mtrl_jax.types import Agent, ArrayTree, EnvSpec, FunctionalSuite, HostSuite

STOP_EVERY = 10  # updates between two questions of several processes whether to stop

# (steps done, steps in all, latest log row)
OnProgress = Callable[[int, int, dict[str, Any]], None]


class Evaluation(NamedTuple):
    """What to evaluate on instead of the training suite, by an agent of that suite's K tasks that
    reads the same policy."""

    suite: FunctionalSuite | HostSuite
    agent: Agent


class Result(NamedTuple):
    """What a run leaves behind in memory; the rest is in its directory."""

    state: ArrayTree  # of the agent, [S, ...] with several seeds
    step: int  # environment steps done
    finished: bool  # False if interrupted


def run(
    config: RunConfig,
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    folder: pathlib.Path,
    settings: dict[str, Any],
    on_progress: OnProgress = lambda step, total, row: None,
    *,
    evaluation: Evaluation | None = None,
    begin_from: Callable[[ArrayTree], ArrayTree] = lambda state: state,
) -> Result:
    """Trains from wherever `folder` says the run is, to the end or to an interrupt.

    Args:
      config: see `RunConfig`.
      suite: the tasks.
      agent: the algorithm, bound to its numbers.
      folder: the run's directory, new, empty, or of a run with equal `settings`.
      settings: flat JSON values that identify the run, written to config.json.
      on_progress: called before the first dispatch and after every one.
      evaluation: what evaluations are of; by default `suite` and `agent`.
      begin_from: from the fresh agent state `[S, ...]` to the one that a new run begins with (of an
        agent that has learnt something else, say); a run that continues does not ask it.

    Raises:
      ValueError: for settings that cannot run or a directory that is not this run's; nothing
        written.
      FloatingPointError: if a loss, gradient or parameter is not finite; the last checkpoint is of
        before.
      OSError: if nothing more can be written to `folder`, with the path; its checkpoints stand.
      BrokenPipeError: if `on_progress` raises it, after saving.

    Several processes call this with equal arguments; the first of them writes, and its `folder` is
    the only one.
    """
    with (
        _set_up(config, suite, agent, folder, settings, evaluation, begin_from) as (setup, begin),
        interrupts() as interrupted,
    ):
        on_progress(max(begin.step, 0), setup.total, {})
        if begin.step < 0:
            begin = begin._replace(step=0)
            setup.writer.write(0, _evaluate(setup, begin.carry, 0))
        step, carry = _loop(setup, begin, interrupted, on_progress)
        return Result(setup.engine.state(carry), step, step >= setup.total)


class _Setup(NamedTuple):
    """What stays as it is while a run lasts.

    Attributes:
      config, agent, engine: what trains.
      spec: of the suite.
      per_update, per_dispatch, total: environment steps.
      manager: of the checkpoints, None in a process that does not write.
      writer: of the metrics.
      evaluation, scorers: what evaluations are of, and a function for each policy of the agent.
    """

    config: RunConfig
    agent: Agent
    engine: engines.Engine
    spec: EnvSpec
    per_update: int
    per_dispatch: int
    total: int
    manager: checkpoint.Manager | None
    writer: metrics.Writer
    evaluation: Evaluation
    scorers: dict[str, Callable[..., evaluate.Score]]


class _Position(NamedTuple):
    """Where a run stands between two dispatches.

    Attributes:
      step: environment steps done; -1 if not even the fresh agent has been evaluated.
      carry: of the engine.
      window: sums since the last log row.
    """

    step: int
    carry: Any
    window: dict[str, Any]


@contextlib.contextmanager
def _set_up(
    config: RunConfig,
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    folder: pathlib.Path,
    settings: dict[str, Any],
    evaluation: Evaluation | None,
    begin_from: Callable[[ArrayTree], ArrayTree],
) -> Iterator[tuple[_Setup, _Position]]:
    """All that comes before the loop, and what is let go of when it has ended."""
    with contextlib.ExitStack() as stack:
        # ------------------------------------------------------------ the directory
        chief = processes.is_chief()
        engines.check(config, suite, agent)
        with processes.all_or_none():
            if chief:
                free = workdir.may_change(environments=isinstance(suite, HostSuite))
                workdir.check(folder, settings, free)  # before anything is written
                stack.enter_context(workdir.locked(folder))
                # Again, as the process before may have left it.
                if not workdir.check(folder, settings, free):
                    workdir.create(folder, settings)
        # ------------------------------------------------------------ what trains
        engine = engines.make(config, suite, agent)
        per_dispatch = engines.dispatch_steps(config, suite, agent.unroll_length)
        evaluation = evaluation or Evaluation(suite, agent)
        # ------------------------------------------------------------ resume or start
        manager = None
        if chief:
            manager = stack.enter_context(
                checkpoint.open_manager(folder / "checkpoints", config.keep)
            )
        begin = _restore(manager, engine, begin_from)
        total = end_of(folder, max(begin.step, 0), config.total_env_steps, per_dispatch)
        writer = stack.enter_context(_writer(folder, settings, begin.step))
        setup = _Setup(
            config=config,
            agent=agent,
            engine=engine,
            spec=suite.spec,
            per_update=per_dispatch // engine.updates,
            per_dispatch=per_dispatch,
            total=total,
            manager=manager,
            writer=writer,
            evaluation=evaluation,
            scorers=_scorers(config, evaluation),
        )
        yield setup, begin


def end_of(folder: pathlib.Path, step: int, asked: int, per_dispatch: int) -> int:
    """The step at which a run ends that has done `step`: `asked`, rounded up to whole dispatches.

    Raises:
      ValueError: if it has done more than that.
    """
    if step - asked >= per_dispatch:
        raise ValueError(
            f"total_env_steps: the run in {folder} has done {step} environment steps, more than "
            f"the {-(-asked // per_dispatch) * per_dispatch} of {asked} rounded up to whole "
            "dispatches; give at least as many, or choose another workdir"
        )
    return step + max(-(-(asked - step) // per_dispatch), 0) * per_dispatch


def _loop(
    setup: _Setup, begin: _Position, interrupted: threading.Event, on_progress: OnProgress
) -> tuple[int, Any]:
    """Trains until the end or an interrupt; the step then, and the engine's carry."""
    config, engine, writer = setup.config, setup.engine, setup.writer
    step, carry, window = begin
    saved, row, stop = step, {}, False
    closed: BrokenPipeError | None = None
    several = jax.process_count() > 1
    began, cpu_began = time.monotonic(), time.process_time()
    try:
        while step < setup.total and not stop:
            # -------------------------------------------------------- rollouts and updates
            carry, values = engine.advance(carry, step // setup.per_update)
            previous, step = step, step + setup.per_dispatch
            window = metrics.accumulate(window, values, setup.spec, step)
            due = _due(config, previous, step, setup.total)
            asks = several and every(previous, step, STOP_EVERY * setup.per_update)
            if any(due.values()) or asks:
                carry, window = _catch_up(setup, carry, window, step)
            # -------------------------------------------------------- log, evaluate, checkpoint
            if due["log"]:
                rate = {
                    "time/steps_per_second": (step - begin.step) / (time.monotonic() - began),
                    # Of all threads; on an accelerator, the host's part.
                    "time/cpu_seconds": time.process_time() - cpu_began,
                }
                row, window = {**metrics.log_row(window, setup.spec, config.num_seeds), **rate}, {}
                writer.write(step, row)
            if due["eval"]:
                writer.write(step, _evaluate(setup, carry, step))
            if due["checkpoint"]:
                _save(setup, _Position(step, carry, window))
                saved = step
            # -------------------------------------------------------- go on?
            try:
                on_progress(step, setup.total, row)
            except BrokenPipeError as error:  # nobody reads any more: stop, but save
                closed = error
            stop = interrupted.is_set() or closed is not None
            if several:
                stop = asks and processes.any_process(stop)
        if step > saved:  # interrupted
            carry, window = _catch_up(setup, carry, window, step)
            _save(setup, _Position(step, carry, window))
        if closed is not None:
            raise closed
    finally:
        engine.close(carry)
    return step, carry


def _due(config: RunConfig, previous: int, step: int, total: int) -> dict[str, bool]:
    """What is to be done after the dispatch from `previous` to `step`; all of it after the last."""
    intervals = {
        "log": config.log_every,
        "eval": config.eval_every,
        "checkpoint": config.checkpoint_every,
    }
    return {what: step >= total or every(previous, step, n) for what, n in intervals.items()}


def _catch_up(
    setup: _Setup, carry: Any, window: dict[str, Any], step: int
) -> tuple[Any, dict[str, Any]]:
    """Waits for the updates that still run: carry and window with them."""
    carry, values = setup.engine.flush(carry)
    return carry, metrics.accumulate(window, values, setup.spec, step)


def every(previous: int, step: int, n: int) -> bool:
    """Whether a multiple of `n` lies in `(previous, step]`."""
    return step // n > previous // n


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """The first Ctrl-C, SIGTERM or SIGHUP (of a terminal that closes) asks the loop to stop and
    save; the second one is not caught. Under nohup SIGHUP stays ignored."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handler(number, frame):
        asked.set()
        signal.signal(number, previous[number])

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {n: signal.signal(n, handler) for n in numbers}
    try:
        yield asked
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _restore(
    manager: checkpoint.Manager | None,
    engine: engines.Engine,
    begin_from: Callable[[ArrayTree], ArrayTree],
) -> _Position:
    """Where the newest checkpoint is, or a fresh start; read by the chief, whose manager it is."""
    carry, found = engine.start(), None
    fresh = engine.save(carry)
    with processes.all_or_none():
        if manager is not None:
            found = checkpoint.restore_latest(manager, checkpoint.abstract(fresh), repair=True)
    step, tree, meta = found or (-1, fresh, {"window": {}})
    step = int(processes.from_chief(np.array([step]), np.array([0]))[0])
    if step >= 0:
        carry = engine.load(processes.from_chief(tree, fresh))
    else:
        state = begin_from(fresh["state"])
        if state is not fresh["state"]:
            carry = engine.load({**fresh, "state": state})
    return _Position(step, carry, meta["window"])


def _save(setup: _Setup, at: _Position) -> None:
    """Writes a checkpoint, but never one that a run could not continue from."""
    tree = setup.engine.save(at.carry)
    if not all(
        np.isfinite(x).all() for x in jax.tree.leaves(setup.agent.policy_params(tree["state"]))
    ):
        raise FloatingPointError(
            f"a parameter is not finite at environment step {at.step}; the last checkpoint is of "
            "before"
        )
    if setup.manager is not None:
        checkpoint.save(setup.manager, at.step, tree, {"window": at.window})


@contextlib.contextmanager
def _writer(folder: pathlib.Path, settings: dict[str, Any], step: int) -> Iterator[metrics.Writer]:
    """Where a run goes on writing from `step`; what was written behind that is dropped."""
    if not processes.is_chief():
        yield metrics.NullWriter()
        return
    workdir.create(folder, settings)  # a run that continues may have become longer
    metrics.drop_after(folder / "metrics.jsonl", step)
    writer = metrics.Writers(
        [
            metrics.JsonlWriter(folder / "metrics.jsonl"),
            metrics.TensorBoardWriter(folder / "tensorboard", purge_step=step + 1),
        ]
    )
    try:
        yield writer
    finally:
        writer.close()


def _scorers(config: RunConfig, evaluation: Evaluation) -> dict[str, Callable[..., evaluate.Score]]:
    suite, agent = evaluation
    kinds = {"task_policy": False, "distilled_policy": True}
    scorers = {
        name: evaluate.scorer(suite, agent, config.eval_episodes, distilled=distilled)
        for name, distilled in kinds.items()
        if agent.has_distilled or not distilled
    }
    if isinstance(suite, HostSuite):
        return scorers
    return {name: seeds_scorer(config, suite, fn) for name, fn in scorers.items()}


def seeds_scorer(
    config: RunConfig, suite: FunctionalSuite, fn: Callable[..., evaluate.Score]
) -> Callable[..., evaluate.Score]:
    """`(policy, key) -> Score` of all seeds, of an `evaluate.functional_scorer`."""
    data, with_data = engines.split_tasks(suite)

    def score(policy: ArrayTree, key: Any, data: list[jax.Array]) -> evaluate.Score:
        return fn(policy, key, with_data(data).tasks)

    program = jax.jit(engines.over_seeds(config, score, in_axes=(0, 0, None)))
    return lambda policy, key: program(policy, key, data)


def _evaluate(setup: _Setup, carry: Any, step: int) -> dict[str, Any]:
    """Scores of every policy of the agent, `eval/<policy>/<task>/...`."""

    def key_at(key):
        return jax.random.fold_in(engines.stream(key, "eval"), step)

    config, evaluation = setup.config, setup.evaluation
    keys = engines.over_seeds(config, key_at)(engines.root_key(config))
    state, row = setup.engine.state(carry), {}
    for name, fn in setup.scorers.items():
        score = jax.device_get(fn(evaluation.agent.policy_params(state), keys))
        for key, value in evaluate.summary(evaluation.suite.spec, score).items():
            row[f"eval/{name}/{key}"] = value
    return row
