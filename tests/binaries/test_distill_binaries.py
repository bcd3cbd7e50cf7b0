"""Distillation and Actor-Mimic from the command line, at their smallest, with the same teachers."""

import json

import numpy as np
import pytest

from mtrl_jax import metrics
from tests.machinery import commands

SMALL = (
    "--suite=small_games:catch",
    "--num_envs_per_task=2",
    "--num_seeds=2",
    "--eval_episodes=2",
    "--total_env_steps=320",
    "--eval_every=160",
)
OVERRIDES = "--config_overrides=min_replay=16,replay_size=64,unroll_length=8,batch_size=8"


def _run(module, *args):
    code, out, err = commands.finish(commands.start(args, 1, f"experiments.{module}"))
    assert code == 0, err
    return out


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """Teachers of 320 steps a game, and a student of a quarter."""
    folder = tmp_path_factory.mktemp("distill")
    args = (*SMALL, OVERRIDES, "--teacher_steps=320", f"--workdir={folder}")
    return folder, args, _run("distill", *args)


def test_the_table_is_what_the_runs_wrote(distilled):
    folder, _, out = distilled
    lines = _lines(folder / "results.jsonl")
    assert [(line["student"], line["game"]) for line in lines] == [("kl", "catch")]
    rows = metrics.read_jsonl(folder / "kl" / "metrics.jsonl")
    last = [row for row in rows if "eval/task_policy/catch/return" in row][-1]
    for line in lines:
        own = last[f"eval/task_policy/{line['game']}/return"]
        np.testing.assert_allclose(line["student_seeds"], own)
        assert len(line["teacher_seeds"]) == 2
        np.testing.assert_allclose(line["student_size"] / line["teachers_size"], 0.25, atol=0.01)
        assert f"{np.mean(own):.2f}" in out
    assert (folder / "plots" / "students.png").stat().st_size > 10_000
    assert (folder / "table.txt").read_text().strip() in out


def test_what_is_finished_is_not_run_again(distilled):
    folder, args, out = distilled
    files = [*(folder / "teachers").rglob("*"), *(folder / "kl").rglob("*")]
    written = {path: path.stat().st_mtime_ns for path in files}
    (folder / "results.jsonl").unlink()
    assert _run("distill", *args) == out
    assert {path: path.stat().st_mtime_ns for path in files} == written
    assert (folder / "results.jsonl").exists()


@pytest.mark.slow
def test_actor_mimic_takes_teachers_from_elsewhere(distilled, tmp_path):
    folder, _, _ = distilled
    args = (
        *SMALL,
        OVERRIDES,
        f"--teachers={folder / 'teachers'}",
        "--feature_costs=0.01",
        f"--workdir={tmp_path}",
    )
    _run("distill.actor_mimic", *args)
    lines = _lines(tmp_path / "results.jsonl")
    assert [line["student"] for line in lines] == ["policy and 0.01 features"]
    other = {line["game"]: line["teacher_seeds"] for line in _lines(folder / "results.jsonl")}
    assert {line["game"]: line["teacher_seeds"] for line in lines} == other
    rows = metrics.read_jsonl(tmp_path / "policy_and_0.01_features" / "metrics.jsonl")
    found = [row["task/catch/loss/features"] for row in rows if "task/catch/loss/features" in row]
    assert np.max(found) > 0  # nothing is learnt before the replay is filled
    assert not (tmp_path / "teachers").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--losses=l1",), "--losses must be some of kl, nll, mse; got 'l1'"),
        (("--teachers=/nowhere",), "--teachers: /nowhere"),
    ],
)
def test_bad_flags_end_in_one_sentence(tmp_path, args, message):
    process = commands.start([*SMALL, f"--workdir={tmp_path}", *args], 1, "experiments.distill")
    code, _, err = commands.finish(process)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == []
