"""The episodic binary: trains on a small game, goes on, is scored and recorded."""

import json

import pytest

from experiments.episodic import presets
from tests.machinery import commands

PER_DISPATCH = 10 * 4 * 1 * 2  # updates, T, K, E
TINY = (
    "--suite=small_games:cliff",
    "--num_envs_per_task=2",
    "--eval_every=1000000",
    "--eval_episodes=1",
    "--log_every=80",
)
NUMBERS = {
    "mfec": "unroll_length=4,capacity=64,dim=4,neighbours=3",
    "nec": "unroll_length=4,capacity=64,dim=4,neighbours=3,hidden=4,replay_size=64,min_replay=16,"
    "batch_size=4",
}


def run(*args, module="experiments.episodic"):
    code, out, err = commands.finish(commands.start(args, 1, module))
    assert code == 0, err
    return out


@pytest.mark.parametrize("algorithm", ["mfec", pytest.param("nec", marks=pytest.mark.slow)])
def test_a_run_is_reported_continued_and_recorded(tmp_path, algorithm):
    args = (*TINY, f"--workdir={tmp_path}", f"--algorithm={algorithm}", "--num_seeds=2")
    args = (*args, f"--config_overrides={NUMBERS[algorithm]}")
    out = run(*args, f"--total_env_steps={PER_DISPATCH}")
    assert f"best actions, policies after {PER_DISPATCH} environment steps:" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results[algorithm]["env_steps"] == PER_DISPATCH
    # The same command with more steps goes on from there, tables included.
    run(*args, f"--total_env_steps={2 * PER_DISPATCH}")
    assert commands.checkpoints(tmp_path) == [PER_DISPATCH, 2 * PER_DISPATCH]
    rows = [row for row in commands.rows(tmp_path) if "task/cliff/memory/keys" in row]
    before, after = rows[0]["task/cliff/memory/keys"], rows[-1]["task/cliff/memory/keys"]
    assert all(a > b > 0 for a, b in zip(after, before, strict=True))
    run(f"--workdir={tmp_path}", "--episodes=1", module="experiments.evaluate")
    assert len(list((tmp_path / "gifs").glob("*.gif"))) == 1


@pytest.mark.parametrize(
    ("suite", "row"),
    [("small_games:catch", "small_games"), ("atari42:Pong-v5", "atari42:"), ("rooms", "")],
)
def test_every_suite_has_a_preset(suite, row):
    assert presets.preset_of(suite) is presets.PRESETS[row]
