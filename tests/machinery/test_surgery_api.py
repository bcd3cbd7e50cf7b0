"""What a caller and his tools see of the methods: names, signatures, keywords."""

import builtins
import functools
import inspect
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
