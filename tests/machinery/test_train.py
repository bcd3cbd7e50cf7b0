"""The loop: what it logs, when it stops, and that stopping and going on changes nothing."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.common import runs
from mtrl_jax import checkpoint, engines, evaluate, learner, metrics, pace, train
from tests.machinery import tiny
from tests.machinery.test_workdir import HOLD, snapshot

PER_UPDATE = tiny.T * tiny.K * tiny.E
DISPATCH = 5 * PER_UPDATE


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def run(folder, on_progress=lambda *_: None, agent=None, host=False, **changes):
    suite = tiny.host_suite() if host else tiny.suite()
    config = tiny.run_config(**changes)
    settings = {"seed": config.seed, "total_env_steps": config.total_env_steps}
    agent = agent or tiny.toy_agent(suite.spec)
    return train.run(config, suite, agent, folder, settings, on_progress)


def rows(folder, clock=False):
    every = metrics.read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in r.items() if clock or not k.startswith("time/")} for r in every]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four dispatches without a break."""
    folder = tmp_path_factory.mktemp("whole")
    with tiny.quick_compiles():
        return run(folder), folder


def test_a_run_leaves_what_it_says(whole):
    result, folder = whole
    assert result.finished and result.step == 4 * DISPATCH
    assert {p.name for p in folder.iterdir()} == {
        "lock",
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "tensorboard",
    }
    logged = rows(folder, clock=True)
    assert [r["step"] for r in logged] == [0, *(n * DISPATCH for n in (2, 4, 4))]
    name = tiny.suite().spec.task_names[1]
    # Three actions and the reset row behind them, of all environments.
    assert logged[0][f"task/{name}/episode/longest"] == 4 * tiny.K * tiny.E
    scores = {key for key in logged[0] if not key.endswith("/longest")} - {"step"}
    assert scores and all(key.startswith("eval/") for key in scores)
    assert not any(key.endswith("/longest") for row in logged[1:] for key in row)
    assert logged[1][f"task/{name}/episode/count"] > 0
    assert logged[1]["time/steps_per_second"] > 0
    assert logged[-1]["eval/episodes"] == 4
    assert {"return", "success", "length", "episodes"} == {
        k.rsplit("/", 1)[1] for k in logged[-1] if "/" in k
    }
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        str(4 * DISPATCH),
        str(2 * DISPATCH),
    ]


def test_log_rows_are_means_over_their_window(whole):
    # The same updates, told one by one.
    _, folder = whole
    suite = tiny.suite()
    engine = engines.make(tiny.run_config(), suite, tiny.toy_agent(suite.spec))
    carry = engine.start()
    for n, row in enumerate(rows(folder)[1:3]):
        carry, first = engine.advance(carry, 10 * n)
        carry, second = engine.advance(carry, 10 * n + 5)
        values = {name: np.concatenate([x, second[name]]) for name, x in first.items()}
        for k, name in enumerate(suite.spec.task_names):
            count = values["episode/count"][:, k].sum()
            returns = values["episode/return"][:, k].sum()
            np.testing.assert_allclose(row[f"task/{name}/episode/count"], count)
            np.testing.assert_allclose(row[f"task/{name}/episode/return"], returns / count)
            losses = values["loss/total"][:, k]
            assert losses.shape == (10,)
            np.testing.assert_allclose(row[f"task/{name}/loss/total"], losses.mean(), 1e-5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_stop_saves_and_continues_the_same(tmp_path, whole, number):
    result, folder = whole

    def stop(step, total, row):
        if step == DISPATCH:  # of which there is neither a checkpoint nor a log row otherwise
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    stopped = run(tmp_path, stop)
    assert signal.getsignal(number) is before
    assert not stopped.finished and stopped.step == DISPATCH
    assert (tmp_path / "checkpoints" / str(stopped.step)).is_dir()
    seen = []
    continued = run(tmp_path, lambda step, *_: seen.append(step))
    assert seen[0] == stopped.step  # from there, not from the start
    assert continued.finished
    tiny.assert_trees_equal(continued.state, result.state)
    assert rows(tmp_path) == rows(folder)


def test_a_finished_run_is_not_trained_again_but_may_be_made_longer(tmp_path, whole):
    result, _ = whole
    short = run(tmp_path, total_env_steps=2 * DISPATCH)
    assert short.finished and short.step == 2 * DISPATCH
    again = run(tmp_path, total_env_steps=2 * DISPATCH)
    tiny.assert_trees_equal(again.state, short.state)
    longer = run(tmp_path)
    assert longer.step == 4 * DISPATCH
    tiny.assert_trees_equal(longer.state, result.state)
    assert [r["step"] for r in rows(tmp_path)] == [0, *(n * DISPATCH for n in (2, 2, 4, 4))]


def test_a_run_keeps_as_many_checkpoints_as_it_is_told(tmp_path):
    run(tmp_path, keep=3, checkpoint_every=DISPATCH)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [n * DISPATCH for n in (2, 3, 4)]


def test_the_checkpoint_of_the_best_evaluation_stays_and_scores_what_it_scored(tmp_path):
    options = {"keep": 1, "keep_best": "eval/task_policy/return", "eval_every": DISPATCH}
    options["checkpoint_every"] = 10**9
    run(tmp_path / "whole", **options)
    name, second = tiny.suite().spec.task_names

    def scores(folder):
        return {
            row["step"]: np.mean([row[f"eval/task_policy/{n}/return"] for n in (name, second)])
            for row in rows(folder)
            if "eval/episodes" in row and row["step"]
        }

    def best(folder):
        return max(scores(folder), key=scores(folder).get)  # of equal ones the first

    def kept(folder):
        return sorted(int(p.name) for p in (folder / "checkpoints").iterdir())

    assert len(set(scores(tmp_path / "whole").values())) > 1
    at = best(tmp_path / "whole")
    assert kept(tmp_path / "whole") == sorted({at, 4 * DISPATCH})

    # Killed between an evaluation and what comes behind it, and begun again: the same.
    def die(step, total, row):
        if step == 2 * DISPATCH and "eval/task_policy" in str(row):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run(tmp_path / "again", die, **options)
    run(tmp_path / "again", **options)
    assert kept(tmp_path / "again") == kept(tmp_path / "whole")
    assert rows(tmp_path / "again") == rows(tmp_path / "whole")

    # What stands there is what was scored.
    suite = tiny.suite()
    agent = tiny.toy_agent(suite.spec)
    step, state = runs.restore(tmp_path / "whole", tiny.run_config(), suite, agent, "best")
    assert step == at
    key = jax.random.fold_in(engines.stream(jax.random.key(0), "eval"), step)
    found = evaluate.scorer(suite, agent, 4)(state.params, key)
    np.testing.assert_allclose(found.episode_return.mean(), scores(tmp_path / "whole")[at], 1e-6)


@pytest.mark.parametrize(
    ("metric", "known"),
    [("return", "task_policy/return, .*"), ("eval/distilled_policy/return", "task_policy/success")],
)
def test_a_metric_that_evaluations_lack_is_refused(tmp_path, metric, known):
    with pytest.raises(ValueError, match=f"keep_best must be one of .*{known}; got '{metric}'"):
        run(tmp_path / "run", keep_best=metric)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    suite = tiny.suite()
    bad = tiny.toy_agent(suite.spec, nan_at=16)  # in the fourth dispatch
    name = suite.spec.task_names[-1]
    with pytest.raises(
        FloatingPointError, match=f"^loss/total of task {name} .* step {4 * DISPATCH}"
    ):
        run(tmp_path, agent=bad)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(2 * DISPATCH)]
    assert [r["step"] for r in rows(tmp_path)] == [0, 2 * DISPATCH]
    # What was kept is good: with the fault repaired, the run goes on from there to the end.
    seen = []
    result = run(tmp_path, lambda step, *_: seen.append(step))
    assert result.finished and seen[0] == 2 * DISPATCH
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.state.params))


def test_a_parameter_that_is_not_finite_is_never_saved(tmp_path):
    suite = tiny.suite()
    agent = tiny.toy_agent(suite.spec)

    def update(state, experience):
        new, values = agent.update(state, experience)
        w = jax.numpy.where(new.updates >= 20, jax.numpy.inf, new.params.task["w"])
        return new._replace(params=learner.Params({}, {"w": w})), values

    with pytest.raises(FloatingPointError, match=f"a parameter is not finite .* {4 * DISPATCH}"):
        run(tmp_path, agent=agent._replace(update=update))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(2 * DISPATCH)]


def test_the_host_path_stops_saves_and_ends_its_pool(tmp_path):
    made = []
    suite = tiny.host_suite()
    inner = suite.make_pool
    suite = suite._replace(make_pool=lambda *args: made.append(inner(*args)) or made[-1])
    never = 100 * PER_UPDATE
    config = tiny.run_config(
        total_env_steps=12 * PER_UPDATE, checkpoint_every=never, log_every=never
    )

    def stop(step, total, row):
        if step == 7 * PER_UPDATE:
            os.kill(os.getpid(), signal.SIGINT)

    agent = tiny.toy_agent(suite.spec)
    stopped = train.run(config, suite, agent, tmp_path, {}, stop)
    assert not stopped.finished and stopped.step == 7 * PER_UPDATE
    assert int(stopped.state.updates) == stopped.step // PER_UPDATE  # the one in flight included
    target = checkpoint.abstract({"state": stopped.state})
    with checkpoint.open_manager(tmp_path / "checkpoints", read_only=True) as manager:
        step, _, meta = checkpoint.restore_latest(manager, target)
    assert step == stopped.step and meta["window"]["updates"] == step // PER_UPDATE
    assert len(made) > 1 and all(pool.closed for pool in made)
    seen = []
    ended = train.run(config, suite, agent, tmp_path, {}, lambda step, *_: seen.append(step))
    assert seen[0] == stopped.step and ended.finished
    assert int(ended.state.updates) == 12
    (row,) = [r for r in rows(tmp_path) if "task/memory_0/loss/total" in r]
    assert row["step"] == 12 * PER_UPDATE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs_per_task": 0}, "num_envs_per_task must be at least 1; got 0"),
        ({"num_envs_per_task": 3, "num_devices": 2}, "must be a multiple of 2"),
        ({"num_devices": 99}, "num_devices must be between 0 .* got 99"),
        ({"num_devices": -1}, "num_devices must be between 0 .* got -1"),
        ({"total_env_steps": 0}, "total_env_steps must be at least 1"),
        ({"seed": -1}, "seed must not be negative; got -1"),
        ({"eval_episodes": 0}, "eval_episodes must be at least 1"),
        ({"stagger": True}, "stagger must be False on a functional suite"),
        ({"num_devices": 2}, "agent must be made with the collectives of the run's 2 devices"),
    ],
)
def test_settings_that_cannot_run_are_refused_before_anything_is_written(
    tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_names": ("a", "a")}, "task_names must differ, .* got 'a' twice"),
        ({"task_names": ("a",)}, "action_mask must lead with K = 1, .* got 2"),
        ({"action_mask": np.ones((3, 2), bool)}, "action_mask must lead with K = 2, .* got 3"),
        ({"episode_limit": np.ones(3, int)}, "episode_limit must lead with K = 2, .* got 3"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(changes, message):
    suite = tiny.suite()
    with pytest.raises(ValueError, match=message):
        engines.check(tiny.RUN, suite._replace(spec=suite.spec._replace(**changes)))


def test_several_seeds_need_a_functional_suite(tmp_path):
    with pytest.raises(ValueError, match="num_seeds must be 1 on a host suite"):
        run(tmp_path / "run", host=True, num_seeds=2)
    assert not (tmp_path / "run").exists()


def test_another_runs_directory_is_left_alone(tmp_path, whole):
    _, folder = whole
    before = snapshot(folder)
    with pytest.raises(ValueError, match="holds a run with seed=0, this one has 1"):
        run(folder, seed=1)
    assert snapshot(folder) == before


def test_a_total_below_what_is_done_is_refused(whole):
    _, folder = whole
    before = snapshot(folder)
    with pytest.raises(ValueError, match=rf"has done {4 * DISPATCH} environment steps, more than"):
        run(folder, total_env_steps=2 * DISPATCH)
    assert snapshot(folder) == before


def test_a_folder_that_another_process_writes_to_is_left_alone(whole):
    _, folder = whole
    before = snapshot(folder)
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"process {holder.pid} is writing"):
            run(folder, total_env_steps=6 * DISPATCH)
        holder.kill()
    assert {**snapshot(folder), "lock": b""} == {**before, "lock": b""}


def test_every():
    fired = [step for step in range(7, 100, 7) if pace.every(step - 7, step, 20)]
    assert fired == [21, 42, 63, 84]
    assert not pace.every(20, 39, 20) and pace.every(19, 20, 20)
