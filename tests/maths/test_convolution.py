"""Convolutions as products, against XLA's own, SciPy's and flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from mtrl_jax.networks.convolution import (
    BlockConv,
    BlockConvTranspose,
    block_conv,
    block_conv_transpose,
)


def _library(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _inputs(size, height, width, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, height, width, 5)).astype(np.float32)
    return x, rng.normal(size=(size, size, 5, 7)).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "stride", "height", "width"),
    [
        (8, 4, 42, 42),
        (8, 4, 40, 44),
        (4, 2, 9, 9),
        (3, 1, 7, 10),
        (1, 1, 4, 5),
        (4, 4, 4, 11),
        (6, 2, 6, 7),
    ],
)
def test_values_and_gradients_are_xlas(size, stride, height, width):
    x, kernel = _inputs(size, height, width)
    want, want_vjp = jax.vjp(lambda x, k: _library(x, k, stride), x, kernel)
    got, got_vjp = jax.vjp(lambda x, k: block_conv(x, k, stride), x, kernel)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    cotangent = np.random.default_rng(1).normal(size=want.shape).astype(np.float32)
    for mine, theirs in zip(got_vjp(cotangent), want_vjp(cotangent), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-3)


def test_values_are_scipys():
    x, kernel = _inputs(4, 10, 13)
    want = [
        sum(scipy.signal.correlate2d(x[0, ..., c], kernel[..., c, f], "valid") for c in range(5))
        for f in range(7)
    ]
    got = block_conv(x, kernel, 2)[0]
    np.testing.assert_allclose(got, np.stack(want, -1)[::2, ::2], rtol=1e-4, atol=1e-4)


def test_tasks_with_kernels_of_their_own_do_not_meet():
    (x, first), (_, second) = _inputs(4, 9, 9), _inputs(4, 9, 9, seed=2)
    kernels = jnp.stack([first, second])
    got = jax.jit(jax.vmap(lambda k: block_conv(x, k, 2)))(kernels)
    np.testing.assert_allclose(got[1], _library(x, second, 2), rtol=1e-4, atol=1e-4)


def test_parameters_and_output_are_flaxs():
    x = _inputs(4, 9, 9)[0]
    mine, theirs = BlockConv(6, 4, 2), nn.Conv(6, (4, 4), (2, 2), "VALID")
    params = theirs.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1, params)  # a bias that is not 0
    assert jax.tree.map(jnp.shape, mine.init(jax.random.key(0), x)) == jax.tree.map(
        jnp.shape, params
    )
    np.testing.assert_allclose(mine.apply(params, x), theirs.apply(params, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (2, 2), (6, 2), (3, 1)])
def test_the_transpose_is_the_adjoint_of_xlas_convolution(size, stride):
    """Its own library's would be defined by the same words; a derivative is something else."""
    x, kernel = _inputs(size, 5, 4)
    cut = (size - stride) // 2
    image = np.zeros((3, 5 * stride, 4 * stride, 7), np.float32)

    def down(image, kernel):
        padded = jnp.pad(image, ((0, 0), (cut, cut), (cut, cut), (0, 0)))
        return _library(padded, kernel.transpose(0, 1, 3, 2), stride)

    def up(x, kernel):
        return jax.vjp(lambda image: down(image, kernel), image)[1](x)[0]

    want, want_vjp = jax.vjp(up, x, kernel)
    got, got_vjp = jax.vjp(lambda x, k: block_conv_transpose(x, k, stride), x, kernel)
    assert got.shape == (3, 5 * stride, 4 * stride, 7)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    cotangent = np.random.default_rng(1).normal(size=want.shape).astype(np.float32)
    for mine, theirs in zip(got_vjp(cotangent), want_vjp(cotangent), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-3)


def test_the_transposed_layer_has_flaxs_parameters():
    x = _inputs(4, 9, 9)[0]
    mine, theirs = BlockConvTranspose(6, 4, 2), nn.ConvTranspose(6, (4, 4), (2, 2), "SAME")
    params = theirs.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1, params)
    assert jax.tree.map(jnp.shape, mine.init(jax.random.key(0), x)) == jax.tree.map(
        jnp.shape, params
    )
    want = theirs.apply(params, x)
    params["params"]["kernel"] = params["params"]["kernel"][::-1, ::-1]  # flax correlates
    np.testing.assert_allclose(mine.apply(params, x), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "kernel", "stride", "message"),
    [
        ((9, 9, 3), (4, 4, 3, 2), 2, "x must have shape"),
        ((1, 9, 9, 3), (4, 5, 3, 2), 2, "kernel must have shape"),
        ((1, 9, 9, 3), (4, 4, 2, 2), 2, "kernel must have C = 3"),
        ((1, 9, 9, 3), (4, 4, 3, 2), 3, "stride must divide the kernel's size 4; got 3"),
        ((1, 9, 3, 3), (4, 4, 3, 2), 2, "x must be at least 4 x 4 pixels"),
    ],
)
def test_what_does_not_fit_is_refused(x, kernel, stride, message):
    with pytest.raises(ValueError, match=message):
        block_conv(jnp.zeros(x), jnp.zeros(kernel), stride)


@pytest.mark.parametrize(
    ("x", "kernel", "stride", "message"),
    [
        ((9, 9, 3), (4, 4, 3, 2), 2, "x must have shape"),
        ((1, 9, 9, 3), (4, 4, 2, 2), 2, "kernel must have C = 3"),
        ((1, 9, 9, 3), (4, 4, 3, 2), 1, "stride must be even or odd as the size 4 is; got 1"),
    ],
)
def test_what_does_not_fit_the_transpose_is_refused(x, kernel, stride, message):
    with pytest.raises(ValueError, match=message):
        block_conv_transpose(jnp.zeros(x), jnp.zeros(kernel), stride)
