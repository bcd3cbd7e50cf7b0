"""Loggers of a user's own: what they see, when they are let go of, and what is no logger."""

import re

import numpy as np
import pytest

from mtrl_jax import metrics, train
from tests.machinery import tiny

DISPATCH = 5 * tiny.T * tiny.K * tiny.E


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


class Kept:
    """Keeps all that it is given; may fail at a step or at the end."""

    def __init__(self, fails_at: int = -1, fails_to_close: bool = False) -> None:
        self.rows: list[tuple[int, dict]] = []
        self.closed, self.fails_at, self.fails_to_close = 0, fails_at, fails_to_close

    def write(self, step: int, metrics: dict) -> None:
        assert not self.closed
        self.rows.append((step, dict(metrics)))
        if step == self.fails_at:
            raise RuntimeError("nobody listens")

    def close(self) -> None:
        self.closed += 1
        if self.fails_to_close:
            raise RuntimeError("the line is dead")


def run(folder, writers, total=2 * DISPATCH, on_progress=lambda *_: None, **options):
    suite = tiny.suite()
    config = tiny.run_config(total_env_steps=total, eval_every=2 * DISPATCH, log_every=DISPATCH)
    agent = tiny.toy_agent(suite.spec)
    return train.run(
        config, suite, agent, folder, {"seed": 0}, on_progress, writers=writers, **options
    )


def test_writers_see_what_is_written_evaluations_included(tmp_path):
    first, second = Kept(), Kept()
    run(tmp_path, [first, second])
    written = metrics.read_jsonl(tmp_path / "metrics.jsonl")
    assert [step for step, _ in first.rows] == [row["step"] for row in written]
    assert [step for step, _ in first.rows] == [0, DISPATCH, 2 * DISPATCH, 2 * DISPATCH]
    for (step, row), line in zip(first.rows, written, strict=True):
        assert {"step": step, **row}.keys() == line.keys()
        for name, value in row.items():
            stored = np.nan if line[name] is None else line[name]
            np.testing.assert_array_equal(np.asarray(value, float), stored, err_msg=name)
    kinds = [any(name.startswith("eval/task_policy/") for name in row) for _, row in first.rows]
    assert kinds == [True, False, False, True]
    assert [step for step, _ in second.rows] == [step for step, _ in first.rows]
    assert first.closed == second.closed == 1


def test_a_run_that_continues_tells_what_is_new(tmp_path):
    run(tmp_path, [Kept()])
    later = Kept()
    run(tmp_path, [later], total=4 * DISPATCH)
    assert [step for step, _ in later.rows] == [3 * DISPATCH, 4 * DISPATCH, 4 * DISPATCH]


def test_an_error_in_one_ends_the_run_and_all_are_closed(tmp_path):
    fails, after = Kept(fails_at=DISPATCH, fails_to_close=True), Kept()
    with pytest.raises(RuntimeError, match="the line is dead") as error:
        run(tmp_path, [fails, after])
    assert "nobody listens" in str(error.value.__context__)
    assert fails.closed == after.closed == 1
    # What it saw has been written, and the same run goes on with others.
    assert metrics.read_jsonl(tmp_path / "metrics.jsonl")[-1]["step"] == DISPATCH
    assert run(tmp_path, [Kept()]).finished


@pytest.mark.parametrize(
    ("writers", "message"),
    [
        (Kept(), "writers must be a list; got a Kept"),
        ([Kept(), print], "write(step, metrics) and close(); <built-in function print> is none"),
        ([Kept], "writers must be objects with write(step, metrics) and close(); <class"),
        (None, "writers must be a list; got a NoneType"),
    ],
)
def test_what_is_no_writer_is_refused_before_anything_is_written(writers, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(tmp_path / "run", writers)
    assert not (tmp_path / "run").exists()


def test_an_option_that_there_is_not(tmp_path):
    with pytest.raises(TypeError, match="options evaluation, begin_from, writers; got writer"):
        run(tmp_path / "run", [], writer=Kept())
    assert not (tmp_path / "run").exists()
