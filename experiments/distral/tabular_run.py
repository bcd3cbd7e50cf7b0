"""Tabular Distral and soft Q-learning by itself, many seeds of both as one program."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import ranges
from mtrl_jax.algorithms import soft_q
from mtrl_jax.envs import two_rooms
from mtrl_jax.ranges import Count, OneOf, Seed

ESTIMATORS = {"recency": 0.98, "cumulative": 1.0}  # what an iteration leaves of earlier counts
METHODS = ("Distral", "separate soft Q")
ROWS = 10  # of an iteration, for each task: the paper's rollouts


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of the experiment."""

    seed: Seed = 0
    num_seeds: Count = 32
    num_tasks: Count = 10
    total_env_steps: Count = 600_000
    state: Annotated[str, OneOf(two_rooms.STATES)] = "full"
    count_estimator: Annotated[str, OneOf(ESTIMATORS)] = "recency"
    num_points: Count = 60  # of the curves


def program(config: Config) -> tuple[Callable[..., Any], tuple[Any, Any], int]:
    """The function of all of it, its arguments, and the iterations between two points.

    Raises:
      ValueError: as `run`.
    """
    ranges.check(config)
    block = config.total_env_steps // (config.num_points * config.num_tasks * ROWS)
    if block < 1:
        least = config.num_points * config.num_tasks * ROWS
        raise ValueError(f"total_env_steps must be at least {least}, got {config.total_env_steps}")
    learn = functools.partial(
        soft_q.learn,
        two_rooms.TwoRooms(),
        shape=(two_rooms.num_states(config.state), len(two_rooms.ACTIONS)),
        num_blocks=config.num_points,
        block_length=block,
    )

    def one(settings, key):
        goals_key, key = jax.random.split(key)  # the same goals for both methods
        goals = two_rooms.random_goals(goals_key, config.num_tasks)
        index = functools.partial(two_rooms.state_index, state=config.state)
        state, log = learn(goals, index, settings, key)
        length = log.steps / jnp.maximum(log.episodes, 1)
        return length, soft_q.distilled_policy(state), goals

    settings = soft_q.Settings(
        count_decay=ESTIMATORS[config.count_estimator], distils=jnp.array([1.0, 0.0])
    )
    settings = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(METHODS),)), settings)
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    return jax.vmap(jax.vmap(one, (None, 0)), (0, None)), (settings, keys), block


def run(config: Config) -> dict[str, Any]:
    """Trains all seeds of both methods.

    Returns:
      "steps" [points], environment steps of a task; "length" [methods, seeds, points], mean steps
      of an episode; "policy" [methods, seeds, N, A], distilled policies; "goals" [seeds, K].

    Raises:
      ValueError: for numbers that cannot be, or fewer steps than one iteration a point.
    """
    every, arguments, block = program(config)
    length, policy, goals = jax.device_get(jax.jit(every)(*arguments))
    steps = ROWS * block * (1 + np.arange(config.num_points))
    return {"steps": steps, "length": length, "policy": policy, "goals": goals[0]}


def corridor_policy(policy: np.ndarray, state: str = "full") -> np.ndarray:
    """[2, ..., cells, A], pi_0 in the corridor after a plain step to the left and to the right."""
    after = [
        [
            int(two_rooms.state_index(jnp.array([cell, previous + 1, 1]), state))
            for cell in two_rooms.corridor()
        ]
        for previous in (3, 4)
    ]
    return np.stack([policy[..., rows, :] for rows in after])


def summary(results: dict[str, Any], state: str = "full") -> dict[str, Any]:
    """The numbers behind the figure: lengths in each sixth of training, policies in the
    corridor."""
    length = results["length"].mean(1)
    sixths = {
        method: [round(float(x.mean()), 1) for x in np.array_split(row, 6)]
        for method, row in zip(METHODS, length, strict=True)
    }
    left, right = corridor_policy(results["policy"][0], state).mean((1, 2))
    policies = {
        name: {a: round(float(x), 3) for a, x in zip(two_rooms.ACTIONS, p, strict=True)}
        for name, p in (("after left", left), ("after right", right))
    }
    return {"steps of an episode, each sixth of training": sixths, "pi_0 in the corridor": policies}
