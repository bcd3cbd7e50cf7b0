"""Eight virtual CPU devices, rank promotion raises, a compile cache shared by all workers."""

import os
import pathlib
import tempfile

import jax

jax.config.update("jax_num_cpu_devices", 8)  # before anything touches a backend
jax.config.update("jax_numpy_rank_promotion", "raise")
_cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(
    pathlib.Path(tempfile.gettempdir()) / f"mtrl_jax_compile_cache_{os.getuid()}"
)
jax.config.update("jax_compilation_cache_dir", _cache)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache  # the subprocesses of tests/binaries share it
