"""What a caller and his tools see of the methods: names, signatures, keywords."""

import builtins
import functools
import inspect
import pathlib
import re
import subprocess
import sys
import typing

import jax
import jax.numpy as jnp
import pytest

from mtrl_jax import surgery

SHARED = inspect.signature(surgery.make_transform).parameters
SHARED = {name: p for name, p in SHARED.items() if p.kind is p.KEYWORD_ONLY}


def test_options_are_the_keywords_of_make_transform():
    assert set(typing.get_type_hints(surgery.Options)) == set(SHARED)


@pytest.mark.parametrize("name", surgery.METHODS)
def test_signatures_show_every_keyword(name):
    parameters = inspect.signature(surgery.METHODS[name]).parameters
    assert next(iter(parameters)) == "num_tasks"
    assert [p for p in parameters.values() if p.kind is p.VAR_KEYWORD] == []
    assert {k: p.default for k, p in parameters.items() if k in SHARED} == {
        k: p.default for k, p in SHARED.items()
    }
    seeded = functools.partial(surgery.METHODS[name], seed=7)
    assert inspect.signature(seeded).parameters["seed"].default == 7
    assert surgery.METHODS[name].__doc__ and surgery.METHODS[name].__name__ == name


def test_unknown_keywords_are_refused():
    with pytest.raises(TypeError, match="sead"):
        surgery.pcgrad(num_tasks=2, sead=1)


@pytest.mark.parametrize("name", surgery.METHODS)
def test_diagnostics_are_recorded_where_they_cost_nothing(name):
    free = "graddrop random_weighting famo uncertainty_weighting dwa mean sum".split()
    free += "imtl_l stch go4align excess_mtl".split()
    state = surgery.METHODS[name](num_tasks=2).init(jnp.zeros(2))
    assert (state.record is None) == (name in free)


def test_a_star_does_not_hide_the_sum_of_python():
    names: dict = {}
    exec("from mtrl_jax.surgery import *", names)
    assert "sum" not in names and names["config"] is surgery.config
    assert surgery.sum is not builtins.sum


def test_a_solver_that_gave_up_is_seen_in_the_diagnostics():
    def weights(inputs, state):
        return surgery.Solution(jnp.ones(2), inputs.gram[0, 0] > 1.0), state

    method = surgery.Method("mine", weights)
    tx = surgery.make_transform(method, 2, scope="leaf")
    grads = {"a": jnp.full((2, 3), 0.1), "b": jnp.full((2, 3), 2.0)}
    state = tx.init(jax.tree.map(lambda g: g[0], grads))
    assert surgery.diagnostics(state).converged.tolist() == [True, True]
    _, state = jax.jit(tx.update)(grads, state)
    assert surgery.diagnostics(state).converged.tolist() == [False, True]
    tx = surgery.graddrop(num_tasks=2, diagnostics=True)
    _, state = jax.jit(tx.update)(grads, tx.init(jax.tree.map(lambda g: g[0], grads)))
    assert surgery.diagnostics(state).converged.tolist() == [True]


def test_a_wrong_name_suggests_the_near_ones():
    with pytest.raises(KeyError, match="no method 'pcgard'; did you mean pcgrad"):
        surgery.METHODS["pcgard"]
    with pytest.raises(KeyError, match="no method 'xyz'; known: pcgrad, gradvac"):
        surgery.METHODS["xyz"]
    assert surgery.METHODS.get("pcgard") is None and "pcgard" not in surgery.METHODS


def test_a_strict_user_is_content_and_told_of_wrong_options():
    """`mypy --strict` on a file of a user's: the lines that say so are errors, and no others."""
    file = pathlib.Path(__file__).with_name("a_strict_user.py")
    root = file.parents[2]
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    out = subprocess.run(
        [*command, "--no-error-summary", "--hide-error-context", str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
    ).stdout
    came = re.findall(r":(\d+): error: .*\[([\w-]+)\]", out)
    lines = enumerate(file.read_text().splitlines(), 1)
    want = [(str(n), m[1]) for n, line in lines if (m := re.search(r"# error: ([\w-]+)", line))]
    assert sorted(came) == sorted(want) and len(want) == 4, out
