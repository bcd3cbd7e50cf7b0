"""The tabletop's binary at its smallest: what it leaves, and that a killed run ends as if it had
not been."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.common import steps
from experiments.transporter import report, run
from mtrl_jax import checkpoint, metrics
from mtrl_jax.algorithms.transporter import Config
from tests.machinery import tiny

TINY = Config(num_demos=2, width=2, batch_size=2)


def arm(condition="sequence", num_seeds=2):
    return run.Arm(dataclasses.replace(TINY, condition=condition), 4, 1, 5, num_seeds)


@pytest.mark.slow  # a program of gradient steps and one that plays
def test_a_killed_run_ends_as_the_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LOG_EVERY", 2)
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 2)
    save = checkpoint.save

    def dies(manager, step, state, meta):
        if step == 4:
            raise MemoryError  # before anything is written
        save(manager, step, state, meta)

    with tiny.quick_compiles():
        whole = run.run(arm(), tmp_path / "whole")
        monkeypatch.setattr(checkpoint, "save", dies)
        with pytest.raises(MemoryError):
            run.run(arm(), tmp_path / "killed")
        assert not (tmp_path / "killed" / steps.SCORES).exists()
        monkeypatch.setattr(checkpoint, "save", save)
        assert run.run(arm(), tmp_path / "killed") == whole
    rows = [metrics.read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    plain = [[{k: v for k, v in r.items() if k[:5] != "time/"} for r in part] for part in rows]
    assert plain[0] == plain[1] and [row["step"] for row in plain[0]] == [2, 4]
    assert set(map(np.shape, whole.values())) == {(6, 2)}
    with (
        np.load(tmp_path / "whole" / run.EPISODES) as a,
        np.load(tmp_path / "killed" / run.EPISODES) as b,
    ):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    before = sorted(tmp_path.rglob("*"))
    assert run.run(arm(), tmp_path / "whole") == whole  # there is nothing to do
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match="num_seeds=2, this one has 3"):
        run.run(arm(num_seeds=3), tmp_path / "whole")


def test_what_is_found_becomes_a_table_verdicts_a_figure_and_gifs(tmp_path):
    rng = np.random.default_rng(0)
    scores = {}
    for condition, mean in (("none", 0.1), ("final", 0.11), ("sequence", 0.9)):
        spread = 0.3 if condition == "none" else 0.01
        success = mean + spread * rng.uniform(size=(6, 1)) * np.array([[-1.0, 1, 0]])
        scores[condition] = {"success": success.tolist()}
    lines = [report.line_of(arm(name, 3), found) for name, found in scores.items()]
    report.write(lines, tmp_path)
    assert (tmp_path / "transporter.png").stat().st_size > 10_000
    read = [json.loads(x) for x in (tmp_path / "transporter.jsonl").read_text().splitlines()]
    assert read == lines and read[2]["compositions"][0] == "place+stack"
    rows = report.table(lines)
    assert len(rows) == 4 and "0.90 [" in rows[3] and rows[3].count("0.9") >= 7
    words = [row.rpartition(", ")[2] for row in report.verdicts(lines)]
    assert words == ["undecided", "higher", "higher"]
    assert report.verdicts(lines[::-1])[0].endswith("lower")
    for name in ("final-weighted", "sequence-weighted"):
        (tmp_path / name).mkdir()
        shape = (6, 2, 32, 32, 4)
        images = rng.integers(0, 2, (6, 3, 32, 32, 4), np.uint8) * np.uint8(85)
        arrays = {"images": images, "goals": images[:, :2].reshape(shape)}
        np.savez(tmp_path / name / run.EPISODES, **arrays, success=np.ones((6, 2), bool))
    report.gifs([tmp_path / "final-weighted", tmp_path / "sequence-weighted"], tmp_path)
    from PIL import Image

    files = sorted((tmp_path / "gifs").iterdir())
    assert [path.stem for path in files] == sorted(run.NAMES)
    with Image.open(files[0]) as gif:
        assert gif.n_frames == 3 and gif.width == 2 * 256 and gif.height > 2 * 256
