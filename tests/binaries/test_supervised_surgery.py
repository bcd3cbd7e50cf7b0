"""The supervised experiment: its data, its table, a tiny run and its restart, a wrong flag."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import scipy.stats

from experiments.common.digits import digits
from experiments.supervised import data, report
from experiments.supervised.run import Config, run
from mtrl_jax import metrics

ROOT = pathlib.Path(__file__).parents[2]
TINY = Config(problem="two_digits", num_seeds=2, steps=4, eval_every=2, batch_size=8, width=8)


def test_canvas_holds_both_scans_and_labels_follow_their_places():
    problem = data.overlapping(2)
    x, y = problem.test(jax.random.key(0), 50)
    assert x.shape == (2, 50, 121) and y.shape == (2, 50)
    np.testing.assert_array_equal(x[0], x[1])
    canvas = np.asarray(x[0]).reshape(50, 11, 11)
    images, labels = digits()[1]
    for task, (row, column) in enumerate(data.PLACES[:2]):
        window = canvas[:, row : row + 8, column : column + 8]
        for n in range(50):
            # The brighter pixel wins, so the scan is nowhere brighter than its window; and pixels
            # that the other scan does not reach are exactly its own.
            other = data.PLACES[1 - task]
            free = np.ones((11, 11), bool)
            free[other[0] : other[0] + 8, other[1] : other[1] + 8] = False
            free = free[row : row + 8, column : column + 8]
            fits = (images <= window[n]).all((1, 2)) & (images == window[n])[:, free].all(1)
            assert fits.any() and set(labels[fits]) >= {int(y[task, n])}


def test_many_tasks_shows_five_digits_a_task_under_ten_different_transformations():
    problem = data.many_tasks()
    x, y = problem.train(jax.random.key(0), 200)
    assert x.shape == (20, 200, 64) and y.shape == (20, 200)
    assert all(set(np.unique(row)) == set(range(5)) for row in np.asarray(y))
    images = digits()[1][0][:20]
    shown = data.transformations(images).reshape(10, 20, 64)
    distances = np.abs(shown[:, None] - shown[None]).mean((2, 3))
    assert (distances + np.eye(10) > 0.05).all()


def test_no_scan_is_both_trained_on_and_tested():
    (train, _), (test, _) = digits()
    assert len(train) + len(test) == 1797
    # Two of the 1797 scans could be equal pixel by pixel; none is across this split.
    assert not {x.tobytes() for x in train} & {x.tobytes() for x in test}


def test_table_pairs_differences_by_seed():
    def row(method, accuracy, step):
        return {
            "step": step,
            "method": method,
            "accuracy": accuracy,
            "conflicts": [0.2, 0.4],
            "cosine": None if method == "alone" else [0.1, -0.3],
        }

    rows = [row("mean", [0.0, 0.0], 1), row("mean", [0.5, 0.9], 2)]
    rows += [row("pcgrad", [0.0, 0.0], 1), row("pcgrad", [0.6, 1.0], 2)]
    result = report.table(rows, ["mean", "pcgrad"])["pcgrad"]
    assert result["accuracy"] == pytest.approx(0.8)
    assert result["over_mean"] == pytest.approx(0.1)
    assert result["over_mean_interval"] == pytest.approx([0.1, 0.1])  # no spread once paired
    half = scipy.stats.t.ppf(0.975, 1) * 0.2  # of two seeds, .2 the standard error
    assert result["interval"] == pytest.approx([0.8 - half, 0.8 + half])
    assert result["conflicts"] == pytest.approx(0.3) and result["cosine"] == pytest.approx(-0.1)


def test_tiny_run_writes_everything_and_continues_where_it_stopped(tmp_path):
    first = run(TINY, tmp_path)
    assert list(first) == ["alone", "mean", "pcgrad"]
    assert first["alone"]["cosine"] is None and -1 <= first["pcgrad"]["cosine"] <= 1
    path = tmp_path / "metrics.jsonl"
    rows = metrics.read_jsonl(path)
    assert [(r["method"], r["step"]) for r in rows] == [
        (m, s) for m in ("alone", "mean", "pcgrad") for s in (2, 4)
    ]
    assert all(np.isfinite(r["accuracy"]).all() and len(r["accuracy"]) == 2 for r in rows)
    assert (tmp_path / "plots" / "two_digits.png").stat().st_size > 10_000

    # Killed before pcgrad: only that is trained again, and every number comes back.
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    assert run(TINY, tmp_path) == first
    again = metrics.read_jsonl(path)

    def clock(row):
        return {k: v for k, v in row.items() if not k.startswith("time/")}

    assert [clock(r) for r in again] == [clock(r) for r in rows]
    assert again[3] == rows[3]  # its clock too: it was not trained again


@pytest.mark.parametrize(
    "flag, allowed",
    [("--surgery=pcgrad,nothing", "upgrad"), ("--steps=30", "--eval_every=50")],
)
def test_wrong_flag_ends_in_one_sentence_before_anything_is_written(flag, allowed, tmp_path):
    command = [sys.executable, "-m", "experiments.supervised", flag]
    command.append(f"--workdir={tmp_path / 'run'}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert flag.split("=")[0] in done.stderr and allowed in done.stderr
    assert not list(tmp_path.iterdir())
