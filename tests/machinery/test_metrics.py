"""metrics.jsonl: JSON for any reader; a resumed run drops rows, and loses nothing else."""

import json
import pathlib

import numpy as np
import pytest

from mtrl_jax import metrics, writers


def write(path: pathlib.Path, steps: range) -> None:
    writer = writers.JsonlWriter(path)
    for step in steps:
        writer.write(step, {"a": np.float32(step) / 3})
    writer.close()


def test_values_come_back_and_undefined_ones_are_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = writers.JsonlWriter(path)
    row = {
        "x": np.float32(0.1),
        "n": np.int64(3),
        "none": float("nan"),
        "top": np.inf,
        "seeds": np.array([1.0, np.nan, -np.inf]),
    }
    writer.write(7, row)
    writer.close()
    text = path.read_text()

    def refuse(name):
        return pytest.fail(f"{name} is not JSON")

    want = {
        "step": 7,
        "x": float(np.float32(0.1)),
        "n": 3,
        "none": None,
        "top": None,
        "seeds": [1.0, None, None],
    }
    assert json.loads(text, parse_constant=refuse) == want
    assert metrics.read_jsonl(path) == [want]


def test_rows_are_there_as_soon_as_they_are_written(tmp_path):
    # A killed process flushes nothing.
    path = tmp_path / "metrics.jsonl"
    writer = writers.JsonlWriter(path)
    writer.write(0, {"a": 1.0})
    assert metrics.read_jsonl(path) == [{"step": 0, "a": 1.0}]
    writer.close()


def test_dropping_keeps_every_byte_of_what_stays(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(6))
    lines = path.read_text().splitlines(keepends=True)
    metrics.drop_after(path, 3)
    assert path.read_text() == "".join(lines[:4])
    write(path, range(4, 6))
    assert path.read_text() == "".join(lines)
    metrics.drop_after(path, -1)
    assert path.read_text() == ""
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(3))
    whole = path.read_text()
    path.write_text(whole + '{"step": 3, "a": 0.')
    assert [row["step"] for row in metrics.read_jsonl(path)] == [0, 1, 2]
    metrics.drop_after(path, 10)
    assert path.read_text() == whole


def test_damage_elsewhere_is_not_silently_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(3))
    damaged = path.read_text().replace('"step": 1', '"step" 1')
    path.write_text(damaged)
    with pytest.raises(ValueError, match="line 2"):
        metrics.drop_after(path, 1)
    assert path.read_text() == damaged


def test_series_leaves_out_rows_without_a_value():
    rows = [
        {"step": 0, "b": 1.0},
        {"step": 5, "a": 2.0},
        {"step": 9, "a": None},
        {"step": 9, "a": 3},
    ]
    steps, values = metrics.series(rows, "a")
    np.testing.assert_array_equal(steps, [5, 9])
    np.testing.assert_array_equal(values, [[2.0], [3.0]])
    steps, values = metrics.series([{"step": 1, "a": [1.0, None]}], "a")
    np.testing.assert_array_equal(values, [[1.0, np.nan]])
    assert metrics.series(rows, "c")[1].shape == (0, 1)


def test_cpu_seconds_of_all_processes_that_continued_a_run_add_up():
    counts = (None, 1.0, 5.0, None, 2.0, 3.0, 1.5)
    rows = [{"step": n, "time/cpu_seconds": x, "a": n} for n, x in enumerate(counts)]
    over = metrics.over_cpu_seconds(rows)
    assert [row["step"] for row in over] == [1.0, 5.0, 5.0, 5.0 + 2.0, 5.0 + 3.0, 5.0 + 3.0 + 1.5]
    assert [row["a"] for row in over] == [1, 2, 3, 4, 5, 6]
