"""A strided convolution, and its adjoint, as one product: a convolution for each task is slow.

Under a vmap over tasks, each with kernels of its own, XLA makes a grouped convolution, which takes
up to ten times the time of the same number of products on a CPU (`python -m
timings.convolutions`). A product under vmap is a batched product.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtrl_jax.types import Array

__all__ = [
    "BlockConv",
    "BlockConvTranspose",
    "block_conv",
    "block_conv_transpose",
    "same_conv",
]


def block_conv(x: Array, kernel: Array, stride: int) -> Array:
    """A convolution without padding, of kernels whose size is a multiple of their stride.

    y[i, j] = sum_{u, v < size} x[stride i + u, stride j + v] . kernel[u, v]

    The image is cut into blocks of `stride` x `stride` pixels. With m = size / stride, a kernel is
    m x m blocks too: every block of the image is multiplied with all of them at once, and y is the
    sum of the m * m results, each shifted by whole blocks. No pixel is copied more than once.

    Args:
      x: float `[B, H, W, C]`.
      kernel: float `[size, size, C, F]`.
      stride: in pixels, of both axes.

    Returns:
      `[B, (H - size) // stride + 1, (W - size) // stride + 1, F]`, as `jax.lax.conv` gives it but
      for the order of sums. Carries gradient to `x` and `kernel`.

    Raises:
      ValueError: for a wrong rank, channels that disagree, a kernel that is not square or not made
        of whole blocks, or an image smaller than the kernel.
    """
    size, m, features = _blocks(x, kernel, stride)
    b, height, width, channels = x.shape
    if min(height, width) < size:
        raise ValueError(f"x must be at least {size} x {size} pixels, got {x.shape}")
    rows, columns = ((n - size) // stride + 1 for n in (height, width))
    down, across = rows + m - 1, columns + m - 1  # blocks that are used
    blocks = x[:, : down * stride, : across * stride]
    blocks = blocks.reshape(b, down, stride, across, stride, channels).transpose(0, 1, 3, 2, 4, 5)
    parts = kernel.reshape(m, stride, m, stride, channels, features).transpose(1, 3, 4, 0, 2, 5)
    depth = stride * stride * channels
    products = blocks.reshape(-1, depth) @ parts.reshape(depth, m * m * features)
    products = products.reshape(b, down, across, m, m, features)
    shifted = [products[:, i : i + rows, j : j + columns, i, j] for i in range(m) for j in range(m)]
    return sum(shifted[1:], shifted[0])


def block_conv_transpose(x: Array, kernel: Array, stride: int) -> Array:
    """The adjoint of a convolution of stride `stride`: an image that is so many times larger.

    With c = (size - stride) / 2, the pixels that are cut off each border,

        y[stride i + u - c, stride j + v - c] += x[i, j] kernel[u, v],   u, v < size

    One product makes all the blocks that a pixel of x puts down; those of neighbours overlap, and y
    is the sum of m * m images, each shifted by whole blocks (m = size / stride).

    Args:
      x: float `[B, H, W, C]`.
      kernel: float `[size, size, C, F]`.
      stride: in pixels, of both axes.

    Returns:
      `[B, stride H, stride W, F]`. Carries gradient to `x` and `kernel`.

    Raises:
      ValueError: for a wrong rank, channels that disagree, a kernel that is not square or not made
        of whole blocks, or a size whose distance from the stride is odd.
    """
    (b, height, width, channels), (size, m, features) = x.shape, _blocks(x, kernel, stride)
    if (size - stride) % 2:
        raise ValueError(f"stride must be even or odd as the size {size} is; got {stride}")
    parts = kernel.reshape(m, stride, m, stride, channels, features).transpose(4, 0, 2, 1, 3, 5)
    products = x.reshape(-1, channels) @ parts.reshape(channels, -1)
    products = products.reshape(b, height, width, m, m, stride, stride, features)
    down, across = height + m - 1, width + m - 1  # blocks that are put down
    shifted = []
    for i in range(m):
        for j in range(m):
            room = ((0, 0), (i, m - 1 - i), (j, m - 1 - j), (0, 0), (0, 0), (0, 0))
            shifted.append(jnp.pad(products[:, :, :, i, j], room))
    y = sum(shifted[1:], shifted[0]).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(b, down * stride, across * stride, features)
    cut = (size - stride) // 2
    return y[:, cut : cut + height * stride, cut : cut + width * stride]


def same_conv(x: Array, kernel: Array, hole: int = 1) -> Array:
    """A convolution that keeps the image's size, its kernel's pixels `hole` apart.

        y[i, j] = sum_{u, v} kernel[u, v]^T x[i + hole (u - c), j + hole (v - c)]

    with c = (size - 1) / 2 and zeros around x. Rows are gathered, columns are shifted sums of one
    product: XLA:CPU's own convolution is as fast, but takes ten times as long inside a loop (jax
    0.10.2, two cores).

    Args:
      x: float `[B, H, W, C]`.
      kernel: float `[size, size, C, F]`, size odd.
      hole: in pixels; 1 is a kernel without holes.

    Returns:
      `[B, H, W, F]`. Carries gradient to `x` and `kernel`.

    Raises:
      ValueError: for a wrong rank, channels that disagree, a kernel that is not square or of even
        size, or a hole below 1.
    """
    size, _, features = _blocks(x, kernel, 1)
    if size % 2 == 0:
        raise ValueError(f"kernel must have an odd size, got {kernel.shape}")
    if hole < 1:
        raise ValueError(f"hole must be at least 1; got {hole}")
    (_, height, width, channels), border = x.shape, hole * (size // 2)
    wide = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    rows = [wide[:, hole * u : hole * u + height] for u in range(size)]
    right = kernel.transpose(0, 2, 1, 3).reshape(size * channels, size * features)
    products = jnp.concatenate(rows, -1) @ right
    products = products.reshape(*products.shape[:-1], size, features)
    shifted = [products[:, :, hole * v : hole * v + width, v] for v in range(size)]
    return sum(shifted[1:], shifted[0])


def _blocks(x: Array, kernel: Array, stride: int) -> tuple[int, int, int]:
    """Size of a kernel, in pixels and in blocks, and its features, once all fits."""
    if jnp.ndim(x) != 4:
        raise ValueError(f"x must have shape [B, H, W, C], got {jnp.shape(x)}")
    if jnp.ndim(kernel) != 4 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"kernel must have shape [size, size, C, F], got {jnp.shape(kernel)}")
    size, _, inputs, features = kernel.shape
    if x.shape[-1] != inputs:
        raise ValueError(f"kernel must have C = {x.shape[-1]} as x has, got {kernel.shape}")
    if stride < 1 or size % stride:
        raise ValueError(f"stride must divide the kernel's size {size}; got {stride}")
    return size, size // stride, features


class BlockConv(nn.Module):
    """`flax.linen.Conv` with padding "VALID", by `block_conv`: the same parameters, by name and
    shape.

    Attributes:
      features: F.
      size: of the square kernel, a multiple of `stride`.
      stride: of both axes.
      kernel_init: initialiser.
    """

    features: int
    size: int
    stride: int
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` to `[B, H', W', F]`; raises as `block_conv`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = block_conv(x, kernel, self.stride)
        return y + jnp.broadcast_to(bias, y.shape)


class BlockConvTranspose(nn.Module):
    """An image `stride` times larger, by `block_conv_transpose`.

    Attributes:
      features: F.
      size: of the square kernel, a multiple of `stride` that is as even or odd.
      stride: of both axes.
      kernel_init: initialiser.
    """

    features: int
    size: int
    stride: int
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` to `[B, stride H, stride W, F]`; raises as `block_conv_transpose`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = block_conv_transpose(x, kernel, self.stride)
        return y + jnp.broadcast_to(bias, y.shape)
