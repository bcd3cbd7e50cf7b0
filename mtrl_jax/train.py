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
from mtrl_jax.types import Agent, ArrayTree, EnvSpec, FunctionalSuite, HostSuite, Metrics

STOP_EVERY = 10  # updates between two questions of several processes whether to stop

# (steps done, steps in all, latest log row)
OnProgress = Callable[[int, int, dict[str, Any]], None]


class Probe(NamedTuple):
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
    probe: Probe | None = None,
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
      probe: what evaluations are of; by default `suite` and `agent`.
      begin_from: from the fresh agent state `[S, ...]` to the one that a new run begins with (of an
        agent that has learnt something else, say); a run that continues does not ask it.

    Raises:
      ValueError: for settings that cannot run or a directory that is not this run's; nothing
        written.
      FloatingPointError: if a loss, gradient or parameter is not finite; the last checkpoint is of
        before.

    Several processes call this with equal arguments; the first of them writes, and its `folder` is
    the only one.
    """
    chief, several = processes.is_chief(), jax.process_count() > 1
    engines.check(config, suite)
    with processes.all_or_none():
        if chief and not workdir.check(folder, settings):
            workdir.create(folder, settings)
    engine = engines.make(config, suite, agent)
    spec = suite.spec
    per_update = agent.unroll_length * spec.num_tasks * config.num_envs_per_task
    per_dispatch = per_update * engine.updates
    total = -(-config.total_env_steps // per_dispatch) * per_dispatch

    with contextlib.ExitStack() as stack:
        # ------------------------------------------------------------------ resume or start
        manager = None
        if chief:
            manager = stack.enter_context(checkpoint.open_manager(folder / "checkpoints"))
        step, carry, window = _restore(manager, engine, begin_from)
        saved = step
        writer = stack.enter_context(_writer(folder, settings, step))
        interrupted = stack.enter_context(interrupts())
        probe = probe or Probe(suite, agent)
        scorers = _scorers(config, probe)
        on_progress(max(step, 0), total, {})
        if step < 0:
            step = 0
            writer.write(0, _evaluate(config, probe, scorers, engine.state(carry), 0))
        # ------------------------------------------------------------------ the loop
        began, first_step, row, stop = time.monotonic(), step, {}, False
        cpu_began = time.process_time()  # of all threads; on an accelerator, the host's share
        try:
            while step < total and not stop:
                carry, values = engine.advance(carry, step // per_update)
                previous, step = step, step + per_dispatch
                last = step >= total
                due = {
                    n: last or every(previous, step, getattr(config, f"{n}_every"))
                    for n in ("log", "eval", "checkpoint")
                }
                _check_finite(values, spec, step)
                window = _accumulate(window, values)
                asks = several and every(previous, step, STOP_EVERY * per_update)
                if any(due.values()) or asks:
                    carry, values = engine.flush(carry)
                    _check_finite(values, spec, step)
                    window = _accumulate(window, values)
                if due["log"]:
                    seconds = time.monotonic() - began
                    rate = {
                        "time/steps_per_second": (step - first_step) / seconds,
                        "time/cpu_seconds": time.process_time() - cpu_began,
                    }
                    row, window = {**_log_row(window, spec, config.num_seeds), **rate}, {}
                    writer.write(step, row)
                if due["eval"]:
                    scores = _evaluate(config, probe, scorers, engine.state(carry), step)
                    writer.write(step, scores)
                if due["checkpoint"]:
                    _save(manager, engine, agent, step, carry, window)
                    saved = step
                on_progress(step, total, row)
                stop = interrupted.is_set()
                if several:
                    stop = asks and processes.any_process(stop)
            if step > max(saved, 0):  # interrupted
                carry, values = engine.flush(carry)
                _check_finite(values, spec, step)
                window = _accumulate(window, values)
                _save(manager, engine, agent, step, carry, window)
        finally:
            engine.close(carry)
        return Result(engine.state(carry), step, step >= total)


def every(previous: int, step: int, n: int) -> bool:
    """Whether a multiple of `n` lies in `(previous, step]`."""
    return step // n > previous // n


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM asks the loop to stop and save; the second one is not caught."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handler(number, frame):
        asked.set()
        signal.signal(number, previous[number])

    previous = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _restore(
    manager: checkpoint.Manager | None,
    engine: engines.Engine,
    begin_from: Callable[[ArrayTree], ArrayTree],
) -> tuple[int, Any, dict[str, Any]]:
    """Step, carry and log window of the newest checkpoint, or -1 and a fresh start; read by the
    chief, whose manager it is."""
    carry, found = engine.start(), None
    fresh = engine.save(carry)
    with processes.all_or_none():
        if manager is not None:
            found = checkpoint.restore_latest(manager, checkpoint.abstract(fresh))
    step, tree, meta = found or (-1, fresh, {"window": {}})
    step = int(processes.from_chief(np.array([step]), np.array([0]))[0])
    if step >= 0:
        carry = engine.load(processes.from_chief(tree, fresh))
    else:
        state = begin_from(fresh["state"])
        if state is not fresh["state"]:
            carry = engine.load({**fresh, "state": state})
    return step, carry, meta["window"]


def _save(
    manager: checkpoint.Manager | None,
    engine: engines.Engine,
    agent: Agent,
    step: int,
    carry: Any,
    window: dict[str, Any],
) -> None:
    """Writes a checkpoint, but never one that a run could not continue from."""
    tree = engine.save(carry)
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(agent.policy(tree["state"]))):
        raise FloatingPointError(
            f"a parameter is not finite at environment step {step}; the last checkpoint is of "
            "before"
        )
    if manager is not None:
        checkpoint.save(manager, step, tree, {"window": window})


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


def _check_finite(values: Metrics, spec: EnvSpec, step: int) -> None:
    """Raises FloatingPointError, naming the task, unless losses and gradient norms are finite."""
    for name in ("loss/total", "grad/shared_norm", "grad/task_norm"):
        bad = ~np.isfinite(values[name]) if name in values else np.zeros((1, 1), bool)
        if bad.any():
            task = spec.task_names[int(np.argwhere(bad)[0][-1])]
            raise FloatingPointError(
                f"{name} of task {task} is not finite at environment step {step}; "
                "the last checkpoint is of before"
            )


def _accumulate(window: dict[str, Any], values: Metrics) -> dict[str, Any]:
    """Sums since the last log row; JSON values, so that a checkpoint can hold them."""
    if not values:
        return window
    sums = {k: np.asarray(v, np.float64).sum(0) for k, v in values.items()}
    sums["updates"] = np.asarray(float(len(next(iter(values.values())))))
    return {k: (np.asarray(window.get(k, 0.0)) + v).tolist() for k, v in sums.items()}


def _log_row(window: dict[str, Any], spec: EnvSpec, num_seeds: int) -> dict[str, Any]:
    """Means over the window: `task/<name>/...` for what is per task, the rest as it is."""
    window = {k: np.asarray(v) for k, v in window.items()}
    updates, count = window.pop("updates"), window.pop("episode/count")
    row: dict[str, Any] = {}
    with np.errstate(invalid="ignore", divide="ignore"):  # no episode ended: nan, null in the file
        means = {k: v / (count if k.startswith("episode/") else updates) for k, v in window.items()}
    means = {**means, "episode/count": count}
    if not spec.has_success:
        del means["episode/success"]
    for name, value in means.items():
        if value.ndim == (2 if num_seeds > 1 else 1):  # else one number for all tasks
            for k, task in enumerate(spec.task_names):
                row[f"task/{task}/{name}"] = value[..., k]
        else:
            row[name] = value
    return row


def _scorers(config: RunConfig, probe: Probe) -> dict[str, Callable[..., evaluate.Score]]:
    suite, agent = probe
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


def _evaluate(
    config: RunConfig, probe: Probe, scorers: dict[str, Any], state: ArrayTree, step: int
) -> dict[str, Any]:
    """Scores of every policy of the agent, `eval/<policy>/<task>/...`."""

    def key_at(key):
        return jax.random.fold_in(engines.stream(key, "eval"), step)

    keys = engines.over_seeds(config, key_at)(engines.root_key(config))
    row = {}
    for name, fn in scorers.items():
        score = jax.device_get(fn(probe.agent.policy(state), keys))
        for key, value in evaluate.summary(probe.suite.spec, score).items():
            row[f"eval/{name}/{key}"] = value
    return row
