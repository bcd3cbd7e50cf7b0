"""Few-shot runs at their smallest: what they leave, and that a killed one ends as if it had not."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.common import steps
from experiments.few_shot import asked, host_presets, hosted, pools, presets, report, run
from mtrl_jax import checkpoint, metrics
from tests.machinery import tiny

CURVE = (0, 1, 2)
NUMBERS = {"hidden": (4,), "train_tasks": 4, "meta_batch": 2, "epochs": 1}
SIZES = {
    "maml": {"episodes": 2, "outer_episodes": 2, "eval_episodes": 2},
    "rl2": {"core_size": 4, "eval_trials": 1},
}


def tiny_run(method):
    plan = presets.plan(method, "bandits")
    sizes = SIZES["rl2" if method == "rl2" else "maml"]
    config = dataclasses.replace(plan.config, **NUMBERS, **sizes)
    plan = presets.Plan(min(plan.updates, 4), config)
    return asked.Asked(method, "bandits", plan, CURVE, 3, seed=5, num_seeds=2)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of RL^2 and one of `scratch`."""
    folder = tmp_path_factory.mktemp("few_shot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "LOG_EVERY", 2)
        patch.setattr(run, "CHECKPOINT_EVERY", 2)
        found = {name: run.run(tiny_run(name), folder / name) for name in ("rl2", "scratch")}
    return folder, found


@pytest.mark.slow
def test_a_killed_run_ends_as_the_whole_one(finished, monkeypatch):
    folder, found = finished
    monkeypatch.setattr(run, "LOG_EVERY", 2)
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 2)
    save = checkpoint.save

    def dies(manager, step, state, meta):
        if step == 4:
            raise MemoryError  # before anything is written
        save(manager, step, state, meta)

    monkeypatch.setattr(checkpoint, "save", dies)
    with pytest.raises(MemoryError):
        run.run(tiny_run("rl2"), folder / "killed")
    assert not (folder / "killed" / steps.SCORES).exists()
    monkeypatch.setattr(checkpoint, "save", save)
    assert run.run(tiny_run("rl2"), folder / "killed") == found["rl2"]
    rows = [metrics.read_jsonl(folder / name / "metrics.jsonl") for name in ("rl2", "killed")]
    plain = [[{k: v for k, v in r.items() if k[:5] != "time/"} for r in part] for part in rows]
    assert plain[0] == plain[1] and [row["step"] for row in plain[0]] == [2, 4]
    before = sorted(folder.rglob("*"))
    assert run.run(tiny_run("rl2"), folder / "rl2") == found["rl2"]  # there is nothing to do
    assert sorted(folder.rglob("*")) == before
    other = tiny_run("rl2")._replace(seed=6)
    with pytest.raises(ValueError, match="seed=5, this one has 6"):
        run.run(other, folder / "rl2")


def test_what_is_found_becomes_a_table_and_a_figure(finished, tmp_path):
    _, found = finished
    assert np.shape(found["scratch"]["test"]["curve"]) == (3, 2)
    lines = [report.lines_of(tiny_run(name), found[name], 6) for name in ("rl2", "scratch")]
    assert [line["training_episodes"] for line in lines] == [24, 0]
    score = found["rl2"]["test"]
    regret = 2 * (np.array(score["best"]) - score["online"])
    np.testing.assert_allclose(lines[0]["test_regret"], regret, atol=1e-3)
    lines += report.references(tiny_run("rl2"))
    assert [line["method"] for line in lines] == ["rl2", "scratch", "gittins", "thompson"]
    gittins, thompson = (line["test_regret"][0] for line in lines[2:])
    assert 0 < gittins < thompson < 2
    report.write(lines, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000
    assert [json.loads(x) for x in (tmp_path / "x.jsonl").read_text().splitlines()] == lines
    table = report.table(lines)
    assert [row.split()[0] for row in table] == [
        *("train", "rl2", "scratch", "best"),
        *("test", "rl2", "scratch", "gittins", "thompson", "best"),
    ]


# ------------------------------------------------------------------------- on Meta-World


def reach_run(train_tasks=0):
    tasks = presets.named("ml1:reach:length=2")
    updates, config = presets.plan("rl2", tasks)
    sizes = {"hidden": (4,), "core_size": 4, "meta_batch": 2, "epochs": 1}
    config = dataclasses.replace(config, **sizes, train_tasks=train_tasks)
    plan = presets.Plan(min(updates, 5), config)
    return asked.Asked("rl2", tasks, plan, (0, 1), 4, seed=3, num_seeds=2)


@pytest.fixture
def often(monkeypatch):
    """Logs at every update, checkpoints every second, and another pool after three."""
    monkeypatch.setattr(hosted, "LOG_EVERY", 1)
    monkeypatch.setattr(hosted, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(pools, "DRAWS", 3)


@pytest.mark.slow
def test_a_killed_run_on_meta_world_ends_as_the_whole_one(tmp_path, monkeypatch, often):
    """What an update plays depends on its number alone, through two pools."""
    found = run.run(reach_run(), tmp_path / "whole")
    save = checkpoint.save

    def dies(manager, step, state, meta):
        if step == 4:
            raise MemoryError  # before anything is written: updates 2 and 3 are done again
        save(manager, step, state, meta)

    monkeypatch.setattr(checkpoint, "save", dies)
    with pytest.raises(MemoryError):
        run.run(reach_run(), tmp_path / "killed")
    monkeypatch.setattr(checkpoint, "save", save)
    assert run.run(reach_run(), tmp_path / "killed") == found
    rows = [metrics.read_jsonl(tmp_path / n / "seed3/metrics.jsonl") for n in ("whole", "killed")]
    plain = [[{k: v for k, v in r.items() if k[:5] != "time/"} for r in part] for part in rows]
    assert plain[0] == plain[1] and [row["step"] for row in plain[0]] == [1, 2, 3, 4, 5]
    assert {"return/before", "success/after"} < plain[0][0].keys()
    assert run.check(reach_run(), tmp_path / "whole")  # there is nothing to do
    assert not run.check(reach_run()._replace(num_seeds=3), tmp_path / "whole")
    assert run.run(reach_run()._replace(num_seeds=1), tmp_path / "whole")["test"]["curve"] == [
        point[:1] for point in found["test"]["curve"]
    ]
    lines = [report.lines_of(reach_run(), found, 4)]
    assert np.shape(lines[0]["test"]) == np.shape(lines[0]["train_success"]) == (2, 2)
    report.write(lines, tmp_path / "x.png")
    assert [row.split()[0] for row in report.table(lines)] == [
        *("train", "rl2", "test", "rl2"),
        *("train", "rl2", "test", "rl2"),
    ]


def test_a_finite_number_of_training_tasks_comes_again(often):
    family = host_presets.trials("ml1:reach:length=2:goal=visible")
    made = host_presets.host_learner("ml1:reach:length=2", reach_run(4).plan.config, (0, 1))
    source, goals = pools.Pools(family, made, 3), []
    for n in range(5):
        pool = source.at(n)
        goals.append(pool.reset([0])[:, 0, 36:])
        pool.reset([1])
    for n in range(3):
        np.testing.assert_array_equal(goals[n], goals[n + 2])
    assert len(np.unique(np.concatenate(goals), axis=0)) == 4
    begun = pools.Pools(family, made, 3).at(3)  # in the middle of a round
    np.testing.assert_array_equal(begun.reset([0])[:, 0, 36:], goals[3])
