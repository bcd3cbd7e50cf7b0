"""Encoder and decoder against flax's own convolutions, shapes, scales, and what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax.distributions import Gaussian
from mtrl_jax.losses import representation
from mtrl_jax.networks import autoencoder
from mtrl_jax.networks.autoencoder import FEATURES, Decoder, Encoder

SHAPE = (32, 32, 3)


def _images(n, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).random((n, *shape)).astype(np.float32)


def _numbers(params):
    return sum(x.size for x in jax.tree.leaves(params))


def _shifted(net, x):
    """Parameters of which no bias is 0."""
    return jax.tree.map(lambda p: p + 0.01, net.init(jax.random.key(0), x)["params"])


def _dense(params, x):
    return x @ params["kernel"] + params["bias"][None]


def test_the_encoder_is_flaxs_convolutions():
    net = Encoder(7, (11,))

    @jax.jit
    def both(x):
        params = _shifted(net, x)
        want = x
        for i, n in enumerate(FEATURES):
            conv = nn.Conv(n, (4, 4), (2, 2), [(1, 1), (1, 1)])
            want = nn.relu(conv.apply({"params": params[f"conv{i}"]}, want))
        features = want.reshape(3, 2 * 2 * 64)
        out = _dense(params["out"], nn.relu(_dense(params["dense0"], features)))
        mine = net.apply({"params": params}, x, method="features")
        return (mine, net.apply({"params": params}, x)), (features, out)

    for got, want in zip(*both(_images(3)), strict=True):
        assert float(jnp.abs(want).max()) > 0.1
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_the_decoder_is_flaxs_transposed_convolutions():
    net, z = Decoder((32, 48, 6), (11,)), np.random.default_rng(0).normal(size=(3, 5))

    @jax.jit
    def both(z):
        params = _shifted(net, z)
        want = z
        for name in ("dense0", "dense1"):
            want = nn.relu(_dense(params[name], want))
        want = want.reshape(3, 2, 3, 64)
        for name in ("deconv0", "deconv1", "deconv2", "out"):
            p = {**params[name], "kernel": params[name]["kernel"][::-1, ::-1]}
            conv = nn.ConvTranspose(p["bias"].size, (4, 4), (2, 2), "SAME")
            want = conv.apply({"params": p}, want)
            want = want if name == "out" else nn.relu(want)
        return net.apply({"params": params}, z), want

    got, want = both(z.astype(np.float32))
    assert got.shape == (3, 32, 48, 6) and float(jnp.abs(want).max()) > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", [32, 64])
def test_shapes_and_counts_of_the_papers_two_networks(side):
    shape = (side, side, 3)
    first = (side // 16) ** 2 * 64
    convs = sum(16 * i * o + o for i, o in zip((3, *FEATURES), FEATURES, strict=False))
    back = (64, 64, 32, 32)
    vae = autoencoder.make(shape, gaussian_pixels=True)
    params = jax.eval_shape(lambda key: autoencoder.init(vae, key, shape), jax.random.key(0))
    assert _numbers(params["encoder"]) == convs + first * 256 + 256 + 256 * 64 + 64
    ups = sum(16 * i * o + o for i, o in zip(back, (*back[1:], 6), strict=True))
    assert _numbers(params["decoder"]) == ups + 32 * 256 + 256 + 256 * first + first
    dae = autoencoder.make(shape, 100, (), gaussian_latents=False)
    params = jax.eval_shape(lambda key: autoencoder.init(dae, key, shape), jax.random.key(0))
    assert _numbers(params["encoder"]) == convs + first * 100 + 100
    mirror = autoencoder.make(shape, 5, (16, 24)).decoder
    z = jax.ShapeDtypeStruct((1, 5), jnp.float32)
    dense = jax.eval_shape(mirror.init, jax.random.key(0), z)["params"]
    assert dense["dense0"]["kernel"].shape == (5, 24) and dense["dense1"]["bias"].shape == (16,)
    out = jax.eval_shape(
        lambda p: dae.decoder.apply({"params": p["decoder"]}, jnp.zeros((2, 100))), params
    )
    assert out.shape == (2, *shape)


def test_fresh_networks_neither_vanish_nor_explode():
    nets = autoencoder.make(SHAPE)

    @jax.jit
    def look(x, z):
        params = autoencoder.init(nets, jax.random.key(0), SHAPE)
        code = nets.encoder.apply({"params": params["encoder"]}, x)
        return code.std(), nets.decoder.apply({"params": params["decoder"]}, z).std()

    code, image = look(_images(16), np.random.default_rng(0).normal(size=(16, 32)).astype("f"))
    assert 0.03 < float(code) < 3.0 and 0.1 < float(image) < 10.0


def test_it_learns_and_a_beta_without_end_says_nothing():
    """Squares of two sizes: beta = 0 reconstructs them, beta = inf is the mean image."""
    x = np.zeros((4, *SHAPE), np.float32)
    for i in range(4):
        x[i, 4 : 12 + 4 * i, 4 : 12 + 4 * i] = 0.8
    nets = autoencoder.make(SHAPE, 4, (32,))
    optimiser = optax.adam(3e-3)

    def loss(params, beta):
        out = nets.encoder.apply({"params": params["encoder"]}, x)
        posterior = Gaussian(out[:, :4], out[:, 4:])
        decoded = nets.decoder.apply({"params": params["decoder"]}, posterior.mean)
        r = jax.vmap(representation.squared_error)(decoded, x)
        return representation.beta_vae_loss(r, jax.vmap(representation.latent_kl)(posterior), beta)

    @jax.jit
    def train(beta):
        params = autoencoder.init(nets, jax.random.key(0), SHAPE)

        def step(carry, _):
            params, state = carry
            grads, metrics = jax.grad(loss, has_aux=True)(params, beta)
            updates, state = optimiser.update(grads, state)
            return (optax.apply_updates(params, updates), state), metrics

        return jax.lax.scan(step, (params, optimiser.init(params)), length=60)[1]

    metrics = jax.vmap(train)(jnp.array([0.0, 1e4]))
    free, bound = (jax.tree.map(lambda x, i=i: float(x[i, -1]), metrics) for i in (0, 1))
    variance = ((x - x.mean(0, keepdims=True)) ** 2).mean(0).sum()
    assert free["loss/reconstruction"] < 0.25 * variance < bound["loss/reconstruction"]
    assert bound["loss/kl"] < 0.01 and free["loss/kl"] > 0.1
    assert bound["latents/active"] == 0


def test_pixels_of_an_observation():
    seen = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    got = autoencoder.pixels(seen)
    assert got.shape == (2, 4, 5, 3) and got.dtype == jnp.float32
    np.testing.assert_allclose(got[1, 2, 3], seen[1, :, 2, 3] / 255.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: autoencoder.make((84, 84, 3)), r"multiples of 16 from 32 on; got \(84, 84, 3\)"),
        (lambda: autoencoder.make((16, 32, 3)), "multiples of 16"),
        (lambda: autoencoder.make((32, 32)), r"image_shape must be \(H, W, C\)"),
        (lambda: autoencoder.make((32, 32, None)), "image_shape must be an integer; got None"),
        (lambda: autoencoder.make((32, 32, True)), "image_shape must be an integer; got True"),
        (lambda: autoencoder.make(SHAPE, 0), "num_latents must be at least 1; got 0"),
        (lambda: autoencoder.make(SHAPE, 3, (0,)), "hidden must be at least 1; got 0"),
        (lambda: autoencoder.make(SHAPE, gaussian_pixels=1), "gaussian_pixels must be True"),
        (lambda: autoencoder.pixels(np.zeros((3, 4, 5), np.float32)), "observation must be uint8"),
        (
            lambda: autoencoder.pixels(np.zeros((4, 5), np.uint8)),
            r"observation must .* uint8\(4, 5\)",
        ),
        (lambda: Encoder(4).init(jax.random.key(0), jnp.zeros(SHAPE)), "image must have shape"),
        (
            lambda: Encoder(4).init(jax.random.key(0), jnp.zeros((1, *SHAPE), jnp.uint8)),
            "image must be floats .* got uint8",
        ),
        (
            lambda: Encoder(4).init(jax.random.key(0), jnp.zeros((1, 3, 32, 32))),
            r"multiples of 16 from 32 on; got \(3, 32, 32\)",
        ),
        (lambda: Decoder(SHAPE).init(jax.random.key(0), jnp.zeros(4)), "z must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
