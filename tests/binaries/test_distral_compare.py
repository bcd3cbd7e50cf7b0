"""The comparison and the robustness binaries, at their smallest, against plain training runs."""

import json

import numpy as np
import pytest

from mtrl_jax import metrics
from tests.machinery import commands

TASKS = 8
SMALL = (
    "--suite=maze8",
    "--num_envs_per_task=1",
    "--eval_episodes=1",
    "--total_env_steps=3200",
    "--log_every=1600",  # two dispatches: episodes end in the second
)
OVERRIDES = "--config_overrides=hidden=4,unroll_length=20,learning_rate=0.01"


def _run(module, *args):
    code, out, err = commands.finish(commands.start(args, 1, f"experiments.{module}"))
    assert code == 0, err
    return out, err


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _training_returns(folder):
    """Mean over tasks of the training returns in the last log row, per seed."""
    last = [r for r in metrics.read_jsonl(folder / "metrics.jsonl") if "grad/conflicts" in r][-1]
    names = [k for k in last if k.startswith("task/") and k.endswith("/episode/return")]
    assert len(names) == TASKS
    return np.mean([last[name] for name in names], axis=0)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two algorithms with two seeds each."""
    folder = tmp_path_factory.mktemp("compare")
    args = (
        *SMALL,
        OVERRIDES,
        "--num_seeds=2",
        "--algorithms=a3c_multitask,a3c_2col",
        f"--workdir={folder}",
    )
    return folder, args, _run("distral.compare", *args)[0]


def test_the_table_holds_what_the_runs_wrote(compared):
    folder, _, out = compared
    lines = _lines(folder / "comparison.jsonl")
    assert [line["algorithm"] for line in lines] == ["a3c_multitask", "a3c_2col"]
    assert (folder / "comparison.png").stat().st_size > 10_000
    for line in lines:
        run = folder / line["algorithm"] / "seed0"
        np.testing.assert_allclose(line["last_tenth"], _training_returns(run), atol=1e-4)
        rows = metrics.read_jsonl(run / "metrics.jsonl")
        last = [row for row in rows if any(key.startswith("eval/") for key in row)][-1]
        tasks = [k for k in last if k.startswith("eval/task_policy/") and k.endswith("/return")]
        np.testing.assert_allclose(line["final"], np.mean([last[k] for k in tasks], 0), atol=1e-4)
        assert f"{np.mean(line['final']):.3g} [" in out
        assert (line["distilled"] is None) == (line["algorithm"] == "a3c_multitask")


def test_a_finished_comparison_only_draws(compared):
    folder, args, out = compared
    checkpoints = sorted((folder / "a3c_2col" / "seed0" / "checkpoints").iterdir())
    written = [path.stat().st_mtime_ns for path in checkpoints]
    numbers = (folder / "comparison.jsonl").read_text()
    (folder / "comparison.png").unlink()
    (folder / "comparison.jsonl").unlink()
    assert _run("distral.compare", *args)[0] == out
    assert (folder / "comparison.jsonl").read_text() == numbers
    assert (folder / "comparison.png").exists()
    assert [path.stat().st_mtime_ns for path in checkpoints] == written != []


@pytest.mark.slow
def test_a_point_of_the_grid_is_a_training_run(compared, tmp_path):
    """Learning rate and costs reach the run: it equals the comparison's, seed for seed."""
    folder, _, _ = compared
    out = tmp_path / "robust.png"
    args = (
        *[flag for flag in SMALL if not flag.startswith(("--log_every", "--eval_"))],
        "--config_overrides=hidden=4,unroll_length=20",
        "--num_seeds=2",
        "--algorithms=a3c_2col",
        "--learning_rates=1e-3,1e-2",
        "--entropy_costs=1e-2",
        f"--out={out}",
    )
    _run("distral.robustness", *args)
    (line,) = _lines(out.with_suffix(".jsonl"))
    assert [(r["learning_rate"], r["seed"]) for r in line["runs"]] == [
        (1e-3, 0),
        (1e-3, 1),
        (1e-2, 0),
        (1e-2, 1),
    ]
    finals = [r["final"] for r in line["runs"]]
    expected = _training_returns(folder / "a3c_2col" / "seed0")
    np.testing.assert_allclose(finals[2:], expected, atol=1e-4)
    assert finals[:2] != finals[2:]
    assert out.exists()

    _run("distral.robustness", *args)  # a finished grid is not run again
    assert len(_lines(out.with_suffix(".jsonl"))) == 1
    code, _, err = commands.finish(
        commands.start([*args, "--total_env_steps=1600"], 1, "experiments.distral.robustness")
    )
    assert code == 2 and "holds runs of other settings" in err


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("distral.compare", ("--suite=maze8", "--algorithms=a3c,b3c"), "--algorithms must be some"),
        (
            "distral.compare",
            ("--suite=maze8", "--algorithm=a3c"),
            "Unknown command line flag",
        ),
        ("distral.robustness", ("--suite=minigrid_nav4",), "--suite must be a functional one"),
        (
            "distral.robustness",
            ("--suite=maze8", "--learning_rates=fast"),
            "must hold finite numbers",
        ),
        ("distral.robustness", ("--suite=maze8", "--entropy_costs=-1"), "entropy_cost must be"),
    ],
)
def test_bad_input_is_one_sentence(module, arguments, words, tmp_path):
    process = commands.start(
        (*arguments, f"--out={tmp_path / 'x.png'}"), 1, f"experiments.{module}"
    )
    code, out, err = commands.finish(process)
    assert code == 2 and out == "", err
    assert len(err.strip().splitlines()) == 1 and words in err
    assert not list(tmp_path.iterdir())
