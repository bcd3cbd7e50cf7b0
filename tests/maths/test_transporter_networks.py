"""Transporter networks: what must hold of them untrained, and their losses against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs import tabletop
from mtrl_jax.losses import transporter as losses
from mtrl_jax.networks import convolution
from mtrl_jax.networks import transporter as networks

WIDTH, DEPTH, N = 4, 3, 9


def images(seed, shape):
    """Bytes as floats, mostly nothing."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(size=shape) * (rng.uniform(size=shape[:-1]) > 0.7)[..., None]).astype("f4")


@pytest.fixture(scope="module")
def nets():
    """Networks, and parameters with biases that are not 0."""
    made = networks.make(WIDTH, DEPTH, N)

    @jax.jit
    def fresh(key):
        params = networks.init(made, key, (16, 16, 4))
        keys = jax.random.split(key, len(jax.tree.leaves(params)))
        keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
        return jax.tree.map(lambda x, k: x + 0.2 * jax.random.normal(k, x.shape), params, keys)

    return made, fresh(jax.random.key(0))


# ---------------------------------------------------------------------------- products


def test_same_conv_is_a_convolution():
    x = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype("f4")
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 4)).astype("f4")
    for hole in (1, 3):
        expected = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            rhs_dilation=(hole, hole),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        found = convolution.same_conv(jnp.asarray(x), jnp.asarray(kernel), hole)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    for bad, words in (((2, 2, 3, 4), "odd size"), ((3, 3, 2, 4), "C = 3 as x has")):
        with pytest.raises(ValueError, match=words):
            convolution.same_conv(jnp.asarray(x), jnp.zeros(bad))
    with pytest.raises(ValueError, match="hole must be at least 1; got 0"):
        convolution.same_conv(jnp.asarray(x), jnp.asarray(kernel), 0)


def test_cross_correlation_lays_every_query_over_every_place():
    rng = np.random.default_rng(2)
    query, key = rng.normal(size=(4, 3, 3, 2)), rng.normal(size=(5, 6, 2))
    expected = np.zeros((4, 5, 6))
    for t, i, j in np.ndindex(4, 5, 6):
        for u, v in np.ndindex(3, 3):
            y, x = i + u - 1, j + v - 1
            if 0 <= y < 5 and 0 <= x < 6:
                expected[t, i, j] += query[t, u, v] @ key[y, x]
    found = jax.jit(networks.cross_correlate)(query.astype("f4"), key.astype("f4"))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="with n odd, got"):
        networks.cross_correlate(jnp.zeros((4, 2, 2, 2)), jnp.zeros((5, 6, 2)))
    with pytest.raises(ValueError, match="with C = 2, got"):
        networks.cross_correlate(jnp.zeros((4, 3, 3, 2)), jnp.zeros((5, 6, 1)))


# ---------------------------------------------------------------------------- invariants


def test_a_shift_of_the_images_shifts_the_logits(nets):
    made, params = nets
    side, border, shift = 44, 16, (3, -2)  # no kernel reaches farther than the border
    image, goal = images(0, (1, side, side, 4)), images(1, (1, side, side, 4))
    pixel = np.array([[20, 23]], np.int32)

    @jax.jit
    def logits(image, goal, pixel):
        picks = made.pick.apply({"params": params["pick"]}, image, goal)
        places = made.place.apply({"params": params["place"]}, image, goal, pixel)
        return picks[0, :-1].reshape(side, side), places[0]

    before = jax.device_get(logits(image, goal, pixel))
    moved = [np.roll(x, shift, (1, 2)) for x in (image, goal)]
    after = jax.device_get(logits(*moved, pixel + np.array([shift])))
    inner = np.s_[..., border + 3 : side - border - 3, border + 3 : side - border - 3]
    for a, b in zip(before, after, strict=True):
        assert a[inner].std() > 1e-2
        np.testing.assert_allclose(np.roll(a, shift, (-2, -1))[inner], b[inner], atol=1e-4)
        assert np.abs(a[inner] - b[inner]).max() > 1e-2  # they are not all alike


def test_a_thing_that_the_table_turns_has_the_same_queries_in_another_order(nets):
    """The network's turns are the simulator's: a corner that was turned once looks after t turns
    more as it did after t + 1."""
    made, params = nets
    floor = jnp.full((32, 32, 3), 40, jnp.uint8)
    one = [jnp.array([x]) for x in (0, 2)]
    table = tabletop.Table(
        *one, jnp.array([[14, 17]]), jnp.array([1]), jnp.ones(1, jnp.int32), floor
    )
    pick = jnp.array([13, 18])  # not its middle

    @jax.jit
    def queries(table, turn):
        action = tabletop.Action(False, pick, pick, turn)
        after, moved = tabletop.step(table, action)
        image = tabletop.render(after)[None] / jnp.float32(255)
        found = made.place.apply({"params": params["place"]}, image, pick[None], method="queries")
        return found[0], moved

    seen = [jax.device_get(queries(table, turn)) for turn in range(4)]
    assert all(moved for _, moved in seen)
    for turn in range(1, 4):
        expected = np.roll(seen[0][0], -turn, axis=0)
        np.testing.assert_allclose(seen[turn][0], expected, atol=1e-6)
        assert np.abs(seen[turn][0] - seen[0][0]).max() > 1e-2


def test_where_image_and_goal_are_the_same_nothing_is_picked(nets):
    made, params = nets
    image, other = images(3, (2, 16, 16, 4))

    @jax.jit
    def probabilities(params, image, goal):
        logits = made.pick.apply({"params": params["pick"]}, image[None], goal[None])
        return jax.nn.softmax(logits[0])

    for scale in (1.0, 10.0):
        scaled = jax.tree.map(lambda x, scale=scale: scale * x, params)
        same = np.asarray(probabilities(scaled, image, image))
        np.testing.assert_allclose(same[-1], 1 / (1 + np.exp(-3.0)), rtol=1e-5)
        np.testing.assert_allclose(same[:-1], (1 - same[-1]) / 256, rtol=1e-4)
    assert np.asarray(probabilities(scaled, image, other))[-1] < 0.5


# ---------------------------------------------------------------------------- losses


def test_losses_of_an_action():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(4, 3, 5)).astype("f4")
    p = np.exp(logits) / np.exp(logits).sum()
    right = np.array([True, False, True, False])
    value, gradient = jax.jit(jax.value_and_grad(losses.place_loss))(
        logits, np.array([2, 1]), right
    )
    np.testing.assert_allclose(value, -np.log(p[0, 2, 1] + p[2, 2, 1]), rtol=1e-5)
    chosen = np.zeros_like(p)
    chosen[right, 2, 1] = p[right, 2, 1] / p[right, 2, 1].sum()
    np.testing.assert_allclose(gradient, p - chosen, atol=1e-6)
    flat = logits.reshape(-1)
    np.testing.assert_allclose(losses.pick_loss(flat, 7), -np.log(p.reshape(-1)[7]), rtol=1e-5)
    for call, words in (
        (lambda: losses.pick_loss(logits, 7), r"logits must have shape \[P\]"),
        (
            lambda: losses.place_loss(logits, np.zeros(3, int), right),
            r"place must have shape \[2\]",
        ),
        (lambda: losses.place_loss(logits, np.zeros(2, int), right * 1), "right must be bool"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_tasks_with_a_higher_loss_are_drawn_more_often():
    rng = np.random.default_rng(5)
    running, batch = np.array([1.0, 2.0, 3.0], "f4"), rng.uniform(size=8).astype("f4")
    tasks = np.array([0, 2, 0, 0, 2, 2, 2, 0])
    expected = running.copy()
    for k in (0, 2):
        n, mean = (tasks == k).sum(), batch[tasks == k].mean()
        for _ in range(n):  # as many small steps towards the mean
            expected[k] += 0.1 * (mean - expected[k])
    found = losses.running_loss(running, batch, tasks, 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(losses.task_shares(running, 0.4), 0.4 / 3 + 0.6 * running / 6)
    np.testing.assert_allclose(losses.task_shares(running, 1.0), [1 / 3] * 3)
    np.testing.assert_allclose(losses.task_shares(0 * running, 0.0), [1 / 3] * 3)
    with pytest.raises(ValueError, match=r"floor must lie in \[0\.0, 1\.0\], got 1\.5"):
        losses.task_shares(running, 1.5)
    with pytest.raises(ValueError, match=r"losses must have shape \[B\]"):
        losses.running_loss(running, batch[:2], tasks, 0.1)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"width": 0}, "width must be at least 1; got 0"),
        ({"size": 8}, "size must be odd; got 8"),
        ({"depth": 1.5}, "depth must be an integer; got 1.5"),
    ],
)
def test_networks_that_cannot_be_are_refused(numbers, words):
    with pytest.raises(ValueError, match=words):
        networks.make(**numbers)
