"""The distral binary as a subprocess, at its smallest; runs of several tests share its programs."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mtrl_jax import metrics

ROOT = pathlib.Path(__file__).parents[2]
PER_DISPATCH = 10 * 2 * 8 * 4  # updates, T, K, E
TINY = (  # one column for all tasks: the algorithm that compiles soonest
    "--suite=maze8",
    "--algorithm=a3c_multitask",
    "--noalone",
    "--num_envs_per_task=4",
    "--num_devices=0",
    "--eval_every=1000000",
    "--eval_episodes=1",
    "--config_overrides=hidden=4,unroll_length=2",
)


def environment(num_devices: int) -> dict[str, str]:
    """For a process with so many virtual CPU devices and quick compiles."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def start(
    args: Sequence[str], num_devices: int = 4, module: str = "experiments.distral"
) -> subprocess.Popen[str]:
    """Starts `python -m <module> <args>`; the caller waits for it or kills it."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *args],
        env=environment(num_devices),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# One process that has imported what is slow to import, and a fork of it for each command.
_FORKS = """
import json, os, runpy, sys
import flax.linen, matplotlib.pyplot, optax, tqdm
import mtrl_jax.benchmark.disentanglement, mtrl_jax.benchmark.hosted, mtrl_jax.networks.morph
import mtrl_jax.plots, mtrl_jax.sweep
import mtrl_jax.envs.games, mtrl_jax.envs.maze, mtrl_jax.record
from mtrl_jax.algorithms import distill, distral, dqn, mfec, nec, ppo, sac, soft_q
for n, (module, *arguments) in enumerate(json.loads(sys.argv[1])):
    if not (pid := os.fork()):
        os.mkdir(str(n))
        os.chdir(str(n))
        for number, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"../{n}.{kind}", os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["binary", *arguments]
        code = 0
        try:
            runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
        except SystemExit as error:
            code = error.code or 0
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)  # an orderly end frees all that was imported, which takes the longest
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Ended(NamedTuple):
    """How a command ended, and what it left in the folder that was its own."""

    code: int
    out: str
    err: str
    left: list[str]


def forked(folder: pathlib.Path, cases: Sequence[Sequence[str]]) -> list[Ended]:
    """Runs `(module, *arguments)` after each other, each in a folder of its own; for those that end
    before anything is compiled, which take a tenth of the time of a process each."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKS, json.dumps(cases)],
        env=environment(1),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    codes = [int(code) for code in done.stdout.split()]
    assert len(codes) == len(cases)
    return [
        Ended(
            code,
            (folder / f"{n}.out").read_text(),
            (folder / f"{n}.err").read_text(),
            [path.name for path in (folder / f"{n}").rglob("*")],
        )
        for n, code in enumerate(codes)
    ]


def finish(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s:\n{out}\n{err}") from None
    return process.returncode, out, err


def end_when(
    process: subprocess.Popen[str], condition: Callable[[], bool], number: int = signal.SIGKILL
) -> tuple[int, str, str]:
    """Sends the signal as soon as the condition holds, which must be before the process ends."""
    deadline = time.monotonic() + 300
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"ended or hung before that: {finish(process)}")
        time.sleep(0.0005)
    process.send_signal(number)
    return finish(process)


def rows(folder: pathlib.Path) -> list[dict[str, object]]:
    """What metrics.jsonl holds, without what depends on the clock."""
    every = metrics.read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in every]


def checkpoints(folder: pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints."""
    path = folder / "checkpoints"
    names = [p.name for p in path.iterdir()] if path.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def unfinished(folder: pathlib.Path) -> list[str]:
    """Names of checkpoints that are being written, or were."""
    path = folder / "checkpoints"
    return [p.name for p in path.iterdir() if "tmp" in p.name] if path.is_dir() else []
