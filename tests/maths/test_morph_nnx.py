"""Growing a Flax NNX model: its state is a tree of variables with names, as Linen's parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mtrl_jax.networks import morph

X = jax.random.normal(jax.random.key(0), (7, 3))


class Net(nnx.Module):
    def __init__(self, width, deep=False):
        rngs = nnx.Rngs(1)
        self.d0 = nnx.Linear(3, width, rngs=rngs)
        if deep:
            self.d1 = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, 2, rngs=rngs)
        self.deep = deep

    def __call__(self, x):
        x = nnx.relu(self.d0(x))
        x = nnx.relu(self.d1(x)) if self.deep else x
        return self.out(x)


def grown():
    growth = morph.copies(4, 6, jax.random.key(2))
    return morph.Sequence(
        morph.Wider(growth, (*morph.outputs("d0"), *morph.inputs("out"))),
        morph.Deeper("d1", morph.identity("dense", 6, nnx.relu), like="d0"),
    )


def test_the_bigger_model_computes_what_the_small_one_did():
    small, big = Net(4), Net(6, deep=True)
    state = grown()(nnx.state(small, nnx.Param))
    assert jax.tree.structure(state) == jax.tree.structure(nnx.state(big, nnx.Param))
    before = small(X)
    assert not np.allclose(big(X), before, atol=1e-2)
    nnx.update(big, state)
    np.testing.assert_allclose(big(X), before, rtol=1e-5, atol=1e-6)


def test_the_optimiser_goes_on_in_the_bigger_model():
    small, tx = Net(4), optax.adam(1e-2)
    graph, params = nnx.split(small, nnx.Param)

    def loss(params, graph):
        return jnp.mean(jnp.square(nnx.merge(graph, params)(X) - 1.0))

    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(jax.grad(loss)(params, graph), state, params)
        params = optax.apply_updates(params, updates)
    grow = grown()
    bigger, carried = grow(params), morph.carry(state, params, grow)
    big_graph, _ = nnx.split(Net(6, deep=True), nnx.Param)
    before = loss(params, graph)
    np.testing.assert_allclose(loss(bigger, big_graph), before, rtol=1e-5)
    shapes = [jnp.shape(x) for x in jax.tree.leaves(carried[0].mu)]
    assert shapes == [jnp.shape(x) for x in jax.tree.leaves(bigger)]
    updates, _ = tx.update(jax.grad(loss)(bigger, big_graph), carried, bigger)
    assert loss(optax.apply_updates(bigger, updates), big_graph) < before


@pytest.mark.parametrize("tree", [{"params": {"d0": {"kernel": jnp.eye(2)}}}])
def test_layers_are_named_with_or_without_the_collection(tree):
    layer = {"kernel": 2.0 * jnp.eye(2)}
    short = morph.Deeper("d1", layer, like="d0")(tree)
    long = morph.Deeper("params/d1", layer, like="params/d0")(tree)
    np.testing.assert_array_equal(short["params"]["d1"]["kernel"], layer["kernel"])
    assert jax.tree.structure(short) == jax.tree.structure(long)
    wide = morph.Wider(morph.copies(2, 3, jax.random.key(0)), morph.outputs("d1"))(short)
    assert wide["params"]["d1"]["kernel"].shape == (2, 3)


def test_a_layer_to_be_like_that_is_not_there_is_refused_before_anything_is_put():
    for degree in (0, 1, 2):
        with pytest.raises(ValueError, match=r"no 'no_such_layer'.*not in d0"):
            grow = morph.Deeper("d1", {"kernel": jnp.eye(2)}, like="no_such_layer")
            grow({"d0": {"kernel": jnp.eye(2)}}, degree)
