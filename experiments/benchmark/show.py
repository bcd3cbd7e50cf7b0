"""What somebody who waits for a matrix sees: what is done, running and left, and for how long."""

import pathlib
import sys
import time
from collections import Counter

from mtrl_jax.benchmark.cells import KINDS, Cell
from mtrl_jax.benchmark.matrix import Outcome, Progress

from ..common import binary

LINE_EVERY = 10.0  # seconds between two lines where no cursor can go back


class Board:
    """A table that is drawn over itself; a file or pipe gets a line every ten seconds instead."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._height = 0
        self._last = float("-inf")

    def __call__(self, progress: Progress) -> None:
        over = not progress.left and not progress.running
        if not self._tty:
            if over or time.monotonic() - self._last >= LINE_EVERY:
                self._last = time.monotonic()
                print(summary(progress), file=sys.stderr, flush=True)
            return
        lines = [*table(progress), summary(progress)]
        up = f"\x1b[{self._height}A" if self._height else ""
        sys.stderr.write(up + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[J")
        sys.stderr.flush()
        self._height = len(lines)

    def close(self) -> None:
        pass


def table(progress: Progress) -> list[str]:
    """A line an agent with done / all cells of each kind, and one for each cell that runs."""
    every = [*progress.done, *progress.running, *progress.left]
    done = Counter((cell.agent, cell.kind) for cell in progress.done)
    total = Counter((cell.agent, cell.kind) for cell in every)
    kinds = [kind for kind in KINDS if any(k == kind for _, k in total)]
    lines = [f"{'':20}" + "".join(f"{kind:>14}" for kind in kinds)]
    for agent in dict.fromkeys(cell.agent for cell in every):
        cells = (f"{done[agent, k]}/{total[agent, k]}" if total[agent, k] else "" for k in kinds)
        lines.append(f"{agent[-20:]:20}" + "".join(f"{text:>14}" for text in cells))
    lines += [
        f"  running {cell.name} {100 * part:.0f} %" for cell, part in progress.running.items()
    ]
    return lines


def summary(progress: Progress) -> str:
    """All of it in one line."""
    failed = f", {len(progress.failed)} failed" if progress.failed else ""
    to_go = progress.remaining
    left = (
        ""
        if to_go is None or not (progress.left or progress.running)
        else (f", about {clock(to_go)} to go")
    )
    running = ", ".join(f"{c.name} {100 * p:.0f} %" for c, p in progress.running.items())
    return (
        f"{len(progress.done)} done, {len(progress.running)} running, {len(progress.left)} left"
        f"{failed}; {clock(progress.seconds)} so far{left}" + (f" ({running})" if running else "")
    )


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def end(outcome: Outcome, folder: pathlib.Path, cells: list[Cell]) -> None:
    """Says how it ended; the exit code is 1 if a cell failed, 130 if it was asked to stop."""
    for sentence in dict.fromkeys(outcome.failed.values()):
        print("error: " + " ".join(sentence.split()), file=sys.stderr)
    if outcome.interrupted:
        print(f"Stopped; saved. The same command continues: {folder}")
        sys.exit(binary.INTERRUPTED)
    if outcome.failed:
        print(f"{len(outcome.failed)} of {len(cells)} cells failed; the others are in {folder}")
        sys.exit(1)
    print(
        f"All {len(cells)} cells are in {folder}/results.jsonl ({clock(outcome.seconds)} just now, "
        f"cores busy {100 * outcome.busy:.0f} % of the time)."
    )
