"""Killed at any moment, the same command continues: to the bit where environments can be saved."""

import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from experiments.common import agents, runs
from mtrl_jax import checkpoint
from mtrl_jax.envs import suites
from tests.machinery import commands, host_run, tiny

DISPATCHES = 32


def command(folder):
    every = 2 * commands.PER_DISPATCH
    return (
        *commands.TINY,
        f"--workdir={folder}",
        f"--log_every={every}",
        f"--checkpoint_every={every}",
        f"--total_env_steps={DISPATCHES * commands.PER_DISPATCH}",
    )


def final_state(folder):
    settings, config = runs.read(folder)
    suite = suites.make(settings["suite"])
    agent = agents.make(suite.spec, settings, 1)
    return runs.restore(folder, config, suite, agent)


@pytest.mark.slow
def test_a_functional_run_that_is_killed_again_and_again_equals_one_that_is_not(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, out, err = commands.finish(commands.start(command(whole)))
    assert code == 0, err
    assert "checkpoints" in out

    def newer_than(step):
        return lambda: commands.checkpoints(broken)[-1:] > [step]

    # While a checkpoint is being written (not the first one).
    def end():
        return newer_than(0)() and bool(commands.unfinished(broken))

    code, *_ = commands.end_when(commands.start(command(broken)), end)
    assert code == -signal.SIGKILL
    assert commands.unfinished(broken)

    # At some moment after it continued.
    process, delay = commands.start(command(broken)), random.uniform(0.0, 0.3)
    print(f"killed {delay} s after the first new checkpoint")
    begin = commands.checkpoints(broken)[-1]
    seen = []

    def later():
        if not seen and newer_than(begin)():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() > seen[0] + delay

    code, *_ = commands.end_when(process, later)
    assert code == -signal.SIGKILL

    # Ctrl-C: it saves where it is, and says so.
    begin = commands.checkpoints(broken)[-1]
    process = commands.start(command(broken))
    code, out, err = commands.end_when(process, newer_than(begin), signal.SIGINT)
    last = commands.checkpoints(broken)[-1]
    assert code == 130, err
    assert f"Stopped at step {last:,}; saved. The same command continues: {broken}" in out
    assert "Traceback" not in err
    assert last > begin

    # As soon as the metrics have grown, most likely while a checkpoint waits to be written.
    count = len(commands.rows(broken))
    process = commands.start(command(broken))
    code, *_ = commands.end_when(process, lambda: len(commands.rows(broken)) > count + 2)
    assert code == -signal.SIGKILL

    begin = commands.checkpoints(broken)[-1]
    assert last <= begin < DISPATCHES * commands.PER_DISPATCH
    code, out, err = commands.finish(commands.start(command(broken)))
    assert code == 0, err
    step, state = final_state(whole)
    broken_step, broken_state = final_state(broken)
    assert step == broken_step == DISPATCHES * commands.PER_DISPATCH
    tiny.assert_trees_equal(broken_state, state)
    assert len(commands.rows(whole)) == DISPATCHES // 2 + 2
    assert commands.rows(broken) == commands.rows(whole)


def test_a_run_on_envpool_restores_its_learner_to_the_bit_and_goes_on(tmp_path):
    folder, updates = tmp_path / "run", 400

    def start():
        return commands.start((str(folder), str(updates)), 1, "tests.machinery.host_run")

    code, *_ = commands.end_when(start(), lambda: len(commands.checkpoints(folder)) > 1)
    assert code == -signal.SIGKILL
    step = commands.checkpoints(folder)[-1]
    assert 0 < step < updates * host_run.PER_UPDATE

    agent = tiny.toy_agent(suites.make("envpool:CartPole-v1").spec)
    shapes = jax.eval_shape(lambda: {"state": agent.init(jax.random.key(0))})
    target = checkpoint.abstract(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
    with checkpoint.open_manager(folder / "checkpoints", read_only=True) as manager:
        _, saved, _ = checkpoint.restore_latest(manager, target)
    assert int(saved["state"].updates) == step // host_run.PER_UPDATE

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    result = host_run.run(copy, step // host_run.PER_UPDATE)  # nothing left to train
    tiny.assert_trees_equal(jax.device_get(result.state), jax.device_get(saved["state"]))

    code, _, err = commands.finish(start())
    assert code == 0, err
    result = host_run.run(folder, updates)
    assert int(result.state.updates) == updates
    steps = [row["step"] for row in commands.rows(folder)]
    assert steps[0] == 0 and steps[-1] == updates * host_run.PER_UPDATE
    assert len(set(steps)) == updates // 10 + 1 and steps == sorted(steps)
    # New episodes began where it went on: 500 actions at most, and a reset row.
    key = "task/CartPole-v1/episode/longest"
    longest = 501.0 * host_run.NUM_ENVS
    assert {row["step"]: row[key] for row in commands.rows(folder) if key in row} == {
        0: longest,
        step: longest,
    }
