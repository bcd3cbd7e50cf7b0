"""What every binary shares: flags with one meaning, errors in one sentence, a progress bar."""

import dataclasses
import pathlib
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import absl.logging
import jax
import numpy as np
import tqdm
from absl import app, flags

from mtrl_jax import processes
from mtrl_jax.engines import RunConfig
from mtrl_jax.envs import suites

_DEFAULT: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(RunConfig)}
INTERRUPTED = 130  # exit code after Ctrl-C, by convention

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run; the same command on the same one continues it.\n"
    "(default when training: runs/<binary>/<suite>-<algorithm>-seed<seed>)",
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Root of all randomness; with several seeds the first of them.", 0
)
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 1, "Whole runs in one program (functional suites only); memory grows with it.", 1
)
_SUITE = flags.DEFINE_string("suite", suites.DEFAULT_SUITE, "Tasks; see --list_suites.")
_LIST_SUITES = flags.DEFINE_bool("list_suites", False, "Print the suites and exit.")
_PERMUTE_ACTIONS = flags.DEFINE_integer(
    "permute_actions",
    None,
    "Seed of a permutation of the actions for each task: a control in "
    "which one shared policy must fail. (default: the suite's own actions)",
    0,
)
_TOTAL = flags.DEFINE_integer(
    "total_env_steps",
    None,
    "Environment steps in all, summed over tasks and environments; "
    "rounded up to whole dispatches. (default: the suite's)",
    1,
)
_NUM_ENVS = flags.DEFINE_integer(
    "num_envs_per_task", None, "Environments of each task, over all devices. (default: the suite's)"
)
_NUM_DEVICES = flags.DEFINE_integer(
    "num_devices", 1, "Local devices to use, 0 for all; JAX_NUM_CPU_DEVICES makes several of a CPU."
)
_LOG_EVERY = flags.DEFINE_integer("log_every", None, "Environment steps between log rows.", 1)
_EVAL_EVERY = flags.DEFINE_integer(
    "eval_every", _DEFAULT["eval_every"], "Environment steps between evaluations.", 1
)
_CHECKPOINT_EVERY = flags.DEFINE_integer(
    "checkpoint_every", _DEFAULT["checkpoint_every"], "Environment steps between checkpoints.", 1
)
_EVAL_EPISODES = flags.DEFINE_integer(
    "eval_episodes", None, "Episodes of every task in an evaluation. (default: the suite's)", 1
)
_STAGGER = flags.DEFINE_bool(
    "stagger",
    None,
    "Cut the first episodes of a host suite's environments off at different "
    "lengths, so that they are not all at the same point. (default: the preset's, or no)",
)
_OVERRIDES = flags.DEFINE_list(
    "config_overrides",
    [],
    "Fields of the algorithm's Config as name=value, separated by commas; "
    "tuples as 64x64. Unknown names list the known ones.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, for runs of several processes."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 1, "Processes of the run.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", 0, "Which of them this one is.", 0)


def start() -> None:
    """Joins the other processes, if any. Call before anything touches a device."""
    absl.logging.set_verbosity(absl.logging.WARNING)
    if not 0 <= _PROCESS_ID.value < _NUM_PROCESSES.value:
        raise ValueError(
            f"--process_id must lie in [0, {_NUM_PROCESSES.value}), the number of processes; got "
            f"{_PROCESS_ID.value}"
        )
    if _NUM_PROCESSES.value > 1:
        if _COORDINATOR.value is None:
            raise ValueError("--coordinator_address must be given for several processes")
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if _LIST_SUITES.value:
        for name, line in suites.list_suites().items():
            print(f"{name:24} {line}")
        sys.exit(0)


def make_suite(settings: dict[str, Any]) -> Any:
    """The suite that a run's settings name."""
    return suites.make(settings["suite"], settings["permute_actions"])


def suite_settings() -> dict[str, Any]:
    """The flags that say which suite, as config.json holds them."""
    return {"suite": _SUITE.value, "permute_actions": _PERMUTE_ACTIONS.value}


def run_config(defaults: dict[str, Any]) -> RunConfig:
    """A `RunConfig` of the flags; `defaults` are the suite's, for flags left alone."""
    total = _TOTAL.value or defaults["total_env_steps"]
    return RunConfig(
        total_env_steps=total,
        num_envs_per_task=defaults["num_envs_per_task"]
        if _NUM_ENVS.value is None
        else _NUM_ENVS.value,
        seed=_SEED.value,
        num_seeds=_NUM_SEEDS.value,
        num_devices=_NUM_DEVICES.value,
        log_every=_LOG_EVERY.value or max(total // 50, 1),
        eval_every=_EVAL_EVERY.value,
        checkpoint_every=_CHECKPOINT_EVERY.value,
        eval_episodes=_EVAL_EPISODES.value
        or defaults.get("eval_episodes", _DEFAULT["eval_episodes"]),
        stagger=defaults.get("stagger", False) if _STAGGER.value is None else _STAGGER.value,
    )


def workdir(binary: str, name: str) -> pathlib.Path:
    """The run's directory, from the flag or from what the run is."""
    default = f"runs/{binary}/{name.replace(':', '-').replace(',', '-').replace('/', '-')}"
    return pathlib.Path(_WORKDIR.value or default)


def existing_workdir() -> pathlib.Path:
    """The run that --workdir names, for binaries that read one.

    Raises:
      ValueError: if the flag is missing or there is no such directory.
    """
    if _WORKDIR.value is None:
        raise ValueError("--workdir must name the directory of a run")
    if not pathlib.Path(_WORKDIR.value).is_dir():
        raise ValueError(f"--workdir: {_WORKDIR.value} is not a directory")
    return pathlib.Path(_WORKDIR.value)


def seed() -> int:
    """The value of --seed."""
    return _SEED.value


def refuse_others(*used: str) -> None:
    """For a binary that uses few of the flags that it imports: the others must not look obeyed.

    Raises:
      ValueError: if one was given.
    """
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("experiments."):
            refuse(*(flag.name for flag in defined if flag.name not in used))


def refuse(*names: str) -> None:
    """For a binary that uses most of the flags that it imports, but not these.

    Raises:
      ValueError: if one was given.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} means nothing here")


def override(config: Any, pairs: Sequence[str]) -> Any:
    """Applies `name=value` pairs to a frozen dataclass, converting by the type of the field.

    Raises:
      ValueError: naming the field, what came and what is known.
    """
    hints = typing.get_type_hints(type(config))
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in hints:
            raise ValueError(
                f"--config_overrides: {pair!r} is not name=value of one of {', '.join(hints)}"
            )
        try:
            value = _parse(hints[name], text)
        except ValueError as error:
            raise ValueError(
                f"--config_overrides: {name} takes {hints[name]}; got {text!r}"
            ) from error
        config = dataclasses.replace(config, **{name: value})
    return config


def _parse(kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "1", "false", "0"):
            raise ValueError(text)
        return text.lower() in ("true", "1")
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(inner(part) for part in text.split("x") if part)
    return kind(text.replace("_", "")) if kind in (int, float) else kind(text)


def overrides() -> list[str]:
    """The value of --config_overrides."""
    return _OVERRIDES.value


class Progress:
    """A bar with steps, steps a second, time left and the latest return of every task.

    It appears with the first call, when a run has passed its checks; a file or pipe gets a line
    every ten seconds instead.
    """

    def __init__(self, title: str, task_names: Sequence[str]):
        self._title = title
        self._names = task_names
        self._bar: Any = None

    def __call__(self, step: int, total: int, row: dict[str, Any]) -> None:
        if not processes.is_chief():
            return
        if self._bar is None:
            tty = sys.stderr.isatty()
            where = {"dynamic_ncols": True} if tty else {"file": _Lines(), "mininterval": 10.0}
            self._bar = tqdm.tqdm(
                desc=self._title,
                total=total,
                initial=step,
                unit="step",
                unit_scale=True,
                smoothing=0.1,
                **where,
            )
        if row:
            self._show(row)
        self._bar.update(step - self._bar.n)

    def _show(self, row: dict[str, Any]) -> None:
        returns = (row.get(f"task/{name}/episode/return", np.nan) for name in self._names)
        shown = " ".join(f"{np.mean(value):.2f}" for value in returns)
        self._bar.set_postfix_str(f"returns {shown}", refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Lines:
    """Standard error for a progress bar where no cursor can go back: whole lines, no empty ones."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def stop(step: int, folder: pathlib.Path) -> NoReturn:
    """Ends a run that was asked to stop, by Ctrl-C or SIGTERM, and has saved."""
    if processes.is_chief():
        print(f"Stopped at step {step:,}; saved. The same command continues: {folder}")
    sys.exit(INTERRUPTED)


def main(fn: Callable[[], None]) -> None:
    """Parses flags and runs `fn`. Bad input ends in one sentence and exit code 2."""

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
            if len(rest) > 1:
                raise flags.Error(f"unexpected argument {rest[1]!r}; flags start with --")
            return rest
        except flags.Error as error:
            _fail(str(error), 2)
            raise

    def guarded(argv: Sequence[str]) -> None:
        try:
            fn()
        except ValueError as error:
            _fail(str(error), 2)
        except (FloatingPointError, ImportError) as error:
            _fail(str(error), 1)
        except KeyboardInterrupt:
            print("Stopped; the same command continues from the last checkpoint.", file=sys.stderr)
            sys.exit(INTERRUPTED)

    app.run(guarded, flags_parser=parse)


def _fail(message: str, code: int) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
