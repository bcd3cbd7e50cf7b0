"""Cells of the matrix: what they start from, what they repeat, and agents that break the rules."""

import dataclasses
import shutil

import numpy as np
import pytest

from mtrl_jax import metrics
from mtrl_jax.benchmark import cells, compiled, hosted, protocol, regime
from mtrl_jax.benchmark.compiled import Entry, everything
from mtrl_jax.envs import suites
from tests.machinery import benchmark_cells as tests_cells
from tests.machinery import stream_envs, tiny


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def cell_of(kind, task=-1, functional=True, settings=tests_cells.SETTINGS):
    every = tests_cells.every(functional, settings)
    return next(c for c in every if c.kind == kind and task in (-1, c.task))


def numbers(rows):
    """Everything but the names of games and the clock, seed by seed."""
    return [
        ([*row["scores"].values()], [*row["final"].values()], row["steps"], row["seed"])
        for row in rows
    ]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    with tiny.quick_compiles():
        return tests_cells.run(cell_of("pretrain"), folder), folder


# ------------------------------------------------------------------------------------- the matrix


def test_every_game_is_learnt_from_scratch_and_after_a_pre_training_without_it():
    settings = cells.Settings("x", folds=3, seeds=2, steps_per_task=10, multitask_steps=7)
    names = ("a", "b/c", "d", "e", "f")
    fold = regime.folds(5, 3)
    found = cells.cells(settings, names, {"x": True, "m:f": True, "r": False}, functional=False)
    assert len({c.name for c in found}) == len(found) == 2 * (2 * (3 + 1 + 5 + 5)) + 2
    assert all("/" not in c.name and ":" not in c.name and len(c.seeds) == 1 for c in found)
    by_name = {c.name: c for c in found}
    for c in found:
        games = [] if c.kind == "control" else cells.training_games(settings, c, 5)
        assert c.steps == (7 if c.kind == "multitask" else 10 * len(games))
        assert bool(c.needs) == (c.kind == "transfer")
        if c.kind == "transfer":
            before = by_name[c.needs]
            assert (before.agent, before.kind, before.seeds) == (c.agent, "pretrain", c.seeds)
            seen = cells.training_games(settings, before, 5)
            assert c.task not in seen
            assert sorted([*seen, *np.flatnonzero(fold == fold[c.task])]) == list(range(5))
            assert found.index(before) < found.index(c)
    together = cells.cells(settings, names, {"x": True}, functional=True)
    assert len(together) == 3 + 1 + 5 + 5 and all(c.seeds == (0, 1) for c in together)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"track": "oracle"}, "track must be one of no_id, task_id; got 'oracle'"),
        ({"folds": 4}, "folds must be between 2 and the number of games, 3; got 4"),
        ({"seeds": 0}, "seeds must be at least 1; got 0"),
        ({"pretrain_steps": -1}, "pretrain_steps must not be negative; got -1"),
    ],
)
def test_settings_that_cannot_run_are_refused(changes, message):
    settings = cells.Settings(**{"suite": "x", "folds": 3, **changes})
    with pytest.raises(ValueError, match=message):
        cells.check(settings, 3)


# -------------------------------------------------------------------------------- compiled agents


def test_a_cell_is_reproduced_to_the_bit_and_names_do_not_matter(pretrained, tmp_path):
    rows, _ = pretrained
    assert [row["seed"] for row in rows] == [0, 1] and rows[0]["scores"] != rows[1]["scores"]
    steps = rows[0]["steps"]
    assert len(steps) == 5 and steps[0] == 0 and len(set(np.diff(steps))) == 1
    assert steps[-1] == rows[0]["env_steps"] == tests_cells.SETTINGS.steps_per_task
    again = tests_cells.run(cell_of("pretrain"), tmp_path / "again")
    assert [{**row, "time/seconds": 0} for row in again] == [
        {**row, "time/seconds": 0} for row in rows
    ]
    # Nothing that an agent sees knows the names of the games.
    other = tests_cells.suite(("opposite", "same"))
    renamed = tests_cells.run(cell_of("pretrain"), tmp_path / "renamed", games=other)
    assert list(renamed[0]["final"]) == ["opposite", "same"]
    assert numbers(renamed) == numbers(rows)


def test_scoring_does_not_train(pretrained, tmp_path):
    rows, folder = pretrained
    more = dataclasses.replace(tests_cells.SETTINGS, eval_episodes=7, final_episodes=9)
    other = tests_cells.run(cell_of("pretrain"), tmp_path, settings=more)
    assert numbers(other) != numbers(rows)  # other episodes

    def of(folder):
        return metrics.read_jsonl(folder / cell_of("pretrain").name / "metrics.jsonl")

    def trained(rows):
        return [{k: v for k, v in row.items() if k.startswith("task/")} for row in rows]

    assert trained(of(tmp_path)) == trained(of(folder)) and any(trained(of(folder)))


def test_transfer_goes_on_from_the_pre_training_of_its_fold_and_scratch_does_not(pretrained):
    rows, folder = pretrained
    cell = cell_of("pretrain")
    learnt = int(cells.training_games(tests_cells.SETTINGS, cell, 2)[0])
    game, held = (tests_cells.suite().spec.task_names[i] for i in (learnt, 1 - learnt))
    transfer, scratch = cell_of("transfer", 1 - learnt), cell_of("scratch", 1 - learnt)
    assert transfer.needs == cell.name
    after = tests_cells.run(transfer, folder)
    fresh = tests_cells.run(scratch, folder)
    # The two games want opposite actions: what knows one does the other wrong, and then learns it.
    assert all(row["final"][game] == 1.0 for row in rows)
    for a, b in zip(after, fresh, strict=True):
        assert a["scores"][held][0] == -1.0 < b["scores"][held][0]
        assert a["scores"][held][-1] > -0.6 and b["scores"][held][-1] > 0.4
        assert list(a["scores"]) == [held]
    with pytest.raises(ValueError, match=f"^{transfer.name} needs {cell.name}, of"):
        tests_cells.run(transfer, folder / "elsewhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tests_cells.wrong_shape, r"action must be int32 of shape \(1, 4\), got .* \(1, 8\)"),
        (tests_cells.out_of_range, r"action must be in \[0, 2\), got others"),
    ],
)
def test_a_compiled_agent_with_wrong_actions_ends_its_cell(make, message, tmp_path):
    broken = tests_cells.toy_with(act=make)
    with pytest.raises(protocol.AgentError, match=f"^agent toy: {message}"):
        tests_cells.run(cell_of("scratch"), tmp_path, broken)


# ------------------------------------------------------------------------ agents of five functions


def run_hosted(counter, folder, on_progress=lambda *_: None):
    entry = Entry(lambda spec: counter.agent(), everything, {"agent": "counter"}, hosted=True)
    return tests_cells.run(HOSTED, folder, entry, on_progress, settings=tests_cells.SHORT)


HOSTED = cell_of("scratch", 0, functional=False, settings=tests_cells.SHORT)


def test_an_agent_of_five_functions_learns_and_is_scored_by_a_copy(tmp_path):
    counter = tests_cells.Counter()
    (row,) = run_hosted(counter, tmp_path)
    steps = row["steps"]
    assert steps == [0, 200, 400, 600, 800] and HOSTED.steps == 800
    assert counter.log.count("init") == 1
    assert counter.log.count("act") == counter.log.count("update") == 800 // 4
    # One copy for each of five evaluations and the last one, one for each part of training.
    assert counter.log.count("restore") == 5 + 1 + 4 and counter.log.count("save") == 5
    text = " ".join(counter.log)
    assert "score update" not in text and "update score" not in text  # save and restore between
    assert row["final"] == {"same": 1.0, "opposite": -1.0}  # it was taught the first one


def test_an_agent_of_five_functions_that_is_killed_ends_as_the_one_that_was_not(tmp_path):
    whole = run_hosted(tests_cells.Counter(), tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(at):
        def on_progress(step, total, row):
            if step >= at:
                raise Killed

        return on_progress

    for at in (100, 300, 700):  # the parts of training are 200 steps long
        with pytest.raises(Killed):
            run_hosted(tests_cells.Counter(), tmp_path / "broken", kill(at))
    path = tmp_path / "broken" / HOSTED.name
    assert [row["step"] for row in metrics.read_jsonl(path / "metrics.jsonl")] == [0, 200, 400, 600]
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 80')  # cut short
    last = tests_cells.Counter()
    broken = run_hosted(last, tmp_path / "broken")
    assert "init" not in last.log and last.log.count("act") == 50
    assert numbers(broken) == numbers(whole)


@pytest.mark.parametrize(
    ("counter", "message"),
    [
        ({"action": lambda n: np.zeros(n + 1, int)}, r"action must have shape \(4,\), got \(5,\)"),
        ({"action": lambda n: np.full(n, 2)}, r"action must be in \[0, 2\), got values in \[2, 2]"),
        ({"action": lambda n: np.zeros(n)}, "action must be of an integer dtype, got float64"),
        ({"fail": "act"}, "act: RuntimeError: no battery"),
    ],
)
def test_an_agent_of_five_functions_that_breaks_the_rules_ends_its_cell(counter, message, tmp_path):
    with pytest.raises(protocol.AgentError, match=f"^agent toy: {message}$"):
        run_hosted(tests_cells.Counter(**counter), tmp_path)
    rows = metrics.read_jsonl(tmp_path / HOSTED.name / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0]  # what was there stays


def test_continuous_actions_are_cut_off_and_checked():
    spec = protocol.Spec((3,), np.dtype(np.float32), None, 0, 2)
    good = protocol.checked_action("x", spec, np.array([[0.5, -3.0]]), 1)
    np.testing.assert_array_equal(good, np.float32([[0.5, -1.0]]))
    for bad, message in (
        (np.zeros((1, 3)), r"shape \(1, 2\), got \(1, 3\)"),
        (np.zeros((1, 2), int), "floating dtype, got int64"),
        (np.full((1, 2), np.nan), "finite"),
    ):
        with pytest.raises(protocol.AgentError, match=message):
            protocol.checked_action("x", spec, bad, 1)


def test_a_functional_suite_as_a_pool_draws_no_less_than_the_stream():
    make = hosted.pool_maker(stream_envs.suite(), [0, 1, 2], stream=True)
    pool = make(8, 3, 1)
    rows = [protocol.step_of(pool.reset(0))]
    assert rows[0].first.all() and rows[0].observation.shape == (8, 1)
    for _ in range(12):
        pool.send(0, np.ones((1, 8), np.int32))
        rows.append(protocol.step_of(pool.recv(0)))
    game = np.stack([row.observation[:, 0] for row in rows])
    reward, first = (np.stack([getattr(row, x) for row in rows]) for x in ("reward", "first"))
    assert set(game.ravel()) == {0, 1, 2}
    np.testing.assert_array_equal(reward, (game == 0) & ~first)  # only that game has action 1
    pool.close()


def test_cells_of_a_host_suite_hold_one_seed_and_hand_over_what_was_learnt(tmp_path):
    games = suites.make("envpool:MiniGrid-Empty-5x5-v0,MiniGrid-Empty-Random-5x5-v0")
    settings = cells.Settings(
        "x",
        folds=2,
        seeds=2,
        num_envs=2,
        steps_per_task=8 * tiny.T * 2,
        evaluations=2,
        eval_episodes=2,
        final_episodes=2,
    )
    names = games.spec.task_names
    found = cells.cells(settings, names, {"toy": True}, functional=False)
    last = next(c for c in found if c.kind == "transfer" and c.seeds == (1,))
    for cell in (next(c for c in found if c.name == last.needs), last):
        (row,) = compiled.run(cell, settings, games, tests_cells.entry(), tmp_path)
        assert row["seed"] == 1 and row["steps"] == [0, 40, 80] and set(row["final"]) == set(names)
        rows = metrics.read_jsonl(tmp_path / cell.name / "metrics.jsonl")
        assert any("task/stream/loss/total" in r for r in rows)
    (own,) = row["scores"]
    assert own == names[last.task]


def test_the_track_with_the_task_given_has_one_task_a_game(tmp_path):
    settings = dataclasses.replace(tests_cells.SETTINGS, track="task_id")
    seen = []
    entry = tests_cells.entry(lambda spec: seen.append(spec.task_names) or tiny.toy_agent(spec))
    (row, _) = tests_cells.run(cell_of("multitask"), tmp_path, entry, settings=settings)
    assert seen == [("same", "opposite")]
    # Told which game it is, it learns both, which the stream does not allow.
    assert min(row["scores"][name][-1] for name in row["final"]) > 0.4
    with pytest.raises(protocol.AgentError, match=r"^agent toy: .* has no task id to read"):
        hosted.run(HOSTED, settings, tests_cells.suite(), entry, tmp_path)


def test_a_folder_of_another_run_is_refused(pretrained, tmp_path):
    _, folder = pretrained
    cell = cell_of("pretrain")
    shutil.copytree(folder / cell.name, tmp_path / cell.name)
    other = Entry(tiny.toy_agent, everything, {"agent": "another"})
    with pytest.raises(ValueError, match="holds a run with agent='toy', this one has 'another'"):
        compiled.run(cell, tests_cells.SETTINGS, tests_cells.suite(), other, tmp_path)
