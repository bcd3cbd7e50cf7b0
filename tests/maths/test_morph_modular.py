"""Modularized morphing: graphs of convolutions that compute one convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.networks import morph
from mtrl_jax.networks.morph.factor import compose

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
# The smallest complex module of the paper: two ways that are also joined across.
COMPLEX = [("s", "a"), ("s", "b"), ("a", "b"), ("a", "t"), ("b", "t")]


def drawn(*shape):
    return RNG.normal(size=shape)


def padded(kernel, like):
    return morph.pad_kernel(kernel, like.shape[:2])


def test_module_kernel_is_the_sum_over_paths():
    sizes = {("s", "a"): 3, ("s", "b"): 1, ("a", "b"): 3, ("a", "t"): 1, ("b", "t"): 3}
    width = {"s": 2, "a": 3, "b": 4, "t": 2}
    kernels = {e: drawn(n, n, width[e[0]], width[e[1]]) for e, n in sizes.items()}
    got = morph.module_kernel([morph.Edge(*e, k) for e, k in kernels.items()], "s", "t")
    paths = [("sa", "at"), ("sb", "bt"), ("sa", "ab", "bt")]
    assert got.shape == (7, 7, 2, 2)
    expected = np.zeros(got.shape)
    for path in paths:
        kernel = kernels[tuple(path[0])]
        for edge in path[1:]:
            kernel = compose(kernel, kernels[tuple(edge)])
        expected += padded(kernel, expected)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_reduction_tells_simple_from_complex():
    chain = [("s", "a"), ("a", "t")]
    assert morph.reduction(chain, "s", "t") == [("contract", "a")]
    block = [*chain, ("s", "t"), ("s", "t")]
    steps = morph.reduction(block, "s", "t")
    assert sorted(kind for kind, _ in steps) == ["contract", "merge", "merge"]
    assert morph.reduction([("s", "t")], "s", "t") == []
    assert morph.reduction(COMPLEX, "s", "t") is None
    # The same without the edge across is simple.
    assert morph.reduction([e for e in COMPLEX if e != ("a", "b")], "s", "t") is not None


TEMPLATES = {
    "complex": ([(*e, (1, 1)) for e in COMPLEX], {"a": 5, "b": 6}, (1, 1)),
    "complex, 3 x 3": (
        [
            ("s", "a", (1, 1)),
            ("s", "b", (1, 1)),
            ("a", "b", (1, 1)),
            ("a", "t", (3, 3)),
            ("b", "t", (3, 3)),
        ],
        {"a": 4, "b": 5},
        (3, 3),
    ),
    "bottleneck with a shortcut": (
        [("s", "a", (1, 1)), ("a", "b", (3, 3)), ("b", "t", (1, 1)), ("s", "t", (3, 3))],
        {"a": 3, "b": 3},
        (3, 3),
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_modules_compute_their_parent(name):
    template, channels, size = TEMPLATES[name]
    parent = drawn(*size, 3, 4)
    edges = morph.morph_module(parent, template, channels, "s", "t", KEY)
    whole = morph.module_kernel(edges, "s", "t")
    np.testing.assert_allclose(whole, padded(parent, whole), atol=1e-7)
    assert all(np.abs(e.kernel).min() > 0 for e in edges)


def test_modules_run_as_their_parent_with_parametric_activations_and_borders():
    template = [
        ("s", "a", (3, 3)),
        ("s", "b", (1, 1)),
        ("a", "b", (3, 3)),
        ("b", "t", (3, 3)),
        ("a", "t", (7, 7)),
    ]
    parent = drawn(3, 3, 2, 3)
    edges = morph.morph_module(parent, template, {"a": 10, "b": 3}, "s", "t", KEY)
    x = jnp.asarray(drawn(2, 6, 5, 2), jnp.float32)

    def bend(share):
        return {v: lambda y: morph.p_activation(y, share, jnp.tanh) for v in "ab"}

    @jax.jit
    def outputs(kernels, x, share):
        module = [e._replace(kernel=k) for e, k in zip(edges, kernels, strict=True)]
        one = jax.lax.conv_general_dilated(
            x,
            jnp.asarray(parent, x.dtype),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return one, morph.apply_module(module, x, "s", "t", bend(share))

    kernels = [jnp.asarray(e.kernel, jnp.float32) for e in edges]
    expected, got = outputs(kernels, x, jnp.ones(()))
    assert np.std(expected) > 1 and got.shape == (2, 6, 5, 3)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(outputs(kernels, x, jnp.zeros(()))[1] - expected).max() > 0.1


@pytest.mark.parametrize("sizes", [((1, 1), (1, 1)), ((3, 3), (1, 1)), ((3, 3), (3, 3))])
def test_half_of_a_shortcut(sizes):
    first, second = morph.split_shortcut(4, 6, sizes, KEY)
    whole = compose(first, second)
    np.testing.assert_allclose(whole, padded(0.5 * np.eye(4)[None, None], whole), atol=1e-9)


def _module(edges, *, size=(1, 1), channels=None, kernel=(1, 1, 2, 2)):
    template = [(*e, size) for e in edges]
    return morph.morph_module(drawn(*kernel), template, channels or {"a": 2}, "s", "t", KEY)


@pytest.mark.parametrize(
    ("what", "call"),
    [
        (
            "form a cycle",
            lambda: morph.reduction([("s", "a"), ("a", "b"), ("b", "a"), ("b", "t")], "s", "t"),
        ),
        ("they end at", lambda: morph.reduction([("s", "a"), ("s", "t")], "s", "t")),
        ("not reached from", lambda: morph.reduction([("a", "t"), ("s", "t")], "s", "t")),
        ("must be odd", lambda: _module([("s", "a"), ("a", "t")], size=(2, 2))),
        ("take more channels", lambda: _module([("s", "a"), ("a", "t")], channels={"a": 1})),
        ("even number", lambda: _module([("s", "a"), ("a", "t")], kernel=(3, 3, 2, 2))),
        (
            "build the module with series",
            lambda: _module(
                [("s", "a"), ("a", "t")], size=(3, 3), channels={"a": 64}, kernel=(5, 5, 32, 32)
            ),
        ),
        (
            r"part must lie in \(0, 1\]",
            lambda: morph.split_shortcut(4, 6, ((1, 1), (1, 1)), KEY, part=1.5),
        ),
    ],
)
def test_errors_say_why(what, call):
    with pytest.raises(ValueError, match=what):
        call()
