"""Doom's engine processes: started in a directory of their own, ended with the process that uses
them.

envpool starts one engine process an environment. Left alone, these share the current directory
(where they write an .ini file, and race to create a folder: the loser hangs or crashes), and live
on when their parent is killed. So envpool is told that the engine is a small script, which runs
this file, which becomes the engine::

    engine (sh) -> python doom_engine.py <parent> <workspace> <engine> ... -> vizdoom ...

It makes a directory for the one engine, asks the kernel to end it with its parent (Linux), and
takes it out of the terminal's process group, so that Ctrl-C reaches the trainer alone. The user's
current directory is never changed.

A workspace is a temporary directory, locked while its process lives. What a killed process has left
behind (the directory, and shared memory in /dev/shm) is removed when the next workspace is made.

Only the standard library is imported here: the file is run as a script.
"""

import ctypes
import fcntl
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import NamedTuple

__all__ = ["ENGINE", "Workspace", "make_workspace", "release"]

PREFIX = "mtrl_jax_doom_"
ENGINE = "engine"
LOCK = "lock"
INSTANCE = "instance"
SHARED_MEMORY = ("ViZDoomMQCtr", "ViZDoomMQDoom", "ViZDoomSM")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Workspace(NamedTuple):
    """A directory, and the open file whose lock says that its process lives."""

    path: pathlib.Path
    lock: int


def make_workspace(engine: str) -> Workspace:
    """A new directory with a script in it, `ENGINE`, to be run in place of the file `engine`.

    Raises:
      RuntimeError: no script can be run from the directory for temporary files. (envpool would wait
        forever for the engine.)
    """
    for old in pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_abandoned(old):
            _remove(old)
    path = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX))
    # Locked before it gets its name: nobody can find a lock file that is not locked.
    workspace = Workspace(path, os.open(path / f"{LOCK}.new", os.O_CREAT | os.O_RDWR))
    fcntl.flock(workspace.lock, fcntl.LOCK_EX)
    (path / f"{LOCK}.new").rename(path / LOCK)

    script = path / ENGINE
    words = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(path), engine]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o700)
    try:
        # `user` makes this a real fork: OpenBLAS (under NumPy and SciPy, so under jax) then ends
        # its threads, once and here. envpool forks from several threads at a time, and two forks
        # that both find these threads alive wait for them forever.
        subprocess.run(
            [script, "--check"], check=True, timeout=60, capture_output=True, user=os.getuid()
        )
    except (OSError, subprocess.SubprocessError) as error:
        release(workspace)
        raise RuntimeError(
            f"no script can be run in {path.parent}, where Doom's engines would be started; "
            f"set TMPDIR to a directory where files may be executed ({error})"
        ) from error
    return workspace


def release(workspace: Workspace) -> None:
    """Removes the directory; its engines must have ended."""
    _remove(workspace.path)
    os.close(workspace.lock)


def _is_abandoned(path: pathlib.Path) -> bool:
    try:
        if path.stat().st_uid != os.getuid():
            return False
        descriptor = os.open(path / LOCK, os.O_RDWR)
    except OSError:  # not ours, just being made, or just removed
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _remove(path: pathlib.Path) -> None:
    for instance in path.glob(f"*/{INSTANCE}"):
        for name in SHARED_MEMORY:
            pathlib.Path("/dev/shm", name + instance.read_text()).unlink(missing_ok=True)
    for child in path.iterdir():
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        elif child.name != LOCK:
            child.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)  # the lock last: without it, nobody would come back


def _become_engine(parent: int, workspace: str, engine: str, arguments: list[str]) -> None:
    if arguments == ["--check"]:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died before the line above
    os.setsid()
    directory = pathlib.Path(tempfile.mkdtemp(dir=workspace))
    (directory / "_vizdoom").mkdir()
    if "+viz_instance_id" in arguments:
        instance = arguments[arguments.index("+viz_instance_id") + 1]
        (directory / INSTANCE).write_text(instance)
    os.chdir(directory)
    os.execv(engine, [engine, *arguments])


if __name__ == "__main__":
    _become_engine(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
