"""What binaries report of a run: facts of its checkpoint and its rows, not what was asked for."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from experiments.common import report, runs
from experiments.distral import run as distral_run
from mtrl_jax import evaluate, train
from mtrl_jax.algorithms import distral
from mtrl_jax.benchmark import cells, results
from tests.machinery import tiny
from tests.machinery.test_train import DISPATCH, run


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.fixture
def trained(tmp_path):
    """A run of two dispatches, and its settings."""
    run(tmp_path, total_env_steps=2 * DISPATCH - 1)
    return tmp_path, json.loads((tmp_path / "config.json").read_text())


def _last_row(folder: pathlib.Path, change) -> None:
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[:-1],  # the log row of the same step
        lambda rows: rows[:1],  # the fresh agent's scores
        lambda rows: [*rows[:-1], {**rows[-1], "step": DISPATCH}],
        lambda rows: [],
    ],
)
def test_without_the_evaluation_at_the_end_there_is_no_table(trained, change):
    folder, _ = trained
    assert runs.rows(folder)[-1]["step"] == runs.newest_step(folder) == 2 * DISPATCH
    _last_row(folder, change)
    with pytest.raises(ValueError, match=f"with an evaluation at step {2 * DISPATCH}.*row of step"):
        runs.rows(folder)


def test_a_finished_run_is_not_finished_for_a_smaller_total(trained):
    folder, settings = trained

    def finished(total):
        config = tiny.run_config(total_env_steps=total)
        return runs.finished(folder, settings, config, tiny.suite(), tiny.T)

    assert finished(2 * DISPATCH) and finished(DISPATCH + 1)  # rounded up to the same
    assert not finished(2 * DISPATCH + 1)
    with pytest.raises(ValueError, match=f"has done {2 * DISPATCH} .* more than the {DISPATCH} "):
        finished(DISPATCH)


def test_the_table_names_the_step_of_the_policies_and_not_the_total(trained, capsys, monkeypatch):
    folder, _ = trained
    suite = tiny.suite()
    config = tiny.run_config(total_env_steps=2 * DISPATCH - 1)
    score = evaluate.Score(*(np.zeros((tiny.K, 4), t) for t in (float, bool, int, bool)))
    scores = evaluate.summary(suite.spec, score._replace(finished=score.success | True))
    monkeypatch.setattr(report, "random_scores", lambda *_: scores)
    report.report(suite, config, {"toy": runs.rows(folder)}, folder)
    out = capsys.readouterr().out
    assert f"policies after {2 * DISPATCH:,} environment steps" in out
    assert f"(now {2 * DISPATCH})" in out
    found = json.loads((folder / "results.json").read_text())
    assert found["toy"]["env_steps"] == 2 * DISPATCH and "env_steps" not in found["random"]


def test_a_row_of_the_benchmark_is_of_the_step_that_was_scored():
    spec = tiny.suite().spec
    cell = cells.Cell("toy", "multitask", -1, -1, (0, 1), "toy-multitask", "", 100)
    settings = cells.Settings("tiny")
    scored = {f"eval/task_policy/{name}/return": [1.0, 2.0] for name in spec.task_names}
    rows = [{"step": 0, **scored}, {"step": 100, **scored}]
    (one, two) = results.table_rows(cell, settings, spec, rows, None, 100, 1.0)
    assert one["env_steps"] == one["steps"][-1] == 100 and two["final"][spec.task_names[0]] == 2.0
    with pytest.raises(ValueError, match="is of step 100, not of the 200"):
        results.table_rows(cell, settings, spec, rows, None, 200, 1.0)


# ------------------------------------------------------------------------- what may change


DECAYING = dataclasses.replace(tiny.CONFIG, final_learning_rate=0.1)
UPDATES = 2 * 5  # of two dispatches


@pytest.mark.slow
def test_a_longer_total_keeps_the_schedule_and_says_so(tmp_path, capsys):
    suite = tiny.suite()

    def go(folder, total):
        config = tiny.run_config(total_env_steps=total)
        settings = {"suite": "tiny", "permute_actions": None}
        distral_run.train_one("toy", suite, settings, DECAYING, config, folder)
        return capsys.readouterr().out

    def state(folder, num_updates):
        """Of four dispatches by an agent that is told its schedule."""
        agent = distral.agent(suite.spec, DECAYING, num_updates)
        config = tiny.run_config(total_env_steps=4 * DISPATCH)
        return train.run(config, suite, agent, folder, {}).state

    assert "learning rate" not in go(tmp_path / "a", 2 * DISPATCH)
    assert "learning rate" not in go(tmp_path / "a", 2 * DISPATCH)
    said = go(tmp_path / "a", 4 * DISPATCH)
    assert f"its last value from update {UPDATES} on ({2 * UPDATES} updates" in said
    assert said.count("\n") == 1
    kept = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (kept["schedule_updates"], kept["total_env_steps"]) == (UPDATES, 4 * DISPATCH)
    assert f"from update {UPDATES} on" in go(tmp_path / "a", 4 * DISPATCH)
    config = tiny.run_config()
    agent = distral.agent(suite.spec, DECAYING, 1)
    _, found = runs.restore(tmp_path / "a", config, suite, agent)
    tiny.assert_trees_equal(found.params, state(tmp_path / "b", UPDATES).params)
    with pytest.raises(AssertionError):
        tiny.assert_trees_equal(found.params, state(tmp_path / "c", 2 * UPDATES).params)


def test_a_constant_rate_needs_no_word(tmp_path, capsys):
    saved = {"total_env_steps": DISPATCH, "num_envs_per_task": tiny.E}
    (tmp_path / "config.json").write_text(json.dumps(saved))  # of before schedules were kept
    constant = dataclasses.replace(DECAYING, final_learning_rate=1.0)
    found = [runs.schedule(tmp_path, tiny.K, tiny.RUN, c)[0] for c in (constant, DECAYING)]
    assert found == [5, 5]
    assert capsys.readouterr().out.count("\n") == 1  # of the second


def test_devices_are_counted_however_they_were_spelt():
    def devices(n):
        run = tiny.run_config(num_devices=n)
        return runs.settings_of("x", {}, run, tiny.CONFIG)["num_devices"]

    assert (devices(0), devices(8), devices(1)) == (8, 8, 1)


@pytest.mark.slow
def test_the_number_of_environments_may_change_where_none_is_saved(tmp_path):
    def go(host, num_envs, total=2 * DISPATCH + 40):
        suite = tiny.host_suite() if host else tiny.suite()
        config = tiny.run_config(num_envs_per_task=num_envs, total_env_steps=total)
        settings = {"suite": "tiny", "num_envs_per_task": num_envs, "total_env_steps": total}
        agent = tiny.toy_agent(suite.spec)
        result = train.run(config, suite, agent, tmp_path / str(host), settings)
        assert runs.finished(tmp_path / str(host), settings, config, suite, tiny.T)
        return result.step

    per_update = tiny.T * tiny.K
    assert go(True, 8, DISPATCH) == DISPATCH
    end = go(True, 12)
    assert 0 <= end - (2 * DISPATCH + 40) < 12 * per_update and (end - DISPATCH) % 12 == 0
    assert go(True, 12) == end  # the same command again
    go(False, 8)
    with pytest.raises(ValueError, match="num_envs_per_task=8, this one has 12"):
        go(False, 12)
