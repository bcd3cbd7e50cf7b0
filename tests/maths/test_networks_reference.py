"""Forwards of the networks for many tasks against NumPy, and what is special about each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs.metaworld import MT50
from mtrl_jax.networks import moore, multitask, task_text
from tests.maths import network_table
from tests.maths.network_table import HIDDEN, SIZE, B, F, K, inputs


def made(name, **options):
    net = network_table.make(name, **options)
    return net, network_table.parameters(net)


def start(net, pick):
    """What `pick` takes of the initial (shared, own); nothing else is compiled."""
    return jax.jit(lambda key: pick(*multitask.init(net, key, F)))(jax.random.key(0))


@pytest.mark.parametrize("name", [n for n, row in network_table.NETWORKS.items() if row.norms > 0])
def test_forward_with_layer_norms_is_numpys(name):
    net, params = made(name, layer_norm=True)
    x = inputs()
    y = jax.jit(lambda params, x: multitask.by_task(net, *params, x))(params, x)
    expected = network_table.expected(name, params, x, layer_norm=True)
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(y, expected, rtol=2e-4, atol=2e-5)


# -------------------------------------------------------------------------------------------- MOORE


def test_gram_schmidt_is_orthonormal_and_spans_the_same():
    h = np.random.default_rng(0).normal(size=(6, 9, 40)).astype(np.float32)
    u = np.asarray(jax.jit(moore.gram_schmidt)(h), np.float64)
    gram = np.einsum("mbh,nbh->bmn", u, u)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(6), gram.shape), atol=2e-6)
    for b in range(9):
        q, r = np.linalg.qr(h[:, b].T.astype(np.float64))
        np.testing.assert_allclose(u[:, b].T, q * np.sign(np.diag(r)), atol=1e-5)


def test_gram_schmidt_survives_zero_and_dependent_experts():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(4, 2, 8)).astype(np.float32)
    h[1] = 0.0
    h[2] = 2.0 * h[0]

    def loss(h):
        return (moore.gram_schmidt(h) ** 3).sum()

    value, grad = jax.jit(jax.value_and_grad(loss))(h)
    assert np.isfinite(value) and np.isfinite(grad).all()
    u = np.asarray(moore.gram_schmidt(h))
    assert not u[1].any() and np.abs(u[2]).max() < 2e-3  # count as nothing
    np.testing.assert_allclose((u[[0, 3]] ** 2).sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose((u[0] * u[3]).sum(-1), 0.0, atol=3e-6)


def test_moores_experts_are_orthogonal_in_the_network():
    """Seen from outside: with a head that reads features as they are and small weights, tanh is
    the identity, so the outputs of tasks that pick one expert each are orthonormal."""
    net = multitask.make("moore", K, (7, 16), 16, num_experts=3)
    shared, own = network_table.parameters(net)
    pick = 1e-3
    own = own | {
        "weights": pick * jnp.eye(3),
        "out_kernel": jnp.broadcast_to(jnp.eye(16), (K, 16, 16)),
        "out_bias": jnp.zeros((K, 16)),
    }
    same = np.broadcast_to(inputs()[:1], (K, B, F))
    u = np.asarray(multitask.by_task(net, shared, own, same), np.float64) / pick
    np.testing.assert_allclose(
        np.einsum("kbh,jbh->bkj", u, u), np.broadcast_to(np.eye(K), (B, K, K)), atol=1e-4
    )


# ----------------------------------------------------------------------------- soft modularization


def _routes(net, shared, own, x, k):
    mine = jax.tree.map(lambda p: p[k], own)
    variables = {"params": shared, "task": mine}
    _, seen = net.apply(variables, x[k], jnp.int32(k), mutable=["intermediates"])
    return [np.asarray(p) for p in seen["intermediates"]["routes"]]


def test_routing_rows_add_up_to_one():
    net, (shared, own) = made("soft_modules")
    x = inputs()
    routes = [_routes(net, shared, own, x, k) for k in range(K)]
    assert [p.shape for p in routes[0]] == [(B, 2, 2), (B, 2, 2), (B, 1, 2)]
    for p in (p for task in routes for p in task):
        np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-6)
        assert (p > 0).all()
    assert np.abs(routes[0][0] - routes[1][0]).max() > 1e-3  # tasks route differently


def test_routing_starts_even():
    net = multitask.make("soft_modules", K, (32, 32), SIZE, num_modules=4)
    kernel = start(net, lambda shared, own: shared["route0"]["kernel"])
    np.testing.assert_allclose(np.std(kernel), (1e-4 / 32) ** 0.5, rtol=0.2)  # logits near 0.01
    shared, own = network_table.parameters(net)
    for i in range(2):
        shared[f"route{i}"] = jax.tree.map(jnp.zeros_like, shared[f"route{i}"])
    for p in _routes(net, shared, own, inputs(), 1):
        np.testing.assert_allclose(p, 0.25, rtol=1e-6)


# --------------------------------------------------------------------------------------------- PaCo


def test_paco_starts_as_the_network_that_all_sets_hold():
    net, (shared, _) = made("paco")
    kernel, weights = start(net, lambda shared, own: (shared["out_kernel"], own["weights"]))
    assert kernel.shape == (4, HIDDEN[1], SIZE) and kernel.any()
    np.testing.assert_array_equal(kernel, np.broadcast_to(kernel[:1], kernel.shape))
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    alone = jax.tree.map(lambda p: p[:1], shared)
    equal = jax.tree.map(lambda p: jnp.broadcast_to(p, (4, *p.shape[1:])), alone)
    x = np.broadcast_to(inputs()[:1], (K, B, F))
    y = multitask.by_task(net, equal, {"weights": weights}, x)
    expected = network_table.expected("paco", (alone, {"weights": np.ones((K, 1))}), x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------- CARE


def test_cares_attention_does_not_move_the_context():
    """With an f that ignores the context behind the mixture, the context's MLP gets no gradient,
    though attention depends on it; the encoders do."""
    net, (shared, own) = made("care")
    shared["dense0"]["kernel"][-4:] = 0.0  # rows of c
    x = inputs()

    def loss(shared):
        return (multitask.by_task(net, shared, own, x) ** 2).sum()

    grad = jax.jit(jax.grad(loss))(shared)
    assert not any(np.asarray(grad[f"context_dense{i}"]["kernel"]).any() for i in range(2))
    assert np.asarray(grad["encoder0_kernel"]).any()
    moved = shared | {"context_dense1": jax.tree.map(lambda p: 2.0 * p, shared["context_dense1"])}
    assert np.abs(loss(moved) - loss(shared)) > 1e-3


def test_task_vectors():
    vectors = task_text.task_vectors(MT50)
    assert vectors.shape == (50, 256) and vectors.dtype == np.float32
    np.testing.assert_allclose((vectors**2).mean(-1), 1.0, rtol=1e-5)
    cosine = dict(zip(MT50, vectors @ vectors.T / 256, strict=True))

    def near(a, b):
        return cosine[a][MT50.index(b)]

    assert near("door-open", "drawer-open") > near("door-open", "sweep-into") + 0.1
    assert near("window-open", "window-close") > near("window-open", "hammer") + 0.1
    off = np.stack([*cosine.values()])[~np.eye(50, dtype=bool)]
    assert off.max() < 0.97  # no two tasks are one
    np.testing.assert_array_equal(  # a vector does not depend on the company it is in
        task_text.task_vectors(("reach", "sweep"))[0], vectors[MT50.index("reach")]
    )


def test_every_task_of_meta_world_is_described():
    assert set(task_text.DESCRIPTIONS) == set(MT50)
    assert len(set(task_text.DESCRIPTIONS.values())) == 50


def test_features_of_a_name():
    assert task_text.features("WalkerRun-v2")["walker"] == 1
    counts = task_text.features("abc")  # <abc> has three groups of 3, two of 4, one of 5
    assert counts == {
        "abc": pytest.approx(1 + 1 / 6),
        "<ab": pytest.approx(1 / 6),
        "bc>": pytest.approx(1 / 6),
        "<abc": pytest.approx(1 / 6),
        "abc>": pytest.approx(1 / 6),
        "<abc>": pytest.approx(1 / 6),
    }


def test_hashing_is_the_same_in_every_process():
    """Python's own hash of a string is not. Coordinates and signs by blake2b, worked out apart."""
    vector = task_text.task_vectors(("a1",), size=8)[0]  # `a` is a common word; `1`, `<1>` remain
    expected = np.zeros(8)
    import hashlib

    for feature in ("1", "<1>"):
        digest = hashlib.blake2b(feature.encode(), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        expected[number // 2 % 8] += 1.0 if number % 2 else -1.0
    assert expected.any()
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected) * 8**0.5, rtol=1e-6)


def test_task_vectors_name_what_is_wrong():
    with pytest.raises(ValueError, match="names must differ in their words; got 'a-b' and 'a_b'"):
        task_text.task_vectors(("a-b", "a_b"))
    with pytest.raises(ValueError, match=r"names must hold letters or digits; got '--'"):
        task_text.task_vectors(("x", "--"))
    with pytest.raises(ValueError, match="size must be at least 1; got 0"):
        task_text.task_vectors(("x",), size=0)
