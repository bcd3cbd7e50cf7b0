"""The metaworld binary: trains, continues, is scored by experiments.evaluate; bad flags are one
sentence."""

import json

import pytest

from tests.machinery import commands

PER_UPDATE = 4 * 2 * 2  # T, K, E
TINY = (
    "--benchmark=reach,window-open", "--num_envs_per_task=2", "--num_devices=1",
    "--eval_every=1000000", "--eval_episodes=1", "--final_episodes=1", "--log_every=16",
    "--config_overrides=hidden=4,unroll_length=4,epochs=1,minibatches=2",
)  # fmt: skip
MODULE = "experiments.metaworld"


def start(*args):
    return commands.start(args, 1, MODULE)


def test_a_run_is_reported_continued_and_scored(tmp_path):
    args = (*TINY, f"--workdir={tmp_path}", "--surgery=pcgrad")
    code, out, err = commands.finish(start(*args, f"--total_env_steps={2 * PER_UPDATE}"))
    assert code == 0, err
    assert "likeliest actions, success at any step" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["tasks"]) == {"reach", "window-open"}
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


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--benchmark=envpool:CartPole-v1",), "actions of envpool:CartPole-v1 are discrete"),
        (("--surgery=famo",), "positive losses"),
        (("--suite=mt10",), "--suite means nothing here"),
    ],
)
def test_bad_flags_are_one_sentence_before_anything_is_written(tmp_path, args, message):
    folder = tmp_path / "run"
    code, _, err = commands.finish(start(*args, f"--workdir={folder}"))
    assert code == 2
    assert message in err and err.count("error:") == 1 and "Traceback" not in err
    assert not folder.exists()
