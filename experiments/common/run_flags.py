"""The flags of a run, with one meaning in every binary, and the records that they make."""

import dataclasses
import pathlib
import re
import sys
from typing import Any

import absl.logging
import jax
from absl import flags

from mtrl_jax import processes
from mtrl_jax.engines import RunConfig
from mtrl_jax.envs import suites
from mtrl_jax.types import EnvSpec
from mtrl_jax.writers import WRITERS

from . import binary, given, proportion

# Seconds after which the processes of a run notice that one of them is silent, and end; one that
# ends is noticed at once.
HEARTBEAT = 30
_NO_NAME = r"[^\w.=+-]"  # what a directory should not have in its name

_DEFAULT: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(RunConfig)}

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
_SUITE = flags.DEFINE_string(
    "suite",
    suites.DEFAULT_SUITE,
    "Tasks; see --list_suites. Of your own: module:function, with :name=value behind it for each "
    "of its arguments.",
)
_LIST_SUITES = flags.DEFINE_bool("list_suites", False, "Print the suites and exit.")
_PERMUTE_ACTIONS = flags.DEFINE_integer(
    "permute_actions",
    None,
    "Seed of a permutation of the actions for each task: a control in "
    "which one shared policy must fail. (default: the suite's own actions)",
    0,
)
_PAD = flags.DEFINE_bool(
    "pad",
    False,
    "Make one suite of tasks whose observations or actions differ in shape: vectors are padded "
    "with zeros, actions masked. Without it such tasks are refused.",
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
    "eval_every",
    None,
    f"Environment steps between evaluations. (default: the suite's, or {_DEFAULT['eval_every']:,})",
    1,
)
_CHECKPOINT_EVERY = flags.DEFINE_integer(
    "checkpoint_every", _DEFAULT["checkpoint_every"], "Environment steps between checkpoints.", 1
)
_KEEP = flags.DEFINE_integer(
    "keep", _DEFAULT["keep"], "Checkpoints that stay, the newest; --step of evaluate scores any.", 1
)
_KEEP_BEST = flags.DEFINE_string(
    "keep_best",
    "",
    "Keep the checkpoint of the best evaluation too, by eval/task_policy/return, "
    "eval/distilled_policy/success or the like, the mean over tasks; --step=best of evaluate "
    "scores it. (default: only the newest)",
)
_WRITERS = flags.DEFINE_list(
    "writers",
    list(_DEFAULT["writers"]),
    f"Where metrics go beside metrics.jsonl: {', '.join(WRITERS)}, or nothing (--writers=). "
    "Each needs the extra of its name: pip install 'mtrl_jax[wandb]'.",
)
_EVAL_EPISODES = flags.DEFINE_integer(
    "eval_episodes",
    None,
    "Episodes of every task in the evaluation at the end. (default: the suite's, or as many as "
    "take no longer than the training)",
    1,
)
_EARLY_EPISODES = flags.DEFINE_integer(
    "early_episodes",
    None,
    "The same of evaluations before the end. (default: as many as at the end, or as take no longer "
    "than the training between two of them)",
    1,
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
        jax.distributed.initialize(
            _COORDINATOR.value,
            _NUM_PROCESSES.value,
            _PROCESS_ID.value,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    if _LIST_SUITES.value:
        for name, line in suites.list_suites().items():
            print(f"{name:24} {line}")
        sys.exit(0)


def allow(*used: str) -> None:
    """For a binary that uses few of these flags: the others must not look obeyed.

    Raises:
      ValueError: if one was given.
    """
    own = flags.FLAGS.flags_by_module_dict()[__name__]
    binary.refuse(*(flag.name for flag in own if flag.name not in used))


def suite_settings() -> dict[str, Any]:
    """The flags that say which suite, as config.json holds them."""
    return {"suite": _SUITE.value, "permute_actions": _PERMUTE_ACTIONS.value, **pad()}


def pad() -> dict[str, bool]:
    """What config.json holds of --pad: nothing where it is left alone, as in runs that lack it."""
    return {"pad": True} if _PAD.value else {}


def run_config(defaults: dict[str, Any], spec: EnvSpec) -> RunConfig:
    """A `RunConfig` of the flags, its evaluations in proportion to its training.

    Args:
      defaults: the suite's, for flags left alone.
      spec: of the suite.
    """
    total = _TOTAL.value or defaults["total_env_steps"]
    run = RunConfig(
        total_env_steps=total,
        num_envs_per_task=defaults["num_envs_per_task"]
        if _NUM_ENVS.value is None
        else _NUM_ENVS.value,
        seed=_SEED.value,
        num_seeds=_NUM_SEEDS.value,
        num_devices=_NUM_DEVICES.value,
        log_every=_LOG_EVERY.value or part_of(total, 50),
        eval_every=_EVAL_EVERY.value or defaults.get("eval_every", _DEFAULT["eval_every"]),
        checkpoint_every=_CHECKPOINT_EVERY.value,
        keep=_KEEP.value,
        keep_best=_KEEP_BEST.value,
        eval_episodes=_wanted_episodes(defaults),
        early_episodes=_EARLY_EPISODES.value or 0,
        writers=tuple(given.names(_WRITERS, WRITERS)) if _WRITERS.value else (),
        stagger=defaults.get("stagger", False) if _STAGGER.value is None else _STAGGER.value,
    )
    return proportion.in_proportion(spec, run, stated=_EVAL_EPISODES.value is not None)


def _wanted_episodes(defaults: dict[str, Any]) -> int:
    return _EVAL_EPISODES.value or defaults.get("eval_episodes", _DEFAULT["eval_episodes"])


def explain(run: RunConfig, defaults: dict[str, Any]) -> None:
    """Says where `run_config` made evaluations shorter; for when nothing is refused any more."""
    text = proportion.note(run, _wanted_episodes(defaults))
    if text and processes.is_chief():
        print(text, flush=True)


def part_of(total: int, parts: int) -> int:
    """One of so many equal parts of a run, which is `total` long if no flag says otherwise."""
    return max((_TOTAL.value or total) // parts, 1)


def workdir(binary: str, name: str) -> pathlib.Path:
    """The run's directory, from the flag or from what the run is."""
    default = f"runs/{binary}/{re.sub(_NO_NAME, '-', name)}"
    return pathlib.Path(_WORKDIR.value or default)


def seed() -> int:
    """The value of --seed."""
    return _SEED.value


def overrides() -> list[str]:
    """The value of --config_overrides."""
    return _OVERRIDES.value
