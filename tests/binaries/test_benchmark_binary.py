"""The benchmark's binary: the documented agent goes through all of it, and bad input is refused."""

import json
import pathlib
import re

import pytest

from experiments import benchmark_agents
from mtrl_jax import metrics
from mtrl_jax.benchmark import results
from mtrl_jax.benchmark.protocol import HostAgent, Spec
from mtrl_jax.envs import suites
from tests.machinery import commands

GAMES = ("catch", "rain")
FLAGS = (
    "--suite=small_games:catch,rain", "--folds=2", "--seeds=1", "--steps_per_task=64",
    "--evaluations=1", "--eval_episodes=2", "--final_episodes=2", "--num_envs_per_task=2",
    "--num_workers=1",
)  # fmt: skip


def example() -> str:
    text = (commands.ROOT / "docs" / "benchmark.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return code


def run(folder: pathlib.Path, *flags: str) -> tuple[int, str, str]:
    process = commands.start((*FLAGS, f"--workdir={folder}", *flags), 1, "experiments.benchmark")
    return commands.finish(process)


def test_the_documented_agent_goes_through_the_whole_matrix(tmp_path, monkeypatch):
    code = example()
    assert len(code.splitlines()) < 60
    (tmp_path / "my_agent.py").write_text(code)
    # One that breaks the rules stands beside it, and takes nothing from its results.
    broken = code.replace("return np.where(explore,", "return 6 + np.where(explore,")
    assert broken != code
    (tmp_path / "bad_agent.py").write_text(broken)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = tmp_path / "run"
    status, out, err = run(folder, "--agent=my_agent:make,bad_agent:make")
    assert status == 1, err
    assert "error: agent bad_agent:make: action must be in [0, 6), got values in [" in err
    assert "Traceback" not in err and "7 of 16 cells failed; the others are in" in out
    rows = metrics.read_jsonl(folder / "results.jsonl")
    kinds = sorted((r["agent"], r["kind"], r["task"], r["fold"]) for r in rows if r["task"])
    held = {r["task"]: r["fold"] for r in rows if r["kind"] == "transfer"}
    assert sorted(held.values()) == [0, 1]
    assert kinds == [("my_agent:make", k, g, held[g] if k == "transfer" else None)
                     for k in ("scratch", "transfer") for g in GAMES]  # fmt: skip
    assert {r["agent"] for r in rows} == {"random", "frozen", "my_agent:make"}
    assert len(rows) == 2 + 2 + 1 + 2 + 2

    before = (folder / "results.jsonl").read_bytes()
    status, out, err = run(folder, "--agent=my_agent:make")
    assert status == 0, err
    assert f"All 9 cells are in {folder}/results.jsonl" in out
    assert (folder / "results.jsonl").read_bytes() == before
    status, out, err = run(folder, "--agent=my_agent:make", "--fold_seed=3")
    assert status == 2 and err.strip() == (
        f"error: workdir: {folder} holds a run with fold_seed=0, this one has 3; choose another "
        "workdir or the same settings"
    )
    assert (folder / "results.jsonl").read_bytes() == before
    assert json.loads((folder / "config.json").read_text())["suite"] == "small_games:catch,rain"

    report = commands.start((f"--workdir={folder}",), 1, "experiments.report")
    status, out, err = commands.finish(report)
    assert status == 0, err
    assert "my_agent:make" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--games=catch,tetris"], r"unknown game 'tetris' \(known: catch, rain\)"),
        (["--folds=3"], "folds must be between 2 and the number of games, 2; got 3"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(flags, message, tmp_path):
    folder = tmp_path / "run"
    status, _, err = run(folder, *flags)
    assert status == 2 and re.fullmatch(f"error: {message}.*\n", err), err
    assert not folder.exists()


def test_results_of_other_settings_of_an_agent_are_not_taken_over(tmp_path):
    of = lambda *pairs: {"ppo": benchmark_agents.make("ppo", "no_id", pairs, SPEC).settings}
    results.keep_agents(tmp_path, of("discount=0.5"))
    results.keep_agents(tmp_path, {"random": {}})
    results.check_agents(tmp_path, {**of("discount=0.5"), "a3c": {"x": 1}})
    with pytest.raises(ValueError, match=r"results of ppo with config/discount=0.5, this one has "
                       "0.99; choose"):  # fmt: skip
        results.check_agents(tmp_path, of())


SPEC = suites.make("small_games:catch,rain").spec


@pytest.mark.parametrize("name", benchmark_agents.BUILDERS)
@pytest.mark.parametrize("track", ["no_id", "task_id"])
def test_every_agent_can_be_made_and_says_what_it_is(name, track):
    entry = benchmark_agents.make(name, track, [], SPEC)
    assert json.loads(json.dumps(entry.settings)) == entry.settings
    assert entry.learns == (name not in benchmark_agents.CONTROLS) and not entry.hosted
    assert entry.make(SPEC).unroll_length >= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alphago", r"^--agent must be of random, frozen, .*; got 'alphago'$"),
        ("no.such:thing", "^agent 'no.such:thing' cannot be loaded: No module named"),
        ("json:nothing", "^agent 'json:nothing' cannot be loaded: module 'json' has no attribute"),
    ],
)
def test_unknown_agents_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        benchmark_agents.make(name, "no_id", [], SPEC)


def test_overrides_are_of_all_agents_or_of_one():
    make = lambda *pairs: benchmark_agents.make("ppo", "no_id", pairs, SPEC).settings
    assert make("discount=0.5")["config/discount"] == 0.5
    assert make("ppo.discount=0.5", "a3c.discount=0.1")["config/discount"] == 0.5
    with pytest.raises(ValueError, match="'discont=1' is not name=value of one of"):
        make("discont=1")
    with pytest.raises(ValueError, match=r"'nobody.discount=1' is of no agent"):
        make("nobody.discount=1")


def test_an_agent_of_five_functions_is_known_by_what_its_function_returns(tmp_path, monkeypatch):
    (tmp_path / "an_agent.py").write_text(
        example() + "\ndef empty(spec):\n    return {}\n\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = benchmark_agents.make("an_agent:make", "no_id", [], SPEC)
    assert entry.hosted and entry.learns and isinstance(entry.make(SPEC), HostAgent)
    assert Spec._fields == tuple(
        "observation_shape observation_dtype vocabulary num_actions action_size".split()
    )
    with pytest.raises(ValueError, match="'an_agent:empty' must return a HostAgent, got dict"):
        benchmark_agents.make("an_agent:empty", "no_id", [], SPEC)
    with pytest.raises(ValueError, match="'an_agent:number' is not a function"):
        benchmark_agents.make("an_agent:number", "no_id", [], SPEC)
