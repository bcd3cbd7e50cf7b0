"""The dqn binary: trains on small games, continues, is scored and drawn; bad flags are one
sentence."""

import json

import pytest

from experiments.dqn import presets
from tests.machinery import commands

PER_DISPATCH = 10 * 4 * 1 * 2  # updates, T, K, E
TINY = (
    "--suite=small_games:cliff",
    "--num_envs_per_task=2",
    "--eval_every=1000000",
    "--eval_episodes=1",
    "--log_every=80",
    "--config_overrides=hidden=4,unroll_length=4,replay_size=64,min_replay=16,batch_size=4",
)


def start(*args, module="experiments.dqn"):
    return commands.start(args, 1, module)


def test_a_run_is_reported_continued_scored_and_drawn(tmp_path):
    args = (*TINY, f"--workdir={tmp_path}", "--num_seeds=2", "--surgery=pcgrad")
    code, out, err = commands.finish(start(*args, f"--total_env_steps={PER_DISPATCH - 1}"))
    assert code == 0, err
    assert f"best actions, policies after {PER_DISPATCH} environment steps:" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["dqn (onehot)"]["env_steps"] == PER_DISPATCH
    # The same command with more steps goes on from there, replay included.
    code, _, err = commands.finish(start(*args, f"--total_env_steps={2 * PER_DISPATCH}"))
    assert code == 0, err
    assert commands.checkpoints(tmp_path) == [PER_DISPATCH, 2 * PER_DISPATCH]
    rows = [row for row in commands.rows(tmp_path) if "task/cliff/replay/size" in row]
    assert rows[-1]["task/cliff/replay/size"] == [64.0, 64.0]
    score = (f"--workdir={tmp_path}", "--episodes=1")
    code, out, err = commands.finish(start(*score, module="experiments.evaluate"))
    assert code == 0, err
    assert len(list((tmp_path / "gifs").glob("*.gif"))) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--suite=small_games:catch,snakes",), "did you mean snake?"),
        (("--suite=mt10",), "discrete actions for DQN"),
        (("--surgery=famo",), "surgery 'famo' follows the size"),
        (("--config_overrides=replay_size=2000000000",), "GiB are free; at most"),
    ],
)
def test_bad_flags_end_in_one_sentence(tmp_path, args, words):
    code, _, err = commands.finish(start(*TINY[1:], *args, f"--workdir={tmp_path / 'run'}"))
    assert code == 2 and not (tmp_path / "run").exists()
    assert err.startswith("error: ") and err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    ("suite", "row"),
    [("small_games:catch", "small_games"), ("envpool:Pong-v5", "envpool:"), ("maze8", "")],
)
def test_every_suite_has_a_preset(suite, row):
    assert presets.preset_of(suite) is presets.PRESETS[row]
