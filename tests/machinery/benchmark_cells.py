"""The smallest matrix: two games, an agent without a network; also as a worker's process.

python -m tests.machinery.benchmark_cells <folder>
"""

import dataclasses
import functools
import os
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.benchmark import cells, compiled, hosted, protocol, worker
from mtrl_jax.benchmark.compiled import Entry, everything
from tests.machinery import tiny
from tests.probes import probe_envs

SETTINGS = cells.Settings(
    "probes",
    folds=2,
    seeds=2,
    num_envs=4,
    steps_per_task=400 * tiny.T * 4,
    evaluations=4,
    eval_episodes=8,
    final_episodes=8,
)
SHORT = dataclasses.replace(SETTINGS, steps_per_task=800)


@functools.cache
def suite(names=()):
    """Two games with opposite answers, of which each can be learnt."""
    made = probe_envs.action_and_cue((0.0, 1.0))
    return made._replace(spec=made.spec._replace(task_names=tuple(names) or ("same", "opposite")))


def entry(make=tiny.toy_agent):
    return Entry(make, everything, {"agent": "toy"})


def every(functional=True, settings=SETTINGS):
    names = suite().spec.task_names
    return cells.cells(settings, names, {"toy": True}, functional=functional)


class Counter:
    """An agent of five functions that remembers its calls; learns which action pays on average."""

    def __init__(self, action=None, fail=None):
        self.action, self.fail, self.log = action, fail, []

    def agent(self) -> protocol.HostAgent:
        return protocol.HostAgent(self.init, self.act, self.update, self.save, self.restore)

    def init(self, spec, num_envs, seed):
        self.log.append("init")
        return {"value": np.zeros((spec.num_actions, 2)), "count": np.ones(2), "seed": seed}

    def act(self, state, step, learning):
        self.log.append("act" if learning else "score")
        if self.fail == "act" and learning:
            raise RuntimeError("no battery")
        cue = (step.observation[:, 0] > 0).astype(int)
        if self.action is not None and learning:
            return self.action(len(cue)), state
        if learning:
            state["seed"] += 1
            draw = np.random.default_rng(state["seed"]).integers(0, 2, len(cue))
            return draw, state
        return state["value"][:, cue].argmax(0), state

    def update(self, state, step, action, next_step):
        self.log.append("update")
        cue = (step.observation[:, 0] > 0).astype(int)
        rows = ~next_step.first
        np.add.at(state["value"], (action[rows], cue[rows]), 0.01 * next_step.reward[rows])
        return state

    def save(self, state):
        self.log.append("save")
        return np.append(state["value"].ravel(), state["seed"]).tobytes()

    def restore(self, spec, num_envs, data):
        self.log.append("restore")
        flat = np.frombuffer(data)
        return {"value": flat[:-1].reshape(-1, 2).copy(), "seed": int(flat[-1])}


def run(cell, folder, made=None, on_progress=lambda *_: None, games=None, settings=SETTINGS):
    made = made or entry()
    fn = hosted.run if made.hosted else compiled.run
    return fn(cell, settings, games or suite(), made, pathlib.Path(folder), on_progress)


def toy_with(act):
    """The toy agent with another `act`, which gets the agent as its first argument."""

    def make(spec):
        agent = tiny.toy_agent(spec)
        return agent._replace(act=lambda *args, **options: act(agent, *args, **options))

    return entry(make)


def out_of_range(agent, *args, **options):
    action, log_prob, actor = agent.act(*args, **options)
    return action + 1, log_prob, actor


def wrong_shape(agent, *args, **options):
    action, log_prob, actor = agent.act(*args, **options)
    return jnp.concatenate([action, action], 1), log_prob, actor


def main() -> None:
    jax.config.update("jax_disable_most_optimizations", True)
    folder = pathlib.Path(sys.argv[1])
    by_name = {cell.name: cell for cell in every()}

    def run_cell(name, on_progress):
        seen = []

        def watch(step, total, row):
            if not seen:
                seen.append(step)
                with (folder / f"{name}.starts").open("a") as file:
                    file.write(f"{step}\n")
            if 2 * step > total and (folder / f"kill-{name}").exists():
                (folder / f"kill-{name}").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            on_progress(step, total)

        return run(by_name[name], folder / "cells", None, watch)

    worker.serve(run_cell, compiled.Stopped)


if __name__ == "__main__":
    main()
