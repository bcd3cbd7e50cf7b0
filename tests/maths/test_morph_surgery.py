"""Growing a network that is trained with gradient surgery: what is remembered goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax import surgery
from mtrl_jax.networks import morph

K = 3
PARAMS = {
    "d0": {"kernel": jax.random.normal(jax.random.key(0), (4, 3))},
    "d1": {"kernel": jax.random.normal(jax.random.key(1), (3, 2))},
}
X = jax.random.normal(jax.random.key(2), (K, 8, 4))
WIDER = morph.Wider(
    morph.copies(3, 5, jax.random.key(3)), (*morph.outputs("d0"), *morph.inputs("d1"))
)
DEEPER = morph.Sequence(
    morph.Rename({"d1": "d2"}), morph.Deeper("d1", {"kernel": jnp.eye(3)}, like="d0")
)


def loss(params, x):
    for name in sorted(params)[:-1]:
        x = jax.nn.relu(x @ params[name]["kernel"])
    return jnp.mean((x @ params[max(params)]["kernel"] - 1.0) ** 2)


def run(tx, params, state, steps=3):
    @jax.jit
    def step(params, state):
        losses, grads = surgery.per_task_value_and_grad(loss)(params, X)
        updates, state = tx.update(grads, state, params, task_losses=losses)
        return optax.apply_updates(params, updates), state, losses

    for _ in range(steps):
        params, state, losses = step(params, state)
    return params, state, losses


def transform(name, **options):
    options = {"beta": 0.5, **options} if name == "gradvac" else options
    return optax.chain(surgery.METHODS[name](num_tasks=K, **options), optax.adam(1e-2))


@pytest.mark.parametrize("name", ["gradvac", "gradnorm", "nash_mtl", "famo"])
@pytest.mark.parametrize(
    ("scope", "grow"), [("global", WIDER), ("global", DEEPER), ("leaf", WIDER), ("module", WIDER)]
)
def test_what_is_remembered_goes_on(name, scope, grow):
    tx = transform(name, scope=scope)
    params, state, _ = run(tx, PARAMS, tx.init(PARAMS))
    carried = morph.carry(state, params, grow)
    for x, y in zip(*map(jax.tree.leaves, (state[0], carried[0])), strict=True):
        np.testing.assert_array_equal(x, y)
    bigger = grow(params)
    np.testing.assert_allclose(loss(bigger, X[0]), loss(params, X[0]), rtol=1e-5)
    _, after, losses = run(tx, bigger, carried)
    assert int(after[0].step) == 6 and jnp.isfinite(losses).all()


@pytest.mark.parametrize("scope", ["leaf", "module"])
def test_memory_by_leaf_or_module_is_refused_where_these_change(scope):
    tx = transform("gradvac", scope=scope)
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=rf"\[0\], a SurgeryState.*each {scope}.*tx\.init"):
        morph.carry(state, PARAMS, DEEPER)


def test_one_leaf_under_scope_leaf_is_a_group_of_its_own_too():
    params = {"d0": PARAMS["d0"]}
    state = transform("gradvac", scope="leaf").init(params)
    grow = morph.Deeper("d1", {"kernel": jnp.eye(3)}, like="d0")
    with pytest.raises(ValueError, match="a SurgeryState"):
        morph.carry(state, params, grow)


def test_curvature_goes_through_the_morph():
    tx = transform("pcgrad", diagnostics="curvature")
    params, state, _ = run(tx, PARAMS, tx.init(PARAMS))
    carried = morph.carry(state, params, WIDER)[0].curvature
    jax.tree.map(np.testing.assert_array_equal, carried.params, WIDER(state[0].curvature.params))
    jax.tree.map(np.testing.assert_array_equal, carried.grads, WIDER(state[0].curvature.grads, 1))
    # The estimate over the step across the morph is of the function, which did not change.
    one = run(tx, params, state, 1)[1][0].curvature.value
    two = run(tx, WIDER(params), morph.carry(state, params, WIDER), 1)[1][0].curvature.value
    np.testing.assert_allclose(one, two, rtol=1e-2)
