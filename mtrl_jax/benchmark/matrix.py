"""Runs the cells of a matrix in several processes, and can be stopped and started at any point.

Finished cells are in the table and never run again; one that was killed goes on from its own last
checkpoint. Every worker has its part of the cores, so that two of them keep two cores busy, which
one program does not. What runs when is decided in `schedule`; here are the processes. This one
touches no device.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mtrl_jax.benchmark import schedule, worker
from mtrl_jax.benchmark.cells import Cell
from mtrl_jax.benchmark.results import Table

__all__ = ["Outcome", "Progress", "cell_lock", "run"]


class Outcome(NamedTuple):
    """What `run` leaves: the sentences of cells that cannot run, and whether it was interrupted.

    `busy` is the processor time of all workers over the time that all cores had.
    """

    failed: dict[str, str]
    interrupted: bool
    seconds: float
    busy: float


class Progress(NamedTuple):
    """What a live table shows.

    Attributes:
      done, left: cells.
      running: cell to the part of it that is done, in [0, 1].
      failed: names.
      seconds: since this process began.
      remaining: seconds to go, None while nothing is known.
    """

    done: list[Cell]
    running: dict[Cell, float]
    left: list[Cell]
    failed: list[str]
    seconds: float
    remaining: float | None


@contextlib.contextmanager
def cell_lock(folder: pathlib.Path, name: str) -> Iterator[None]:
    """For a worker: waits for one of before that may still be saving the same cell."""
    with (folder / "logs" / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Worker:
    """A worker's process, and the whole lines that it writes."""

    def __init__(self, args: list[str], cores: list[int], log: pathlib.Path) -> None:
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                worker.command(args, cores),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._input, self.output = self.process.stdin, self.process.stdout
        os.set_blocking(self.output.fileno(), False)
        self._buffer = b""

    def start(self, cell: Cell) -> None:
        try:
            self._input.write(json.dumps({"cell": cell.name}).encode() + b"\n")
            self._input.flush()
        except BrokenPipeError:
            pass  # it is dead, which its output will say

    def messages(self) -> tuple[list[dict[str, Any]], bool]:
        """What has come, and whether the process is gone."""
        ended = False
        while (piece := self.output.read(1 << 16)) is not None:
            if not piece:
                ended = True
                break
            self._buffer += piece
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line) for line in lines], ended

    def end(self) -> int:
        """No more cells; waits, and returns the process's code."""
        self._input.close()
        code = self.process.wait()
        self.output.close()
        return code


class _Workers:
    """The workers that are open, by number."""

    def __init__(self, args: list[str], cores: list[list[int]], logs: pathlib.Path) -> None:
        self._args, self._cores, self._logs = args, cores, logs
        self._open: dict[int, _Worker] = {}
        self._selector = selectors.DefaultSelector()

    def __len__(self) -> int:
        return len(self._open)

    def numbers(self) -> list[int]:
        return list(self._open)

    def log(self, n: int) -> pathlib.Path:
        return self._logs / f"worker{n}.log"

    def open(self, n: int) -> None:
        self._open[n] = _Worker(self._args, self._cores[n], self.log(n))
        self._selector.register(self._open[n].output, selectors.EVENT_READ, n)

    def start(self, n: int, cell: Cell) -> None:
        self._open[n].start(cell)

    def close(self, n: int) -> int:
        """Waits for the end of worker n; the code of its process."""
        self._selector.unregister(self._open[n].output)
        return self._open.pop(n).end()

    def terminate(self) -> None:
        """Asks all of them to save and end."""
        for one in self._open.values():
            one.process.terminate()

    def wait(self, seconds: float) -> Iterator[tuple[int, list[dict[str, Any]], bool]]:
        """Number, messages and whether it is gone, of each worker that wrote or ended."""
        for key, _ in self._selector.select(seconds):
            yield (key.data, *self._open[key.data].messages())

    def kill(self) -> None:
        for one in self._open.values():
            one.process.kill()
            one.end()
        self._selector.close()


def run(
    cells: Sequence[Cell],
    table: Table,
    folder: pathlib.Path,
    args: list[str],
    num_workers: int = 0,
    show: Callable[[Progress], None] = lambda progress: None,
    on_finished: Callable[[Cell], None] = lambda cell: None,
) -> Outcome:
    """Runs what is not in the table.

    Args:
      cells: all of them, in the order in which they should start.
      table: open.
      folder: of the matrix; logs of the workers go there.
      args: of `python`, to start a worker, which calls `worker.serve`.
      num_workers: processes; 0 for one a core.
      show: called about twice a second.
      on_finished: called when a cell's rows are on the disk.

    A first Ctrl-C or SIGTERM lets the running cells save and ends; cells whose agent is at fault
    are named in the outcome, and the others run.
    """
    cores = _own_cores()
    count = num_workers or len(cores)
    cores_of = [cores[n::count] or [cores[n % len(cores)]] for n in range(count)]
    began, used = time.monotonic(), _child_seconds()
    (folder / "logs").mkdir(exist_ok=True)
    state = schedule.new(
        queue=[cell for cell in cells if not table.finished(cell)],
        done=[cell for cell in cells if table.finished(cell)],
    )
    workers = _Workers(args, cores_of, folder / "logs")
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(_interrupts())
        stack.callback(workers.kill)
        for n in range(min(count, len(state.queue))):
            workers.open(n)
        while workers:
            if asked and not state.stopping:
                state = schedule.stop(state)
                workers.terminate()
            state = _hand_out(state, workers)
            for n, messages, ended in workers.wait(0.5):
                for message in messages:
                    state = _take(state, n, message, table, on_finished)
                if ended:
                    state = schedule.lose(state, n, workers.close(n), workers.log(n))
                    if state.queue and not state.stopping:
                        workers.open(n)
            show(_progress(state, began, max(len(workers), 1)))
    seconds = time.monotonic() - began
    busy = (_child_seconds() - used) / max(seconds * len(cores), 1e-9)
    return Outcome(state.failed, bool(asked), seconds, busy)


def _hand_out(state: schedule.State, workers: _Workers) -> schedule.State:
    """A cell for each worker that has none; a worker that will never get one ends."""
    for n in workers.numbers():
        if n in state.running or state.stopping:
            continue
        state = schedule.assign(state, n, time.monotonic())
        if n in state.running:
            workers.start(n, state.running[n].cell)
        elif not state.queue:
            workers.close(n)
    return state


def _take(
    state: schedule.State,
    n: int,
    message: dict[str, Any],
    table: Table,
    on_finished: Callable[[Cell], None],
) -> schedule.State:
    """What a message (see `worker`) of worker n leads to."""
    if "step" in message:
        return schedule.progress(state, n, message["step"] / max(message["total"], 1))
    if "rows" in message:
        table.add(message["rows"])
        on_finished(state.running[n].cell)
        return schedule.finish(state, n, time.monotonic())
    if "failed" in message:
        return schedule.fail(state, n, message["failed"])
    return schedule.give_back(state, n)


def _progress(state: schedule.State, began: float, num_workers: int) -> Progress:
    now = time.monotonic()
    return Progress(
        done=list(state.done),
        running={running.cell: running.part for running in state.running.values()},
        left=list(state.queue),
        failed=list(state.failed),
        seconds=now - began,
        remaining=schedule.remaining(state, now, num_workers),
    )


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The numbers of the Ctrl-Cs and SIGTERMs that have come, none of which ends this process."""
    asked: list[int] = []
    previous = {
        n: signal.signal(n, lambda number, frame: asked.append(number))
        for n in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _own_cores() -> list[int]:
    """The cores that this process may use: all, where the system does not say which."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
