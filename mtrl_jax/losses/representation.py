"""What an encoder learns from unlabelled images: beta-VAE, and the denoising autoencoder of DARLA.

Higgins et al. 2017, *beta-VAE: Learning basic visual concepts with a constrained variational
framework*, ICLR; Higgins, Pal et al. 2017, *DARLA*, arXiv 1707.08475. Images are one image,
`[H, W, C]`, floats in [0, 1] (integers are refused); vmap for more.

A beta means nothing without its reductions. Here they are the same for every loss:

    L = mean_b [ sum_i r_bi + beta sum_j KL_bj ]

a **sum** over the N units of an image (pixels times channels, or units of J), a **sum** over the Z
latents, a **mean** over images. Code that averages over units has a beta N times smaller; what may
be compared across image sizes is beta Z / N.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_shape, at_least_float32, check_range
from mtrl_jax.distributions import Gaussian
from mtrl_jax.ranges import NotNegative, check_value
from mtrl_jax.types import Array, ArrayTree, Key, Metrics

__all__ = [
    "bernoulli_nll",
    "beta_vae_loss",
    "feature_loss",
    "latent_kl",
    "occlude",
    "squared_error",
]


def latent_kl(posterior: Gaussian) -> Array:
    """Divergence of each latent's posterior from N(0, 1).

    Kingma & Welling 2014, arXiv 1312.6114, appendix B:

        KL_j = 1/2 (mu_j^2 + sigma_j^2 - log sigma_j^2 - 1)

    Args:
      posterior: of one image, leaves [Z].

    Returns:
      [Z] in nats; at least 0, and 0 for mu = 0, sigma = 1 only. Carries gradient to `posterior`.

    Raises:
      ValueError: for leaves that are not [Z].
    """
    assert_shape("[Z]", (None,), mean=posterior.mean)
    assert_shape("[Z]", jnp.shape(posterior.mean), log_std=posterior.log_std)
    mean, u = at_least_float32(posterior.mean), 2.0 * at_least_float32(posterior.log_std)
    # Near u = 0 exp(u) - 1 - u would be a difference of nearly equal numbers, and below 0 at times.
    near = jnp.abs(u) < 0.1
    x = jnp.where(near, u, 0.0)
    series = x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x / 720))))
    return 0.5 * (jnp.square(mean) + jnp.where(near, series, jnp.expm1(u) - u))


def squared_error(reconstruction: Array, image: Array) -> Array:
    """What a denoising autoencoder minimises, and a VAE whose pixels have variance 1/2.

    Vincent et al. 2008; DARLA, where the input was corrupted (`occlude`) and x is as it was before:

        r = sum_i (x'_i - x_i)^2

    Args:
      reconstruction: [H, W, C], x'.
      image: [H, W, C], x.

    Returns:
      []. Carries gradient to `reconstruction` only.

    Raises:
      ValueError: for a wrong shape, or an image of integers.
    """
    target = _target(image, reconstruction=reconstruction)
    return jnp.square(at_least_float32(reconstruction) - target).sum()


def bernoulli_nll(logits: Array, image: Array) -> Array:
    """Negative log-likelihood of pixels as probabilities, of logits z.

        r = sum_i [ log(1 + exp(z_i)) - x_i z_i ]

    Args:
      logits: [H, W, C], z.
      image: [H, W, C], x.

    Returns:
      [] in nats. Gradient to `logits` only: sigmoid(z) - x.

    Raises:
      ValueError: for a wrong shape, or an image of integers.
    """
    target, z = _target(image, logits=logits), at_least_float32(logits)
    return (jax.nn.softplus(z) - target * z).sum()


def feature_loss(
    encoder: Callable[..., Array], params: ArrayTree, reconstruction: Array, image: Array
) -> Array:
    """Error of a reconstruction as a frozen encoder J sees it, in place of one in pixels.

    DARLA's beta-VAE_DAE: small things that bring reward are few pixels, but many features.

        r = sum_i (J_i(x') - J_i(x))^2

    J is the encoder of a denoising autoencoder, up to some layer (the paper's is not known to us),
    trained before and frozen. Where the decoder gives Gaussians, x' is a draw of them.

    Args:
      encoder: `(params, image) -> features`, of any shape.
      params: of J.
      reconstruction: [H, W, C], x'.
      image: [H, W, C], x, scaled as J's images were when it was trained.

    Returns:
      []. Carries gradient to `reconstruction` only, through J; exactly 0 to `params`.

    Raises:
      ValueError: for a wrong shape, or an image of integers.
    """
    target = _target(image, reconstruction=reconstruction)
    params = jax.lax.stop_gradient(params)
    seen = at_least_float32(encoder(params, reconstruction))
    return jnp.square(seen - at_least_float32(encoder(params, target))).sum()


def beta_vae_loss(reconstruction: Array, kl: Array, beta: Array | float) -> tuple[Array, Metrics]:
    """The loss of a batch, and what is to be watched.

    Higgins et al. 2017, equation 4, as a loss:

        L = mean_b [ r_b + beta sum_j KL_bj ]

    Args:
      reconstruction: [B], r: `squared_error`, `bernoulli_nll` or `feature_loss`.
      kl: [B, Z], from `latent_kl`.
      beta: [], at least 0 and finite; 1 is the VAE, 0 an autoencoder.

    Returns:
      The loss, and metrics `loss/reconstruction`, `loss/kl` (before beta) and `latents/active` (how
      many have a mean KL above .01 nats): scalars without gradient. Gradient goes to the arrays.

    Raises:
      ValueError: for a wrong shape, or a beta that is not a finite number of at least 0.
    """
    assert_shape("[B]", (None,), reconstruction=reconstruction)
    assert_shape("[B, Z]", (*jnp.shape(reconstruction), None), kl=kl)
    check_value("beta", beta, NotNegative)
    assert_shape("[]", (), beta=beta)
    kl = at_least_float32(kl)
    distortion, rate = at_least_float32(reconstruction).mean(), kl.sum(axis=1).mean()
    active = (kl.mean(axis=0) > 0.01).sum()
    metrics = {"loss/reconstruction": distortion, "loss/kl": rate, "latents/active": active}
    return distortion + beta * rate, jax.lax.stop_gradient(metrics)


def occlude(key: Key, image: Array, most: float = 1.0) -> tuple[Array, Array]:
    """An image with one rectangle zeroed: what a denoising autoencoder is to undo.

    Each side is uniform over 1 to `most` of the image's, then the place over those where it fits;
    the paper's distribution is not known to us.

    Args:
      key: consumed.
      image: [H, W, C].
      most: longest side as a part of the image's, in (0, 1].

    Returns:
      The corrupted image [H, W, C], of the image's dtype, and bool [H, W], True where it is zeroed.

    Raises:
      ValueError: for a wrong rank, an image of integers, or a `most` outside (0, 1].
    """
    check_range("most", most, 0.0, 1.0, open_low=True)
    shape = _target(image).shape

    def covered(key: Key, pixels: int) -> Array:
        for_side, for_start = jax.random.split(key)
        side = jax.random.randint(for_side, (), 1, max(1, int(most * pixels)) + 1)
        start = jax.random.randint(for_start, (), 0, pixels - side + 1)
        return (jnp.arange(pixels) >= start) & (jnp.arange(pixels) < start + side)

    rows, columns = (covered(k, n) for k, n in zip(jax.random.split(key), shape[:2], strict=True))
    mask = rows[:, None] & columns[None, :]
    return jnp.where(mask[..., None], jnp.zeros_like(image), image), mask


def _target(image: Array, **others: Array) -> Array:
    """The image as a constant, once it and what is compared with it have its shape."""
    assert_shape("[H, W, C]", (None, None, None), image=image)
    if not jnp.issubdtype(jnp.result_type(image), jnp.floating):
        raise ValueError(f"image must be floats in [0, 1], got {jnp.result_type(image)}")
    assert_shape("[H, W, C], that of image,", jnp.shape(image), **others)
    return jax.lax.stop_gradient(at_least_float32(image))
