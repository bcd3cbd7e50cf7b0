"""Eight virtual CPU devices, rank promotion raises, a compile cache shared by all workers."""

import gc
import os
import pathlib
import tempfile
from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # before anything touches a backend
jax.config.update("jax_numpy_rank_promotion", "raise")
_cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(
    pathlib.Path(tempfile.gettempdir()) / f"mtrl_jax_compile_cache_{os.getuid()}"
)
jax.config.update("jax_compilation_cache_dir", _cache)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache  # the subprocesses of tests/binaries share it

# Linux lets a process hold 65,530 memory maps (vm.max_map_count), and XLA:CPU takes dozens for
# every program that it compiles or loads; when they run out, LLVM dies of a segmentation fault.
_MAPS_TO_KEEP = 20_000
_MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_given_back() -> Iterator[None]:
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MAPS_TO_KEEP:
        jax.clear_caches()
        gc.collect()
