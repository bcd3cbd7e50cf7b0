"""experiments.auxiliary at its smallest: its rows, and that a killed run ends as a whole one."""

import json

import numpy as np
import pytest

from experiments.auxiliary import report, run
from mtrl_jax.algorithms import unreal
from tests.machinery import commands

ARGS = (
    *("--auxiliary=all_and_noise", "--combine=auxilearn", "--num_seeds=2", "--eval_episodes=1"),
    *("--num_envs_per_task=2", "--total_env_steps=1280", "--checkpoint_every=640"),
    "--log_every=640",
    "--config_overrides=hidden=4,core_size=4,unroll_length=16,replay_batch=2,cell=16,replay_size=4",
)
ROW = "all_and_noise-auxilearn/seed0"


def test_rows_are_pairs_and_none_is_always_there():
    numbers = unreal.Config(pixel_control=0.5)
    rows = run.rows_of(["noise", "all"], ["sum", "pcgrad"], numbers)
    assert list(rows) == ["none", "noise sum", "noise pcgrad", "all sum", "all pcgrad"]
    assert rows["none"].auxiliaries == () and rows["noise pcgrad"].combine == "pcgrad"
    assert all(row.pixel_control == 0.5 for row in rows.values())
    assert list(run.rows_of(["none"], ["sum"], numbers)) == ["none"]


def test_scores_and_cosines_are_read_from_rows():
    first = {"aux/noise/cosine": [0.5, 0.1], "aux/noise/loss": [9.0, 9.0]}
    last = {f"eval/task_policy/{t}/return": [n, n + 1] for n, t in enumerate("ab")}
    group = [[{"step": 0}, first, {"aux/noise/cosine": [0.3, 0.3]}, last]]
    np.testing.assert_array_equal(report.final_scores(group, "ab"), [[0, 1], [1, 2]])
    assert report.cosines(group) == {"noise": pytest.approx(0.3)}


@pytest.mark.slow
def test_a_killed_run_ends_as_the_whole_one(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def start(folder):
        return commands.start((*ARGS, f"--workdir={folder}"), 1, "experiments.auxiliary")

    code, out, err = commands.finish(start(whole))
    assert code == 0, err
    assert "all_and_noise auxilearn" in out and "random" in out
    commands.end_when(start(cut), lambda: 640 in commands.checkpoints(cut / ROW))
    code, _, err = commands.finish(start(cut))
    assert code == 0, err
    for name in (ROW, "none/seed0"):
        assert commands.rows(whole / name) == commands.rows(cut / name)
    lines = [json.loads(line) for line in (whole / "results.jsonl").read_text().splitlines()]
    assert [line["agent"] for line in lines] == ["none", "all_and_noise auxilearn"]
    assert set(lines[1]["cosines"]) == set(run.SETS["all_and_noise"])
    assert np.shape(lines[1]["scores"]) == (2, 2)
    for name in ("curves", "scores"):
        assert (whole / "plots" / f"{name}.png").stat().st_size > 5_000
    # What is finished is only drawn, and evaluated by the binary that evaluates all.
    code, out, err = commands.finish(start(whole))
    assert code == 0 and "step/s" not in err, err
    args = (f"--workdir={whole / ROW}", "--episodes=1")
    code, out, err = commands.finish(commands.start(args, 1, "experiments.evaluate"))
    assert code == 0, err
