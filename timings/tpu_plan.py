"""What a TPU should make of a suite in pure JAX, by the TPU's own compiler, without a TPU.

    python -m timings.tpu_plan        # Distral on maze8, PPO and DQN on the small games, for v5e
    python -m timings.tpu_plan --envs 32 1024 --programs distral
    python -m timings.tpu_plan --programs dqn --envs 8 --batch 32 512 --devices 1 8

A run is T environment steps and one update, again and again. Each is compiled by itself, since the
compiler counts a loop's body once: `step` is `rollout.unroll` of one step of all environments,
`update` the agent's. DQN's update is `store`, a rollout into the rings, and `learn`, a gradient
step, as often as the replay ratio says. `links` are bytes of the results of what crosses devices.
Seconds are the compiler's own estimate and leave out what it cannot know: the latency of many small
operations. Nothing is run. As `timings.tpu`, it needs the extra tpu-compile.
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
import pathlib
import re
import sys
import time

import jax

from experiments.dqn.presets import ON_SMALL_GAMES
from mtrl_jax import learner, replay, rollout
from mtrl_jax.algorithms import distral, dqn, ppo
from mtrl_jax.envs import suites
from timings.tpu import COMPILE_ONLY, cost
from timings.tpu_programs import mapped, shapes_of

SUITES = {"distral": "maze8", "ppo": "small_games", "dqn": "small_games"}
TOPOLOGIES = {1: "2x2", 4: "2x2", 8: "2x4", 16: "4x4"}
_SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "u8": 1, "s8": 1, "pred": 1}
_CROSSES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"


def agent_of(name, spec, collectives, batch):
    """The agent and its config; one epoch of PPO in one batch, which is no loop."""
    if name == "distral":
        config = distral.Config(hidden=(64, 64), lambda_=0.95)
        return distral.agent(spec, config, collectives=collectives), config
    if name == "ppo":
        config = ppo.Config(unroll_length=64, minibatches=1, epochs=1)
        return ppo.agent(spec, config, collectives=collectives), config
    config = dataclasses.replace(dqn.Config(**ON_SMALL_GAMES), batch_size=batch)
    return dqn.agent(spec, config, collectives=collectives), config


def devices_of(chip, count):
    """Devices to compile for, not to run on."""
    from jax.experimental import topologies

    name = f"{chip}:{TOPOLOGIES[count]}"
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices[:count]


def links(text):
    """Bytes of the results of collective operations in a compiled program, each counted once."""
    total = 0
    for line in text.splitlines():
        found = re.match(rf"\s+(?:ROOT )?%\S+ = (.*?) (?:{_CROSSES})(?:-start)?\(", line)
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1]) if found else ():
            total += _SIZES[kind] * math.prod(int(n) for n in shape.split(",") if n)
    return total


def compiled(function, arguments, devices, donated):
    """What the compiler says of a program, and the seconds of a processor that it took."""
    start = time.process_time()
    program = mapped(function, arguments, devices, donated).compile()
    seconds = time.process_time() - start
    temporary = program.memory_analysis().temp_size_in_bytes
    numbers = cost(program) | {"temporary": temporary, "compile_seconds": seconds}
    return numbers | ({"links": links(program.as_text())} if len(devices) > 1 else {})


def parts_of_dqn(spec, config, collectives):
    """`store` and `learn` of one update, `(state, ...) -> state`."""
    parts = dqn.make_parts(spec, config, collectives)

    def store(rings, rows):
        moved, action = collectives.gather((rows.timestep, rows.action), 2)
        items = dqn.transitions(config, rows._replace(timestep=moved, action=action))
        return replay.add(rings, *items)

    def learn(state, key):
        index = collectives.scatter(replay.indices(state.replay, key, config.batch_size), 1)
        batch = replay.take(state.replay, index)
        return dqn.gradient_step(parts, state.params, state.target, state.opt_state, batch)

    return store, learn


def row_of(name, envs, batch, devices):
    """One run's numbers with `envs` environments of each task on each of these devices."""
    suite, collectives = suites.make(SUITES[name]), learner.across(len(devices))
    agent, config = agent_of(name, suite.spec, collectives, batch)
    state, policy, loop, rows, key = shapes_of(suite, agent, envs)
    t, tasks = agent.unroll_length, suite.spec.num_tasks

    def step(policy, loop, key):
        return rollout.unroll(suite, agent.act, policy, loop, key, 1)

    parts = {"step": (step, (policy, loop, key))}
    own = {}
    if name == "dqn":
        store, learn = parts_of_dqn(suite.spec, config, collectives)
        parts |= {"store": (store, (state.replay, rows)), "learn": (learn, (state, key))}
        every = t * envs * len(devices)
        own = {"batch": batch, "learns": max(round(config.replay_ratio * every / batch), 1)}
    else:
        parts["update"] = (agent.update, (state, rows))
    leaves = jax.tree.leaves(policy)
    return {
        "program": name,
        "suite": SUITES[name],
        "envs": envs,
        "devices": len(devices),
        "tasks": tasks,
        "unroll": t,
        "parameter_bytes": sum(x.size * x.dtype.itemsize for x in leaves),
        **own,
        **{
            f"{part}/{what}": value
            for part, (function, arguments) in parts.items()
            for what, value in compiled(
                function, arguments, devices, (0,) if part in ("store", "update") else ()
            ).items()
        },
    }


def expected(row):
    """Environment steps a second at most, over all devices, and seconds of a rollout and update."""
    us = row["unroll"] * row["step/microseconds"]
    if "update/microseconds" in row:
        us += row["update/microseconds"]
    else:
        us += row["store/microseconds"] + row["learns"] * row["learn/microseconds"]
    steps = row["unroll"] * row["tasks"] * row["envs"] * row["devices"]
    return {"microseconds": us, "steps_per_second": steps / us * 1e6}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--programs", nargs="+", choices=list(SUITES), default=list(SUITES))
    parser.add_argument("--envs", type=int, nargs="+", default=[32, 1024], help="of each task")
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="DQN's, of each task")
    parser.add_argument(
        "--devices", type=int, nargs="+", choices=list(TOPOLOGIES), default=[1], help="how many"
    )
    parser.add_argument("--device", default="v5e", help="v5e or v6e")
    folder = pathlib.Path(__file__).parent / "results"
    parser.add_argument("--out", type=pathlib.Path, default=folder, help="folder of tpu_plan.jsonl")
    args = parser.parse_args()
    wanted = COMPILE_ONLY | {"JAX_NUM_CPU_DEVICES": str(max(args.devices))}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        command = [sys.executable, "-m", "timings.tpu_plan", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | wanted)
    import libtpu

    about = {"date": datetime.date.today().isoformat(), "jax": jax.__version__}
    about |= {"libtpu": libtpu.__version__, "device": args.device}
    cases = [
        (name, envs, batch, count)
        for name in args.programs
        for envs in args.envs
        for batch in (args.batch if name == "dqn" else [0])
        for count in args.devices
    ]
    with (args.out / "tpu_plan.jsonl").open("a") as out:
        for name, envs, batch, count in cases:
            row = row_of(name, envs, batch, devices_of(args.device, count))
            row |= expected(row)
            row = {n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in row.items()}
            print(json.dumps(row, indent=1), flush=True)
            out.write(json.dumps(about | row) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
