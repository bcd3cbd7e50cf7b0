"""Two processes of two devices train what one process of four devices trains."""

import signal
import socket

import jax
import numpy as np
import pytest

from experiments.common import run_flags
from tests.machinery import commands, tiny
from tests.machinery.test_resume import final_state

DISPATCHES = 12


def command(folder):
    every = 2 * commands.PER_DISPATCH
    return (
        *commands.TINY,
        f"--workdir={folder}",
        f"--log_every={every}",
        f"--checkpoint_every={every}",
        f"--total_env_steps={DISPATCHES * commands.PER_DISPATCH}",
    )


def host_command(folder):
    """CartPole through envpool: 8 environments, so 2 on each of four devices."""
    return (
        "--suite=envpool:CartPole-v1",
        "--algorithm=a3c_multitask",
        "--noalone",
        "--num_envs_per_task=8",
        "--num_devices=0",
        "--eval_every=1000000",
        "--eval_episodes=1",
        "--config_overrides=hidden=4,unroll_length=20",
        "--total_env_steps=3200",
        "--log_every=3200",
        f"--workdir={folder}",
    )


def start_two(folder, other, command=command):
    """Two processes; the second is given a directory of its own, which it must not touch."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        commands.start(
            (
                *command(path),
                f"--coordinator_address=localhost:{port}",
                "--num_processes=2",
                f"--process_id={n}",
            ),
            num_devices=2,
        )
        for n, path in enumerate((folder, other))
    ]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    code, _, err = commands.finish(commands.start(command(one), num_devices=4))
    assert code == 0, err

    # Asking one of them to stop stops both, and what they saved together is continued by both.
    chief, second = start_two(two, other)

    def begun():
        return bool(commands.checkpoints(two))

    code, _, err = commands.end_when(second, begun, signal.SIGINT)
    assert code == 130, err
    code, out, err = commands.finish(chief)
    assert code == 130, err
    last = commands.checkpoints(two)[-1]
    assert f"Stopped at step {last:,}; saved." in out
    assert last < DISPATCHES * commands.PER_DISPATCH

    results = [commands.finish(process) for process in start_two(two, other)]
    assert [code for code, *_ in results] == [0, 0], results
    assert "checkpoints" in results[0][1]
    said = results[1][1].splitlines()  # the first process speaks for all; gloo does as it likes
    assert [line for line in said if line and not line.startswith("[Gloo]")] == []
    assert not other.exists()

    step, state = final_state(one)
    other_step, other_state = final_state(two)
    assert step == other_step == DISPATCHES * commands.PER_DISPATCH
    tiny.assert_trees_close(other_state.params, state.params, 1e-5)
    want, got = commands.rows(one), commands.rows(two)
    assert [sorted(row) for row in got] == [sorted(row) for row in want]
    names = [name for name in want[1] if name.endswith("loss/total")]
    assert len(names) == 8
    for row, other_row in zip(want[1:-1], got[1:-1], strict=True):
        np.testing.assert_allclose(
            [other_row[name] for name in names], [row[name] for name in names], 0, 1e-4
        )


def test_two_processes_refuse_together(tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "thesis.tex").write_text("mine")
    processes = start_two(tmp_path / "two", tmp_path / "other")
    (code, _, err), (second_code, _, second_err) = [commands.finish(p) for p in processes]
    assert (code, second_code) == (2, 2), (err, second_err)
    assert "error: workdir:" in err and "holds other files" in err
    assert "error: another process of this run cannot go on" in second_err
    assert [p.name for p in tmp_path.rglob("*")] == ["two", "thesis.tex"]


def test_two_processes_on_a_host_suite(tmp_path):
    """Each steps half of the environments; both learn from all of them."""
    results = [
        commands.finish(process)
        for process in start_two(tmp_path / "two", tmp_path / "other", host_command)
    ]
    assert [code for code, *_ in results] == [0, 0], results
    assert not (tmp_path / "other").exists()
    step, state = final_state(tmp_path / "two")
    assert step == 3200
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    name = "task/CartPole-v1/episode"
    row = next(row for row in commands.rows(tmp_path / "two") if f"{name}/count" in row)
    # An episode of L actions is L + 1 rows, and all but the unfinished ones are counted.
    played = row[f"{name}/count"] * (row[f"{name}/length"] + 1)
    assert 0.5 * 3200 < played <= 3200, row


# Of the other one's death the first hears only when a heartbeat has been missed.
@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_where_one_process_dies_the_other_ends_with_a_sentence(tmp_path, dies):
    def long(folder):
        return (*command(folder), "--total_env_steps=1_000_000_000")

    folder = tmp_path / "two"
    processes = start_two(folder, tmp_path / "other", long)
    code, *_ = commands.end_when(
        processes[dies], lambda: bool(commands.checkpoints(folder)), signal.SIGKILL
    )
    assert code == -signal.SIGKILL
    code, _, err = commands.finish(processes[1 - dies], timeout=run_flags.HEARTBEAT + 15)
    assert commands.checkpoints(folder)
    assert "Traceback" not in err
    if code == -signal.SIGABRT:  # on a busy machine JAX's client may be first, with its own words
        assert "another task died" in err
        return
    assert code == 1, err
    assert err.strip().splitlines()[-1].startswith("error: another process of this run has ended")
