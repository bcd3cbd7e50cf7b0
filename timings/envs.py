"""How fast environments step by themselves: `python -m timings.envs`.

Functional: `maze8` in a scan with both auto-resets, beside the forward pass of a small network
over the same batch; frames of `rooms` at 32 and at 64 pixels. Host: the pool, with one and two
groups, beside the bare envpool calls. Variants alternate in one process; medians of `--rounds` are
printed, in environment steps per second summed over tasks and environments.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs import suites
from mtrl_jax.envs.functional import auto_reset, auto_reset_batch, environment_keys
from mtrl_jax.types import FunctionalSuite, HostSuite

STEPS = 200


def alternate(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant; the first round warms up and is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(times[1:])) for name, times in seconds.items()}


def stepping(
    suite: FunctionalSuite, reset: Any, step: Any, num_envs: int
) -> tuple[Any, Callable[[], Any]]:
    """First observations of `num_envs` environments a task, and `STEPS` steps of all of them."""
    spec, key = suite.spec, jax.random.key(0)
    index = jnp.arange(spec.num_tasks * num_envs).reshape(spec.num_tasks, num_envs)

    def body(state: Any, t: Any) -> Any:
        keys = environment_keys(jax.random.fold_in(key, t), index)
        state, row = step(keys, state, (index + t) % spec.num_actions, suite.tasks)
        return state, (row.reward.sum(), row.observation.sum(dtype=jnp.int32))

    state, row = reset(environment_keys(key, index), suite.tasks)
    run = jax.jit(lambda state: jax.lax.scan(body, state, jnp.arange(1, STEPS + 1)))
    return row.observation, lambda: jax.block_until_ready(run(state))


def rates(variants: dict[str, Callable[[], Any]], rounds: int, steps: int) -> dict[str, float]:
    return {name: steps / s for name, s in alternate(variants, rounds).items()}


def functional(num_envs: int, rounds: int, width: int = 128) -> dict[str, float]:
    """maze8: stepping alone, both ways, and a three-layer network per task alone."""
    suite = suites.make("maze8")
    assert isinstance(suite, FunctionalSuite)
    num_tasks, classes = suite.spec.num_tasks, int(suite.spec.vocabulary.max())  # type: ignore[union-attr]
    reset, step = auto_reset(suite.env)
    single = jax.vmap(jax.vmap(reset, (0, None))), jax.vmap(jax.vmap(step, (0, 0, 0, None)))
    sizes = (suite.spec.observation_shape[0] * classes, width, width, suite.spec.num_actions + 1)
    layers = [jnp.full((num_tasks, a, b), 0.01) for a, b in itertools.pairwise(sizes)]

    def forward(observation: Any, _: Any) -> Any:
        x = jax.nn.one_hot(observation, classes).reshape(num_tasks, num_envs, -1)
        for i, layer in enumerate(layers):
            x = jnp.einsum("kei,kij->kej", x if i == 0 else jax.nn.relu(x), layer)
        # The next pass depends on this one, so that no pass can be left out.
        return (observation + (x[..., :1] > 9).astype(jnp.uint8)) % classes, x.sum()

    observation, one_by_one = stepping(suite, *single, num_envs)
    _, batched = stepping(suite, *auto_reset_batch(suite.env), num_envs)
    network = jax.jit(lambda x: jax.lax.scan(forward, x, None, STEPS))
    variants = {
        "auto_reset": one_by_one,
        "auto_reset_batch": batched,
        "network forward": lambda: jax.block_until_ready(network(observation)),
    }
    return rates(variants, rounds, STEPS * num_tasks * num_envs)


def frames(num_envs: int, rounds: int) -> dict[str, float]:
    """rooms: frames at both sizes, resets and drawing included."""
    variants, num_tasks = {}, 0
    for size in (32, 64):
        suite = suites.make(f"rooms:size={size}")
        assert isinstance(suite, FunctionalSuite)
        num_tasks = suite.spec.num_tasks
        _, run = stepping(suite, *auto_reset_batch(suite.env), num_envs)
        variants[f"{size} x {size}"] = run
    return rates(variants, rounds, STEPS * num_tasks * num_envs)


def host(name: str, num_envs: int, rounds: int) -> dict[str, float]:
    """A pool with one group and two, and bare envpool pools that are sent to and received from."""
    suite = suites.make(name)
    assert isinstance(suite, HostSuite)
    num_tasks = suite.spec.num_tasks
    rng = np.random.default_rng(0)
    shape = (STEPS, num_tasks, num_envs)
    actions = rng.integers(0, suite.spec.action_mask.sum(1)[None, :, None], shape, dtype=np.int32)

    def through(num_groups: int) -> Callable[[], Any]:
        pool = suite.make_pool(num_envs, 0, num_groups)
        parts = np.split(actions, num_groups, axis=2)
        for g in range(num_groups):
            pool.reset(g)
            pool.send(g, parts[g][0])

        def run() -> None:
            for t in range(STEPS):
                for g in range(num_groups):
                    pool.recv(g)
                    pool.send(g, parts[g][t])

        return run

    bare = suite.make_pool(num_envs, 0, 1)
    bare.reset(0)
    pools = [task_pool._pool for task_pool in bare._pools[0]]
    ids = np.arange(num_envs, dtype=np.int32)

    def run_bare() -> None:
        for t in range(STEPS):
            for k, pool in enumerate(pools):
                pool._send([ids, ids, actions[t, k].copy()])
            for pool in pools:
                pool._recv()

    variants = {"bare envpool": run_bare, "one group": through(1), "two groups": through(2)}
    return rates(variants, rounds, STEPS * num_tasks * num_envs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_envs", type=int, default=32, help="environments of each task")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    print(f"{arguments.num_envs} environments a task, {STEPS} steps, medians of {arguments.rounds}")
    tables = {
        "maze8": functional(arguments.num_envs, arguments.rounds),
        "rooms": frames(arguments.num_envs, arguments.rounds),
        "minigrid_ladder": host("minigrid_ladder", arguments.num_envs, arguments.rounds),
    }
    for suite, found in tables.items():
        for label, rate in found.items():
            print(f"{suite:>16}  {label:<18} {rate:>12,.0f} steps/s")


if __name__ == "__main__":
    main()
