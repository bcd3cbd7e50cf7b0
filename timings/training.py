"""Speed of training as ratios: each figure beside the limit it is held to, alternating in one
process.

  python -m timings.training                       # all, about ten minutes on two cores
  python -m timings.training --only=maze8,tasks

maze8    steps per second of training, against the network alone: the acting forwards of a rollout
  in a
         scan, then one forward and backward over it; no environment, sampling, return or optimiser
ladder   steps per second of training, against the slower of its two parts alone: collecting
  rollouts
         (acting and environments) and updating
column   a step of kl_ent_2col against a step of a3c, on maze8
tasks    time of a step for K = 1, 2, 4, 8, 16 tasks at a constant number of environments
mt10     the same two parts of PPO's laptop preset on Meta-World, and processor time a step
mt10_400 the same with 3 x 400 networks and 16 epochs of 32 minibatches, at rollouts of 32 steps
atari    the same two parts of DQN's preset on Pong, beside envpool stepped with random actions
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.distral.presets import PRESETS
from experiments.dqn.presets import ON_ATARI
from experiments.metaworld.presets import PRESETS as METAWORLD
from mtrl_jax import engines, rollout
from mtrl_jax.algorithms import distral, dqn, ppo
from mtrl_jax.envs import suites
from mtrl_jax.types import Agent, FunctionalSuite

_ONLY = flags.DEFINE_list(
    "only", ["maze8", "ladder", "column", "tasks", "mt10", "mt10_400", "atari"], "Which figures."
)
_ROUNDS = flags.DEFINE_integer("rounds", 11, "Alternating rounds; the first is dropped.", 2)
_SECONDS = flags.DEFINE_float("seconds", 0.5, "Least time of one measurement.", 0.01)
_OUT = flags.DEFINE_string("out", "timings/results/training.jsonl", "Where a line a figure goes.")


def measure(variants: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds per call of each variant, round after round, each round running all of them."""
    repeats = {}
    for name, fn in variants.items():
        fn()  # compiles
        began = time.perf_counter()
        fn()
        once = time.perf_counter() - began
        repeats[name] = max(1, round(_SECONDS.value / once))
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(_ROUNDS.value):
        for name, fn in variants.items():
            began = time.perf_counter()
            for _ in range(repeats[name]):
                fn()
            times[name].append((time.perf_counter() - began) / repeats[name])
    return {name: values[1:] for name, values in times.items()}


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """Median of the rounds' ratios."""
    pairs = zip(times[over], times[under], strict=True)
    return statistics.median(a / b for a, b in pairs)


def matmul_rate() -> float:
    """GFLOP/s of a square float32 product, the compute limit of this machine at this moment."""
    x = jnp.ones((1024, 1024))
    product = jax.jit(lambda x: x @ x)
    seconds = min(measure({"product": lambda: jax.block_until_ready(product(x))})["product"])
    return 2 * 1024**3 / seconds / 1e9


def _agent(suite: Any, name: str, **changes: Any) -> tuple[Agent, distral.Config]:
    config = distral.Config(**{**PRESETS[name]["config"], **changes})
    return distral.agent(suite.spec, config), config


def _trainer(suite: Any, agent: Agent, num_envs: int, dispatches: int = 1) -> Callable[[], None]:
    """Dispatches of whole training; to their end where there are several, or where the next one
    would wait for it anyway. A long update that is not waited for would run beside what is measured
    next."""
    config = engines.RunConfig(total_env_steps=1, num_envs_per_task=num_envs)
    engine = engines.make(config, suite, agent)
    carry = [engine.start(), 0]

    def dispatch() -> None:
        for _ in range(dispatches):
            carry[0], _ = engine.advance(carry[0], carry[1])
            carry[1] += engine.updates
        if dispatches > 1 or not agent.overlap:
            carry[0], _ = engine.flush(carry[0])

    return dispatch


def _network_alone(suite: FunctionalSuite, config: distral.Config, num_envs: int) -> Any:
    """As many acting forwards and gradient passes as one dispatch of training has."""
    spec, t = suite.spec, config.unroll_length
    parts = distral.make_parts(spec, config, distral.check(spec, config), spec.num_tasks, 0)
    agent = distral.agent(spec, config)
    params = agent.policy_params(jax.jit(agent.init)(jax.random.key(0)))
    loop = rollout.init_env_loop(
        suite,
        jax.random.key(0),
        jnp.asarray(rollout.env_indices(spec.num_tasks, num_envs)),
        agent.init_actor,
    )
    row = loop.timestep
    rows = jax.tree.map(
        lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], t + 1, *x.shape[1:])), row
    )
    actor = loop.actor_state

    def outputs(params, rows, actor):
        def one(task, rows, actor):
            prev_action = jnp.zeros(rows.first.shape, jnp.int32)
            h, g, v, _ = distral.columns_of(parts, params.shared, task, rows, prev_action, actor)
            return sum(x.sum() for x in (h, g, v) if x is not None)

        return jax.vmap(one)(params.task, rows, actor)

    def touched(rows, total):
        # A dependence that XLA cannot see through keeps the network's input inside the loops.
        change = (total > 1e30).astype(rows.observation.dtype)
        return rows._replace(observation=rows.observation + change)

    def update(carry, _):
        params, total = carry

        def step(total, _):
            single = jax.tree.map(lambda x: x[:, None], row)
            return outputs(params, touched(single, total), actor).sum(), None

        total, _ = jax.lax.scan(step, total, None, length=t)
        batch = touched(rows, total)
        grads = jax.grad(lambda p: outputs(p, batch, actor).sum())(params)
        return (jax.tree.map(lambda p, g: p - 1e-9 * g, params, grads), total), None

    updates = engines.RunConfig(1, 1).updates_per_dispatch
    program = jax.jit(lambda p: jax.lax.scan(update, (p, 0.0), None, length=updates)[0])
    return lambda: jax.block_until_ready(program(params))


def maze8() -> dict[str, Any]:
    suite, preset = suites.make("maze8"), PRESETS["maze8"]
    assert isinstance(suite, FunctionalSuite)
    num_envs = preset["run"]["num_envs_per_task"]
    agent, config = _agent(suite, "maze8")
    times = measure(
        {
            "training": _trainer(suite, agent, num_envs),
            "network": _network_alone(suite, config, num_envs),
        }
    )
    steps = 10 * config.unroll_length * suite.spec.num_tasks * num_envs
    return {
        "steps_per_second": steps / statistics.median(times["training"]),
        "network_alone_steps_per_second": steps / statistics.median(times["network"]),
        "ratio": ratio(times, "network", "training"),
        "target": ">= 0.8",
    }


def ladder() -> dict[str, Any]:
    suite, preset = suites.make("minigrid_ladder"), PRESETS["minigrid_ladder"]
    agent, _ = _agent(suite, "minigrid_ladder", overlap=True)  # waiting hides nothing
    return _host(suite, agent, preset["run"]["num_envs_per_task"])


def mt10(**changes: Any) -> dict[str, Any]:
    suite, preset = suites.make("mt10"), METAWORLD["ppo", "laptop"]
    config = ppo.Config(**{"network": "multihead", **preset["config"], **changes})
    return _host(suite, ppo.agent(suite.spec, config), preset["run"]["num_envs_per_task"])


def mt10_400() -> dict[str, Any]:
    return mt10(hidden=(400, 400, 400), epochs=16, minibatches=32, unroll_length=32)


def atari() -> dict[str, Any]:
    suite, preset = suites.make("envpool:Pong-v5"), ON_ATARI
    config = dqn.Config(**{**preset["config"], "replay_size": 5_000})
    num_envs = preset["run"]["num_envs_per_task"]
    pool = suite.make_pool(num_envs, 0, engines.NUM_GROUPS)
    groups = range(engines.NUM_GROUPS)
    shape = (config.unroll_length, len(groups), 1, num_envs // len(groups))
    actions = np.random.default_rng(0).integers(0, suite.spec.num_actions, shape, np.int32)
    for g in groups:
        pool.reset(g)

    def play() -> None:
        for row in actions:
            for g in groups:
                pool.send(g, row[g])
            for g in groups:
                pool.recv(g)

    return _host(suite, dqn.agent(suite.spec, config), num_envs, {"environments": play}, 4)


def _host(
    suite: Any,
    agent: Agent,
    num_envs: int,
    more: dict[str, Callable[[], Any]] | None = None,
    dispatches: int = 1,
) -> dict[str, Any]:
    """Training beside its two parts alone, in wall time; and in processor time of all threads."""
    spec = suite.spec
    pool = suite.make_pool(num_envs, 0, engines.NUM_GROUPS)
    act = rollout.act_at(agent.act)
    state = jax.jit(agent.init)(jax.random.key(0))
    key = jax.random.key(1)
    env_index = rollout.env_indices(spec.num_tasks, num_envs)
    loop = [rollout.init_host_loop(pool, num_envs, agent.init_actor)]

    def collect() -> rollout.Rollout:
        loop[0], experience = rollout.collect(
            pool, act, agent.policy_params(state), loop[0], key, env_index, agent.unroll_length
        )
        return experience

    experience = collect()
    update = jax.jit(agent.update)
    parts = {
        "training": _trainer(suite, agent, num_envs, dispatches),
        "collecting": collect,
        "updating": lambda: jax.block_until_ready(update(state, experience)),
        **(more or {}),
    }
    times = measure(parts)
    times["training"] = [seconds / dispatches for seconds in times["training"]]
    slower = max(("collecting", "updating"), key=lambda name: statistics.median(times[name]))
    steps = agent.unroll_length * spec.num_tasks * num_envs
    rates = {f"{n}_steps_per_second": steps / statistics.median(v) for n, v in times.items()}
    both = [a + b for a, b in zip(times["collecting"], times["updating"], strict=True)]
    cpu = {}
    for name, run in parts.items():
        began = time.process_time()
        for _ in range(3):
            run()
        done = 3 * steps * (dispatches if name == "training" else 1)
        cpu[f"{name}_cpu_ms_a_step"] = 1e3 * (time.process_time() - began) / done
    return {
        **rates,
        **cpu,
        "slower_part": slower,
        "ratio": ratio(times, slower, "training"),
        "ratio_to_parts_in_turn": ratio({**times, "both": both}, "both", "training"),
        "target": ">= 0.8",
    }


def column() -> dict[str, Any]:
    suite, preset = suites.make("maze8"), PRESETS["maze8"]
    num_envs = preset["run"]["num_envs_per_task"]
    names = ("a3c", "kl_ent_1col", "kl_ent_2col")
    times = measure(
        {
            name: _trainer(suite, _agent(suite, "maze8", algorithm=name)[0], num_envs)
            for name in names
        }
    )
    return {
        "kl_ent_1col_over_a3c": ratio(times, "kl_ent_1col", "a3c"),
        "ratio": ratio(times, "kl_ent_2col", "a3c"),
        "target": "<= 1.5",
    }


def tasks() -> dict[str, Any]:
    full = suites.make("maze8")
    assert isinstance(full, FunctionalSuite)
    total_envs, variants = 256, {}
    for k in (1, 2, 4, 8, 16):
        index = np.arange(k) % full.spec.num_tasks
        spec = full.spec._replace(
            task_names=tuple(f"task{i}" for i in range(k)),
            action_mask=full.spec.action_mask[index],
            episode_limit=full.spec.episode_limit[index],
        )
        suite = FunctionalSuite(spec, full.env, jax.tree.map(lambda x, i=index: x[i], full.tasks))
        variants[f"K={k}"] = _trainer(suite, _agent(suite, "maze8")[0], total_envs // k)
    times = measure(variants)
    relative = {name: ratio(times, name, "K=4") for name in times}
    return {
        "time_over_K4": relative,
        "ratio": max(relative.values()) / min(relative.values()),
        "target": "<= 1.25",
    }


def main(argv: list[str]) -> None:
    del argv
    out = pathlib.Path(_OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()}-core {platform.machine()} CPU",
        "jax": jax.__version__,
        "python": platform.python_version(),
        "rounds": _ROUNDS.value,
    }
    figures = {
        "maze8": maze8,
        "ladder": ladder,
        "column": column,
        "tasks": tasks,
        "mt10": mt10,
        "mt10_400": mt10_400,
        "atari": atari,
    }
    for name in _ONLY.value:
        result = figures[name]()
        load = os.getloadavg()[0]
        row = {"figure": name, **result, "matmul_gflops": matmul_rate(), "load": load, **about}
        print(json.dumps(row, indent=1), flush=True)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    app.run(main)
