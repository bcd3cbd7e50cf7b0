"""Compiled programs take memory maps, of which a process has only so many."""

import jax
import jax.numpy as jnp

from experiments.common import runs
from mtrl_jax import memory
from tests.machinery import tiny


def test_programs_are_given_back_when_they_take_many_maps(tmp_path, monkeypatch):
    traced = []

    @jax.jit
    def program(x):
        traced.append(x.shape)
        return x + 1.0

    for lines, times in ((memory._MAPS_TO_KEEP, 1), (memory._MAPS_TO_KEEP + 1, 2)):
        maps = tmp_path / f"{lines}"
        maps.write_text("a map\n" * lines)
        monkeypatch.setattr(memory, "_MAPS", maps)
        program(jnp.zeros(3))
        memory.free_programs()
        program(jnp.zeros(3))
        assert len(traced) == times


def test_a_study_gives_programs_back_between_its_runs(tmp_path, monkeypatch):
    """It compiles some for every run, and dies of it after some fifty otherwise."""
    asked = []

    def seen():
        asked.append(True)
        raise KeyboardInterrupt  # before anything is compiled

    monkeypatch.setattr(memory, "free_programs", seen)
    try:
        suite = tiny.suite()
        runs.learn("x", suite, tiny.toy_agent(suite.spec), tiny.run_config(), {}, tmp_path / "run")
    except KeyboardInterrupt:
        pass
    assert asked == [True] and not (tmp_path / "run").exists()
