"""`experiments.evaluate`, `experiments.export` and `experiments.plot` on tiny runs, each command in
its own process."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.common import agents, runs
from mtrl_jax import rollout, serve
from mtrl_jax.types import Timestep
from tests.machinery import commands

ROOT = pathlib.Path(__file__).parents[2]
# Compiling is what these commands spend their time on.
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def _run(binary, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{binary}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | _ENVIRONMENT,
        timeout=400,
    )


def _train(folder, suite, *arguments):
    done = _run(
        "distral",
        f"--workdir={folder}",
        f"--suite={suite}",
        "--noalone",
        "--eval_episodes=2",
        "--config_overrides=hidden=8,unroll_length=4",
        *arguments,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def functional_run(tmp_path_factory):
    """Two seeds of maze8, two environments a task."""
    return _train(
        tmp_path_factory.mktemp("runs") / "maze",
        "maze8",
        "--num_envs_per_task=2",
        "--num_seeds=2",
        "--total_env_steps=1280",
        "--log_every=640",
        "--checkpoint_every=640",
        "--algorithm=kl_ent_1col",
    )


@pytest.fixture(scope="module")
def host_run(tmp_path_factory):
    """MiniGrid on two of its tasks."""
    suite = "envpool:MiniGrid-Empty-5x5-v0,MiniGrid-DoorKey-5x5-v0"
    return _train(
        tmp_path_factory.mktemp("runs") / "minigrid",
        suite,
        "--num_envs_per_task=2",
        "--total_env_steps=32",
        "--algorithm=a3c",
        "--log_every=16",
    )


def _one_sentence(ended, *words):
    assert (ended.code, ended.out) == (2, ""), ended.err
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), ended.err
    for word in words:
        assert str(word) in lines[0]


def _pictures(path):
    with Image.open(path) as gif:
        return [np.asarray((gif.seek(n), gif.convert("RGB"))[1]) for n in range(gif.n_frames)]


def test_evaluate_a_functional_run(functional_run):
    before = {p: p.stat().st_mtime_ns for p in (functional_run / "checkpoints").rglob("*")}
    done = _run("evaluate", f"--workdir={functional_run}", "--episodes=3", "--seed=5")
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in (functional_run / "checkpoints").rglob("*")} == before

    scores = json.loads((functional_run / "evaluation.json").read_text())
    assert (scores["step"], scores["episodes"], scores["seed"]) == (1280, 3, 5)
    assert len(scores["task_policy"]) == 8
    for policy in ("task_policy", "distilled_policy"):
        for task, of in scores[policy].items():
            assert of["length"] == {"mean": 200.0, "low": 200.0, "high": 200.0}
            for one in of.values():
                assert one["low"] <= one["mean"] <= one["high"]
            row = next(x for x in done.stdout.splitlines() if x.startswith(task))
            assert f"{scores['task_policy'][task]['return']['mean']:.2f} [" in row
            frames = _pictures(
                functional_run / "gifs" / f"{task}{'-distilled' * (policy != 'task_policy')}.gif"
            )
            assert len(frames) > 20  # of 201; equal neighbours are one picture shown for longer
            assert any((frame != frames[0]).any() for frame in frames)
    assert scores["task_policy"] != scores["distilled_policy"]
    assert str(functional_run / "evaluation.json") in done.stdout
    assert scores["actions"] == "drawn" and "drawn actions" in done.stdout

    # Another checkpoint, other actions.
    more = ("--step=640", "--actions=likeliest", "--nogifs")
    done = _run("evaluate", f"--workdir={functional_run}", "--episodes=3", "--seed=5", *more)
    assert done.returncode == 0, done.stderr
    assert "Step 640: means of 3 episodes, likeliest actions" in done.stdout
    other = json.loads((functional_run / "evaluation.json").read_text())
    assert (other["step"], other["actions"]) == (640, "likeliest")
    assert other["task_policy"] != scores["task_policy"]


_WITHOUT_OPENGL = """
import runpy, subprocess, sys
from mtrl_jax import record
from mtrl_jax.envs import draw

def asks(*args, **kwargs):
    draw.check_can_draw("Reach-v3")

draw.subprocess.run = lambda *args, **kwargs: subprocess.CompletedProcess([], 1)
record.play = asks
runpy.run_module("experiments.evaluate", run_name="__main__", alter_sys=True)
"""


def test_scores_stand_where_nothing_can_be_drawn(functional_run):
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_OPENGL, f"--workdir={functional_run}", "--episodes=2"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | _ENVIRONMENT,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((functional_run / "evaluation.json").read_text())["episodes"] == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("warning: no gifs: ") and "OpenGL" in line and "libegl1" in line


@pytest.mark.slow
def test_evaluate_a_host_run(host_run):
    done = _run("evaluate", f"--workdir={host_run}", "--episodes=2")
    assert done.returncode == 0, done.stderr
    scores = json.loads((host_run / "evaluation.json").read_text())
    assert scores["step"] == 32
    assert "distilled_policy" not in scores  # a3c has none
    tasks = ["MiniGrid-Empty-5x5-v0", "MiniGrid-DoorKey-5x5-v0"]
    assert list(scores["task_policy"]) == tasks
    for task in tasks:
        of = scores["task_policy"][task]
        assert 0 <= of["success"]["low"] <= of["success"]["mean"] <= of["success"]["high"] <= 1
        assert of["success"]["high"] > of["success"]["low"]  # two episodes prove nothing
        assert 1 <= of["length"]["mean"] <= 250
        assert len(_pictures(host_run / "gifs" / f"{task}.gif")) > 1
    assert "task policies: 100%" in done.stderr  # the progress bar


def test_export_a_run(functional_run, tmp_path):
    """Seed 1 at a checkpoint that is not the newest acts as its agent does."""
    pytest.importorskip("flatbuffers", reason="python -m pip install flatbuffers")
    out = tmp_path / "policy"
    flags = (f"--workdir={functional_run}", "--step=640", "--actions=likeliest", "--of_seed=1")
    done = _run("export", *flags, f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert (
        "step 640, 8 tasks of maze8" in done.stdout and f"policy  {out} (likeliest" in done.stdout
    )

    settings, config = runs.read(functional_run)
    suite = runs.make_suite(settings)
    spec, agent = suite.spec, agents.make(suite.spec, settings, 1)
    _, state = runs.restore(functional_run, config, suite, agent, 640)
    params = agent.policy_params(jax.tree.map(lambda x: x[1], state))
    rng = np.random.default_rng(0)
    shape = (8, 5)
    observation = rng.integers(0, 2, (*shape, *spec.observation_shape), spec.observation_dtype)
    start = np.ones(shape, bool)
    zeros = np.zeros(shape, np.float32)
    row = Timestep(observation, zeros, zeros + 1, start, ~start, ~start)
    for name in serve.POLICIES:
        policy = serve.load(out, name)
        assert policy.description["step"] == 640 and policy.description["run"] == settings
        act = jax.jit(rollout.acting(agent, distilled=name == "distilled_policy", greedy=True))
        want, _, _ = act(
            params, agent.init_actor(5), row, jax.random.split(jax.random.key(0), shape)
        )
        have, _ = policy.act(observation.reshape(40, *spec.observation_shape), np.arange(40) // 5)
        np.testing.assert_array_equal(have, np.ravel(want))


def test_plot_compares_runs(functional_run, tmp_path):
    out = tmp_path / "new" / "curves.png"
    done = _run(
        "plot",
        f"--runs={functional_run},{functional_run}/.",
        "--labels=one,two",
        f"--out={out}",
        "--metric=eval/distilled_policy/return",
    )
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    assert done.stdout.splitlines()[-1].split() == ["curves", str(out)]
    lines = [x.split() for x in done.stdout.splitlines() if x.startswith(("one ", "two "))]
    rows = [json.loads(x) for x in (functional_run / "metrics.jsonl").read_text().splitlines()]
    last = [r for r in rows if any(k.startswith("eval/distilled_policy/") for k in r)][-1]
    returns = [
        np.mean(v)
        for k, v in last.items()
        if k.startswith("eval/distilled_policy/") and k.endswith("/return")
    ]
    assert len(lines) == 2 and len(returns) == 8
    for line in lines:
        assert float(line[1]) == pytest.approx(np.mean(returns), rel=5e-3)
        assert line[-2:] == ["2", "seeds"]


def test_plot_over_cpu_seconds_alone_in_one_panel(functional_run, tmp_path):
    out = tmp_path / "seconds.png"
    done = _run(
        "plot",
        f"--runs={functional_run}",
        f"--out={out}",
        "--over=cpu_seconds",
        "--nopanels",
        "--metric=eval/distilled_policy/return",
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(x) for x in (functional_run / "metrics.jsonl").read_text().splitlines()]
    counts = [row["time/cpu_seconds"] for row in rows if "time/cpu_seconds" in row]
    assert counts == sorted(counts) and f" at {int(counts[-1])} CPU-seconds, " in done.stdout
    assert out.stat().st_size > 0


def test_what_cannot_be_read_written_or_compared_is_refused(functional_run, host_run, tmp_path):
    empty, foreign, young = (tmp_path / name for name in ("empty", "foreign", "young"))
    for folder in (empty, foreign, young):
        folder.mkdir()
    (foreign / "config.json").write_text('{"binary": "something"}')
    (young / "config.json").write_bytes((host_run / "config.json").read_bytes())
    none = tmp_path / "none"
    cases = {
        ("evaluate",): ["--workdir must name"],
        ("evaluate", f"--workdir={none}"): [none, "not a directory"],
        ("evaluate", f"--workdir={empty}"): ["config.json"],
        ("evaluate", f"--workdir={host_run}", "--core=lstm"): ["'core'"],
        ("evaluate", f"--workdir={foreign}"): [foreign, "distral"],
        ("evaluate", f"--workdir={young}"): [young, "no checkpoint yet"],
        ("evaluate", f"--workdir={functional_run}", "--step=641"): [
            "step must be that of a checkpoint",
            "640, 1280",
            "got 641",
        ],
        ("export",): ["--workdir must name"],
        ("export", f"--workdir={functional_run}", "--step=641"): ["640, 1280", "got 641"],
        ("export", f"--workdir={functional_run}", "--step=new"): ["--step", "got 'new'"],
        ("export", f"--workdir={functional_run}", "--of_seed=2"): ["--of_seed", "got 2"],
        ("export", f"--workdir={functional_run}", f"--out={host_run}"): ["other files"],
        ("export", f"--workdir={young}"): [young, "no checkpoint yet"],
        ("plot",): ["--runs"],
        ("plot", f"--runs={functional_run},{host_run}"): [
            "different tasks",
            functional_run,
            host_run,
        ],
        ("plot", f"--runs={functional_run}", "--metric=loss/nothing"): [
            "loss/nothing",
            "loss/entropy",
        ],
        ("plot", f"--runs={functional_run},{functional_run}/."): ["same run", "--labels"],
        ("plot", f"--runs={functional_run}", "--labels=a,b"): ["--labels", "got 2"],
        ("plot", f"--runs={functional_run}", "--suite=maze8"): ["flag 'suite'"],
    }
    own = tmp_path / "own"
    own.mkdir()
    for words, ended in zip(cases.values(), commands.forked(own, list(cases)), strict=True):
        _one_sentence(ended, *words)
        assert ended.left == []
    assert [p.name for p in young.iterdir()] == ["config.json"]
    assert list(empty.iterdir()) == []
