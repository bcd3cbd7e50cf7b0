"""How fast DQN trains on the small games, compiled whole: `python -m timings.dqn`.

Agent steps a second, summed over tasks, environments and seeds, of

    environments       the games with uniform actions, in a scan
    acting             the same with actions of the Q-network
    training           rollouts, replay and gradient steps, as `experiments.dqn` runs them
    learning           the gradient steps alone, on a replay that is full

for one game and for several side by side, each with one seed and with `--num_seeds` by vmap. All
variants alternate in one process; medians of `--rounds`, and their ratios to the environments
alone. Training can be no faster than the gradient steps that it asks for: `training / learning` is
what is left for everything else.
"""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.dqn.presets import ON_SMALL_GAMES
from mtrl_jax import evaluate, replay, rollout
from mtrl_jax.algorithms import dqn
from mtrl_jax.envs.games import GAMES, small_games
from timings.envs import alternate

UPDATES = 10
RESULTS = pathlib.Path(__file__).parent / "results" / "dqn.jsonl"


def variants(names: tuple[str, ...], num_envs: int, num_seeds: int) -> dict[str, Callable[[], Any]]:
    """What to time; every call makes `UPDATES` rollouts' worth of steps and waits for them."""
    suite = small_games(names)
    config = dqn.Config(**ON_SMALL_GAMES, network="multihead")
    agent, parts = dqn.agent(suite.spec, config), dqn.make_parts(suite.spec, config)
    uniform = evaluate.random_agent(suite.spec)
    index = jnp.asarray(rollout.env_indices(suite.spec.num_tasks, num_envs))
    steps = config.unroll_length * UPDATES

    def over_seeds(fn):
        return jax.jit(jax.vmap(fn))

    keys = jax.random.split(jax.random.key(0), num_seeds)

    def start(key: Any) -> Any:
        loop = rollout.init_env_loop(suite, key, index, agent.init_actor)
        return agent.init(key), loop

    def train(state: Any, loop: Any, key: Any) -> Any:
        def one(carry: Any, u: Any) -> Any:
            state, loop = carry
            drawn = jax.random.fold_in(key, u)
            policy, length = agent.policy_params(state), agent.unroll_length
            loop, rows = rollout.unroll(suite, agent.act, policy, loop, drawn, length)
            return (agent.update(state, rows)[0], loop), None

        return jax.lax.scan(one, (state, loop), jnp.arange(UPDATES))[0]

    def learn(state: Any) -> Any:
        per_update = config.unroll_length * num_envs * config.replay_ratio / config.batch_size

        def one(carry: Any, i: Any) -> Any:
            params, opt_state = carry
            batch = replay.sample(state.replay, jax.random.fold_in(state.key, i), config.batch_size)
            params, opt_state, _ = dqn.gradient_step(parts, params, state.target, opt_state, batch)
            return (params, opt_state), None

        count = jnp.arange(UPDATES * max(round(per_update), 1))
        return jax.lax.scan(one, (state.params, state.opt_state), count)[0]

    state, loop = over_seeds(start)(keys)
    programs = {
        "environments": over_seeds(
            lambda state, loop, key: rollout.unroll(suite, uniform.act, (), loop, key, steps)
        ),
        "acting": over_seeds(
            lambda state, loop, key: rollout.unroll(
                suite, agent.act, agent.policy_params(state), loop, key, steps
            )
        ),
        "training": over_seeds(train),
        "learning": over_seeds(lambda state, loop, key: learn(state)),
    }
    for _ in range(1 + config.min_replay // (steps * num_envs // 2)):  # until it learns
        state, loop = programs["training"](state, loop, keys)
    return {
        name: lambda program=program: jax.block_until_ready(program(state, loop, keys))
        for name, program in programs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_envs", type=int, default=8, help="environments of each game")
    parser.add_argument("--num_seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--games", type=int, default=4, help="how many side by side")
    arguments = parser.parse_args()
    cases = sorted({(n, s) for n in (1, arguments.games) for s in (1, arguments.num_seeds)})
    made = {case: variants(tuple(GAMES)[: case[0]], arguments.num_envs, case[1]) for case in cases}
    flat = {(*case, name): run for case, runs in made.items() for name, run in runs.items()}
    seconds = alternate(flat, arguments.rounds)  # type: ignore[arg-type]
    print(f"{arguments.num_envs} environments a game, medians of {arguments.rounds}; steps/s")
    print(f"{'games':>6}{'seeds':>6}" + "".join(f"{n:>14}" for n in made[cases[0]]))
    rows = []
    for games, seeds in cases:
        length = ON_SMALL_GAMES["unroll_length"]
        steps = UPDATES * length * arguments.num_envs * games * seeds
        rates = {n: steps / seconds[games, seeds, n] for n in made[games, seeds]}  # type: ignore[index]
        print(f"{games:>6}{seeds:>6}" + "".join(f"{rate:>14,.0f}" for rate in rates.values()))
        ratios = {n: rate / rates["environments"] for n, rate in rates.items()}
        print(f"{'ratio':>12}" + "".join(f"{ratio:>14.3f}" for ratio in ratios.values()))
        print(f"{'':>12} training / learning {rates['training'] / rates['learning']:.2f}")
        rows.append(
            {
                "games": games,
                "seeds": seeds,
                "envs": arguments.num_envs,
                **{n: round(float(rate)) for n, rate in rates.items()},
            }
        )
    load = round(os.getloadavg()[0], 1)  # of other work too
    stamp = {"date": time.strftime("%Y-%m-%d"), "load": load, "jax": jax.__version__}
    with RESULTS.open("a") as file:
        for row in rows:
            file.write(json.dumps({**stamp, **row}) + "\n")


if __name__ == "__main__":
    main()
