"""The directory of one run: created once, recognised again, never taken over from somebody else.

lock             held by the process that writes here, with its number inside
config.json      what the run is; the same command finds it and continues
metrics.jsonl    one JSON object a line
checkpoints/     Orbax
tensorboard/     event files
plots/           *.png
"""

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

# What a continued run may change: how long it is, how often it reports, and what it runs on. How
# far a learning rate had been planned is not changed but kept, as it was at the first start.
MAY_CHANGE = (
    "total_env_steps",
    "log_every",
    "eval_every",
    "eval_episodes",
    "early_episodes",
    "checkpoint_every",
    "keep",
    "keep_best",
    "writers",
    "num_devices",
    "schedule_updates",
)
_FIRST = ("binary", "suite")  # of several differences


def may_change(*, environments: bool) -> tuple[str, ...]:
    """Settings that a continued run may change; `environments`: their number too, which it may
    where no checkpoint holds their state."""
    return (*MAY_CHANGE, "num_envs_per_task") if environments else MAY_CHANGE


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """One writer in a directory (made if need be) at a time.

    The system lets go of the lock when the process ends, however it does.

    Raises:
      ValueError: if another process writes there, with its number; or it cannot be written.
    """
    path = workdir / "lock"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise ValueError(f"workdir: {workdir} cannot be written: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ValueError(
                f"workdir: process {holder} is writing to {workdir}; wait until it ends or choose "
                "another workdir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check(
    workdir: pathlib.Path, config: dict[str, Any], free: tuple[str, ...] = MAY_CHANGE
) -> bool:
    """Whether `workdir` holds this very run already; nothing is written.

    Args:
      workdir: where the run is to live.
      config: flat, JSON values only.
      free: keys that may differ.

    Raises:
      ValueError: if it cannot be written, holds something else, or holds a run of other settings.
    """
    try:
        return _check(workdir, config, free)
    except OSError as error:
        raise ValueError(f"workdir: {workdir} cannot be used: {error}") from error


def _check(workdir: pathlib.Path, config: dict[str, Any], free: tuple[str, ...]) -> bool:
    existing = workdir
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"workdir: {existing} is not a directory")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"workdir: {existing} is not writable")
    try:
        tempfile.TemporaryFile(dir=existing).close()  # a superuser may write where nobody can
    except OSError as error:
        raise ValueError(f"workdir: {workdir} cannot be written: {error.strerror}") from error
    if not workdir.exists():
        return False
    names = {p.name for p in workdir.iterdir()} - {"config.json.tmp", "lock"}
    if "config.json" not in names:
        if names:
            raise ValueError(
                f"workdir: {workdir} holds other files and no config.json; choose an empty one"
            )
        return False
    saved = read_config(workdir)
    other = [
        key
        for key in sorted(saved.keys() | config.keys(), key=lambda k: (k not in _FIRST, k))
        if key not in free and saved.get(key) != config.get(key)
    ]
    if other:
        each = "; ".join(
            f"{key}={saved.get(key)!r}, this one has {config.get(key)!r}" for key in other
        )
        raise ValueError(
            f"workdir: {workdir} holds a run with {each}; choose another workdir or the same "
            "settings"
        )
    return True


def create(workdir: pathlib.Path, config: dict[str, Any]) -> None:
    """Makes the directory and writes config.json in one atomic step.

    Raises:
      ValueError: if it cannot be written, which `check` does not see everywhere.
    """
    temporary = workdir / "config.json.tmp"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(config, indent=1) + "\n")
        os.replace(temporary, workdir / "config.json")
    except OSError as error:
        raise ValueError(f"workdir: {workdir} cannot be written: {error}") from error


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The settings of a run.

    Raises:
      ValueError: if there is no readable config.json.
    """
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"workdir: {path} is not a readable run configuration: {error}") from error
