"""beta-VAE and DAE losses against Monte Carlo, closed forms and NumPy; what carries gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mtrl_jax import distributions
from mtrl_jax.distributions import Gaussian
from mtrl_jax.losses import representation

H, W, C = 12, 10, 3


def _rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _image(seed=0, *lead):
    return np.random.default_rng(seed).random((*lead, H, W, C)).astype(np.float32)


# --- the divergence


def test_kl_is_monte_carlos_and_that_of_distributions():
    mean, log_std = np.array([0.0, 1.5, -0.7, 0.0]), np.array([0.0, -1.0, 0.4, 0.3])
    got = representation.latent_kl(Gaussian(jnp.float32(mean), jnp.float32(log_std)))
    rng, std = np.random.default_rng(0), np.exp(log_std)
    z = mean + std * rng.normal(size=(1_000_000, 4))
    ratio = scipy.stats.norm(mean, std).logpdf(z) - scipy.stats.norm.logpdf(z)
    error = ratio.std(0) / math.sqrt(len(z))
    assert (error[1:] < 0.002).all()
    np.testing.assert_array_less(np.abs(ratio.mean(0) - got), 4.0 * error + 1e-7)
    zeros = jnp.zeros(4)
    posterior = Gaussian(jnp.float32(mean), jnp.float32(log_std))
    whole = distributions.kl(posterior, Gaussian(zeros, zeros))
    np.testing.assert_allclose(got.sum(), whole, rtol=1e-6)


def test_kl_is_zero_at_the_prior_only_and_never_negative():
    """Also where exp(u) - 1 - u is lost in float32."""
    log_std = np.concatenate([np.linspace(-0.08, 0.08, 4001), np.geomspace(1e-9, 5, 300)])
    log_std = np.concatenate([log_std, -np.geomspace(1e-9, 20, 300)]).astype(np.float32)
    got = np.asarray(representation.latent_kl(Gaussian(np.zeros_like(log_std), log_std)))
    u = 2.0 * log_std.astype(np.float64)
    want = np.where(
        np.abs(u) < 1e-4, 0.25 * u**2 * (1 + u / 3 + u**2 / 12), 0.5 * (np.expm1(u) - u)
    )
    assert (got >= 0).all() and (got[np.abs(log_std) > 1e-18] > 0).all()
    np.testing.assert_allclose(got, want, rtol=1e-5)
    prior = Gaussian(jnp.zeros(3, jnp.bfloat16), jnp.zeros(3, jnp.bfloat16))
    assert representation.latent_kl(prior).tolist() == [0.0] * 3
    assert representation.latent_kl(prior).dtype == jnp.float32


def test_gradient_of_the_kl():
    mean, log_std = _rows(6), np.float32([-3.0, -0.004, 0.0, 0.002, 0.02, 1.0])

    def total(mean, log_std):
        return representation.latent_kl(Gaussian(mean, log_std)).sum()

    by_mean, by_log_std = jax.grad(total, (0, 1))(mean, log_std)
    np.testing.assert_allclose(by_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(by_log_std, np.expm1(2.0 * log_std.astype(np.float64)), rtol=1e-4)


# --- reconstructions


def test_reconstructions_are_sums_over_units_of_one_image():
    x, y = _image(), _rows(H, W, C)
    np.testing.assert_allclose(
        representation.squared_error(y, x), ((y - x).astype(np.float64) ** 2).sum(), rtol=1e-5
    )
    p = 1.0 / (1.0 + np.exp(-y.astype(np.float64)))
    want = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum()
    np.testing.assert_allclose(representation.bernoulli_nll(y, x), want, rtol=1e-5)
    grad = jax.grad(representation.bernoulli_nll)(y, x)
    np.testing.assert_allclose(grad, p - x, rtol=1e-4, atol=1e-6)
    # Logits of any size: a probability of 1 for a pixel of 1 costs nothing.
    sure = representation.bernoulli_nll(jnp.full((H, W, C), 1e4), jnp.ones((H, W, C)))
    assert float(sure) == 0.0


@pytest.mark.parametrize("loss", ["squared_error", "bernoulli_nll"])
def test_an_image_is_a_constant(loss):
    fn = getattr(representation, loss)
    grads = jax.grad(fn, (0, 1))(jnp.asarray(_rows(H, W, C)), jnp.asarray(_image()))
    assert float(jnp.abs(grads[0]).sum()) > 0
    assert float(jnp.abs(grads[1]).sum()) == 0


def _encoder(params, image):
    hidden = jnp.tanh(image.reshape(-1) @ params["a"])
    return hidden @ params["b"]


def test_the_feature_loss_leaves_its_encoder_alone():
    params = {"a": jnp.asarray(0.05 * _rows(H * W * C, 5)), "b": jnp.asarray(_rows(5, 4, seed=1))}
    x, y = jnp.asarray(_image()), jnp.asarray(_image(1))
    loss, grads = jax.value_and_grad(representation.feature_loss, (1, 2, 3))(_encoder, params, y, x)
    seen = [np.tanh(np.asarray(i).reshape(-1) @ params["a"]) @ params["b"] for i in (y, x)]
    np.testing.assert_allclose(loss, ((seen[0] - seen[1]) ** 2).sum(), rtol=1e-4)
    assert float(loss) > 0.01 and float(jnp.abs(grads[1]).sum()) > 0.01
    for leaf in (*jax.tree.leaves(grads[0]), grads[2]):
        assert not np.asarray(leaf).any()
    # Through J: the gradient to the reconstruction is not that of any pixel error.
    eps = 1e-2
    direction = _rows(H, W, C, seed=5)
    up, down = (
        representation.feature_loss(_encoder, params, y + e * direction, x) for e in (eps, -eps)
    )
    np.testing.assert_allclose((up - down) / (2 * eps), (grads[1] * direction).sum(), rtol=2e-2)
    assert float(representation.feature_loss(_encoder, params, x, x)) == 0.0


# --- the loss of a batch


def test_reductions_are_those_of_the_equation_and_a_mean_over_units_would_be_another_beta():
    r, kl = np.abs(_rows(7)), np.abs(_rows(7, 4, seed=1))
    loss, metrics = representation.beta_vae_loss(r, kl, 3.0)
    want = np.mean([r[b] + 3.0 * sum(kl[b]) for b in range(7)])
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss/reconstruction"], r.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss/kl"], kl.sum(1).mean(), rtol=1e-6)
    kl[:, 1:3] = 0.001
    assert int(representation.beta_vae_loss(r, kl, 3.0)[1]["latents/active"]) == 2
    assert float(representation.beta_vae_loss(r, kl, 0.0)[0]) == pytest.approx(r.mean(), rel=1e-6)
    # Means over N units and Z latents: the same minimiser for beta / N times as many.
    n, z = 300, 4

    def means(r, kl, beta):
        return (r / n + beta * kl.mean(1)).mean()

    ours = jax.grad(lambda r, kl: representation.beta_vae_loss(r, kl, 3.0)[0], (0, 1))(r, kl)
    theirs = jax.grad(means, (0, 1))(r, kl, 3.0 * z / n)  # beta_norm
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, n * other, rtol=1e-5)


def test_the_best_posterior_of_a_linear_decoder_is_the_closed_form():
    """x ~ N(a z, 1/2) and z ~ N(0, 1): the minimum over (mu, sigma) is the exact posterior for
    beta = 1, and the prior for a beta without end."""
    a, x = 1.7, 0.9

    def loss(mu, log_std, beta):
        # E_q (x - a z)^2 = (x - a mu)^2 + a^2 sigma^2
        r = (x - a * mu) ** 2 + a**2 * jnp.exp(2 * log_std)
        kl = representation.latent_kl(Gaussian(mu[None], log_std[None]))
        return representation.beta_vae_loss(r[None], kl[None], beta)[0]

    grad = jax.jit(jax.grad(loss, (0, 1)))
    for beta in (0.1, 1.0, 8.0):
        precision = 1.0 + 2.0 * a**2 / beta
        mu, std = (2.0 * a * x / beta) / precision, precision**-0.5
        at_best = grad(jnp.float32(mu), jnp.float32(math.log(std)), beta)
        np.testing.assert_allclose(at_best, [0.0, 0.0], atol=2e-6 * max(beta, 1.0))
    np.testing.assert_allclose(grad(jnp.float32(0), jnp.float32(0), 1e30)[1] / 1e30, 0, atol=1e-6)


# --- the rectangle


def test_one_rectangle_is_zeroed_and_the_rest_is_left():
    x = _image() + 1.0
    keys = jax.random.split(jax.random.key(0), 4000)
    seen, masks = jax.jit(jax.vmap(representation.occlude, (0, None)))(keys, x)
    small = jax.jit(jax.vmap(lambda key: representation.occlude(key, x, 0.3)[1]))(keys)
    masks = np.asarray(masks)
    rows, columns = masks.any(2), masks.any(1)
    np.testing.assert_array_equal(masks, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):  # without a gap
        assert (np.abs(np.diff(np.pad(side, ((0, 0), (1, 1))).astype(int))).sum(1) == 2).all()
    np.testing.assert_array_equal(np.asarray(seen), np.where(masks[..., None], 0, x))
    # Sides are uniform over 1 to the image's, and a whole image is as likely as any other size.
    for side, n in ((rows.sum(1), H), (columns.sum(1), W)):
        assert scipy.stats.chisquare(np.bincount(side, minlength=n + 1)[1:]).pvalue > 1e-3
    area = masks.mean((1, 2))
    np.testing.assert_allclose(area, rows.sum(1) * columns.sum(1) / (H * W), rtol=1e-6)
    starts = rows.argmax(1)[rows.sum(1) == 1]
    assert scipy.stats.chisquare(np.bincount(starts, minlength=H)).pvalue > 1e-3
    small = np.asarray(small)
    assert small.any(2).sum(1).max() == 3 and small.any(1).sum(1).max() == 3


def test_the_denoising_loss_is_of_the_image_before():
    x = jnp.asarray(_image())
    corrupted, mask = jax.jit(representation.occlude)(jax.random.key(1), x)
    assert bool(mask.any()) and corrupted.dtype == x.dtype
    assert float(representation.squared_error(x, x)) == 0.0
    np.testing.assert_allclose(
        representation.squared_error(corrupted, x), (x[mask] ** 2).sum(), rtol=1e-6
    )


# --- all of them


def test_narrow_floats_lose_nothing_but_their_own_rounding():
    x, y = (jnp.asarray(a, jnp.bfloat16) for a in (_image(), _rows(H, W, C)))
    for fn in (representation.squared_error, representation.bernoulli_nll):
        narrow, wide = fn(y, x), fn(y.astype(jnp.float32), x.astype(jnp.float32))
        assert narrow.dtype == jnp.float32 and float(narrow) == float(wide)
    # A thousand equal terms: in bfloat16 a sum of ones stops at 256.
    ones = jnp.ones((40, 30, 1), jnp.bfloat16)
    assert float(representation.squared_error(ones * 0, ones)) == 1200.0
    r, kl = jnp.ones(600, jnp.bfloat16), jnp.ones((600, 3), jnp.bfloat16)
    assert float(representation.beta_vae_loss(r, kl, 1.0)[0]) == 4.0
    seen, _ = jax.jit(representation.occlude)(jax.random.key(0), ones)
    assert seen.dtype == jnp.bfloat16


def test_a_batch_by_vmap_under_jit_with_a_traced_beta():
    x, y, posterior = _image(0, 3), _image(1, 3), Gaussian(_rows(3, 4), _rows(3, 4, seed=1))

    @jax.jit
    def loss(x, y, posterior, beta):
        r = jax.vmap(representation.squared_error)(y, x)
        return representation.beta_vae_loss(r, jax.vmap(representation.latent_kl)(posterior), beta)

    got, _ = loss(x, y, posterior, 2.0)
    assert loss._cache_size() == 1 and loss(x, y, posterior, 3.0) and loss._cache_size() == 1
    want = 0.0
    for b in range(3):
        kl = representation.latent_kl(Gaussian(posterior.mean[b], posterior.log_std[b])).sum()
        want += (representation.squared_error(y[b], x[b]) + 2.0 * kl) / 3
    np.testing.assert_allclose(got, want, rtol=1e-5)


IMAGE, BATCH = jnp.zeros((H, W, C)), (jnp.zeros(3), jnp.zeros((3, 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: representation.latent_kl(Gaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))), "mean"),
        (lambda: representation.latent_kl(Gaussian(jnp.zeros(2), jnp.zeros(3))), "log_std must"),
        (lambda: representation.squared_error(IMAGE[..., :1], IMAGE), "reconstruction must have"),
        (lambda: representation.squared_error(IMAGE[None], IMAGE[None]), r"\[H, W, C\]"),
        (lambda: representation.bernoulli_nll(IMAGE[0], IMAGE), "logits must have shape"),
        (
            lambda: representation.bernoulli_nll(IMAGE, IMAGE.astype(jnp.uint8)),
            r"image must be floats in \[0, 1\], got uint8",
        ),
        (
            lambda: representation.feature_loss(_encoder, {}, IMAGE, IMAGE > 0),
            r"image must be floats in \[0, 1\], got bool",
        ),
        (lambda: representation.occlude(jax.random.key(0), jnp.zeros((4, 4), int)), "image must"),
        (lambda: representation.beta_vae_loss(BATCH[1], BATCH[1], 1.0), "reconstruction must"),
        (lambda: representation.beta_vae_loss(BATCH[0], BATCH[0], 1.0), "kl must have shape"),
    ],
)
def test_wrong_arrays_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("beta", [math.nan, math.inf, -1.0, None, True, "1", jnp.ones(2)])
def test_a_beta_that_is_no_number_is_named(beta):
    with pytest.raises(ValueError, match="beta must"):
        representation.beta_vae_loss(*BATCH, beta)


@pytest.mark.parametrize("most", [0.0, 1.5, math.nan, None, True])
def test_a_rectangle_of_no_size_is_named(most):
    with pytest.raises(ValueError, match="most must"):
        representation.occlude(jax.random.key(0), IMAGE, most)
