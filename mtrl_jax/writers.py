"""Where numbers go while a run lasts: one JSON object a line, TensorBoard, Weights & Biases.

The lines are always written and are what everything here reads again. The others are names in
`RunConfig.writers`, each with an extra of the package that brings what it needs; they also get
means over tasks, the settings, and figures.
"""

import contextlib
import importlib.util
import json
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

__all__ = [
    "WRITERS",
    "JsonlWriter",
    "Logger",
    "NullWriter",
    "TensorBoardWriter",
    "WandbWriter",
    "Writer",
    "Writers",
    "check",
    "check_loggers",
    "means_over_tasks",
    "open_extra",
]


class Logger(Protocol):
    """Takes flat dictionaries of numbers, or of arrays `[S]` where a run holds S seeds: log rows
    and evaluations. Steps are environment steps. What `train.run(writers=)` asks of a user's."""

    def write(self, step: int, metrics: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Writer(Logger, Protocol):
    """A logger that takes PNG files too."""

    def picture(self, step: int, name: str, path: pathlib.Path) -> None: ...


class NullWriter:
    """Writes nothing."""

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        pass

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        pass

    def close(self) -> None:
        pass


class Writers:
    """Several loggers as one."""

    def __init__(self, loggers: Sequence[Logger]):
        self._loggers = loggers

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        for logger in self._loggers:
            logger.write(step, metrics)

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        """To those that take pictures."""
        for logger in self._loggers:
            if hasattr(logger, "picture"):
                logger.picture(step, name, path)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()


class JsonlWriter:
    """Appends `{"step": ..., key: number or [S numbers], ...}` lines, flushed one by one; pictures
    are files already."""

    def __init__(self, path: pathlib.Path):
        self._path, self._file = path, path.open("ab", buffering=0)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        row = {"step": step, **{k: np.asarray(v).tolist() for k, v in metrics.items()}}
        # JSON has no NaN: an undefined mean (no episode ended) is null.
        line = memoryview((json.dumps(_nulls(row)) + "\n").encode())
        with _writing(self._path):
            while line:
                line = line[self._file.write(line) :]

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        pass

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """Event files, of the mean over seeds, with means over tasks, the settings as hyperparameters,
    and pictures.

    Written here and not by the thread of tensorboardX's own writer: that one dies of a full disk,
    and whoever goes on writing then waits for ever.

    Args:
      folder: where they go.
      purge_step: earlier events from here on become void.
      task_names: of the suite.
      settings: of the run, flat; {} to write none.
    """

    FLUSH_EVERY = 10.0  # seconds

    def __init__(
        self,
        folder: pathlib.Path,
        purge_step: int = 0,
        task_names: Sequence[str] = (),
        settings: dict[str, Any] | None = None,
    ):
        # Only runs that write need it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.summary import hparams

        self._folder, self._tasks = folder, task_names
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
            self._event(step=purge_step, session_log=SessionLog(status=SessionLog.START))
            simple = {
                k: v if isinstance(v, bool | int | float) else str(v)
                for k, v in (settings or {}).items()
            }
            for summary in hparams(hparam_dict=simple, metric_dict={}) if simple else ():
                self._event(summary=summary)
            self._flush()

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        from tensorboardX.summary import scalar

        with _writing(self._folder):
            for name, value in _finite_means(metrics, self._tasks).items():
                self._event(step=step, summary=scalar(name, value))
            if time.monotonic() - self._flushed > self.FLUSH_EVERY:
                self._flush()

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        from PIL import Image
        from tensorboardX.summary import image

        with _writing(self._folder):
            pixels = np.asarray(Image.open(path).convert("RGB"))
            self._event(step=step, summary=image(name, pixels, dataformats="HWC"))

    def _event(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), **fields))

    def _flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        with _writing(self._folder):
            self._writer.close()


class WandbWriter:
    """A run of Weights & Biases, of the mean over seeds, with means over tasks, the settings and
    pictures, all over `env_steps`.

    A run that goes on is the same one there (`wandb_id` in the run's directory). Nothing can be
    taken back there, so what a killed process wrote behind its checkpoint stays and comes again.
    Where it goes, and whether at all, is said by wandb's own variables (`WANDB_MODE=offline`).

    Args:
      folder: directory of the run.
      task_names: of the suite.
      settings: of the run, flat.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        task_names: Sequence[str] = (),
        settings: dict[str, Any] | None = None,
    ):
        import wandb

        path = folder / "wandb_id"
        with _writing(path):
            if not path.exists():
                path.write_text(uuid.uuid4().hex)
            name = path.read_text().strip()
        self._wandb, self._tasks = wandb, task_names
        self._run = wandb.init(
            project="mtrl_jax",
            name=folder.name,
            id=name,
            resume="allow",
            dir=str(folder),
            config=settings or {},
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        self._run.log({"env_steps": step, **_finite_means(metrics, self._tasks)})

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        self._run.log({"env_steps": step, name: self._wandb.Image(str(path))})

    def close(self) -> None:
        self._run.finish()


class Kind(NamedTuple):
    """A writer that a run may ask for by name.

    Attributes:
      package: what has to be installed, as it is imported.
      make: `(folder, step, task_names, settings) -> Writer` of a run that goes on from `step`.
    """

    package: str
    make: Callable[[pathlib.Path, int, Sequence[str], dict[str, Any]], Writer]


# The extras of the package have the same names.
WRITERS: dict[str, Kind] = {
    "tensorboard": Kind(
        "tensorboardX",
        lambda folder, step, tasks, settings: TensorBoardWriter(
            folder / "tensorboard", step + 1, tasks, settings
        ),
    ),
    "wandb": Kind(
        "wandb", lambda folder, step, tasks, settings: WandbWriter(folder, tasks, settings)
    ),
}


def check(names: Sequence[str]) -> None:
    """Raises ValueError for a writer that is not known, or whose package is not installed; nothing
    is imported."""
    for name in names:
        if name not in WRITERS:
            raise ValueError(f"writers must be some of {', '.join(WRITERS)}; got {name!r}")
        if importlib.util.find_spec(WRITERS[name].package) is None:
            raise ValueError(
                f"writers: {name!r} needs {WRITERS[name].package}, which is not installed: "
                f"pip install 'mtrl_jax[{name}]', or leave {name!r} out"
            )


def check_loggers(loggers: Sequence[Logger]) -> Sequence[Logger]:
    """Returns a user's loggers if each is one.

    Raises:
      ValueError: naming the one that is not, or if they are no sequence.
    """
    if not isinstance(loggers, list | tuple):
        raise ValueError(f"writers must be a list; got a {type(loggers).__name__}")
    for logger in loggers:
        methods = (getattr(logger, name, None) for name in ("write", "close"))
        if isinstance(logger, type) or not all(map(callable, methods)):
            raise ValueError(
                f"writers must be objects with write(step, metrics) and close(); {logger!r} is none"
            )
    return loggers


def open_extra(
    names: Sequence[str],
    folder: pathlib.Path,
    step: int,
    task_names: Sequence[str],
    settings: dict[str, Any],
) -> list[Writer]:
    """The writers of some names, for a run that goes on from `step`.

    Args:
      names: keys of `WRITERS`.
      folder: directory of the run.
      step: environment steps done; -1 of a new run.
      task_names: of the suite.
      settings: of the run, flat.

    Raises:
      ValueError: as `check`.
    """
    check(names)
    return [WRITERS[name].make(folder, step, task_names, settings) for name in names]


def means_over_tasks(metrics: dict[str, Any], task_names: Sequence[str]) -> dict[str, float]:
    """`mean/<quantity>` of what stands under `task/<name>/<quantity>` for every task, and
    `eval/<policy>/mean/<quantity>` likewise; means over seeds too.

    What is not known of every task has no mean: it would be one over other tasks from row to row.
    """
    found: dict[str, list[float]] = {}
    for key, value in metrics.items():
        for task in task_names:
            before, inside, after = key.partition(f"/{task}/")
            if inside and before == "task":
                found.setdefault(f"mean/{after}", []).append(float(np.mean(value)))
            elif inside and before.startswith("eval/") and before.count("/") == 1:
                found.setdefault(f"{before}/mean/{after}", []).append(float(np.mean(value)))
    return {
        key: float(np.mean(values))
        for key, values in found.items()
        if len(values) == len(task_names) and np.isfinite(values).all()
    }


def _finite_means(metrics: dict[str, Any], task_names: Sequence[str]) -> dict[str, float]:
    """What services get: means over seeds, and of several tasks over them too."""
    shown = {k: v for k, v in metrics.items() if not k.endswith("/longest")}
    means = {k: float(np.mean(v)) for k, v in shown.items()}
    means = {k: v for k, v in means.items() if np.isfinite(v)}
    return means | (means_over_tasks(shown, task_names) if len(task_names) > 1 else {})


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """Errors of the system say what they were about."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _nulls(x: Any) -> Any:
    """JSON values without what JSON has no word for: NaN and infinity are None."""
    if isinstance(x, dict):
        return {k: _nulls(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_nulls(v) for v in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x
