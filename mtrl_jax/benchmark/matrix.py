"""Runs the cells of a matrix in several processes, and can be stopped and started at any point.

Finished cells are in the table and never run again; one that was killed goes on from its own last
checkpoint. Every worker has its share of the cores, so that two of them keep two cores busy, which
one program does not. The scheduler itself touches no device.
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

from mtrl_jax.benchmark import worker
from mtrl_jax.benchmark.cells import Cell
from mtrl_jax.benchmark.results import Table

__all__ = ["Lock", "Outcome", "Progress", "alone", "run"]

TRIES = 3  # of a cell whose process is killed


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


class Lock:
    """One scheduler on a folder at a time; the system lets go of it when the process ends."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Takes the lock.

        Raises:
          ValueError: if another process has it.
        """
        self._file = (folder / "lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ValueError(f"workdir: another process is running cells in {folder}") from None

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def alone(folder: pathlib.Path, name: str) -> Iterator[None]:
    """For a worker: waits for one of before that may still be saving the same cell."""
    with (folder / "logs" / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Worker:
    """A worker's process and the cell it runs."""

    def __init__(self, args: list[str], cores: list[int], log: pathlib.Path) -> None:
        self.cell: Cell | None = None
        self.part = 0.0
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                worker.command(args, cores),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._buffer = b""

    def start(self, cell: Cell) -> None:
        assert self.process.stdin is not None
        self.cell, self.part = cell, 0.0
        try:
            self.process.stdin.write(json.dumps({"cell": cell.name}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead, which its output will say

    def messages(self) -> tuple[list[dict[str, Any]], bool]:
        """Whole lines that have come, and whether the process is gone."""
        assert self.process.stdout is not None
        ended = False
        while True:
            piece = self.process.stdout.read(1 << 16)
            if piece is None:
                break
            if not piece:
                ended = True
                break
            self._buffer += piece
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line) for line in lines], ended

    def end(self) -> None:
        """No more cells; waits."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


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
    several = list(range(os.cpu_count() or 1))  # where the system does not say which are ours
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else several
    count = num_workers or len(cores)
    shares = [cores[n::count] or [cores[n % len(cores)]] for n in range(count)]
    began, used = time.monotonic(), _child_seconds()
    left = [cell for cell in cells if not table.finished(cell)]
    done = [cell for cell in cells if table.finished(cell)]
    names = {cell.name: cell for cell in cells}
    failed: dict[str, str] = {}
    tries: dict[str, int] = {}
    estimate = _Estimate()
    workers: dict[int, _Worker] = {}
    stop: list[int] = []
    (folder / "logs").mkdir(exist_ok=True)

    def open_worker(n: int) -> None:
        workers[n] = _Worker(args, shares[n], folder / "logs" / f"worker{n}.log")
        selector.register(workers[n].process.stdout, selectors.EVENT_READ, n)  # type: ignore[arg-type]

    def close_worker(n: int) -> None:
        selector.unregister(workers[n].process.stdout)  # type: ignore[arg-type]
        workers.pop(n).end()

    def give_up(cell: Cell, sentence: str) -> None:
        failed[cell.name] = sentence
        for other in [c for c in left if c.needs == cell.name]:
            left.remove(other)
            failed[other.name] = f"{other.name} needs {cell.name}, which failed"

    def take(message: dict[str, Any], w: _Worker) -> None:
        cell = names[message["cell"]]
        if "step" in message:
            w.part = message["step"] / max(message["total"], 1)
            return
        w.cell = None
        if "rows" in message:
            table.add(message["rows"])
            done.append(cell)
            on_finished(cell)
        elif "failed" in message:
            give_up(cell, message["failed"])
        else:
            left.insert(0, cell)

    def next_cell() -> Cell | None:
        for cell in left:
            if not cell.needs or cell.needs not in names or table.finished(names[cell.needs]):
                left.remove(cell)
                return cell
        return None

    previous = {
        n: signal.signal(n, lambda number, frame: stop.append(number))
        for n in (signal.SIGINT, signal.SIGTERM)
    }
    selector = selectors.DefaultSelector()
    told = False
    try:
        for n in range(min(count, len(left))):
            open_worker(n)
        while workers:
            if stop and not told:
                told = True
                for w in workers.values():
                    w.process.terminate()
            for n, w in list(workers.items()):
                if w.cell is None and not told:
                    cell = next_cell()
                    if cell is not None:
                        w.start(cell)
                        estimate.begin(cell)
                    elif not left:
                        close_worker(n)
            for key, _ in selector.select(timeout=0.5):
                n = key.data
                w = workers[n]
                messages, ended = w.messages()
                for message in messages:
                    take(message, w)
                if ended:
                    cell, code = w.cell, w.process.wait()
                    close_worker(n)
                    if cell is not None:
                        tries[cell.name] = tries.get(cell.name, 0) + 1
                        killed = code < 0  # by a signal; otherwise it says why in its log
                        if told or (killed and tries[cell.name] < TRIES):
                            left.insert(0, cell)
                        else:
                            give_up(
                                cell,
                                f"{cell.name}: its process ended with {code}; see "
                                f"{folder / 'logs' / f'worker{n}.log'}",
                            )
                    if not told and left:
                        open_worker(n)
            running = {w.cell: w.part for w in workers.values() if w.cell is not None}
            seconds = time.monotonic() - began
            remaining = estimate.remaining(done, running, left, max(len(workers), 1))
            show(Progress(done, running, left, list(failed), seconds, remaining))
    finally:
        for w in workers.values():
            w.process.kill()
            w.end()
        selector.close()
        for number, old in previous.items():
            signal.signal(number, old)
    seconds = time.monotonic() - began
    busy = (_child_seconds() - used) / max(seconds * len(cores), 1e-9)
    return Outcome(failed, bool(stop), seconds, busy)


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class _Estimate:
    """Time to go, from what cells of the same agent took for a step, start-up included."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._took: dict[str, float] = {}

    def begin(self, cell: Cell) -> None:
        self._begun[cell.name] = time.monotonic()

    def remaining(
        self, done: Sequence[Cell], running: dict[Cell, float], left: Sequence[Cell], workers: int
    ) -> float | None:
        now = time.monotonic()
        seconds: dict[str, float] = {}
        work: dict[str, float] = {}
        for cell, part in [*((c, 1.0) for c in done if c.name in self._begun), *running.items()]:
            if part == 1.0:
                self._took.setdefault(cell.name, now - self._begun[cell.name])
            spent = self._took.get(cell.name, now - self._begun[cell.name])
            if part > 0.05 and cell.steps:  # controls train for no step
                seconds[cell.agent] = seconds.get(cell.agent, 0.0) + spent
                work[cell.agent] = work.get(cell.agent, 0.0) + part * cell.steps
        if not work:
            return None
        mean = sum(seconds.values()) / sum(work.values())
        rate = {agent: seconds[agent] / work[agent] for agent in work}
        to_go = [(c, 1.0) for c in left] + [(c, 1.0 - part) for c, part in running.items()]
        return sum(rate.get(c.agent, mean) * part * c.steps for c, part in to_go) / workers
