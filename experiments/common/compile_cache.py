"""Compiled programs are kept from one run to the next, in the user's cache folder.

JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=0 turns it off. What
XLA compiles for a CPU holds instructions that another one may lack, which JAX's keys do not say, so
every kind of processor has a folder of its own. Several runs may share it: an entry that was cut
off is compiled again, with a warning.
"""

import hashlib
import os
import pathlib
import platform
from typing import Any

import jax

__all__ = ["MOST_BYTES", "folder", "processor", "start", "trim"]

MOST_BYTES = 2**31  # of all entries; the oldest go first
_LEAST_SECONDS = 0.3  # that a program took to compile


def start() -> None:
    """Turns the cache on, unless JAX has been told what to do, or the folder cannot be had."""
    config: Any = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    try:
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
        trim(place, MOST_BYTES)
    except (OSError, RuntimeError):  # a read-only home, say, or none at all
        return
    if not os.access(place, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)


def folder() -> pathlib.Path:
    """Where programs of this kind of processor are kept.

    Raises:
      RuntimeError: if there is no home directory.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")  # which counts only where it is absolute
    base = pathlib.Path(given) if os.path.isabs(given) else pathlib.Path.home() / ".cache"
    return base / "mtrl_jax" / f"compiled-{processor()}"


def processor() -> str:
    """A word for what this machine's processors can do."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        text = platform.processor()
    kinds = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    lines = {line for line in text.splitlines() if line.startswith(kinds)} or {text}
    said = "\n".join([platform.machine(), *sorted(lines)])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def trim(place: pathlib.Path, most: int) -> None:
    """Removes the oldest files until `most` bytes are left; another process may do the same."""
    found = []
    for path in place.iterdir():
        try:
            about = path.stat()
        except FileNotFoundError:
            continue
        found.append((about.st_mtime, about.st_size, path))
    left = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if left <= most:
            break
        path.unlink(missing_ok=True)
        left -= size
