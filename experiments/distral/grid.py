"""Runs of one algorithm over a grid of entropy costs, learning rates and seeds, as one program."""

import contextlib
import dataclasses
import itertools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import sweep
from mtrl_jax.algorithms import distral
from mtrl_jax.engines import RunConfig
from mtrl_jax.types import Agent, FunctionalSuite

from ..common import agents
from ..common.progress import Progress


class Grid(NamedTuple):
    """Initial learning rates, entropy costs and seeds; a run for each combination."""

    rates: list[float]
    costs: list[float]
    seeds: list[int]


def check(suite: FunctionalSuite, config: distral.Config, grid: Grid) -> None:
    """What cannot be asked inside the program, where the numbers are traced.

    Raises:
      ValueError: for a learning rate or a cost that cannot be.
    """
    for rate, cost in itertools.product(grid.rates, grid.costs):
        values = dataclasses.replace(config, learning_rate=rate, entropy_cost=cost)
        distral.check(suite.spec, values)


def settings_of(
    suite_settings: dict[str, Any], run: RunConfig, config: distral.Config, grid: Grid
) -> dict[str, Any]:
    """All that decides the numbers of `train`."""
    values = {
        **suite_settings,
        **grid._asdict(),
        "env_steps_a_run": run.total_env_steps,
        "num_envs_per_task": run.num_envs_per_task,
        **agents.values_of(config),
    }
    return json.loads(json.dumps(values))


def train(
    suite: FunctionalSuite, run: RunConfig, config: distral.Config, grid: Grid
) -> list[dict[str, Any]]:
    """A row a run, with its final return, a mean over tasks, and the environment steps it took."""
    points = list(itertools.product(*grid))
    rate, cost = (np.array([p[n] for p in points], np.float32) for n in (0, 1))
    keys = jnp.stack([jax.random.key(seed) for _, _, seed in points])
    per_update = config.unroll_length * suite.spec.num_tasks * run.num_envs_per_task
    num_updates = -(-run.total_env_steps // per_update)
    steps = per_update * sweep.UPDATES_PER_DISPATCH  # of a dispatch

    def make_agent(values: Any) -> Agent:
        own = dataclasses.replace(config, learning_rate=values[0], entropy_cost=values[1])
        return distral.agent(suite.spec, own, num_updates)

    with contextlib.closing(Progress(config.algorithm, suite.spec.task_names)) as progress:

        def tell(done: int, of: int) -> None:
            progress(done * steps * len(points), of * steps * len(points), {})

        totals = sweep.run(
            suite, make_agent, (rate, cost), keys, run.num_envs_per_task, num_updates, tell
        )
    final, done = sweep.final_returns(totals).mean(-1), len(totals.episode_count) * steps
    rows = []
    for (rate_, cost_, seed), value in zip(points, final, strict=True):
        row = {"learning_rate": rate_, "entropy_cost": cost_, "seed": seed, "env_steps": done}
        rows.append({**row, "final": round(float(value), 4)})
    return rows
