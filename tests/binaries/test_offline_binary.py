"""Offline runs at their smallest: what they leave, and that a killed one ends as if it had not."""

import json
import pathlib

import jax
import numpy as np
import pytest

from experiments.common import steps
from experiments.offline import record, report, run, split
from mtrl_jax import checkpoint, evaluate, metrics, recorded
from mtrl_jax.algorithms import offline
from mtrl_jax.envs import suites
from tests.machinery import commands, tiny

SUITE = "goal_rooms:episode_length=6"
OWN = split.Own((("random", 3),), (("random", 1),))
CONFIG = offline.Config(hidden=(4,), batch_size=4, rule="cds", refresh_every=2, share_after=2)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    suite = suites.make(SUITE)
    agent = evaluate.random_agent(suite.spec)
    rows = record.collect(suite, agent, (), jax.random.key(3), 6)
    names = list(suite.spec.task_names)
    header = {"suite": SUITE, "task_names": names, "level": "random", "source": {}}
    recorded.save(record.path_of(folder, "random"), recorded.Recording(header, **rows))
    return run.load(suite, folder, split.read(folder, suite.spec, SUITE, OWN))


def test_seeds_draw_whole_episodes_of_their_own(loaded):
    data, k = loaded.data, loaded.suite.spec.num_tasks
    found = split.splits(loaded.files, k, OWN, range(4))
    episode = loaded.files["random"].episode
    drawn = []
    for s in range(4):
        for task in range(k):
            begin = found.start[s, task]
            mine = found.index[s, begin : begin + found.count[s, task]]
            assert (data.source[mine] == task).all()
            chosen = set(episode[mine].tolist())
            assert len(chosen) == (1 if task < 4 else 3)  # the first half has few
            whole = (data.source == task) & np.isin(episode, [*chosen])
            assert sorted(mine) == np.flatnonzero(whole).tolist()
            drawn.append((task, frozenset(chosen)))
    assert len(set(drawn)) > k  # not the same for all seeds
    with pytest.raises(
        ValueError, match="random: 7 episodes of each task are asked for, but of roo"
    ):
        split.check(loaded.files, loaded.suite.spec, split.Own((("random", 7),), ()))


@pytest.mark.slow
def test_a_killed_run_ends_as_the_whole_one(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 1)
    asked = run.Asked(SUITE, CONFIG, OWN, 6, 5, seed=3, num_seeds=2)
    whole = run.run(asked, loaded, tmp_path / "whole")
    save = checkpoint.save

    def dies(manager, step, state, meta):
        if step == 6:
            raise MemoryError  # before anything is written
        save(manager, step, state, meta)

    monkeypatch.setattr(checkpoint, "save", dies)
    with pytest.raises(MemoryError):
        run.run(asked, loaded, tmp_path / "killed")
    assert not (tmp_path / "killed" / steps.SCORES).exists()
    monkeypatch.setattr(checkpoint, "save", save)
    assert run.run(asked, loaded, tmp_path / "killed") == whole
    rows = [metrics.read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    plain = [[{k: v for k, v in r.items() if k[:5] != "time/"} for r in part] for part in rows]
    assert plain[0] == plain[1] and [row["step"] for row in plain[0]] == [2, 4, 6]
    assert np.shape(whole["return"]) == (8, 2)
    line = report.line_of(asked, loaded, whole, tmp_path / "whole")
    assert line["few_tasks"] == 4 and np.shape(line["few_curve"]) == (3, 2)
    np.testing.assert_allclose(np.sum(line["share"], 1), 1.0, atol=1e-3)
    lines = [{**line, "rule": "none"}, line]
    table = report.table(lines)
    assert [row.split()[0] for row in table] == ["rule", "none", "cds"]
    assert "0.00 [0.00, 0.00]" in table[2]  # above itself
    report.write(lines, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="seed=3, this one has 4"):
        run.run(asked._replace(seed=4), loaded, tmp_path / "whole")
    other = loaded._replace(digests={"random": "0"})
    with pytest.raises(ValueError, match="data="):  # the files are others now
        run.run(asked, other, tmp_path / "whole")


def _ended(*arguments):
    return commands.finish(commands.start(arguments, 1, "experiments.offline"), 900)


@pytest.mark.slow
def test_one_command_records_and_one_learns_and_bad_files_are_refused(tmp_path):
    data = f"--data={tmp_path / 'data'}"
    record_it = ("--record", "--episodes=4", "--teacher_steps=64", data)
    code, out, err = _ended(*record_it)
    assert code == 0, err
    levels = out.splitlines()[-3:]
    assert [row.split()[0] for row in levels] == ["random", "medium", "expert"]
    code, out, err = _ended(*record_it)  # there is nothing to do
    assert code == 0 and out.splitlines()[-3:] == levels
    sizes = "--config_overrides=hidden=8,batch_size=4,refresh_every=5"
    learn = (data, "--own=expert:4", "--few=random:2", "--updates=10", sizes, "--num_seeds=2")
    folder = tmp_path / "runs"
    few = ("--rule=none,cds", "--eval_episodes=3", f"--workdir={folder}")
    code, _, err = _ended(*learn, *few)
    assert code == 0, err
    lines = (folder / "offline.jsonl").read_text().splitlines()
    assert [json.loads(line)["rule"] for line in lines] == ["none", "cds"]
    assert (folder / "offline.png").stat().st_size > 10_000
    path = pathlib.Path(tmp_path, "data", "expert.npz")
    path.write_bytes(path.read_bytes()[:1000])
    code, out, err = _ended(*learn, f"--workdir={tmp_path / 'other'}")
    assert (code, out) == (2, "") and "expert.npz is damaged or cut off" in err
    assert err.count("\n") == 1 and not (tmp_path / "other").exists()


def test_levels_and_episodes_are_read():
    assert split.mix_of("own", "random:50+expert:5") == (("random", 50), ("expert", 5))
    for text in ("", "expert", "expert:0", "expert:x", "best:3", "expert:1+expert:2"):
        with pytest.raises(ValueError, match="--few must"):
            split.mix_of("few", text)
