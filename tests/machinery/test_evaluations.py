"""Evaluations of a run: what whoever waits is told, how many episodes, and that nothing is lost."""

import contextlib
import io
import sys

import numpy as np
import pytest

from experiments.common import progress, proportion
from mtrl_jax import evaluate
from tests.machinery import tiny
from tests.machinery.test_train import DISPATCH, rows, run


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.mark.parametrize("host", [False, True])
def test_evaluations_are_told_while_they_play_and_when_they_are_over(tmp_path, host):
    told = []
    run(
        tmp_path,
        lambda step, total, row: told.append((step, row)),
        host=host,
        total_env_steps=DISPATCH,
        eval_every=DISPATCH,
        early_episodes=2,
    )
    playing = [(step, row) for step, row in told if "eval/ended" in row]
    for step, episodes in ((0, 2 * tiny.K), (DISPATCH, 4 * tiny.K)):
        mine = [row for at, row in playing if at == step]
        assert {row["eval/episodes"] for row in mine} == {episodes}
        ended = [row["eval/ended"] for row in mine]
        assert ended == sorted(ended) and ended[0] == 0 and set(ended) <= set(range(episodes + 1))
    scored = [(step, row) for step, row in told if "eval/task_policy/memory_0/return" in row]
    assert [step for step, _ in scored] == [0, DISPATCH]
    written = [row for row in rows(tmp_path) if "eval/episodes" in row]
    # The run's first row of all says how long its tasks' episodes may take, too.
    written = [{k: v for k, v in row.items() if "episode/longest" not in k} for row in written]
    assert [{"step": step, **row} for step, row in scored] == written
    assert [row["eval/episodes"] for row in written] == [2, 4]  # fewer before the end


def test_episodes_that_end_are_counted_in_every_round(monkeypatch):
    """Twelve episodes by two environments at a time, told without a pause."""
    suite, seen = tiny.host_suite()._replace(max_envs=2), []
    scorer = evaluate.host_scorer(
        suite,
        tiny.toy_agent(suite.spec),
        12,
        on_row=lambda _, alive: seen.append(int(alive.size - alive.sum())),
    )
    agent = tiny.toy_agent(suite.spec)
    scorer(agent.init(tiny.jax.random.key(0)).params, tiny.jax.random.key(1))
    assert seen == sorted(seen) and seen[0] == 0 and {0, 4, 8, 12, 16, 20} <= set(seen)


@pytest.mark.parametrize("at", [0, DISPATCH])
def test_a_reader_that_goes_during_an_evaluation_costs_nothing(tmp_path, at):
    def gone(step, total, row):
        if step == at and "eval/ended" in row:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(tmp_path, gone, total_env_steps=2 * DISPATCH, eval_every=DISPATCH)
    assert [row["step"] for row in rows(tmp_path) if "eval/episodes" in row] == [0, DISPATCH][
        : 1 + (at > 0)
    ]
    run(tmp_path, total_env_steps=2 * DISPATCH, eval_every=DISPATCH)
    whole = tmp_path / "whole"
    run(whole, total_env_steps=2 * DISPATCH, eval_every=DISPATCH)
    assert rows(tmp_path) == rows(whole)


# ------------------------------------------------------------------------------- how many episodes


def _spec(limit, tasks=10):
    return tiny.suite().spec._replace(
        task_names=tuple(f"task{n}" for n in range(tasks)), episode_limit=np.full(tasks, limit)
    )


@pytest.mark.parametrize(
    ("limit", "total", "every", "stated", "expected"),
    [
        (500, 3_000_000, 1_000_000, False, (10, 0)),  # in proportion
        (500, 1_000, 1_000_000, False, (1, 0)),  # one at least
        (500, 1_000, 1_000_000, True, (10, 1)),
        (500, 3_000_000, 20_000, False, (10, 4)),
        (500, 30_000, 20_000, False, (6, 4)),
        (27_000, 100_000, 100_000, False, (10, 0)),  # which few episodes reach
        (0, 100_000, 50_000, False, (10, 5)),
    ],
)
def test_evaluations_are_no_longer_than_training(limit, total, every, stated, expected):
    wanted = tiny.run_config(total_env_steps=total, eval_every=every, eval_episodes=10)
    found = proportion.in_proportion(_spec(limit), wanted, stated=stated)
    assert (found.eval_episodes, found.early_episodes) == expected
    said = proportion.note(found, 10)
    assert bool(said) == (expected != (10, 0))
    for count in {n or expected[0] for n in expected} if said else ():
        assert f" {count}" in said and ", instead of 10, " in said


def test_what_was_asked_for_stays():
    wanted = tiny.run_config(total_env_steps=1_000, eval_episodes=10, early_episodes=7)
    assert proportion.in_proportion(_spec(500), wanted, stated=True) == wanted


# ------------------------------------------------------------------------------- what is shown


def test_a_bar_says_that_an_evaluation_goes_on(monkeypatch):
    shown = {}
    for tty in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda tty=tty: tty, raising=False)
        monkeypatch.setattr(sys, "stderr", stream)
        with contextlib.closing(progress.Progress("title", ("a", "b"))) as bar:
            bar(0, 100, {})
            bar(0, 100, {"eval/ended": 3, "eval/episodes": 20})
            bar(0, 100, {"eval/ended": 4, "eval/episodes": 20})
            bar(0, 100, {"eval/episodes": 10, "eval/task_policy/a/return": 1.0})
            bar(100, 100, {"task/a/episode/return": 0.5, "task/b/episode/return": 2.0})
        shown[tty] = stream.getvalue()
    for text in shown.values():
        assert "title:   0%" in text and "evaluating, 3 of 20 episodes" in text
        assert "return: a 0.50, b 2.00" in text.splitlines()[-1]
    # Into a file not more than a line every ten seconds.
    assert ("evaluating, 4 of 20" in shown[True], "evaluating, 4" in shown[False]) == (True, False)


def test_scores_outside_a_run_have_a_bar_of_their_own(monkeypatch, capsys):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    for suite in (tiny.host_suite(), tiny.suite()):
        agent = evaluate.random_agent(suite.spec)
        score = progress.scorer("random policy", suite, agent, 4)((), tiny.jax.random.key(0))
        assert np.asarray(score.finished).all()
    assert "random policy: 100%" in stream.getvalue() and "8/8" in stream.getvalue()
    assert capsys.readouterr().out == "random policy: 4 episodes a task, as one program ...\n"
