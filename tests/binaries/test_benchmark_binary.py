"""The benchmark's binary: the documented agent goes through all of it, and bad input is refused."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import agents, growth, show
from experiments.benchmark.agents import BUILDERS, CONTROLS
from experiments.benchmark.imitation import STUDENTS
from mtrl_jax import metrics
from mtrl_jax.benchmark import matrix, regime, results
from mtrl_jax.benchmark.cells import TRACKS, Cell
from mtrl_jax.benchmark.protocol import HostAgent, Spec
from mtrl_jax.envs import suites
from mtrl_jax.types import Timestep
from tests.machinery import commands, tiny

GAMES = ("catch", "rain")
FLAGS = (
    "--suite=small_games:catch,rain",
    "--folds=2",
    "--seeds=1",
    "--steps_per_task=64",
    "--evaluations=1",
    "--eval_episodes=2",
    "--final_episodes=2",
    "--num_envs_per_task=2",
    "--num_workers=1",
)


def example() -> str:
    text = (commands.ROOT / "docs" / "benchmark.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return code


def run(folder: pathlib.Path, *flags: str) -> tuple[int, str, str]:
    process = commands.start((*FLAGS, f"--workdir={folder}", *flags), 1, "experiments.benchmark")
    return commands.finish(process)


@pytest.mark.slow
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
    assert kinds == [
        ("my_agent:make", k, g, held[g] if k == "transfer" else None)
        for k in ("scratch", "transfer")
        for g in GAMES
    ]
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

    report = commands.start((f"--workdir={folder}",), 1, "experiments.benchmark.report")
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
    def of(*pairs):
        return {"ppo": agents.make("ppo", "no_id", pairs, SPEC).settings}

    results.keep_agents(tmp_path, of("discount=0.5"))
    results.keep_agents(tmp_path, {"random": {}})
    results.check_agents(tmp_path, {**of("discount=0.5"), "a3c": {"x": 1}})
    with pytest.raises(
        ValueError,
        match=r"results of ppo with config/discount=0.5, this one has "
        "0.99; choose",
    ):
        results.check_agents(tmp_path, of())


SPEC = suites.make("small_games:catch,rain").spec


# Those that imitate are told nothing in the end.
PAIRS = [
    (name, track)
    for name in BUILDERS
    for track in TRACKS
    if not (name in STUDENTS and track == "task_id")
]


@pytest.mark.parametrize(("name", "track"), PAIRS)
def test_every_agent_can_be_made_and_says_what_it_is(name, track):
    entry = agents.make(name, track, [], SPEC)
    assert json.loads(json.dumps(entry.settings)) == entry.settings
    assert entry.learns == (name not in agents.CONTROLS) and not entry.hosted
    assert entry.make(SPEC).unroll_length >= 1


@pytest.mark.parametrize(("name", "track"), [pair for pair in PAIRS if pair[0] not in CONTROLS])
def test_what_goes_over_fits_an_agent_of_the_new_game(name, track):
    small = "capacity=20" if name == "mfec" else "hidden=4"  # which has no network
    entry = agents.make(name, track, [small], SPEC)

    def of(spec, make=entry.make):
        return jax.eval_shape(make(spec).init, jax.random.key(0))

    known, new = (
        SPEC,
        SPEC._replace(
            task_names=("catch",), action_mask=SPEC.action_mask[:1], episode_limit=np.array([100])
        ),
    )
    if track == "no_id":
        known = new = regime.stream_spec(SPEC)
    before, fresh = of(known, entry.pretrain or entry.make), of(new)
    if entry.pretrain is None:
        after = jax.eval_shape(entry.transfer, before, fresh)
    else:  # works on arrays only

        def init(make, spec):
            return jax.jit(make(spec).init)(jax.random.key(0))

        after = entry.transfer(init(entry.pretrain, known), init(entry.make, new))
    assert jax.tree.structure(after) == jax.tree.structure(fresh)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), fresh
    )


def test_a_network_that_grows_plays_a_new_game_as_the_small_one_would(monkeypatch):
    spec = regime.stream_spec(SPEC)
    monkeypatch.setattr(growth, "NOISE", 0.0)
    entry = agents.make("net2net", "no_id", ["hidden=6x4"], SPEC)
    small, big = entry.pretrain(spec), entry.make(spec)
    before, fresh = (jax.jit(a.init)(jax.random.key(n)) for n, a in enumerate((small, big)))
    draw = np.random.default_rng(1).normal
    before = jax.tree.map(  # away from zero, where every policy is uniform
        lambda x: (
            x + draw(0, 0.3, x.shape).astype(x.dtype)
            if jnp.issubdtype(x.dtype, jnp.floating)
            else x
        ),
        before,
    )
    after = entry.transfer(before, fresh)
    assert after.params.shared["actor"]["dense1"]["kernel"].shape == (6, 4)
    assert before.params.shared["actor"]["dense1"]["kernel"].shape == (3, 2)
    rows = np.random.default_rng(0).integers(0, 3, (1, 9, *spec.observation_shape))
    rows = rows.astype(spec.observation_dtype)
    heads = []
    for agent, state in ((small, before), (big, after)):
        row = Timestep(
            rows, *(np.zeros((1, 9), t) for t in (np.float32, np.float32, bool, bool, bool))
        )
        keys = jax.random.split(jax.random.key(2), (1, 9))
        heads.append(agent.act(agent.policy_params(state), (), row, keys))
    np.testing.assert_array_equal(heads[0][0], heads[1][0])
    np.testing.assert_allclose(heads[0][1], heads[1][1], atol=1e-5)
    assert np.ptp(np.asarray(heads[0][1])) > 1e-3
    # With noise, copies are told apart.
    monkeypatch.undo()
    kernel = entry.transfer(before, fresh).params.shared["actor"]["dense0"]["kernel"]
    assert len(np.unique(np.asarray(kernel[0]))) == 6
    with pytest.raises(ValueError, match="hidden must hold even widths"):
        agents.make("net2net", "no_id", ["hidden=5"], SPEC)


def test_shared_parameters_go_over_and_a_tasks_own_do_not():
    entry = agents.make("dqn", "task_id", ["hidden=4", "replay_size=1000"], SPEC)
    new = SPEC._replace(
        task_names=("catch",), action_mask=SPEC.action_mask[:1], episode_limit=np.array([100])
    )
    before = jax.jit(entry.make(SPEC).init)(jax.random.key(0))
    fresh = jax.jit(entry.make(new).init)(jax.random.key(1))
    after = entry.transfer(before, fresh)
    for a, b, c in zip(
        *map(jax.tree.leaves, (after.params.shared, before.params.shared, fresh.params.shared)),
        strict=True,
    ):
        cut = tuple(slice(n) for n in a.shape)
        np.testing.assert_array_equal(a, b[cut])
        assert a.ndim == 1 or (np.asarray(a) != np.asarray(c)).any()
    assert jax.tree.leaves(after.params.task)
    for a, c in zip(*map(jax.tree.leaves, (after.params.task, fresh.params.task)), strict=True):
        np.testing.assert_array_equal(a, c)
    for a, b in zip(*map(jax.tree.leaves, (after.params, after.target)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_episodic_memory_of_other_games_goes_over():
    for track, goes in (("no_id", True), ("task_id", False)):
        for name, options in (("mfec", ["capacity=20"]), ("nec", ["capacity=60", "replay_size=9"])):
            entry = agents.make(name, track, options, SPEC)
            told = SPEC if track == "task_id" else regime.stream_spec(SPEC)
            fresh = jax.jit(entry.make(told).init)(jax.random.key(0))
            marked = jax.tree.map(jnp.ones_like, fresh.tables)
            after = entry.transfer(fresh._replace(tables=marked), fresh)
            tiny.assert_trees_equal(after.tables, marked if goes else fresh.tables)


ENTRIES = {name: agents.make(name, "no_id", [], SPEC) for name in BUILDERS}
TWINS = [(name, kind) for name, e in ENTRIES.items() if e.twin for kind in e.twin.kinds]


def test_some_agents_repeat_another_ones_runs():
    assert TWINS == [
        ("net2net", "scratch"),
        ("net2net", "multitask"),
        *((name, "scratch") for name in STUDENTS),
    ]


@pytest.mark.parametrize("name", sorted({name for name, _ in TWINS}))
def test_an_agent_whose_runs_are_copied_begins_as_the_one_they_are_copied_from(name):
    own = agents.make(name, "no_id", ["hidden=4"], SPEC)
    other = agents.make(own.twin.agent, "no_id", ["hidden=4"], SPEC)
    assert own.twin.settings == other.settings
    spec = regime.stream_spec(SPEC)
    fresh = [jax.jit(entry.make(spec).init)(jax.random.key(3)) for entry in (own, other)]
    tiny.assert_trees_equal(*fresh)
    apart = agents.make(own.twin.agent, "no_id", ["hidden=6"], SPEC)
    assert own.twin.settings != apart.settings


def test_the_table_says_what_is_done_running_and_left():
    def cell(agent, kind, n):
        return Cell(agent, kind, n, -1, (0,), f"{agent}-{kind}-{n}", "", 10)

    one, two, three, four = (cell("dqn", "scratch", n) for n in range(4))
    control = cell("random", "control", 9)
    progress = matrix.Progress([control, one], {two: 0.25}, [three, four], ["x"], 61.0, 3700.0)
    assert show.summary(progress) == (
        "2 done, 1 running, 2 left, 1 failed; 1:01 so far, about 1:01:40 to go (dqn-scratch-1 25 %)"
    )
    lines = [line.split() for line in show.table(progress)]
    assert lines == [
        ["control", "scratch"],
        ["random", "1/1"],
        ["dqn", "1/4"],
        ["running", "dqn-scratch-1", "25", "%"],
    ]
    over = progress._replace(running={}, left=[])
    assert show.summary(over) == "2 done, 0 running, 0 left, 1 failed; 1:01 so far"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alphago", r"^--agent must be of random, frozen, .*; got 'alphago'$"),
        ("no.such:thing", "^agent 'no.such:thing' cannot be loaded: No module named"),
        ("absl:nothing", "^agent 'absl:nothing' cannot be loaded: module 'absl' has no attribute"),
    ],
)
def test_unknown_agents_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        agents.make(name, "no_id", [], SPEC)


def test_overrides_are_of_all_agents_or_of_one():
    def make(*pairs):
        return agents.make("ppo", "no_id", pairs, SPEC).settings

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
    entry = agents.make("an_agent:make", "no_id", [], SPEC)
    assert entry.hosted and entry.learns and isinstance(entry.make(SPEC), HostAgent)
    assert Spec._fields == tuple(
        "observation_shape observation_dtype vocabulary num_actions action_size".split()
    )
    with pytest.raises(ValueError, match="'an_agent:empty' must return a HostAgent, got dict"):
        agents.make("an_agent:empty", "no_id", [], SPEC)
    with pytest.raises(ValueError, match="'an_agent:number' is not a function"):
        agents.make("an_agent:number", "no_id", [], SPEC)
