"""Pipes that close, terminals that hang up, what cannot be written: the last words of a run."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from mtrl_jax import checkpoint, train, writers
from tests.machinery import commands, tiny
from tests.machinery.test_train import DISPATCH, rows, run


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def test_where_nobody_reads_the_progress_the_run_saves_first(tmp_path):
    def gone(step, total, row):
        if step:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(tmp_path, gone)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(DISPATCH)]
    seen = []
    assert run(tmp_path, lambda step, *_: seen.append(step)).finished
    assert seen[0] == DISPATCH


def test_a_closed_pipe_ends_quietly_with_everything_saved(tmp_path):
    more = (f"--workdir={tmp_path}", f"--total_env_steps={2 * commands.PER_DISPATCH}")
    process = commands.start((*commands.TINY, *more), num_devices=1)
    process.stdout.close()
    with process.stderr as stream:
        err = stream.read()
    assert process.wait(300) == 141, err
    assert "Traceback" not in err and "Broken" not in err and "error:" not in err
    assert commands.checkpoints(tmp_path)[-1] == 2 * commands.PER_DISPATCH


def test_a_checkpoint_that_cannot_be_written_names_its_path(tmp_path, monkeypatch):
    real = checkpoint.ocp.CheckpointManager.save
    full = OSError(28, "No space left on device")

    def save(self, step, **kwargs):
        if step > DISPATCH:
            raise full
        return real(self, step, **kwargs)

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", save)
    with pytest.raises(OSError, match=f"{tmp_path}/checkpoints cannot be written: No space"):
        run(tmp_path, checkpoint_every=DISPATCH)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(DISPATCH)]
    monkeypatch.undo()
    assert run(tmp_path, checkpoint_every=DISPATCH).finished
    assert rows(tmp_path)[-1]["step"] == 4 * DISPATCH


def _command(*words):
    """Whether the system has done it."""
    with contextlib.suppress(OSError):
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    return False


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not _command("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)):
        pytest.skip("no file system can be mounted here")
    yield folder
    assert _command("umount", str(folder))


def _steps(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


OPTIONS = {"checkpoint_every": DISPATCH, "log_every": DISPATCH, "keep": 100}
_ENDING = """
import contextlib, pathlib, subprocess, sys
import absl.logging
from experiments.common import binary
from tests.machinery import tiny
from tests.machinery.test_train import DISPATCH, run

folder = pathlib.Path({folder!r})

def fill():
    with contextlib.suppress(OSError), open(folder.parent / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))

def protect():
    for place in (folder, folder / "checkpoints"):
        if {root}:
            subprocess.run(["chattr", "+i", place], check=True)
        else:
            place.chmod(0o555)

def main():
    absl.logging.set_verbosity(absl.logging.WARNING)  # as binaries do
    with tiny.quick_compiles():
        happen = lambda step, *_: {event}() if step == 2 * DISPATCH else None
        run(folder, happen, **{options})

binary.main(main)
"""


def _ends_in_a_sentence(folder, event, cause):
    """A run to which something happens after two dispatches."""
    values = {"folder": str(folder), "root": os.geteuid() == 0, "event": event, "options": OPTIONS}
    program = [sys.executable, "-c", _ENDING.format(**values)]
    done = subprocess.run(
        program,
        env=commands.environment(1),
        cwd=commands.ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    error = done.stderr.splitlines()
    assert len(error) == 1 and error[0].startswith(f"error: {folder}/"), done.stderr
    assert re.search(f" cannot be written: .*{cause}", error[0]), error
    # What was kept before it happened is there.
    assert {DISPATCH} <= set(_steps(folder)) <= {DISPATCH, 2 * DISPATCH}


def _goes_on_to_the_same_end(folder, other):
    seen = []
    assert run(folder, lambda step, *_: seen.append(step), **OPTIONS).finished
    assert seen[0] in (DISPATCH, 2 * DISPATCH)
    run(other, **OPTIONS)
    assert rows(folder) == rows(other)


def test_a_disk_that_fills_up_ends_the_run_and_costs_no_checkpoint(small_disk, tmp_path):
    _ends_in_a_sentence(small_disk / "run", "fill", "No space left on device")
    (small_disk / "filler").unlink()
    _goes_on_to_the_same_end(small_disk / "run", tmp_path / "whole")


def test_a_folder_that_becomes_read_only_ends_the_run_and_costs_no_checkpoint(tmp_path):
    folder = tmp_path / "run"
    if os.geteuid() == 0:  # who may write whatever permissions say
        if not _command("chattr", "+i", str(tmp_path)):
            pytest.skip("the superuser cannot protect a folder here")
        assert _command("chattr", "-i", str(tmp_path))
    try:
        _ends_in_a_sentence(folder, "protect", "(not permitted|denied)")
        with pytest.raises(ValueError, match=f"workdir: {folder} .*(writable|written)"):
            run(folder, **OPTIONS)  # which is said before anything begins
    finally:
        places = [str(path) for path in (folder, folder / "checkpoints") if path.exists()]
        assert _command(*(("chattr", "-i") if os.geteuid() == 0 else ("chmod", "755")), *places)
    _goes_on_to_the_same_end(folder, tmp_path / "whole")


def test_what_the_system_refuses_to_write_is_one_sentence_and_exit_code_1(tmp_path):
    """Here: files of more than so many bytes, which metrics.jsonl becomes."""
    limit = 60_000
    program = (
        "import resource, runpy\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "runpy.run_module('experiments.distral', run_name='__main__', alter_sys=True)\n"
    )
    more = (f"--workdir={tmp_path}/run", f"--total_env_steps={10_000 * commands.PER_DISPATCH}")
    more += (f"--log_every={commands.PER_DISPATCH}", "--checkpoint_every=1_000_000_000")
    done = subprocess.run(
        [sys.executable, "-c", program, *commands.TINY, *more],
        env=commands.environment(1),
        cwd=commands.ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )
    error = [line for line in done.stderr.splitlines() if not line.startswith("a3c_multitask: ")]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert error[-1].startswith(f"error: {tmp_path}/run/"), done.stderr
    assert error[-1].endswith("cannot be written: [Errno 27] File too large")
    sizes = [path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert max(sizes) == limit


def test_events_are_written_by_who_asks_for_them(tmp_path, monkeypatch):
    """A full disk is told at once, and not to a thread; what is there can be read."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    threads = threading.active_count()
    writer = writers.TensorBoardWriter(tmp_path / "events", purge_step=7)
    writer.FLUSH_EVERY = 0.0
    writer.write(3, {"loss": [1.0, 2.0], "nothing": float("nan")})

    def full(event):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer._writer, "write_event", full)
    with pytest.raises(OSError, match=f"{tmp_path}/events cannot be written: .*No space"):
        writer.write(4, {"loss": 1.0})
    monkeypatch.undo()
    writer.write(5, {"loss": 3.0})
    assert threading.active_count() == threads
    writer.close()
    (path,) = (tmp_path / "events").iterdir()
    data, events = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (7, 1)  # of a start
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [(3, "loss", 1.5), (5, "loss", 3.0)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_twice_it_ends_at_once(tmp_path, number):
    program = (
        "import os, signal\n"
        "from mtrl_jax import train\n"
        f"n = signal.Signals({int(number)})\n"
        "with train.interrupts() as asked:\n"
        "    os.kill(os.getpid(), n)\n"
        "    print('asked', asked.is_set(), flush=True)\n"
        "    os.kill(os.getpid(), n)\n"
        "    print('still here', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        env=commands.environment(1),
    )
    assert (done.returncode, done.stdout) == (-number, "asked True\n"), done.stderr


def test_a_run_under_nohup_does_not_hear_the_terminal_hang_up():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with train.interrupts() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert not asked.is_set()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
