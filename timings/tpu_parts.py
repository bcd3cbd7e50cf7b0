"""Where the TPU's compiler spends its time on a program of training: the whole, and parts by
themselves.

    python -m timings.tpu_parts                            # PPO and Distral on the small games
    python -m timings.tpu_parts --suites maze8 --agents dqn

`rollout` is a rollout alone, `environments` one whose actions are given (no network), `update` the
agent's update alone. Parts do not add up: the compiler fuses across them. Seconds of a processor,
which a busy machine makes more of: compare lines of one run. It needs the extra tpu-compile, and
no TPU is looked for.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from timings.tpu_gate import ENVIRONMENT, devices


def parts(suite_name: str, agent_name: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and what lowers it."""
    import jax.numpy as jnp

    from mtrl_jax import learner, rollout
    from timings import tpu_programs as programs

    suite, maker = programs.SUITES[suite_name](), programs.AGENTS[agent_name]
    agent, on = maker.make(suite.spec, learner.across(1)), devices("v5e", 1)
    state, policy, loop, rows, key = programs.shapes_of(suite, agent, maker.num_envs)

    def unroll(act):
        def one(policy, loop, key):
            return rollout.unroll(suite, act, policy, loop, key, agent.unroll_length)

        return programs.lowered(one, (policy, loop, key), on[0])

    def given(policy, actor, timestep, keys):
        action = jnp.zeros(rows.action.shape[1:], rows.action.dtype)
        return action, jnp.zeros(keys.shape), actor

    yield "whole", lambda: programs.training(suite, maker, on)
    yield "rollout", lambda: unroll(agent.act)
    yield "environments", lambda: unroll(given)
    yield "update", lambda: programs.mapped(agent.update, (state, rows), on, (0,))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suites", nargs="+", default=["small_games"], help="of `tpu_programs`")
    parser.add_argument("--agents", nargs="+", default=["ppo", "distral"], help="of `tpu_programs`")
    args = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        command = [sys.executable, "-m", "timings.tpu_parts", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | ENVIRONMENT)
    for suite, agent in itertools.product(args.suites, args.agents):
        for name, lower in parts(suite, agent):
            program, start = lower(), time.process_time()
            program = program.compile()
            seconds = time.process_time() - start
            temporaries = program.memory_analysis().temp_size_in_bytes / 2**20
            print(
                f"{suite}, {agent}, {name:12} {seconds:5.1f} s, {temporaries:6.1f} MiB temporary",
                flush=True,
            )


if __name__ == "__main__":
    main()
