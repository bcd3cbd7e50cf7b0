"""The equation of network morphism: one kernel as two in series, solved exactly on the host.

Wei, Wang, Rui & Chen 2016, arXiv 1603.01670; as arrays (`[Kh, Kw, in, out]`), equation 2 of Wei,
Wang & Chen 2017, arXiv 1701.03281, is

    G[a + c, b + d] = sum_{a, b, c, d} F1[a, b] @ F2[c, d]

with G the parent's kernel zero-padded to K1 + K2 - 1. It is linear in each factor.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from mtrl_jax.networks.morph.wider import generator
from mtrl_jax.types import Array

__all__ = ["compose", "factor", "pad_kernel", "split_sum"]

Size = tuple[int, int]


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The one kernel of two convolutions in series, without an activation between them.

    Args:
      first: `[K1h, K1w, I, L]`.
      second: `[K2h, K2w, L, J]`.

    Returns:
      `[K1h + K2h - 1, K1w + K2w - 1, I, J]`.
    """
    (h1, w1, n_in, _), (h2, w2, _, n_out) = first.shape, second.shape
    out = np.zeros((h1 + h2 - 1, w1 + w2 - 1, n_in, n_out), np.result_type(first, second))
    for c, d in itertools.product(range(h2), range(w2)):
        out[c : c + h1, d : d + w1] += first @ second[c, d]
    return out


def pad_kernel(kernel: np.ndarray, size: Size) -> np.ndarray:
    """Zeros around a kernel `[Kh, Kw, ...]`, equally many on both sides, up to `size`.

    Raises:
      ValueError: if a size shrinks or does not keep its parity, so that the centre would move.
    """
    more = [new - old for new, old in zip(size, kernel.shape[:2], strict=True)]
    if any(n < 0 or n % 2 for n in more):
        raise ValueError(
            f"size must exceed {kernel.shape[:2]} by an even number on each axis; got {size}"
        )
    return np.pad(kernel, [(n // 2, n // 2) for n in more] + [(0, 0)] * (kernel.ndim - 2))


def split_sum(kernel: np.ndarray, parts: int, key: Array) -> list[np.ndarray]:
    """Random kernels that add up to one: `parts` layers in parallel instead of one.

    Wei et al. 2016, stacked subnet morphing; TYPE-II of Wei et al. 2017. Each part is the parent's
    share plus noise of its scale; the last is what is left.

    Raises:
      ValueError: for fewer than two parts.
    """
    if parts < 2:
        raise ValueError(f"parts must be at least 2; got {parts}")
    rng, kernel = generator(key), np.asarray(kernel, np.float64)
    scale = (kernel.std() or 1.0) / parts
    drawn = [kernel / parts + scale * rng.normal(size=kernel.shape) for _ in range(parts - 1)]
    return [*drawn, kernel - sum(drawn)]


def factor(
    kernel: np.ndarray, hidden: int, sizes: tuple[Size, Size], key: Array, *, attempts: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Two kernels in series that are one: G~ = F1 * F2.

    The smaller factor is drawn at random, the larger one is the least-norm solution of the linear
    equations, exact if max(L I |K1|, L J |K2|) >= I J |K~| (equation 3 of Wei et al. 2017). Where
    that fails one factor is solved at a smaller size and zero-padded, down to 1 x 1: the papers'
    Algorithm 2. Of several draws the one with the smallest solution is kept, because it costs the
    least in float32. Both factors leave with the same standard deviation.

    Departures: the papers alternate between the factors until the loss is 0, which stalls where the
    condition fails, so that here the condition decides and each candidate is solved once; they
    shrink the second factor only, which needs L >= J, while L >= I is enough for the first.

    Args:
      kernel: `[Kh, Kw, I, J]`.
      hidden: channels between the two, L.
      sizes: K1 and K2, with K1 + K2 - 1 - K even and not negative.
      key: typed key of the random factor.
      attempts: draws.

    Returns:
      F1 `[K1h, K1w, I, L]` and F2 `[K2h, K2w, L, J]`, float64.

    Raises:
      ValueError: for sizes that cannot hold the kernel, or too few hidden channels.
    """
    kernel, rng = np.asarray(kernel, np.float64), generator(key)
    full = tuple(a + b - 1 for a, b in zip(*sizes, strict=True))
    pad_kernel(kernel, full)  # type: ignore[arg-type]  # raises for sizes that do not fit
    n_in, n_out = kernel.shape[2:]
    if hidden < min(n_in, n_out):
        raise ValueError(
            f"hidden must be at least min(in, out) = {min(n_in, n_out)}, as a kernel of full rank "
            f"does not pass through fewer channels; got {hidden}"
        )
    for size1, size2 in _candidates(kernel.shape[:2], sizes):  # type: ignore[arg-type]
        whole = (size1[0] + size2[0] - 1, size1[1] + size2[1] - 1)
        shape1, shape2 = (*size1, n_in, hidden), (*size2, hidden, n_out)
        if max(np.prod(shape1), np.prod(shape2)) < n_in * n_out * np.prod(whole):
            continue
        target = pad_kernel(kernel, whole)
        solved = [_attempt(target, shape1, shape2, rng) for _ in range(attempts)]
        first, second = min(solved, key=lambda pair: np.abs(pair[0]).max() * np.abs(pair[1]).max())
        error = np.abs(compose(first, second) - target).max()
        if error <= 1e-8 * (np.abs(target).max() + 1e-30):
            ratio = np.sqrt((second.std() or 1.0) / (first.std() or 1.0))
            return pad_kernel(first * ratio, sizes[0]), pad_kernel(second / ratio, sizes[1])
    raise ValueError(
        f"hidden={hidden} channels with kernels {sizes[0]} and {sizes[1]} do not hold a kernel of "
        f"shape {kernel.shape}; take more channels"
    )


def _candidates(parent: Size, sizes: tuple[Size, Size]) -> Iterator[tuple[Size, Size]]:
    """The sizes asked for, then one of them smaller and smaller while the parent still fits."""
    yield sizes
    for which in (1, 0):
        other = sizes[1 - which]
        for n in range(2, max(sizes[which]) + 1, 2):
            small = (max(sizes[which][0] - n, 1), max(sizes[which][1] - n, 1))
            fits = all(a + b - 1 >= k for a, b, k in zip(small, other, parent, strict=True))
            if fits and all((a - b) % 2 == 0 for a, b in zip(small, sizes[which], strict=True)):
                yield (other, small) if which else (small, other)


def _attempt(
    target: np.ndarray, shape1: tuple[int, ...], shape2: tuple[int, ...], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    def swap(x):
        return np.swapaxes(x, 2, 3)

    if np.prod(shape2) >= np.prod(shape1):
        first = rng.normal(size=shape1)
        return first, _solve_second(first, target, shape2)
    second = rng.normal(size=shape2)
    turned = (*shape1[:2], shape1[3], shape1[2])
    return swap(_solve_second(swap(second), swap(target), turned)), second


def _solve_second(first: np.ndarray, target: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Least-norm F2 with F1 * F2 = G~: one matrix for all output channels."""
    h1, w1, n_in, hidden = first.shape
    h2, w2 = shape[:2]
    height, width = target.shape[:2]
    matrix = np.zeros((height, width, n_in, h2, w2, hidden))
    for c, d in itertools.product(range(h2), range(w2)):
        matrix[c : c + h1, d : d + w1, :, c, d] = first
    rows = height * width * n_in
    solution = np.linalg.lstsq(matrix.reshape(rows, -1), target.reshape(rows, -1), rcond=None)[0]
    return solution.reshape(shape)
