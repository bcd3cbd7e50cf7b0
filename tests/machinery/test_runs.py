"""What binaries report of a run: facts of its checkpoint and its rows, not what was asked for."""

import json
import pathlib

import numpy as np
import pytest

from experiments.common import report, runs
from mtrl_jax import evaluate
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
