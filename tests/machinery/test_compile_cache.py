"""Programs kept between runs: where, when not, and that a damaged one is only compiled again."""

import os
import subprocess
import sys

import jax
import pytest

from experiments.common import compile_cache

CHILD = """
import warnings
import jax, jax.numpy as jnp
from experiments.common import compile_cache
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
compile_cache.start()
found = jax.jit(lambda x: jnp.sin(x @ x.T).sum())(jnp.ones((30, 30)))
print(float(found), sum("cache_hits" in name for name in hits))
"""


@pytest.fixture
def told_nothing(monkeypatch, tmp_path):
    """A user whose cache folder is `tmp_path` and who has not told JAX about any."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    names += ("jax_enable_compilation_cache",)
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_users_cache_folder_is_used(told_nothing, tmp_path):
    compile_cache.start()
    place = tmp_path / "mtrl_jax" / f"compiled-{compile_cache.processor()}"
    assert jax.config.jax_compilation_cache_dir == str(place) and place.is_dir()


def test_what_jax_was_told_counts(told_nothing, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    compile_cache.start()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    compile_cache.start()
    assert jax.config.jax_compilation_cache_dir is None
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_had_is_no_error(told_nothing, tmp_path, monkeypatch):
    (tmp_path / "mtrl_jax").write_text("a file where the folder should be")
    compile_cache.start()
    assert jax.config.jax_compilation_cache_dir is None

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(compile_cache.pathlib.Path, "home", no_home)
    compile_cache.start()
    assert jax.config.jax_compilation_cache_dir is None


def test_the_oldest_entries_go_first(tmp_path):
    for n in range(5):
        path = tmp_path / f"jit_f-{n}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (n, n))
    compile_cache.trim(tmp_path, 500)
    assert len(list(tmp_path.iterdir())) == 5
    compile_cache.trim(tmp_path, 250)
    assert sorted(path.name[6] for path in tmp_path.iterdir()) == ["3", "4"]


def test_a_second_process_loads_what_the_first_compiled_and_a_cut_entry_is_compiled_again(tmp_path):
    env = {name: x for name, x in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def run():
        command = [sys.executable, "-c", CHILD]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        value, hits = done.stdout.split()
        return value, int(hits), done.stderr

    first, second = run(), run()
    assert first[1] == 0 and second[1] > 0 and first[0] == second[0]
    entries = [path for path in tmp_path.rglob("*-cache") if path.is_file()]
    assert entries
    for path in entries:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    third = run()
    assert third[1] == 0 and third[0] == first[0]
    assert "Error reading persistent compilation cache entry" in third[2]
