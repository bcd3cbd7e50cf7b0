"""Whether MuJoCo can draw here: where it finds no OpenGL, it ends the process that asked."""

import functools
import subprocess
import sys
import tempfile

__all__ = ["CannotDraw", "check_can_draw"]

_DRAW_ONCE = """
import sys, envpool
pool = envpool.make(sys.argv[1], env_type="gymnasium", num_envs=1, render_mode="rgb_array")
pool.reset()
pool.render(env_ids=[0])
"""


class CannotDraw(ValueError):
    """Something is missing on this machine that pictures need, and nothing else does."""


@functools.cache
def check_can_draw(env_id: str) -> None:
    """Draws one picture in a process of its own.

    Raises:
      CannotDraw: if that fails.
    """
    with tempfile.TemporaryDirectory() as folder:  # MuJoCo leaves a log where it is
        command = [sys.executable, "-c", _DRAW_ONCE, env_id]
        if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:
            raise CannotDraw(
                f"{env_id} cannot be drawn here: MuJoCo finds no OpenGL (EGL, OSMesa); "
                "install the system's package libegl1 (Debian, Ubuntu) or mesa-libEGL (Fedora)"
            )
