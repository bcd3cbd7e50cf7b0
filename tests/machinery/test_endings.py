"""Pipes that close, terminals that hang up, what cannot be written: the last words of a run."""

import signal
import subprocess
import sys

import pytest

from mtrl_jax import checkpoint, train
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
    with pytest.raises(OSError, match=f"{tmp_path}/checkpoints cannot be written: .* No space"):
        run(tmp_path, checkpoint_every=DISPATCH)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(DISPATCH)]
    monkeypatch.undo()
    assert run(tmp_path, checkpoint_every=DISPATCH).finished
    assert rows(tmp_path)[-1]["step"] == 4 * DISPATCH


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
