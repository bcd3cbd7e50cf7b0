"""Transporter networks: which pixel to pick, and where to put it with which turn.

Zeng et al. 2020, *Transporter Networks*, arXiv 2010.14406. With o an image, p the pixel picked, o_p
the part of the image around it, o_p(t) the same after t quarter turns, Phi and Psi convolutions,

    pick logits     Q(u)     = f(o)(u)
    place logits    Q(t, u)  = (1/sqrt(n n C)) sum_v <Psi(o_p(t))(v), Phi(o)(u + v)>

The second is a cross-correlation: what is picked is laid over every place, once a turn. Goals
come in as in Seita et al. 2021, arXiv 2012.03385 (goal-conditioned Transporters): a third stack of
convolutions looks at the goal image g and its features multiply the key's,

    key(u) = Phi(o)(u) Gamma(g)(u)

Departures:
  1. Networks are a few convolutions of 3 x 3 pixels with holes, without strides, instead of
     ResNets of 43 layers: shifts are exact to the pixel away from the border.
  2. Four turns, which are exact on pixels, instead of 36; the picture is turned before it is looked
     at, as in the first paper, so that a turned thing has the same queries in another order.
  3. Gamma multiplies the key alone: how a thing looks does not depend on where it is to go.
  4. Picking looks at the **difference** of the features of image and goal, through layers without
     bias, and has one more logit, of picking nothing, that is log(H W) + 3. Where image and goal
     are the same all pixels have logit 0, whatever the parameters, and nothing is picked.

Without a goal, g is a black image.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks.convolution import same_conv
from mtrl_jax.networks.layers import scaled
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, ArrayTree, Key

__all__ = [
    "STOP_LOGIT",
    "TURNS",
    "Convolutions",
    "Pick",
    "Place",
    "Transporter",
    "crop",
    "cross_correlate",
    "init",
    "make",
    "quarter_turns",
]

TURNS = 4
STOP_LOGIT = 3.0  # above log(H W): nothing is picked with probability .95 of equal images
SIZE = 3  # of every kernel


class Convolutions(nn.Module):
    """Convolutions that keep an image's size; relu between them.

    Attributes:
      features: of each layer.
      holes: distance of a kernel's pixels in each layer.
      bias: without it, nothing comes of nothing.
    """

    features: tuple[int, ...]
    holes: tuple[int, ...]
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` to `[B, H, W, features[-1]]`."""
        for i, (n, hole) in enumerate(zip(self.features, self.holes, strict=True)):
            x = nn.relu(x) if i else x
            shape = (SIZE, SIZE, x.shape[-1], n)
            x = same_conv(x, self.param(f"kernel{i}", scaled(2.0 if i else 1.0), shape), hole)
            if self.bias:
                bias = self.param(f"bias{i}", nn.initializers.zeros, (n,))
                x = x + jnp.broadcast_to(bias, x.shape)
        return x


class Pick(nn.Module):
    """Logits of every pixel, and of none.

    Attributes:
      width: features of each layer.
    """

    width: int

    def setup(self) -> None:
        self.look = Convolutions((self.width, self.width), (1, 2))
        self.judge = Convolutions((self.width, 1), (4, 8), bias=False)

    def __call__(self, image: Array, goal: Array) -> Array:
        """`[B, H W + 1]` of two images `[B, H, W, C]`; the last is of picking nothing."""
        seen = self.look(jnp.concatenate([image, goal]))
        changed = jnp.subtract(*jnp.split(nn.relu(seen), 2))
        logits = self.judge(changed).reshape(image.shape[0], -1)
        stop = jnp.full((image.shape[0], 1), jnp.log(logits.shape[1]) + STOP_LOGIT)
        return jnp.concatenate([logits, stop], 1)


class Place(nn.Module):
    """Logits of every turn and place, for a pixel that is picked.

    Attributes:
      width: features of hidden layers.
      depth: C, features that are correlated.
      size: n, odd, of the part of the image around the pixel.
    """

    width: int
    depth: int
    size: int

    def setup(self) -> None:
        layers = (self.width, self.width, self.depth)
        self.key = Convolutions(layers, (1, 2, 4))
        self.goal = Convolutions(layers, (1, 2, 4))
        self.query = Convolutions(layers, (1, 1, 1))

    def __call__(self, image: Array, goal: Array, pixel: Array) -> Array:
        """`[B, 4, H, W]` of images `[B, H, W, C]` and pixels, int32 `[B, 2]`."""
        scale = (self.size**2 * self.depth) ** -0.5
        queries, key = self.queries(image, pixel), self.key(image) * self.goal(goal)
        return scale * jax.vmap(cross_correlate)(queries, key)

    def queries(self, image: Array, pixel: Array) -> Array:
        """`[B, 4, n, n, depth]`, of what is around the pixels, once a turn."""
        parts = jax.vmap(lambda x, p: quarter_turns(crop(x, p, self.size)))(image, pixel)
        found = self.query(parts.reshape(-1, *parts.shape[2:]))
        return found.reshape(*parts.shape[:-1], self.depth)


def crop(image: Array, pixel: Array, size: int) -> Array:
    """The n x n pixels around one, `[n, n, C]`; zeros where the image `[H, W, C]` ends."""
    border = size // 2
    wide = jnp.pad(image, ((border, border), (border, border), (0, 0)))
    return jax.lax.dynamic_slice(wide, (pixel[0], pixel[1], 0), (size, size, image.shape[-1]))


def quarter_turns(image: Array) -> Array:
    """A square image `[n, n, C]` after 0, 1, 2 and 3 quarter turns, `[4, n, n, C]`; as `rot90`."""
    return jnp.stack([jnp.rot90(image, t) for t in range(TURNS)])


def cross_correlate(query: Array, key: Array) -> Array:
    """Every query laid over every place of the key.

        y[t, i, j] = sum_{u, v, d} query[t, u, v, d] key[i + u - c, j + v - c, d]

    with c = (n - 1) / 2 and zeros around the key. Rows are gathered, columns are shifted sums of
    one product: a convolution with kernels of each sample's own is slow on XLA:CPU
    (`networks/convolution.py`).

    Args:
      query: float `[R, n, n, C]`, n odd.
      key: float `[H, W, C]`, zeros around it.

    Returns:
      `[R, H, W]`. Carries gradient to both.

    Raises:
      ValueError: for a wrong rank, sides that are even or differ, or channels that disagree.
    """
    if jnp.ndim(query) != 4 or query.shape[1] != query.shape[2] or query.shape[1] % 2 == 0:
        raise ValueError(f"query must have shape [R, n, n, C] with n odd, got {jnp.shape(query)}")
    if jnp.ndim(key) != 3 or key.shape[-1] != query.shape[-1]:
        c = query.shape[-1]
        raise ValueError(f"key must have shape [H, W, C] with C = {c}, got {jnp.shape(key)}")
    (turns, n, _, depth), (height, width, _) = query.shape, key.shape
    border = n // 2
    wide = jnp.pad(key, ((border, border), (border, border), (0, 0)))
    rows = jnp.stack([wide[u : u + height] for u in range(n)], 2)  # [H, W + n - 1, n, C]
    right = query.transpose(1, 3, 0, 2).reshape(n * depth, turns * n)
    products = rows.reshape(-1, n * depth) @ right
    products = products.reshape(height, width + n - 1, turns, n)
    shifted = [products[:, v : v + width, :, v] for v in range(n)]
    return sum(shifted[1:], shifted[0]).transpose(2, 0, 1)


class Transporter(NamedTuple):
    """Both networks; parameters are `{"pick": ..., "place": ...}`."""

    pick: Pick
    place: Place


def make(width: int = 16, depth: int = 8, size: int = 9) -> Transporter:
    """The networks.

    Args:
      width: features of hidden layers.
      depth: features that are correlated.
      size: of the part of the image around the picked pixel, odd.

    Raises:
      ValueError: for a number that is no positive integer, or an even size.
    """
    for name, value in (("width", width), ("depth", depth), ("size", size)):
        check_value(name, value, Count)
    if size % 2 == 0:
        raise ValueError(f"size must be odd; got {size}")
    return Transporter(Pick(width), Place(width, depth, size))


def init(nets: Transporter, key: Key, image_shape: tuple[int, int, int]) -> ArrayTree:
    """Fresh parameters, for images (H, W, C)."""
    image, pixel = jnp.zeros((1, *image_shape)), jnp.zeros((1, 2), jnp.int32)
    keys = jax.random.split(key)
    pick: Any = nets.pick.init(keys[0], image, image)
    place: Any = nets.place.init(keys[1], image, image, pixel)
    return {"pick": pick["params"], "place": place["params"]}
