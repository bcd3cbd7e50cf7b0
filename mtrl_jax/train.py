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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import numpy as np

from mtrl_jax import begin as beginning
from mtrl_jax import checkpoint, engines, evaluations, metrics, processes, workdir, writers
from mtrl_jax.engines import RunConfig
from mtrl_jax.envs.check import called, check_pool
from mtrl_jax.evaluations import Best, Evaluation, OnProgress, Teller
from mtrl_jax.pace import Pace, due_after, every
from mtrl_jax.types import Agent, ArrayTree, EnvSpec, FunctionalSuite, HostSuite
from mtrl_jax.writers import Logger

STOP_EVERY = 10  # updates between two questions of several processes whether to stop


class Result(NamedTuple):
    """What a run leaves behind in memory; the rest is in its directory."""

    state: ArrayTree  # of the agent, [S, ...] with several seeds
    step: int  # environment steps done
    finished: bool  # False if interrupted


class Options(TypedDict, total=False):
    """What `run` takes by name besides; type checkers expand it.

    Attributes:
      evaluation: what evaluations are of; by default `suite` and `agent`.
      begin_from: from the fresh agent state `[S, ...]` to the one that a new run begins with (of an
        agent that has learnt something else, say), held against the fresh one by
        `begin.check_like`; None or a run that continues does not ask it.
      writers: who else is given every log row and every evaluation, after those of
        `RunConfig.writers`; closed when the run ends. Of several processes the first one's.
    """

    evaluation: Evaluation | None
    begin_from: Callable[[ArrayTree], ArrayTree] | None
    writers: Sequence[Logger]


def run(
    config: RunConfig,
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    folder: pathlib.Path,
    settings: dict[str, Any],
    on_progress: OnProgress = lambda step, total, row: None,
    **options: Unpack[Options],
) -> Result:
    """Trains from wherever `folder` says the run is, to the end or to an interrupt.

    Args:
      config: see `RunConfig`.
      suite: the tasks.
      agent: the algorithm, bound to its numbers.
      folder: the run's directory, new, empty, or of a run with equal `settings`.
      settings: flat JSON values that identify the run, written to config.json.
      on_progress: called before the first dispatch and after every one, and of evaluations, as
        `evaluations.OnProgress` says.
      **options: see `Options`.

    Raises:
      ValueError: for settings that cannot run, writers that are none, or a directory that is not
        this run's; nothing written.
      TypeError: for an option that there is not.
      FloatingPointError: if a loss, gradient or parameter is not finite; the last checkpoint is of
        before.
      OSError: if nothing more can be written to `folder`, with the path; its checkpoints stand.
      BrokenPipeError: if `on_progress` raises it, after saving.

    Several processes call this with equal arguments; the first of them writes, and its `folder` is
    the only one.
    """
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"train.run has the options {known}; got {unknown[0]}")
    tell = Teller(on_progress)
    with (
        _set_up(config, suite, agent, folder, settings, tell, options) as (setup, begin),
        interrupts() as interrupted,
    ):
        tell({})
        resets = metrics.longest_episodes(suite.spec, config.num_envs_per_task)
        if agent.environments is not None:  # how long an episode takes with its rests, nobody knows
            resets = {}
        if begin.step < 0:
            begin = begin._replace(step=0)
            setup.writer.write(0, resets | setup.evaluate(setup.engine.state(begin.carry), 0))
        elif begin.step < setup.total and isinstance(suite, HostSuite):  # with new episodes
            setup.writer.write(begin.step, resets)
        step, carry = _loop(setup, begin, interrupted)
        return Result(setup.engine.state(carry), step, step >= setup.total)


class _Setup(NamedTuple):
    """What stays as it is while a run lasts.

    Attributes:
      config, agent, engine: what trains.
      spec: of the suite.
      per_update, per_dispatch, total: environment steps.
      manager: of the checkpoints, None in a process that does not write.
      writer: of the metrics.
      evaluate: from the agent's state and the step to a row of scores.
      tell: whoever waits.
      best: the evaluation whose checkpoint stays; known to the chief where a run continues, which
        is why it alone decides.
    """

    config: RunConfig
    agent: Agent
    engine: engines.Engine
    spec: EnvSpec
    per_update: int
    per_dispatch: int
    total: int
    manager: checkpoint.Manager | None
    writer: Logger
    evaluate: Callable[[ArrayTree, int], dict[str, Any]]
    tell: Teller
    best: Best


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
    tell: Teller,
    options: Options,
) -> Iterator[tuple[_Setup, _Position]]:
    """All that comes before the loop, and what is let go of when it has ended."""
    evaluation = options.get("evaluation") or Evaluation(suite, agent)
    own = writers.check_loggers(options.get("writers", ()))
    with contextlib.ExitStack() as stack:
        # ------------------------------------------------------------ the directory
        chief = processes.is_chief()
        free = workdir.may_change(environments=isinstance(suite, HostSuite))
        with processes.all_or_none():
            if chief:
                workdir.check(folder, settings, free)  # before anything is compiled
        # ------------------------------------------------------------ what trains
        name = str(settings.get("suite") or called(suite))
        engine = engines.make(config, suite, agent, name)
        if isinstance(suite, HostSuite):
            check_pool(suite, name)
        per_dispatch = engines.dispatch_steps(config, suite, agent.unroll_length)
        begun = _begun(engine, options.get("begin_from"), folder)
        # ------------------------------------------------------------ the directory is ours
        with processes.all_or_none():
            if chief:
                stack.enter_context(workdir.locked(folder))
                # Again, as the process before may have left it.
                if not workdir.check(folder, settings, free):
                    workdir.create(folder, settings)
        # ------------------------------------------------------------ resume or start
        manager, best = None, Best(config.keep_best, evaluation.suite.spec.task_names)
        if chief:
            manager = stack.enter_context(
                checkpoint.open_manager(folder / "checkpoints", config.keep, held=lambda: best.step)
            )
        begin = _restore(manager, engine, begun, best)
        total = end_of(folder, max(begin.step, 0), config.total_env_steps, per_dispatch)
        tell.step, tell.total = max(begin.step, 0), total
        every = _writer(config, folder, settings, suite.spec, begin.step, own)
        writer = stack.enter_context(every)
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
            evaluate=evaluations.make(config, evaluation, tell, name),
            tell=tell,
            best=best,
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


def _loop(setup: _Setup, begin: _Position, interrupted: threading.Event) -> tuple[int, Any]:
    """Trains until the end or an interrupt; the step then, and the engine's carry."""
    config, engine, writer, tell = setup.config, setup.engine, setup.writer, setup.tell
    step, carry, window = begin
    several = jax.process_count() > 1
    saved, row, stop = step, {}, tell.closed is not None and not several
    began, cpu_began = time.monotonic(), time.process_time()

    def is_due(previous: int, step: int) -> bool:
        return any(due_after(config, previous, step, setup.total).values())

    go_on = Pace(engine, setup.per_update, setup.per_dispatch, is_due)
    try:
        while step < setup.total and not stop:
            # -------------------------------------------------------- rollouts and updates
            carry, made = go_on(carry, step)
            for step, values in made:
                window = metrics.accumulate(window, values, setup.spec, step)
            tell.step, previous = step, step - setup.per_dispatch
            due = due_after(config, previous, step, setup.total)
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
                scores = setup.evaluate(engine.state(carry), step)
                writer.write(step, scores)
                due["checkpoint"] |= _is_best(setup, step, scores)
            if due["checkpoint"]:
                _save(setup, _Position(step, carry, window))
                saved = step
            # -------------------------------------------------------- go on?
            tell(row)
            stop = interrupted.is_set() or tell.closed is not None  # nobody reads: stop, but save
            if several:
                stop = asks and processes.any_process(stop)
        if step > saved:  # interrupted
            carry, window = _catch_up(setup, carry, window, step)
            _save(setup, _Position(step, carry, window))
        if tell.closed is not None:
            raise tell.closed
    finally:
        engine.close(carry)
    return step, carry


def _is_best(setup: _Setup, step: int, scores: dict[str, Any]) -> bool:
    """Whether this evaluation asks for a checkpoint; of several processes the chief says so."""
    if not setup.config.keep_best:
        return False
    found = setup.best.take(step, scores)
    return bool(processes.from_chief(np.array([found]), np.array([False]))[0])


def _catch_up(
    setup: _Setup, carry: Any, window: dict[str, Any], step: int
) -> tuple[Any, dict[str, Any]]:
    """Waits for the updates that still run: carry and window with them."""
    carry, values = setup.engine.flush(carry)
    return carry, metrics.accumulate(window, values, setup.spec, step)


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


def _begun(engine: engines.Engine, begin_from: Any, folder: pathlib.Path) -> Any:
    """The carry of a new run that is to begin with something else than a fresh one, or None."""
    new = not any(path.name.isdigit() for path in (folder / "checkpoints").glob("*"))
    new = bool(processes.from_chief(np.array([new]), np.array([False]))[0])
    if begin_from is None or not new:
        return None
    fresh = engine.save(engine.start())
    state = begin_from(fresh["state"])
    beginning.check_like(state, fresh["state"])
    return engine.load({**fresh, "state": state})


def _restore(
    manager: checkpoint.Manager | None, engine: engines.Engine, begun: Any, best: Best
) -> _Position:
    """Where the newest checkpoint is, or `begun`, or a fresh start; read by the chief, whose
    manager it is."""
    carry, found = engine.start() if begun is None else begun, None
    fresh = engine.save(carry)
    with processes.all_or_none():
        if manager is not None:
            found = checkpoint.restore_latest(manager, checkpoint.abstract(fresh), repair=True)
    step, tree, meta = found or (-1, fresh, {"window": {}})
    if manager is not None:
        best.load(meta.get("best"), manager.all_steps())
    step = int(processes.from_chief(np.array([step]), np.array([0]))[0])
    if step >= 0:
        carry = engine.load(processes.from_chief(tree, fresh))
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
        checkpoint.save(
            setup.manager, at.step, tree, {"window": at.window, "best": setup.best.saved()}
        )


@contextlib.contextmanager
def _writer(
    config: RunConfig,
    folder: pathlib.Path,
    settings: dict[str, Any],
    spec: EnvSpec,
    step: int,
    own: Sequence[Logger],
) -> Iterator[Logger]:
    """Where a run goes on writing from `step`; what was written behind that is dropped."""
    if not processes.is_chief():
        yield writers.NullWriter()
        return
    workdir.create(folder, settings)  # a run that continues may have become longer
    metrics.drop_after(folder / "metrics.jsonl", step)
    extra = writers.open_extra(config.writers, folder, step, spec.task_names, settings)
    every = [writers.JsonlWriter(folder / "metrics.jsonl"), *extra, *own]
    with contextlib.ExitStack() as stack:  # all are closed, whatever one of them raises
        for logger in every:
            stack.callback(logger.close)
        yield writers.Writers(every)
