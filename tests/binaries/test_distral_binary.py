"""The distral binary from the outside: what it prints, and one sentence for every bad input."""

import contextlib
import io
import json
import pathlib
import sys

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments.common import binary
from experiments.common.override import override
from experiments.common.progress import Progress, latest
from experiments.distral import __main__ as distral
from mtrl_jax import metrics, train, workdir
from tests.machinery import commands
from tests.machinery.test_workdir import snapshot

SENTENCE = ("--suite=maze8", "--noalone")


def call(*args: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `python -m experiments.distral <args>`."""
    out, err = io.StringIO(), io.StringIO()
    with (
        flagsaver.flagsaver(),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", ["distral", *args])
        binary.main(distral.main)
    return ended.value.code or 0, out.getvalue(), err.getvalue()


@pytest.fixture
def never_train(monkeypatch):
    """Whoever gets as far as making an engine was not refused in time."""
    monkeypatch.setattr(train.engines, "make", lambda *_: pytest.fail("a run began"))


BAD = {
    "suite": (("--suite=mazes8",), "unknown suite 'mazes8'; did you mean maze8?"),
    "empty suite": (("--suite=envpool:",), "at least one"),
    "envpool id": (("--suite=envpool:Pongg-v5",), "Pongg-v5"),
    "std": (("--config_overrides=initial_std=3",), "initial_std must lie in (0.03, 2.0); got 3.0"),
    "algorithm": (("--algorithm=ppo",), "--algorithm=ppo: value should be one of"),
    "flag": (("--suiet=maze8",), "Unknown command line flag 'suiet'"),
    "no flag": (("maze8",), "unexpected argument 'maze8'; flags start with --"),
    "not a number": (("--total_env_steps=many",), "--total_env_steps=many"),
    "too few": (("--total_env_steps=0",), "--total_env_steps=0"),
    "no seeds": (("--num_seeds=0",), "--num_seeds=0"),
    "core": (("--core=gru",), "--core=gru: value should be one of"),
    "surgery": (("--surgery=magic",), "--surgery=magic: value should be one of"),
    "alpha above": (("--config_overrides=alpha=1.5",), "alpha must lie in [0, 1]"),
    "alpha below": (("--config_overrides=alpha=-0.5",), "alpha must lie in [0, 1]"),
    "beta infinite": (("--config_overrides=entropy_cost=0",), "entropy_cost must be above 0"),
    "beta negative": (("--config_overrides=entropy_cost=-1",), "entropy_cost must be above 0"),
    "not finite": (("--config_overrides=entropy_cost=nan",), "entropy_cost must be above 0"),
    "override": (("--config_overrides=alhpa=1",), "'alhpa=1' is not name=value of one of"),
    "override value": (("--config_overrides=alpha=big",), "alpha takes"),
    "no environments": (("--num_envs_per_task=0",), "num_envs_per_task must be at least 1; got 0"),
    "uneven": (("--num_envs_per_task=7", "--num_devices=2"), "must be a multiple of 2"),
    "devices": (("--num_devices=9",), "num_devices must be between 0 (all) and 8"),
    "process": (("--num_processes=2", "--process_id=2"), "--process_id must lie in [0, 2)"),
    "coordinator": (("--num_processes=2",), "--coordinator_address must be given"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, never_train, case):
    args, message = BAD[case]
    folder = tmp_path / "run"
    code, out, err = call(*SENTENCE, f"--workdir={folder}", *args)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err, err
    assert out == ""
    assert not folder.exists()


def test_mixed_action_spaces_are_refused(tmp_path, never_train):
    folder = tmp_path / "run"
    code, _, err = call("--suite=envpool:Pong-v5,CartPole-v1", f"--workdir={folder}")
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and "CartPole-v1" in err, err
    assert not folder.exists()


def test_directories_that_are_not_this_runs_are_refused(tmp_path, never_train):
    (tmp_path / "file").write_text("")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    workdir.create(tmp_path / "other", {"binary": "distral", "suite": "minigrid_nav4"})
    before = snapshot(tmp_path)
    cases = {
        "file/run": "is not a directory",
        "file": "is not a directory",
        "foreign": "holds other files and no config.json",
        "other": "holds a run with",
        "/proc/run": "/proc/run",
    }
    for path, message in cases.items():
        code, out, err = call(*SENTENCE, f"--workdir={tmp_path / path}")
        assert code == 2, path
        assert err.startswith("error: workdir: ") and err.count("\n") == 1 and message in err, err
        assert out == ""
    assert snapshot(tmp_path) == before


def test_suites_are_listed():
    code, out, err = call("--list_suites")
    assert code == 0 and err == ""
    assert {"minigrid_ladder", "minigrid_nav4", "maze8"} <= {s.split()[0] for s in out.splitlines()}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("bad\n  input"), 2),
        (FloatingPointError("bad input"), 1),
        (ImportError("bad input"), 2),
    ],
)
def test_what_a_run_raises_becomes_a_sentence(error, code, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(train, "run", fail)
    assert call(*SENTENCE) == (code, "", "error: bad input\n")


def test_ctrl_c_outside_the_loop_is_a_sentence(monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run", fail)
    code, _, err = call(*SENTENCE)
    assert code == binary.INTERRUPTED == 130
    assert err.startswith("Stopped; ") and err.count("\n") == 1


def test_a_run_of_the_binary_and_a_damaged_checkpoint(tmp_path):
    # One process from start to end with every output, then the same command on damaged files.
    folder = tmp_path / "run"
    total = 4 * commands.PER_DISPATCH
    command = (
        *commands.TINY,
        f"--workdir={folder}",
        f"--total_env_steps={total}",
        f"--checkpoint_every={2 * commands.PER_DISPATCH}",
    )
    code, out, err = commands.finish(commands.start(command))
    assert code == 0, err
    assert "\r" not in err and "\x1b" not in err  # a pipe gets whole lines
    assert f"{total / 1000:.2f}k/{total / 1000:.2f}k" in err.splitlines()[-1]
    assert "nan%" not in out and "Traceback" not in err
    table = out[out.index("Means of") :].splitlines()
    assert table[1].split() == ["random", "a3c_multitask"]
    assert [line.split()[0] for line in table[3:11]] == list(_task_names())
    tail = dict(line.split(None, 1) for line in out.strip().splitlines()[-5:])
    assert set(tail) == {"learning", "checkpoints", "to"}
    for path in ("plots/learning_curves.png", "checkpoints", "results.json", "config.json"):
        assert (folder / path).exists()
    assert "NaN" not in (folder / "metrics.jsonl").read_text()
    settings = json.loads((folder / "config.json").read_text())
    assert settings["config/algorithm"] == "a3c_multitask"

    for path in (folder / "checkpoints").rglob("*"):  # of one alone the other would count
        if path.is_file() and "state" in path.parts:
            path.write_bytes(b"")
    before = snapshot(folder)
    code, out, err = commands.finish(commands.start(command))
    assert code == 2, err
    lines = err.strip().splitlines()
    assert lines[-1].startswith("error: checkpoint ") and len(lines) == 1, err
    assert "cannot be restored" in lines[0]
    assert {**snapshot(folder), "lock": b""} == {**before, "lock": b""}


def _task_names() -> tuple[str, ...]:
    from mtrl_jax.envs import suites

    return suites.make("maze8").spec.task_names


def test_progress_on_a_terminal_and_off_it(monkeypatch):
    rows = [{}, {"task/a/episode/return": 0.5, "task/b/episode/return": jax.numpy.ones(2)}]
    shown = {}
    for tty in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda tty=tty: tty, raising=False)
        monkeypatch.setattr(sys, "stderr", stream)
        with contextlib.closing(Progress("title", ("a", "b"))) as progress:
            assert stream.getvalue() == ""  # nothing before the run has passed its checks
            progress(0, 100, rows[0])
            progress(100, 100, rows[1])
        shown[tty] = stream.getvalue()
    assert "\r" in shown[True] and "\r" not in shown[False]
    for text in shown.values():
        assert "title: 100%" in text and "100/100" in text and "return: a 0.50, b 1.00" in text
    assert all(line.strip() for line in shown[False].splitlines())


def test_what_the_bar_says_of_returns():
    names = ("MiniGrid-Empty-5x5-v0", "b")
    key = "task/{}/episode/return".format
    assert latest({}, names) == latest({key("b"): np.nan}, names) == "no episode yet"
    row = {key(names[0]): np.array([0.25, np.nan, 0.75])}  # one seed has none
    assert latest(row, names) == "return: Empty-5x5 0.50, b no episode yet"
    many = tuple("abcdef")
    row = {key(name): float(n) for n, name in enumerate(many)}
    assert latest(row, many) == "mean return 2.50 (a 0.00 to f 5.00)"
    del row[key("f")]
    assert (
        latest(row, many) == "mean return 2.00 (a 0.00 to e 4.00); no episode yet of 1 of 6 tasks"
    )


def test_overrides():
    from mtrl_jax.algorithms.distral import Config

    pairs = ["hidden=64x32", "alpha=0.25", "separate=true", "unroll_length=1_0", "core=lstm"]
    config = override(Config(), pairs)
    assert config == Config(
        hidden=(64, 32), alpha=0.25, separate=True, unroll_length=10, core="lstm"
    )
    with pytest.raises(ValueError, match="separate takes"):
        override(Config(), ["separate=maybe"])


assert pathlib.Path(distral.__file__).is_relative_to(commands.ROOT)


@pytest.mark.slow
def test_atari_from_screen_to_checkpoint(tmp_path):
    """Two games, convolutions and a recurrent core, trained, scored and restored."""
    args = (
        "--suite=envpool:Asterix-v5,Breakout-v5",
        "--core=lstm",
        "--noalone",
        "--num_envs_per_task=2",
        "--eval_episodes=1",
        "--total_env_steps=48",
        "--log_every=24",
        f"--workdir={tmp_path}",
        "--config_overrides=hidden=8,core_size=8,unroll_length=4",
    )
    code, out, err = commands.finish(commands.start(args, num_devices=1))
    assert code == 0, err
    asterix = next(line for line in out.splitlines() if line.startswith("Asterix-v5"))
    scores = [float(cell) for cell in asterix.split()[1:]]
    # The game counts in fifties: no clipping, no scaling on the way to the table.
    assert len(scores) == 3 and all(score >= 0 and score % 50 == 0 for score in scores), out
    rows = metrics.read_jsonl(tmp_path / "metrics.jsonl")
    trained = [row for row in rows if "grad/cosine" in row]
    assert trained and all(row["task/Asterix-v5/grad/shared_norm"] > 0 for row in trained)
    assert commands.checkpoints(tmp_path)[-1] == 48


@pytest.mark.slow
def test_continuous_actions_from_training_to_evaluation(tmp_path):
    """A pool with torques, trained, continued and scored with both policies."""
    args = (
        "--suite=envpool:Pendulum-v1",
        "--noalone",
        "--num_envs_per_task=2",
        "--eval_episodes=1",
        "--log_every=16",
        f"--workdir={tmp_path}",
        "--config_overrides=hidden=8,unroll_length=4",
    )
    for total in (32, 48):
        code, out, err = commands.finish(
            commands.start((*args, f"--total_env_steps={total}"), num_devices=1)
        )
        assert code == 0, err
    steps = [row["step"] for row in commands.rows(tmp_path)]
    assert steps[0] == 0 and steps[-1] == 48 and steps == sorted(steps)
    assert commands.checkpoints(tmp_path)[-1] == 48
    score = (f"--workdir={tmp_path}", "--episodes=1", "--nogifs")
    code, scores, err = commands.finish(commands.start(score, 1, "experiments.evaluate"))
    assert code == 0, err
    for table, columns in ((out, ("random", "kl_ent_2col", "distilled")), (scores, ("length",))):
        assert all(column in table for column in columns)
    results = json.loads((tmp_path / "evaluation.json").read_text())
    for policy in ("task_policy", "distilled_policy"):
        one = results[policy]["Pendulum-v1"]
        assert one["length"]["mean"] == 200 and -3300 < one["return"]["mean"] < 0
