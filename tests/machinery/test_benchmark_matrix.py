"""The matrix in several processes: what runs when, what is kept, and what a kill costs."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mtrl_jax.benchmark import cells, compiled, matrix, results, schedule, worker
from tests.machinery import benchmark_cells as tests_cells

ROOT = pathlib.Path(__file__).parents[2]
SEEDS = (0, 1)

# A worker whose cells do nothing but what their names say. It needs no JAX.
FAKE = """
import json, os, pathlib, signal, sys, time
sys.path.insert(0, {root!r})
from mtrl_jax.benchmark import worker
folder = pathlib.Path({folder!r})

class Stopped(Exception):
    pass

def stop(number, frame):
    raise Stopped

signal.signal(signal.SIGTERM, stop)

def run(name, on_progress):
    with (folder / "log").open("a") as file:
        file.write(json.dumps([name, "begin", time.time(), os.getpid()]) + "\\n")
    print("what a library prints")
    if "bad" in name:
        raise ValueError("agent x: action must\\nbe something else")
    if "dies" in name:
        deaths = (folder / "log").read_text().count(f'"{{name}}", "begin"')
        if "always" in name or deaths <= (4 if "often" in name else 1):
            os.kill(os.getpid(), signal.SIGKILL)
    if "exits" in name:
        raise RuntimeError("a mistake of ours")
    while "meets" in name and (folder / "log").read_text().count("meets") < 2:
        time.sleep(0.02)  # for the other one, which must run at the same time
    for step in range(5 if "slow" not in name else 3000):
        time.sleep(0.02)
        on_progress(step, 3000)
    with (folder / "log").open("a") as file:
        file.write(json.dumps([name, "end", time.time(), os.getpid()]) + "\\n")
    return [dict(cell=name, seed=seed) for seed in {seeds}]

worker.serve(run, Stopped)
"""


def cell(name, needs=""):
    return cells.Cell("x", "scratch", 0, -1, SEEDS, name, needs, 10)


def fake(folder, names, num_workers=2, show=lambda progress: None, on_finished=lambda cell: None):
    """Runs cells given as `name` or `name<needs`; returns the table and the outcome."""
    every = [cell(*name.split("<")) for name in names]
    table = results.Table(folder, every)
    args = ["-c", FAKE.format(root=str(ROOT), folder=str(folder), seeds=SEEDS)]
    return table, matrix.run(every, table, folder, args, num_workers, show, on_finished)


def log(folder):
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def begun(folder):
    return [name for name, what, *_ in log(folder) if what == "begin"]


def test_cells_run_side_by_side_after_what_they_need_and_never_again(tmp_path):
    names = ["late<meets1", "meets1", "meets2", "third"]
    shown, finished = [], []
    _, outcome = fake(tmp_path, names, 2, shown.append, lambda c: finished.append(c.name))
    assert not outcome.failed and not outcome.interrupted and outcome.busy > 0
    assert sorted(begun(tmp_path)) == sorted(finished) == ["late", "meets1", "meets2", "third"]
    at = {(name, what): when for name, what, when, _ in log(tmp_path)}
    assert at["meets1", "end"] < at["late", "begin"]
    assert len({pid for *_, pid in log(tmp_path)}) == 2
    last = shown[-1]
    assert (len(last.done), last.running, last.left) == (4, {}, [])
    assert any(progress.remaining is not None for progress in shown)
    table, _ = fake(tmp_path, names)
    assert len(begun(tmp_path)) == 4
    assert sorted((r["cell"], r["seed"]) for r in table.rows) == sorted(
        (name, seed) for name in finished for seed in SEEDS
    )


def test_a_cell_that_fails_is_named_with_those_that_need_it_and_the_others_run(tmp_path):
    fake(tmp_path, ["before"])
    before = (tmp_path / "results.jsonl").read_text()
    names = ["before", "bad", "after<bad", "good", "exits"]
    table, outcome = fake(tmp_path, names)
    assert outcome.failed["bad"] == "agent x: action must be something else"
    assert outcome.failed["after"] == "after needs bad, which failed"
    assert "exits: its process ended with 1; see" in outcome.failed["exits"]
    assert "a mistake of ours" in "".join(p.read_text() for p in (tmp_path / "logs").iterdir())
    assert begun(tmp_path).count("exits") == 1 and "after" not in begun(tmp_path)
    assert (tmp_path / "results.jsonl").read_text().startswith(before)
    assert {row["cell"] for row in table.rows} == {"before", "good"}


def test_a_cell_whose_process_is_killed_runs_again_but_not_for_ever(tmp_path):
    table, outcome = fake(tmp_path, ["dies-once", "dies-often", "dies-always", "other"])
    assert begun(tmp_path).count("dies-once") == 2
    assert begun(tmp_path).count("dies-often") == 5
    assert begun(tmp_path).count("dies-always") == schedule.TRIES
    assert (
        list(outcome.failed) == ["dies-always"] and "ended with -9" in outcome.failed["dies-always"]
    )
    assert {row["cell"] for row in table.rows} == {"dies-once", "dies-often", "other"}


def test_what_a_kill_cut_short_is_dropped_from_the_table(tmp_path):
    fake(tmp_path, ["one", "two", "three"])
    path = tmp_path / "results.jsonl"
    whole = path.read_text().splitlines()
    three = [line for line in whole if '"three"' in line]
    rest = [line for line in whole if line not in three]
    path.write_text("\n".join([*rest, three[0], three[1][:9]]))  # no end of line
    # Rows of other agents, which nobody asked for this time, stay.
    table, _ = fake(tmp_path, ["one", "three"])
    assert begun(tmp_path).count("three") == 2
    assert begun(tmp_path).count("one") == begun(tmp_path).count("two") == 1
    assert sorted(path.read_text().splitlines()) == sorted(whole)
    assert len(table.rows) == 6


def test_an_interrupt_lets_cells_save_and_the_same_call_goes_on(tmp_path):
    def stop(progress):
        if progress.running and progress.done and (tmp_path / "log").exists():
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    table, outcome = fake(tmp_path, ["quick", "slow"], 2, stop)
    assert outcome.interrupted and not outcome.failed
    assert signal.getsignal(signal.SIGTERM) is before
    assert [row["cell"] for row in table.rows] == ["quick", "quick"]
    for *_, pid in log(tmp_path):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_have_their_share_of_the_cores_and_end_with_their_scheduler(tmp_path):
    core = min(os.sched_getaffinity(0))
    code = FAKE.format(root=str(ROOT), folder=str(tmp_path), seeds=SEEDS)
    command = worker.command(["-c", code], [core])
    starter = "import subprocess, sys, time; p = subprocess.Popen({0!r}, stdin=subprocess.PIPE); "
    starter += 'p.stdin.write(b\'{{"cell": "slow"}}\\n\'); p.stdin.flush(); time.sleep(60)'
    scheduler = subprocess.Popen([sys.executable, "-c", starter.format(command)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists() or not log(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pid = log(tmp_path)[0][-1]
    assert os.sched_getaffinity(pid) == {core}
    scheduler.kill()
    scheduler.wait()
    while pathlib.Path(f"/proc/{pid}").exists() and not _zombie(pid):
        assert time.monotonic() < deadline, "the worker goes on without its scheduler"
        time.sleep(0.02)


def _zombie(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
def test_a_killed_cell_goes_on_from_its_checkpoint_and_ends_as_one_that_was_not(
    tmp_path, monkeypatch
):
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    (cell,) = [c for c in tests_cells.every() if c.name == "toy-pretrain-fold0"]
    tables = []
    for name in ("broken", "whole"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "broken":  # it kills itself, half way, and there is nobody to save anything
            (folder / f"kill-{cell.name}").touch()
        table = results.Table(folder, [cell])
        args = ["-m", "tests.machinery.benchmark_cells", str(folder)]
        assert not matrix.run([cell], table, folder, args, 1).failed
        starts = [int(x) for x in (folder / f"{cell.name}.starts").read_text().split()]
        assert len(starts) == (2 if name == "broken" else 1)
        assert starts[0] == 0 <= starts[-1] < cell.steps
        tables.append([{**row, "time/seconds": 0} for row in table.rows])
        if name == "broken":
            assert starts[1] > 0
    assert len(tables[0]) == 2 and tables[0] == tables[1]


def test_a_cell_that_would_repeat_another_agents_run_is_copied_and_not_run(tmp_path):
    twin = compiled.Twin("ppo", ("scratch",), {"width": 4})
    entries = {
        "ppo": tests_cells.entry(),
        "grown": tests_cells.entry()._replace(twin=twin),
    }
    settings = cells.Settings("x", folds=2, seeds=2)
    every = cells.cells(settings, ("a", "b"), dict.fromkeys(entries, True), functional=True)
    twins = results.twins(every, entries, {"ppo": {"width": 4}, "grown": {}})
    assert twins == {f"grown-scratch-{g}": f"ppo-scratch-{g}" for g in "ab"}
    # Neither of an agent with other settings, nor of one that is not there.
    assert not results.twins(every, entries, {"ppo": {"width": 5}})
    assert not results.twins(every, entries, {})

    table = results.Table(tmp_path, every)
    table.copy(every, twins)
    assert not table.rows
    table.add(
        {
            "cell": "ppo-scratch-a",
            "agent": "ppo",
            "seed": seed,
            "final": {"a": seed},
            "time/seconds": 9.0,
        }
        for seed in SEEDS
    )
    for _ in range(2):
        table.copy(every, twins)
    assert [row for row in table.rows if row["agent"] == "grown"] == [
        {
            "cell": "grown-scratch-a",
            "agent": "grown",
            "seed": seed,
            "final": {"a": seed},
            "time/seconds": 0.0,
            "same_as": "ppo-scratch-a",
        }
        for seed in SEEDS
    ]
    again = results.Table(tmp_path, every)
    finished = [c.name for c in every if again.finished(c)]
    assert finished == ["ppo-scratch-a", "grown-scratch-a"]
