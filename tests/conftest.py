"""Eight virtual CPU devices, rank promotion raises, a compile cache shared by all workers."""

import os
import pathlib
import tempfile
from collections.abc import Iterator

import jax
import jaxlib.version
import pytest

from mtrl_jax import memory

# Tests compile far more than they compute. jaxlib 0.10 takes a third less processor time for all of
# them with XLA:CPU's older code generator; later ones have no such flag, and abort on it. To test
# with the newer one: XLA_FLAGS=--xla_cpu_use_fusion_emitters=true python -m pytest
_EMITTERS = "--xla_cpu_use_fusion_emitters"
_flags = os.environ.get("XLA_FLAGS", "")
if jaxlib.version.__version_info__[:2] == (0, 10) and _EMITTERS not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} {_EMITTERS}=false".strip()  # subprocesses have it too
jax.config.update("jax_num_cpu_devices", 8)  # before anything touches a backend
jax.config.update("jax_numpy_rank_promotion", "raise")
_cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(
    pathlib.Path(tempfile.gettempdir()) / f"mtrl_jax_compile_cache_{os.getuid()}"
)
jax.config.update("jax_compilation_cache_dir", _cache)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache  # the subprocesses of tests/binaries share it


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_given_back() -> Iterator[None]:
    yield
    memory.free_programs()
