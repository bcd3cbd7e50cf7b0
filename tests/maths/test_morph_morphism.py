"""Network morphism: one layer as two in series, as several in parallel, or with a bigger kernel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from morph_models import initial

from mtrl_jax.networks import morph
from mtrl_jax.networks.morph.factor import compose

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(3, 7, 6, 3)), jnp.float32)


def drawn(*shape):
    return RNG.normal(size=shape)


def test_compose_is_scipys_convolution():
    first, second = drawn(3, 2, 2, 4), drawn(2, 3, 4, 3)
    expected = np.zeros((4, 4, 2, 3))
    for i in range(2):
        for j in range(3):
            for hidden in range(4):
                expected[:, :, i, j] += scipy.signal.convolve2d(
                    first[:, :, i, hidden], second[:, :, hidden, j]
                )
    np.testing.assert_allclose(compose(first, second), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "hidden", "sizes", "zeros"),
    [
        ((1, 1, 5, 3), 3, ((1, 1), (1, 1)), False),
        ((1, 1, 3, 5), 3, ((1, 1), (1, 1)), False),
        ((3, 3, 3, 4), 9, ((3, 3), (3, 3)), False),  # enough for 5 x 5
        ((3, 3, 3, 4), 4, ((3, 3), (3, 3)), True),  # the second shrinks to 1 x 1
        ((3, 3, 3, 4), 3, ((3, 3), (3, 3)), True),  # only the first can
        ((3, 1, 3, 4), 4, ((1, 1), (3, 1)), False),
        ((3, 3, 3, 8), 16, ((3, 3), (1, 1)), False),
        ((5, 5, 2, 2), 6, ((3, 3), (3, 3)), False),
        ((1, 1, 4, 4), 4, ((3, 3), (3, 3)), True),
    ],
)
def test_factors_are_exact(kernel, hidden, sizes, zeros):
    parent = drawn(*kernel)
    first, second = morph.factor(parent, hidden, sizes, KEY)
    assert first.shape == (*sizes[0], kernel[2], hidden)
    assert second.shape == (*sizes[1], hidden, kernel[3])
    whole = compose(first, second)
    np.testing.assert_allclose(whole, morph.pad_kernel(parent, whole.shape[:2]), atol=1e-9)
    assert (np.any(first == 0) or np.any(second == 0)) == zeros
    if not zeros:
        np.testing.assert_allclose(first.std(), second.std(), rtol=1e-6)


class Net(nn.Module):
    """Two convolutions and two dense layers, or what they became."""

    big: bool

    @nn.compact
    def __call__(self, x):
        if not self.big:
            y = jnp.tanh(nn.Conv(4, (3, 3), name="same")(x))
            y = jnp.tanh(nn.Conv(5, (3, 3), (2, 2), "VALID", name="strided")(y))
            y = jnp.tanh(nn.Dense(6, name="dense")(y.reshape(len(y), -1)))
            return nn.Dense(2, name="head")(y)
        sizes = ((3, 3), (3, 3))
        pad = morph.series_padding((3, 3), sizes)
        y = nn.Conv(10, (3, 3), padding=pad, name="same_a")(x)
        y = morph.PActivation(nn.gelu, name="between")(y)
        y = jnp.tanh(nn.Conv(4, (3, 3), padding="VALID", name="same_b")(y))
        pad = morph.series_padding((3, 3), ((1, 1), (3, 3)), "VALID")
        left = nn.Conv(7, (1, 1), padding=pad, name="left_a")(y)
        left = nn.Conv(5, (3, 3), (2, 2), "VALID", name="left_b")(left)
        pad = morph.series_padding((3, 3), ((5, 5), (1, 1)), "VALID")
        right = nn.Conv(5, (5, 5), (2, 2), pad, name="right")(y)
        y = jnp.tanh(left + right).reshape(len(y), -1)
        y = morph.PActivation(nn.relu, name="bent")(nn.Dense(8, name="dense_a")(y))
        y = jnp.tanh(nn.Dense(6, name="dense_b")(y))
        return nn.Dense(2, name="head")(y)


def test_everything_at_once_keeps_the_output_borders_and_strides_included():
    params = initial(Net(False), IMAGES)["params"]

    def key(n):
        return jax.random.fold_in(KEY, n)

    steps = [morph.series(params, "same", ("same_a", "same_b"), 10, key(0), ((3, 3), (3, 3)))]
    steps.append(morph.parallel(params, "strided", ("left", "right"), key(1)))
    split = steps[1](params)
    steps.append(morph.series(split, "left", ("left_a", "left_b"), 7, key(2), ((1, 1), (3, 3))))
    steps.append(morph.BiggerKernel("right", (5, 5)))
    steps.append(morph.series(params, "dense", ("dense_a", "dense_b"), 8, key(3)))
    # New layers' moments may start like any layer that is still there when they are inserted.
    for name, width in (("between", 10), ("bent", 8)):
        steps.append(morph.Deeper(name, {morph.LINEAR_SHARE: jnp.ones(width)}, "head"))
    grow = morph.Sequence(*steps)
    big = grow(params)
    both = jax.jit(
        lambda p, q: (
            Net(False).apply({"params": p}, IMAGES),
            Net(True).apply({"params": q}, IMAGES),
        )
    )
    expected, got = both(params, big)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-5)
    # The moments fit the bigger network, and none is 0 where adam would divide by it.
    squares = jax.tree.map(np.square, params)
    for degree, tree in ((1, params), (2, squares)):
        grown = grow(tree, degree)
        assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
    assert all(np.min(x) > 0 for x in jax.tree.leaves(grown))


def test_first_moments_move_as_gradients_do():
    """A linear model, once as one layer and once as its morph: gradients of autodiff."""
    x, c = jnp.asarray(drawn(5, 4), jnp.float32), jnp.asarray(drawn(5, 3), jnp.float32)
    params = {"a": {"kernel": jnp.asarray(drawn(4, 3), jnp.float32), "bias": jnp.zeros(3)}}

    def dense(p, x):
        return x @ p["kernel"] + jnp.broadcast_to(p["bias"], (5, p["bias"].size))

    series = morph.series(params, "a", ("b", "c"), 6, KEY)
    parallel = morph.parallel(params, "a", ("b", "c"), KEY)

    @jax.jit
    def gradients(params, one, two):
        return (
            jax.grad(lambda p: jnp.sum(c * dense(p["a"], x)))(params),
            jax.grad(lambda p: jnp.sum(c * dense(p["c"], dense(p["b"], x))))(one),
            jax.grad(lambda p: jnp.sum(c * (dense(p["b"], x) + dense(p["c"], x))))(two),
        )

    one, two = series(params), parallel(params)
    parent, of_series, of_parallel = gradients(params, one, two)
    for morphed, expected in ((series, of_series), (parallel, of_parallel)):
        moved = morphed(parent, 1)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), moved, expected
        )
    np.testing.assert_allclose(
        one["b"]["kernel"] @ one["c"]["kernel"], params["a"]["kernel"], atol=1e-5
    )
    assert np.abs(two["b"]["kernel"] - two["c"]["kernel"]).min() > 1e-4


def test_moments_of_convolutions_in_series():
    """dL/dF for L = <M, F1 * F2>, by finite differences, and squares where asked."""
    m = drawn(3, 3, 2, 3)
    tree = {"a": {"kernel": jnp.asarray(m, jnp.float32)}}
    series = morph.series(tree, "a", ("b", "c"), 3, KEY, ((1, 1), (3, 3)))
    moved = series(tree, 1)

    def inner(f, g):
        return (m * compose(f, g)).sum()

    for which, name in ((0, "b"), (1, "c")):
        factors = [series.first, series.second]
        for _ in range(4):
            at = tuple(RNG.integers(n) for n in factors[which].shape)
            shifted = [f.copy() for f in factors]
            shifted[which][at] += 1.0  # linear in each factor
            slope = inner(*shifted) - inner(*factors)
            np.testing.assert_allclose(moved[name]["kernel"][at], slope, rtol=1e-4, atol=1e-5)
    squared = series({"a": {"kernel": jnp.asarray(m**2, jnp.float32)}}, 2)["b"]["kernel"]
    expected = np.einsum("abij,ablj->il", m**2, series.second**2)
    np.testing.assert_allclose(squared[0, 0], expected, rtol=1e-4)


CONV = {
    "a": {"kernel": jnp.ones((3, 3, 2, 4))},
    "b": {"kernel": jnp.ones((2, 2))},
    "n": {"scale": jnp.ones(2)},
}
ONES = ((1, 1), (1, 1))


@pytest.mark.parametrize(
    ("what", "call"),
    [
        (r"min\(in, out\) = 2.*got 1", lambda: morph.series(CONV, "b", ("c", "d"), 1, KEY)),
        ("take more channels", lambda: morph.factor(drawn(5, 5, 4, 4), 4, ((3, 3), (3, 3)), KEY)),
        ("even number", lambda: morph.series(CONV, "a", ("c", "d"), 4, KEY, ONES)),
        ("even number", lambda: morph.BiggerKernel("a", (4, 4))(CONV)),
        ("has no kernel size", lambda: morph.BiggerKernel("b", (3, 3))(CONV)),
        ("must hold a kernel", lambda: morph.series(CONV, "n", ("c", "d"), 4, KEY)),
        ("new and distinct", lambda: morph.series(CONV, "b", ("a", "d"), 4, KEY)),
        ("new and distinct", lambda: morph.parallel(CONV, "b", ("c", "c"), KEY)),
        ("no 'x'", lambda: morph.parallel(CONV, "x", ("c", "d"), KEY)),
        ("at least 2", lambda: morph.parallel(CONV, "b", ("c",), KEY)),
        ("odd for SAME", lambda: morph.series_padding((2, 2), ((3, 3), (2, 2)))),
        ("'SAME', 'VALID'", lambda: morph.series_padding((3, 3), ONES, "CIRCULAR")),
    ],
)
def test_errors_say_why(what, call):
    with pytest.raises(ValueError, match=what):
        call()
