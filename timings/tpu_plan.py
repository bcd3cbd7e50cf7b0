"""What a TPU should make of a suite in pure JAX, by the TPU's own compiler, without a TPU.

    python -m timings.tpu_plan        # Distral on maze8 and PPO on the small games, for v5e
    python -m timings.tpu_plan --envs 32 1024 --programs distral

A run is T environment steps and one update, again and again. Each is compiled by itself, since the
compiler counts a loop's body once: `step` is `rollout.unroll` of one step of all environments,
`update` the agent's. Seconds are the compiler's own estimate and leave out what it cannot know: the
latency of many small operations. Nothing is run. As `timings.tpu`, it needs the extra tpu-compile.
"""

import argparse
import datetime
import json
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp

from mtrl_jax import rollout
from mtrl_jax.algorithms import distral, ppo
from mtrl_jax.envs import suites
from timings.tpu import COMPILE_ONLY, cost, device_of

PROGRAMS = {
    "distral": (
        "maze8",
        lambda spec: distral.agent(spec, distral.Config(hidden=(64, 64), lambda_=0.95)),
    ),
    "ppo": (
        "small_games",
        # One epoch in one batch, which is no loop; four of them are four times that.
        lambda spec: ppo.agent(spec, ppo.Config(unroll_length=64, minibatches=1, epochs=1)),
    ),
}


def shapes_of(suite, agent, envs):
    """Shapes of a state, of an environment loop and of a rollout of `[K, envs]`."""
    spec, t = suite.spec, agent.unroll_length
    key = jax.eval_shape(lambda: jax.random.key(0))
    index = jax.ShapeDtypeStruct((spec.num_tasks, envs), jnp.int32)
    state = jax.eval_shape(agent.init, key)
    loop = jax.eval_shape(
        lambda key, index: rollout.init_env_loop(suite, key, index, agent.init_actor), key, index
    )
    policy = jax.eval_shape(agent.policy_params, state)
    _, rows = jax.eval_shape(
        lambda policy, loop, key: rollout.unroll(suite, agent.act, policy, loop, key, t),
        policy,
        loop,
        key,
    )
    return state, policy, loop, rows, key


def compiled(function, arguments, device):
    """What the compiler says of a program, and the seconds of a processor that it took."""
    sharding = jax.sharding.SingleDeviceSharding(device)
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments
    )
    start = time.process_time()
    program = jax.jit(function).lower(*placed).compile()
    seconds = time.process_time() - start
    temporary = program.memory_analysis().temp_size_in_bytes
    return cost(program) | {"temporary": temporary, "compile_seconds": seconds}


def row_of(name, envs, device):
    """One run's numbers with `envs` environments of each task on one device."""
    suite_name, make = PROGRAMS[name]
    suite = suites.make(suite_name)
    agent = make(suite.spec)
    state, policy, loop, rows, key = shapes_of(suite, agent, envs)
    t, tasks = agent.unroll_length, suite.spec.num_tasks

    def step(policy, loop, key):
        return rollout.unroll(suite, agent.act, policy, loop, key, 1)

    parts = {
        "step": compiled(step, (policy, loop, key), device),
        "update": compiled(agent.update, (state, rows), device),
    }
    leaves = jax.tree.leaves(policy)
    return {
        "program": name,
        "suite": suite_name,
        "envs": envs,
        "tasks": tasks,
        "unroll": t,
        "parameter_bytes": sum(x.size * x.dtype.itemsize for x in leaves),
        **{
            f"{part}/{what}": value
            for part, numbers in parts.items()
            for what, value in numbers.items()
        },
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--envs", type=int, nargs="+", default=[32, 1024], help="of each task")
    parser.add_argument("--device", default="v5e", help="v5e or v6e")
    folder = pathlib.Path(__file__).parent / "results"
    parser.add_argument("--out", type=pathlib.Path, default=folder, help="folder of tpu_plan.jsonl")
    args = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in COMPILE_ONLY.items()):
        command = [sys.executable, "-m", "timings.tpu_plan", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | COMPILE_ONLY)
    import libtpu

    about = {"date": datetime.date.today().isoformat(), "jax": jax.__version__}
    about |= {"libtpu": libtpu.__version__, "device": args.device}
    with (args.out / "tpu_plan.jsonl").open("a") as out:
        for name in args.programs:
            for envs in args.envs:
                row = row_of(name, envs, device_of(args.device))
                row = {n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in row.items()}
                print(json.dumps(row, indent=1), flush=True)
                out.write(json.dumps(about | row) + "\n")
                out.flush()


if __name__ == "__main__":
    main()
