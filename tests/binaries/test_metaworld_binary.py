"""The metaworld binaries: train, continue, compare; bad flags are one sentence."""

import json

import pytest

from tests.machinery import commands

PER_UPDATE = 4 * 2 * 2  # T, K, E
TINY = (
    "--benchmark=reach,window-open",
    "--num_envs_per_task=2",
    "--num_devices=1",
    "--eval_every=1000000",
    "--eval_episodes=1",
    "--final_episodes=1",
    "--log_every=16",
    "--config_overrides=hidden=4,unroll_length=4,epochs=1,minibatches=2",
)
MODULE = "experiments.metaworld"


def start(*args):
    return commands.start(args, 1, MODULE)


def test_a_run_is_reported_continued_and_scored(tmp_path):
    args = (*TINY, f"--workdir={tmp_path}", "--surgery=pcgrad")
    code, out, err = commands.finish(start(*args, f"--total_env_steps={2 * PER_UPDATE - 1}"))
    assert code == 0, err
    assert "1 episode of each task, likeliest actions, success at any step" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["tasks"]) == {"reach", "window-open"}
    assert results["env_steps"] == 2 * PER_UPDATE
    assert results["episodes"] == 1 and results["mean"]["return"] > 0
    assert (tmp_path / "plots" / "learning_curves.png").stat().st_size > 0
    assert commands.checkpoints(tmp_path)[-1] == 2 * PER_UPDATE
    # The same command with more steps goes on from there.
    code, _, err = commands.finish(start(*args, f"--total_env_steps={3 * PER_UPDATE}"))
    assert code == 0, err
    steps = [row["step"] for row in commands.rows(tmp_path)]
    assert steps[0] == 0 and steps[-1] == 3 * PER_UPDATE and steps == sorted(steps)
    score = (f"--workdir={tmp_path}", "--episodes=1", "--nogifs")
    code, out, err = commands.finish(commands.start(score, 1, "experiments.evaluate"))
    assert code == 0, err
    assert "window-open" in out and "likeliest actions" in out


@pytest.mark.slow
def test_methods_are_compared_and_what_is_finished_is_not_run_again(tmp_path):
    args = (
        *TINY,
        "--benchmark=reach",
        f"--workdir={tmp_path}",
        "--seed=3",
        f"--total_env_steps={PER_UPDATE}",
        f"--out={tmp_path}/out/figure.png",
    )
    rows = []
    for more in (("--surgeries=mean", "--num_seeds=2"), ("--surgeries=mean,sum", "--num_seeds=1")):
        code, out, err = commands.finish(
            commands.start((*args, *more), 1, "experiments.metaworld.compare")
        )
        assert code == 0, err
        lines = (tmp_path / "out" / "figure.jsonl").read_text().splitlines()
        rows.append([json.loads(line) for line in lines])
    assert err.count("last evaluation: 100%") == 1  # the run of "sum" only
    names = [[(row["surgery"], row["seed"]) for row in group] for group in rows]
    assert names == [[("mean", 3), ("mean", 4)], [("mean", 3), ("sum", 3)]]
    assert rows[0][0] == rows[1][0]
    assert all(row["cpu_seconds"] > 0 and row["env_steps"] == PER_UPDATE for row in rows[0])
    assert rows[0][0]["mean"] != rows[0][1]["mean"]  # seeds are other runs
    assert (tmp_path / "out" / "figure.png").stat().st_size > 0
    assert "mean (1 seed)" in out and "mean over tasks" in out


@pytest.mark.slow
def test_sac_runs_on_another_group_of_envpool_and_is_scored(tmp_path):
    """Two walkers of DeepMind Control: no success to report, and more to an action."""
    code, out, err = commands.finish(
        start(
            "--algorithm=sac",
            "--benchmark=envpool:WalkerStand-v1,WalkerWalk-v1",
            "--surgery=pcgrad",
            f"--workdir={tmp_path}",
            "--num_envs_per_task=2",
            "--total_env_steps=48",
            "--eval_every=1000000",
            "--eval_episodes=1",
            "--final_episodes=1",
            "--log_every=16",
            "--config_overrides=hidden=4,unroll_length=4,batch_size=8,capacity=64,warmup=8",
        )
    )
    assert code == 0, err
    assert "success" not in out.split("mean over tasks")[0].split("task ")[-1]
    rows = [row for row in commands.rows(tmp_path) if "replay/updates" in row]
    assert [row["replay/updates"] for row in rows] == [0.0, 4.0, 4.0]  # warming up first
    score = (f"--workdir={tmp_path}", "--episodes=1", "--nogifs")
    code, out, err = commands.finish(commands.start(score, 1, "experiments.evaluate"))
    assert code == 0, err
    assert "WalkerWalk-v1" in out and "likeliest actions" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--benchmark=envpool:CartPole-v1",), "actions of envpool:CartPole-v1 are discrete"),
        (("--surgery=famo",), "positive losses"),
        (("--suite=mt10",), "--suite means nothing here"),
        (
            ("--algorithm=sac", "--config_overrides=capacity=10_000_000_000"),
            "GiB are free; at most",
        ),
        (("--algorithm=sac", "--surgery=gradnorm"), "positive losses"),
    ],
)
def test_bad_flags_are_one_sentence_before_anything_is_written(tmp_path, args, message):
    folder = tmp_path / "run"
    code, _, err = commands.finish(start(*args, f"--workdir={folder}"))
    assert code == 2
    assert message in err and err.count("error:") == 1 and "Traceback" not in err
    assert not folder.exists()
