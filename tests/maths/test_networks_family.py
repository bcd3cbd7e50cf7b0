"""What holds for every network for many tasks: shapes, parameter counts, the fast path against the
definition, and which task's loss reaches which parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.networks import multitask
from tests.maths import network_table
from tests.maths.network_table import HIDDEN, NAMES, SIZE, B, F, K, make

NAMES_OF_NETWORKS = list(network_table.NETWORKS)
TASK = np.repeat(np.arange(K), B)


@functools.cache
def built(name):
    """(network, parameters, inputs, loss gradients of both paths), compiled once a network."""
    net = make(name)
    params, x = network_table.parameters(net), network_table.inputs()
    rng = np.random.default_rng(3)
    target = rng.normal(size=(K, B, SIZE)).astype(np.float32)

    def fast(params, x, weight):
        y = multitask.by_task(net, *params, x)
        return (((y - target) ** 2).sum((1, 2)) * weight).sum(), y

    def slow(params, x, weight):
        y = multitask.per_sample(net, *params, x.reshape(K * B, F), TASK).reshape(K, B, SIZE)
        return (((y - target) ** 2).sum((1, 2)) * weight).sum(), y

    grads = [jax.jit(jax.grad(f, argnums=(0, 1), has_aux=True)) for f in (fast, slow)]
    return net, params, x, *grads


def test_the_table_covers_every_network():
    assert set(network_table.NETWORKS) == set(multitask.NETWORKS)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("name", NAMES_OF_NETWORKS)
def test_number_of_parameters(name, layer_norm):
    row = network_table.NETWORKS[name]
    net = make(name, layer_norm=layer_norm)

    def draw(key):
        return multitask.init(net, key, F)

    if layer_norm and row.norms < 0:
        with pytest.raises(ValueError, match="layer_norm is not offered by the network 'separate'"):
            jax.eval_shape(draw, jax.random.key(0))
        return
    shared, own = jax.eval_shape(draw, jax.random.key(0))

    def count(tree):
        return sum(p.size for p in jax.tree.leaves(tree))

    assert count(shared) == row.shared + (row.norms if layer_norm else 0)
    assert count(own) == K * row.own
    assert all(p.shape[0] == K for p in jax.tree.leaves(own))


@pytest.mark.parametrize("name", NAMES_OF_NETWORKS)
def test_fast_path_is_the_definition_and_numpys(name):
    net, params, x, fast, slow = built(name)
    (grads, x_grad), y = fast(params, x, np.ones(K, np.float32))
    (slow_grads, x_slow), y_slow = slow(params, x, np.ones(K, np.float32))
    assert y.shape == (K, B, SIZE) and y.dtype == jnp.float32
    expected = network_table.expected(name, params, x)
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(y, expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(y, y_slow, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(x_grad, x_slow, rtol=1e-3, atol=1e-4)
    assert np.abs(x_grad).max(-1).min() > 0  # every sample's output depends on it
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, slow_grads
    )
    program = str(jax.make_jaxpr(lambda p, x: multitask.by_task(net, *p, x))(params, x))
    assert " gather" not in program and "dot_general" in program


@pytest.mark.parametrize("name", NAMES_OF_NETWORKS)
def test_a_task_moves_its_own_parameters_and_the_shared_ones(name):
    _, params, x, fast, _ = built(name)
    for k in range(K):
        ((shared, own), x_grad), _ = fast(params, x, np.eye(K, dtype=np.float32)[k])
        for leaf in jax.tree.leaves(own):
            leaf = np.asarray(leaf)
            others = [j for j in range(K) if j != k]
            assert not leaf[others].any()
            assert leaf[k].any()
        for path, leaf in jax.tree.leaves_with_path(shared):
            assert np.asarray(leaf).any(), path
        assert not np.asarray(x_grad)[[j for j in range(K) if j != k]].any()


@pytest.mark.parametrize("name", NAMES_OF_NETWORKS)
def test_output_depends_on_the_task(name):
    _, params, x, fast, _ = built(name)
    same = np.broadcast_to(x[:1], x.shape)
    _, y = fast(params, same, np.ones(K, np.float32))
    assert np.abs(y[0] - y[1]).max() > 1e-3 and np.abs(y[1] - y[2]).max() > 1e-3


@pytest.mark.parametrize("name", [n for n in NAMES_OF_NETWORKS if network_table.NETWORKS[n].own])
def test_own_parameters_decide_which_task_it_is(name):
    """Swapping two tasks' own parameters swaps their outputs, where the network is not told the
    number besides; a head that is swapped changes the output in any case."""
    _, (shared, own), x, fast, _ = built(name)
    order = np.array([1, 0, 2])
    swapped = jax.tree.map(lambda p: p[order], own)
    same = np.broadcast_to(x[:1], x.shape)
    one = np.ones(K, np.float32)
    (_, y), (_, y_swapped) = fast((shared, own), same, one), fast((shared, swapped), same, one)
    if name == "multihead":  # the trunk sees the number
        assert np.abs(y[0] - y_swapped[1]).max() > 1e-3
    else:
        np.testing.assert_allclose(y[order], y_swapped, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y[2], y_swapped[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES_OF_NETWORKS)
def test_bad_arguments_are_named(name):
    net, params, x, _, _ = built(name)
    with pytest.raises(ValueError, match=r"x must have shape \[K = 3, B, F\], got \(5, 4\)"):
        multitask.by_task(net, *params, x[0])
    with pytest.raises(ValueError, match=r"x must have shape \[K = 3, B, F\], got \(2, 5, 4\)"):
        multitask.by_task(net, *params, x[:2])
    with pytest.raises(ValueError, match=r"x must have shape \[B, F\]"):
        multitask.per_sample(net, *params, x, TASK)
    with pytest.raises(ValueError, match=r"task must be integers of shape \[B\]"):
        multitask.per_sample(net, *params, x[0], np.zeros(B))
    with pytest.raises(ValueError, match=r"task must be integers of shape \[B\]"):
        multitask.per_sample(net, *params, x[0], np.zeros(2, int))
    with pytest.raises(ValueError, match=r"task must lie in \[0, 3\)"):
        multitask.per_sample(net, *params, x[0], np.full(B, 3))
    variables = {"params": params[0], "task": jax.tree.map(lambda p: p[0], params[1])}
    with pytest.raises(ValueError, match=r"x must have shape \[B, F\], got \(3, 5, 4\)"):
        net.apply(variables, x, jnp.int32(0))
    with pytest.raises(ValueError, match="task must be one integer, got float32"):
        net.apply(variables, x[0], jnp.float32(0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "network must be one of onehot, .*; got 'resnet'"),
        ("paco", {"activation": "gelu"}, "activation must be one of .*; got 'gelu'"),
        ("paco", {"num_experts": 3}, "options of the network 'paco' are .*num_sets; got 'num_ex"),
        ("onehot", {"hidden": ()}, "hidden must hold at least one positive width"),
        ("onehot", {"num_tasks": 0}, "num_tasks must be at least 1; got 0"),
        ("paco", {"num_sets": 0}, "num_sets must be at least 1; got 0"),
        ("moore", {"num_experts": 0}, "num_experts must be at least 1; got 0"),
        ("moore", {"num_experts": 7}, "num_experts must be at most the last width 6 of hidden"),
        ("care", {"num_experts": 0}, "num_experts must be at least 1; got 0"),
        ("care", {"encoder": ()}, "encoder must be at least 1; got 0"),
        ("care", {"task_names": ("reach",)}, "task_names must hold 3 names, one a task"),
        ("film", {"embedding_size": 0}, "embedding_size must be at least 1; got 0"),
        ("embedding", {"embedding_size": 0}, "embedding_size must be at least 1; got 0"),
        ("soft_modules", {"num_layers": 1}, "num_layers must be at least 2; got 1"),
        ("soft_modules", {"num_modules": 0}, "num_modules must be at least 1; got 0"),
    ],
)
def test_bad_options_are_named(name, options, message):
    arguments = {"num_tasks": K, "hidden": HIDDEN, "size": SIZE, "task_names": NAMES} | options
    with pytest.raises(ValueError, match=message):
        net = multitask.make(name, **arguments)
        jax.eval_shape(lambda key: multitask.init(net, key, F), jax.random.key(0))


@pytest.mark.parametrize("name", [n for n in NAMES_OF_NETWORKS if network_table.NETWORKS[n].own])
def test_tasks_start_from_draws_of_their_own(name):
    net = make(name)
    own = jax.jit(lambda key: multitask.init(net, key, F)[1])(jax.random.key(0))
    for path, p in jax.tree.leaves_with_path(own):
        assert np.isfinite(p).all()
        if "bias" in str(path):
            assert not np.asarray(p).any()
        else:
            assert np.abs(p[0] - p[1]).max() > 1e-3
