"""PackNet's shares against NumPy, and what must never move; A-GEM against its equation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax import packnet, surgery

RNG = np.random.default_rng(0)


def network(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "dense0": {"kernel": rng.normal(size=(5, 8)), "bias": rng.normal(size=8)},
        "dense1": {"kernel": rng.normal(size=(8, 3)), "bias": rng.normal(size=3)},
    }


def step(params, owner, task, pruned, tx, state, seed):
    grads = jax.tree.map(lambda x: jnp.asarray(x) * 0 + 1.0, network(seed))
    may = packnet.trainable(owner, task, pruned)
    updates, state = tx.update(grads, state, params, trainable=may)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("keep", [0.3, 0.5, 1.0])
def test_a_task_keeps_the_largest_of_what_is_free(keep):
    params, owner = network(), packnet.init(network())
    after, owner = packnet.claim(params, owner, 1, keep)
    for layer in ("dense0", "dense1"):
        kernel = params[layer]["kernel"]
        count = int(np.ceil(np.float32(keep) * kernel.size))
        largest = np.sort(np.abs(kernel).ravel())[-count:]
        mine = np.asarray(owner[layer]["kernel"]) == 1
        assert mine.sum() == count and set(np.abs(kernel[mine])) == set(largest)
        np.testing.assert_array_equal(
            after[layer]["kernel"], np.where(mine, kernel, 0).astype("f4")
        )
        assert (np.asarray(owner[layer]["bias"]) == 1).all()


def test_equal_weights_are_not_all_kept():
    params = {"kernel": jnp.ones((4, 4))}
    _, owner = packnet.claim(params, packnet.init(params), 1, 0.25)
    assert (owner["kernel"] == 1).sum() == 4


def test_three_tasks_partition_the_weights_and_old_networks_keep_every_bit():
    params, seen = jax.tree.map(jnp.float32, network()), {}
    owner = packnet.init(params)
    for task in (1, 2, 3):
        for pruned in (False, True):
            if pruned:
                params, owner = packnet.claim(params, owner, task, 0.5)
            # With moments and a decay, which move what has no gradient too.
            tx = optax.chain(optax.adamw(0.1, weight_decay=0.1), packnet.restrict())
            state = tx.init(params)
            for n in range(3):
                params, state = step(params, owner, task, pruned, tx, state, n)
        for old, kept in seen.items():
            now = packnet.view(params, owner, old)
            assert all(
                (a == b).all() for a, b in zip(*map(jax.tree.leaves, (now, kept)), strict=True)
            )
        seen[task] = packnet.view(params, owner, task)
    kernel = np.asarray(owner["dense0"]["kernel"])
    assert [(kernel == k).sum() for k in (0, 1, 2, 3)] == [5, 20, 10, 5]
    third = seen[3]["dense0"]["kernel"]
    assert ((third != 0) == (kernel > 0)).all()


def test_the_gradient_of_a_view_is_nothing_for_weights_that_it_does_not_read():
    params, owner = packnet.claim(network(), packnet.init(network()), 1, 0.5)
    grad = jax.grad(lambda p: sum(x.sum() for x in jax.tree.leaves(packnet.view(p, owner, 1))))(
        params
    )
    for g, who in zip(*map(jax.tree.leaves, (grad, owner)), strict=True):
        np.testing.assert_array_equal(g, np.asarray(who) == 1)


@pytest.mark.parametrize(
    ("task", "keep", "words"),
    [(0, 0.5, "task must be at least 1; got 0"), (1, 0.0, r"keep must lie in \(0.0, 1.0\]")],
)
def test_wrong_claims_are_refused(task, keep, words):
    with pytest.raises(ValueError, match=words):
        packnet.claim(network(), packnet.init(network()), task, keep)


# ------------------------------------------------------------------------- A-GEM


@pytest.mark.parametrize("sign", [1, -1])
def test_a_gem_is_its_equation(sign):
    g = network(1)
    reference = jax.tree.map(lambda x, y: sign * (0.3 * x + 0.1 * y), g, network(2))
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (g, reference)]
    along = flat[0] @ flat[1]
    expected = flat[0] - min(along, 0) / (flat[1] @ flat[1]) * flat[1]
    found = jax.jit(surgery.a_gem)(*(jax.tree.map(jnp.float32, t) for t in (g, reference)))
    found = np.concatenate([np.ravel(x) for x in jax.tree.leaves(found)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (np.sign(along) == sign) and (found @ flat[1] > -1e-4)
    if sign == 1:
        np.testing.assert_array_equal(found, flat[0].astype(np.float32))


def test_a_gem_is_pcgrad_without_the_second_task():
    both = jnp.float32(RNG.normal(size=(2, 9)))
    both = both.at[1].add(-both[0])
    weights = surgery.pcgrad_weights(both @ both.T, surgery.fixed_orders(2))
    swapped = surgery.a_gem(both[1], both[0])
    np.testing.assert_allclose(
        surgery.a_gem(both[0], both[1]) + swapped, weights @ both, rtol=1e-5, atol=1e-6
    )


def test_a_reference_of_zeros_changes_nothing_and_another_shape_is_refused():
    g = {"a": jnp.arange(3.0)}
    assert (surgery.a_gem(g, {"a": jnp.zeros(3)})["a"] == g["a"]).all()
    with pytest.raises(
        ValueError, match=r"reference\['a'\] must have the shape \(3,\) of grads, got"
    ):
        surgery.a_gem(g, {"a": jnp.zeros(4)})
    with pytest.raises(ValueError, match="reference must have the structure of grads"):
        surgery.a_gem(g, [jnp.zeros(3)])
