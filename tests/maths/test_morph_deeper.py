"""Deeper networks: identity layers, batch norms, residual branches, and activations between."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from morph_models import initial

from mtrl_jax.networks import morph

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(6, 4, 4, 2)), jnp.float32)
ROWS = jnp.asarray(RNG.normal(size=(6, 5, 3)), jnp.float32)


class Images(nn.Module):
    """Convolution, dense layer, head; `deep` has one more of each, and a batch norm."""

    deep: bool

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.relu(nn.Conv(4, (3, 3), name="conv0")(x))
        if self.deep:
            y = nn.Conv(4, (3, 5), name="conv1")(y)
            y = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(y))
        y = nn.relu(nn.Dense(6, name="dense0")(y.reshape(len(y), -1)))
        if self.deep:
            y = nn.relu(nn.Dense(6, name="dense1")(y))
        return nn.Dense(3, name="dense2" if self.deep else "dense1")(y)


class Series(nn.Module):
    """tanh layers over `[B, T, F]`; `deep` has what Net2DeeperNet cannot insert."""

    deep: bool

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.tanh(nn.Dense(4, name="dense0")(x))
        if self.deep:
            y = morph.PActivation(nn.tanh, name="between")(nn.Dense(4, name="extra")(y))
            init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
            cell = nn.OptimizedLSTMCell(5, recurrent_kernel_init=init, name="core")
            branch = nn.RNN(cell)(nn.LayerNorm(name="norm")(y))
            y = y + nn.Dense(4, name="leave")(branch)
        return nn.Dense(2, name="head")(y)


def grow_images(params, statistics):
    norm, stats = morph.batch_norm_identity(*statistics)
    grow = morph.Sequence(
        morph.Rename({"dense1": "dense2"}),
        morph.Deeper("conv1", morph.identity("conv", 4, nn.relu, kernel_size=(3, 5)), "conv0"),
        morph.Deeper("norm", norm, "conv0"),
        morph.Deeper("dense1", morph.identity("dense", 6, nn.relu), "dense0"),
    )
    return grow, {"params": grow(params), "batch_stats": {"norm": stats}}


def test_net2deeper_is_exact_for_relu_and_a_batch_norm_in_evaluation_mode():
    params = initial(Images(False), IMAGES)["params"]

    def small(params, x):
        return Images(False).apply({"params": params}, x)

    def features(params, x):
        y = nn.relu(nn.Conv(4, (3, 3)).apply({"params": params["conv0"]}, x))
        return jnp.mean(y, (0, 1, 2)), jnp.var(y, (0, 1, 2))

    statistics = jax.tree.map(np.asarray, jax.jit(features)(params, IMAGES))
    _, big = grow_images(params, statistics)

    @jax.jit
    def outputs(params, big, x):
        trained, _ = Images(True).apply(big, x, True, mutable=["batch_stats"])
        return small(params, x), Images(True).apply(big, x), trained

    expected, got, trained = outputs(params, big, IMAGES)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-5)
    # This batch is the data of the statistics; any other one is normalised by its own.
    np.testing.assert_allclose(trained, expected, atol=1e-5)
    expected, got, trained = outputs(params, big, 2 * IMAGES)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(trained - expected).max() > 1e-2


def test_adam_goes_on_with_new_layers():
    params = initial(Images(False), IMAGES)["params"]
    moments = jax.tree.map(lambda x: np.square(x) + 1, params)
    state = (optax.ScaleByAdamState(jnp.asarray(7), params, moments), optax.EmptyState())
    grow, big = grow_images(params, (np.zeros(4, np.float32), np.ones(4, np.float32)))
    adam = morph.carry(state, params, grow)[0]
    assert jax.tree.structure(adam.mu) == jax.tree.structure(big["params"])
    np.testing.assert_array_equal(adam.mu["dense2"]["kernel"], params["dense1"]["kernel"])
    np.testing.assert_array_equal(adam.nu["conv0"]["bias"], moments["conv0"]["bias"])
    assert not np.any(adam.mu["conv1"]["kernel"]) and int(adam.count) == 7
    both = np.concatenate([np.ravel(x) for x in jax.tree.leaves(moments["dense0"])])
    np.testing.assert_allclose(adam.nu["dense1"]["kernel"], both.mean(), rtol=1e-5)


def test_parametric_activations_and_silent_branches_are_exact_for_tanh_norms_and_cores():
    params = initial(Series(False), ROWS)["params"]
    drawn = initial(Series(True), ROWS)["params"]
    big = {**drawn, **params, "leave": morph.silent(drawn["leave"])}
    big["extra"] = morph.identity("dense", 4, lambda x: x)
    big["between"] = {morph.LINEAR_SHARE: jnp.ones(4)}

    @jax.jit
    def outputs(params, big):
        def loss(big):
            return jnp.sum(Series(True).apply({"params": big}, ROWS) ** 2)

        both = (
            Series(False).apply({"params": params}, ROWS),
            Series(True).apply({"params": big}, ROWS),
        )
        return *both, jax.grad(loss)(big)

    expected, got, gradient = outputs(params, big)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    for name in ("leave", "extra", "between"):  # they learn from the first step
        assert all(np.abs(x).max() > 1e-4 for x in jax.tree.leaves(gradient[name]))
    tanh_instead = big | {"between": {morph.LINEAR_SHARE: jnp.zeros(4)}}
    assert np.abs(outputs(params, tanh_instead)[1] - expected).max() > 1e-2


def test_p_activation_is_the_line_between_the_function_and_the_identity():
    x, a = jnp.linspace(-3.0, 3.0, 7), jnp.linspace(0.0, 1.0, 7)
    value, slope = jax.jit(
        jax.value_and_grad(lambda a: jnp.sum(morph.p_activation(x, a, jnp.sin)))
    )(a)
    x, a = np.asarray(x), np.asarray(a)
    np.testing.assert_allclose(value, ((1 - a) * np.sin(x) + a * x).sum(), rtol=1e-5)
    np.testing.assert_allclose(slope, x - np.sin(x), atol=1e-6)


def test_shares_stay_between_zero_and_one():
    params = {"p": {morph.LINEAR_SHARE: jnp.asarray([1.0, 0.5, 0.1])}, "w": jnp.ones(3)}
    updates = jax.tree.map(lambda x: jnp.asarray([0.3, 0.1, -0.4]), params)
    tx = morph.keep_shares()
    kept, _ = tx.update(updates, tx.init(params), params)
    np.testing.assert_allclose(kept["p"][morph.LINEAR_SHARE], [0.0, 0.1, -0.1], atol=1e-7)
    np.testing.assert_array_equal(kept["w"], updates["w"])
    with pytest.raises(ValueError, match="params must be given"):
        tx.update(updates, tx.init(params))


def test_idempotent_activations():
    for activation in (nn.relu, nn.relu6, nn.hard_tanh, lambda x: x):
        morph.check_idempotent(activation)
    for activation in (nn.tanh, nn.sigmoid, nn.gelu, nn.silu, nn.leaky_relu):
        with pytest.raises(ValueError, match=r"must satisfy f\(f\(x\)\) = f\(x\).*PActivation"):
            morph.identity("dense", 3, activation)
    with pytest.raises(ValueError, match=r"activation tanh .* = 0\.2\d+ at x = "):
        morph.identity("dense", 3, jnp.tanh)


TREE = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"c": {"kernel": jnp.ones((2, 2))}}}
LAYER = {"kernel": jnp.ones((2, 2))}


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("tanh and a sigmoid.*residual", lambda: morph.identity("lstm", 3, nn.relu)),
        ("normalises every example", lambda: morph.identity("layer_norm", 3, nn.relu)),
        ("batch_norm_identity", lambda: morph.identity("batch_norm", 3, nn.relu)),
        ("must be 'dense' or 'conv'", lambda: morph.identity("pool", 3, nn.relu)),
        ("must be odd", lambda: morph.identity("conv", 3, nn.relu, kernel_size=(2, 2))),
        ("'a' is taken", lambda: morph.Deeper("a", LAYER, "b")(TREE)),
        ("'b/c' is taken", lambda: morph.Deeper("b/c", LAYER, "a")(TREE)),
        ("no 'x' in the tree", lambda: morph.Deeper("d", LAYER, "x")(TREE, 2)),
        ("'y' is not in c", lambda: morph.Rename({"b/y": "d"})(TREE)),
    ],
)
def test_errors_say_why(what, call):
    with pytest.raises(ValueError, match=what):
        call()


def test_names_swap_and_the_tree_itself_is_left_alone():
    inner = morph.Deeper("b/d", LAYER, "a")(TREE)
    assert set(inner["b"]) == {"c", "d"} and set(TREE["b"]) == {"c"}
    other = TREE | {"a": {"kernel": jnp.zeros((1, 1))}}
    swapped = morph.Rename({"a": "b", "b": "a"})(other)
    assert swapped["b"]["kernel"].shape == (1, 1) and "c" in swapped["a"]
