"""`python -m experiments.distral.tabular` at a tiny size."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.distral.tabular", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def test_writes_figure_and_numbers(tmp_path):
    done = _run(
        f"--workdir={tmp_path}",
        "--num_seeds=2",
        "--num_tasks=3",
        "--total_env_steps=3600",
        "--state=cell",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plots" / "two_rooms.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert numbers["num_tasks"] == 3 and numbers["state"] == "cell"
    assert len(numbers["steps of an episode, each sixth of training"]["Distral"]) == 6
    assert str(tmp_path / "results.json") in done.stdout.splitlines()[-1]


def test_bad_values_end_in_one_sentence(tmp_path):
    done = _run(f"--workdir={tmp_path / 'new'}", "--total_env_steps=10")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: total_env_steps must be at least 6000, got 10"
    assert not (tmp_path / "new").exists()
