"""Stepping MT10 here and with the metaworld package: `python -m timings.metaworld_envs`.

Random actions, ten tasks, one environment a task, no learning: this library's ten pools, the same
number of environments in one envpool pool of one task, and `gym.make_vec("Meta-World/MT10")` with
one process for all (sync) and one a task (async). They alternate in one run; what is printed is the
median of `--rounds`: environment steps per second by the wall clock, and CPU milliseconds a step,
of this process and its children. Needs `pip install metaworld`.
"""

import argparse
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mtrl_jax.envs import metaworld, suites

TASKS = len(metaworld.BENCHMARKS["mt10"])
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """User and system time of this process and of its living children (Linux)."""
    own = os.getpid()
    total = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(path.parent.name) == own or int(fields[1]) == own:
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def pools(num_envs: int, actions: np.ndarray) -> Callable[[], None]:
    """Ten pools of this library, which all get their actions before any is waited for."""
    pool = suites.make("mt10").make_pool(num_envs, 0, 1)
    pool.reset(0)

    def run() -> None:
        for action in actions:
            pool.send(0, action.reshape(TASKS, num_envs, 4))
            pool.recv(0)

    return run


def one_pool(num_envs: int, actions: np.ndarray) -> Callable[[], None]:
    """As many environments of the first task in one bare pool of envpool."""
    import envpool

    task = metaworld.env_id(metaworld.BENCHMARKS["mt10"][0])
    pool = envpool.make(task, env_type="gymnasium", num_envs=TASKS * num_envs, seed=0)
    pool.reset()

    def run() -> None:
        for action in actions:
            pool.step(action.astype(np.float64))

    return run


def package(strategy: str, num_envs: int, actions: np.ndarray) -> Callable[[], None] | None:
    """The package's own vector environment, one environment a task."""
    if num_envs > 1:
        return None  # it has no more
    import gymnasium
    import metaworld as _  # noqa: F401  registers itself

    env = gymnasium.make_vec("Meta-World/MT10", vector_strategy=strategy, seed=0)
    env.reset()

    def run() -> None:
        for action in actions:
            env.step(action)

    return run


def measure(runs: dict[str, Callable[[], None]], steps: int, rounds: int) -> list[dict[str, Any]]:
    """Medians over rounds; the first warms up and is dropped."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            began, cpu = time.perf_counter(), cpu_seconds()
            run()
            seen[name].append((time.perf_counter() - began, cpu_seconds() - cpu))
    rows = []
    for name, values in seen.items():
        wall, cpu = np.median(values[1:], axis=0)
        rows.append(
            {
                "name": name,
                "steps_per_second": round(steps / wall),
                "cpu_ms_per_step": round(1e3 * cpu / steps, 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_envs", type=int, default=1, help="environments of each task")
    parser.add_argument("--steps", type=int, default=100, help="vector steps of a round")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    n = arguments.num_envs
    actions = rng.uniform(-1.0, 1.0, (arguments.steps, TASKS * n, 4)).astype(np.float32)
    makers = {
        "ten pools": pools,
        "one pool": one_pool,
        "metaworld, sync": functools.partial(package, "sync"),
        "metaworld, async": functools.partial(package, "async"),
    }
    runs = {name: run for name, make in makers.items() if (run := make(n, actions)) is not None}
    rows = measure(runs, actions.shape[0] * actions.shape[1], arguments.rounds)
    for row in rows:
        print(json.dumps({"num_envs": n, **row}), flush=True)


if __name__ == "__main__":
    main()
