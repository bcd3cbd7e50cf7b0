"""What memory there is, and a sentence before anything is allocated that does not fit."""

import gc
import os
import pathlib

import jax

__all__ = ["check", "free_bytes", "free_programs"]

_MAPS = pathlib.Path("/proc/self/maps")
_MAPS_TO_KEEP = 20_000  # of the 65,530 that Linux allows a process by default (vm.max_map_count)


def free_programs() -> None:
    """Gives compiled programs back where there are so many that the next ones might not fit.

    XLA:CPU takes dozens of memory maps for every program that it compiles or loads, and when the
    kernel has no more of them LLVM dies of a segmentation fault. For what trains many agents in one
    process, between two of them: what is used again is compiled, or read from the cache, again.
    """
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MAPS_TO_KEEP:
        jax.clear_caches()
        gc.collect()


def check(what: str, need: int, capacity: int, free: int | None = None) -> None:
    """Raises ValueError, saying how much is needed and how many items would fit, if it is too much.

    Args:
      what: the first words of the message, naming the argument, what came and how often.
      need: bytes, in proportion to `capacity`.
      capacity: items asked for.
      free: bytes; None asks the machine (`free_bytes`), and passes where it does not know.
    """
    free = free_bytes() if free is None else free
    if free is not None and need > free:
        raise ValueError(
            f"{what} needs {need / 2**30:.2f} GiB of memory, and {free / 2**30:.2f} GiB are free; "
            f"at most {capacity * free // need} items fit"
        )


def free_bytes() -> int | None:
    """Memory that the first local device can still give; None where it cannot be told.

    On a CPU the machine's, or the container's where that has less.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    found = []
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):  # not Linux
        if "SC_AVPHYS_PAGES" in os.sysconf_names:
            found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        group = pathlib.Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{n}").read_text().strip() for n in ("max", "current"))
        found.append(int(limit) - int(used))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        pass
    return min(found, default=None)
