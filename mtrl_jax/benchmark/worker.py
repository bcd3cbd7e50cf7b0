"""A process that runs cells, one after the other, for the one that schedules them.

Lines of JSON: the scheduler writes `{"cell": name}`, the worker answers with::

    {"cell": name, "step": s, "total": t}      now and then
    {"cell": name, "rows": [...]}              finished
    {"cell": name, "failed": "one sentence"}   cannot be run
    {"cell": name, "stopped": true}            asked to stop, saved

A worker whose scheduler is gone stops by itself. Nothing here is about benchmarks.
"""

import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

__all__ = ["command", "has_accelerator", "serve"]

REPORT_EVERY = 0.5  # seconds between two reports of progress

# Ends the process's choice of cores before anything else is imported.
_ON_CORES = "import os, sys; os.sched_setaffinity(0, {cores}); os.execv(sys.executable, {args})"


def command(args: list[str], cores: list[int]) -> list[str]:
    """`python args...`, restricted to some cores where the system can do that."""
    args = [sys.executable, *args]
    if not hasattr(os, "sched_setaffinity"):
        return args
    return [sys.executable, "-c", _ON_CORES.format(cores=cores, args=args)]


def has_accelerator() -> bool:
    """Whether workers would have to share one; asking JAX would take hold of it."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    devices = ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*")
    return any(any(pathlib.Path("/dev").glob(name)) for name in devices)


def serve(
    run: Callable[[str, Callable[[int, int], None]], list[dict[str, Any]]],
    stopped: type[Exception],
) -> None:
    """Runs the cells that standard input names until it ends.

    Args:
      run: `(name, on_progress) -> rows`. Raises `stopped` when it was asked to stop; ValueError and
        FloatingPointError are a cell that cannot be run.
      stopped: the exception.
    """
    parent = os.getppid()
    # What libraries print must not get between the lines of the protocol.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    last_report = 0.0

    def on_progress(name: str) -> Callable[[int, int], None]:
        def report(step: int, total: int) -> None:
            nonlocal last_report
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
            if time.monotonic() - last_report > REPORT_EVERY:
                _send(out, cell=name, step=step, total=total)
                last_report = time.monotonic()

        return report

    for line in iter(sys.stdin.readline, ""):
        name = json.loads(line)["cell"]
        try:
            _send(out, cell=name, rows=run(name, on_progress(name)))
        except stopped:
            _send(out, cell=name, stopped=True)
            return
        except (ValueError, FloatingPointError, ImportError) as error:
            _send(out, cell=name, failed=" ".join(str(error).split()))


def _send(out: TextIO, **message: Any) -> None:
    try:
        out.write(json.dumps(message) + "\n")
        out.flush()
    except BrokenPipeError:  # the scheduler is gone
        sys.exit(1)
