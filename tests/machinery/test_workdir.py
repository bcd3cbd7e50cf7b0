"""A directory is taken, taken up again, or refused in one sentence with nothing changed."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from mtrl_jax import workdir

SETTINGS = {"binary": "x", "seed": 0, "total_env_steps": 100, "hidden": [4]}


def snapshot(folder: pathlib.Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def test_a_new_directory_is_made_and_recognised(tmp_path):
    folder = tmp_path / "a" / "b"
    assert workdir.check(folder, SETTINGS) is False
    assert not folder.exists()
    workdir.create(folder, SETTINGS)
    assert workdir.check(folder, SETTINGS) is True
    assert workdir.read_config(folder) == SETTINGS
    assert [p.name for p in folder.iterdir()] == ["config.json"]


def test_an_empty_directory_and_a_half_made_one_are_taken(tmp_path):
    assert workdir.check(tmp_path, SETTINGS) is False
    (tmp_path / "config.json.tmp").write_text("{")  # killed while creating
    assert workdir.check(tmp_path, SETTINGS) is False


@pytest.mark.parametrize("name", workdir.MAY_CHANGE)
def test_a_run_may_become_longer(tmp_path, name):
    workdir.create(tmp_path, {**SETTINGS, name: 1})
    assert workdir.check(tmp_path, {**SETTINGS, name: 2}) is True


def _file(folder):
    (folder / "file").write_text("")
    return folder / "file"


def _under_a_file(folder):
    return _file(folder) / "run"


def _foreign(folder):
    (folder / "thesis.tex").write_text("mine")
    return folder


def _other_run(folder):
    workdir.create(folder, {**SETTINGS, "seed": 1})
    return folder


def _fewer_settings(folder):
    workdir.create(folder, {k: v for k, v in SETTINGS.items() if k != "hidden"})
    return folder


def _damaged(folder):
    (folder / "config.json").write_text('{"seed": ')
    return folder


def _too_long(folder):
    return folder / ("x" * 300)


BAD = {
    _file: "is not a directory",
    _under_a_file: "is not a directory",
    _foreign: "holds other files and no config.json",
    _other_run: "holds a run with seed=1, this one has 0",
    _fewer_settings: "holds a run with hidden=None, this one has",
    _damaged: "not a readable run configuration",
    _too_long: "cannot be used",
}


@pytest.mark.parametrize("make", BAD, ids=lambda f: f.__name__)
def test_what_is_not_this_run_is_refused_and_left_alone(tmp_path, make):
    folder = make(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=f"^workdir: .*{BAD[make]}"):
        workdir.check(folder, SETTINGS)
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a directory nobody can write")
def test_an_unwritable_directory_is_refused():
    # A superuser passes every permission check, so this shows only when it is tried.
    with pytest.raises(ValueError, match="/proc/run cannot be written"):
        workdir.check(pathlib.Path("/proc/run"), SETTINGS)
        workdir.create(pathlib.Path("/proc/run"), SETTINGS)


def test_a_directory_without_the_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=f"^workdir: {tmp_path} is not writable"):
        workdir.check(tmp_path / "run", SETTINGS)


HOLD = """
import pathlib, sys, time
from mtrl_jax import workdir
with workdir.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_writes_at_a_time_and_a_killed_one_leaves_no_obstacle(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=rf"process {holder.pid} is writing to .*run"),
            workdir.locked(folder),
        ):
            pass
        holder.kill()
    with workdir.locked(folder):
        assert (folder / "lock").read_text() == str(os.getpid())
    with workdir.locked(folder):  # let go of at the end too
        pass


def test_all_differences_are_named_with_the_binary_and_the_suite_first(tmp_path):
    settings = {"alpha": 1, "binary": "a", "seed": 0, "suite": "s"}
    workdir.create(tmp_path, settings)
    with pytest.raises(ValueError) as caught:
        workdir.check(tmp_path, {"alpha": 2, "binary": "b", "seed": 0, "suite": "t"})
    names = re.findall(r"(\w+)=", str(caught.value))
    assert names == ["binary", "suite", "alpha"]
    assert "binary='a', this one has 'b'; suite='s', this one has 't'" in str(caught.value)
