"""Network morphism of layers in nested dicts: depth, kernel size and subnet.

Wei, Wang, Rui & Chen 2016, arXiv 1603.01670; the atomic operations of Wei, Wang & Chen 2017,
arXiv 1701.03281. (Width is `Wider` with `new_units`; the equation is solved in `factor.py`.)

Borders: two SAME convolutions in a row are not one of the summed size near the border, because the
second pads the hidden channels with zeros that the parent never had. So the first takes all the
padding (`series_padding`) and the second is VALID, with the parent's stride. The hidden bias starts
at zero, and only a `PActivation` may stand between the two.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks.morph.deeper import find, put
from mtrl_jax.networks.morph.factor import Size, factor, pad_kernel, split_sum
from mtrl_jax.types import Array, ArrayTree

__all__ = ["BiggerKernel", "Parallel", "Series", "parallel", "series", "series_padding"]


def series_padding(
    kernel_size: Size, sizes: tuple[Size, Size], padding: str | Sequence[tuple[int, int]] = "SAME"
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding of the first of two layers in series; the second is VALID.

    Also for a `BiggerKernel`, with sizes (new size, (1, 1)).

    Args:
      kernel_size: of the parent, K.
      sizes: K1 and K2.
      padding: of the parent: "SAME" (stride 1, odd K), "VALID" or pairs of numbers.

    Raises:
      ValueError: for another word, or SAME with an even kernel.
    """
    if padding == "SAME":
        if any(k % 2 == 0 for k in kernel_size):
            raise ValueError(f"kernel_size must be odd for SAME padding; got {kernel_size}")
        padding = [(k // 2, k // 2) for k in kernel_size]
    elif padding == "VALID":
        padding = [(0, 0), (0, 0)]
    elif isinstance(padding, str):
        raise ValueError(f"padding must be 'SAME', 'VALID' or pairs of numbers; got {padding!r}")
    more = [(a + b - 1 - k) // 2 for k, a, b in zip(kernel_size, *sizes, strict=True)]
    (top, bottom), (left, right) = padding
    return (top + more[0], bottom + more[0]), (left + more[1], right + more[1])


def _kernel(layer: Any, path: str) -> np.ndarray:
    """`[Kh, Kw, in, out]` of a dense or 2-D convolutional layer."""
    if "kernel" not in layer or set(layer) - {"kernel", "bias"}:
        raise ValueError(f"layer {path!r} must hold a kernel and at most a bias; has {list(layer)}")
    kernel = np.asarray(layer["kernel"])
    if kernel.ndim not in (2, 4):
        raise ValueError(f"layer {path!r} must be dense or a 2-D convolution; got {kernel.shape}")
    return kernel[None, None] if kernel.ndim == 2 else kernel


def _checked_names(path: str, names: Sequence[str], tree: Any) -> None:
    parent, _, own = path.rpartition("/")
    inside = find(tree, parent) if parent else tree
    taken = [name for name in names if name in inside and name != own]
    if taken or len(set(names)) < len(names):
        raise ValueError(f"names must be new and distinct beside {path!r}; got {tuple(names)}")


def _replace(tree: Any, path: str, layers: dict[str, Any]) -> Any:
    """The layer at `path` out, its children in."""
    parent = path.rpartition("/")[0]
    tree = put(tree, path, None)
    for name, layer in layers.items():
        tree = put(tree, f"{parent}/{name}" if parent else name, layer)
    return tree


class Series(NamedTuple):
    """One layer as two in series; made by `series`.

    On moments, with M of the parent's kernel: dL/dF1[a, b] = sum M[a + c, b + d] F2[c, d]^T, and
    dL/dF2[c, d] = sum F1[a, b]^T M[a + c, b + d]. Exact for first moments of dense layers, and of
    convolutions where K1 + K2 - 1 = K; beyond the parent's kernel its gradients are unknown and
    taken as 0. Second moments use squared factors, as if gradients were uncorrelated.

    Attributes:
      path: of the parent.
      names: of the two layers that stand in its place.
      first, second: their kernels `[K1h, K1w, I, L]`, `[K2h, K2w, L, J]`, float64.
    """

    path: str
    names: tuple[str, str]
    first: np.ndarray
    second: np.ndarray

    def __call__(self, tree: ArrayTree, degree: int = 0) -> ArrayTree:
        """The tree with the layer replaced. Raises ValueError if it is missing or no such layer."""
        layer = find(tree, self.path)
        kernel = _kernel(layer, self.path)
        dense, dtype = jnp.ndim(layer["kernel"]) == 2, layer["kernel"].dtype
        one, two = self.first, self.second
        if degree:
            one, two = self._moments(kernel, degree)

        def shaped(x):
            return jnp.asarray(x[0, 0] if dense else x, dtype)

        parts: list[dict[str, Any]] = [{"kernel": shaped(one)}, {"kernel": shaped(two)}]
        if "bias" in layer:
            hidden = np.zeros(self.first.shape[-1])
            if degree:
                hidden = (self.second**degree).sum((0, 1)) @ np.asarray(layer["bias"], np.float64)
            parts[0]["bias"], parts[1]["bias"] = jnp.asarray(hidden, dtype), layer["bias"]
        return _replace(tree, self.path, dict(zip(self.names, parts, strict=True)))

    def _moments(self, moment: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
        (h1, w1), (h2, w2) = self.first.shape[:2], self.second.shape[:2]
        f1, f2 = self.first**degree, self.second**degree
        rest = [(h1 + h2 - 1 - moment.shape[0]) // 2, (w1 + w2 - 1 - moment.shape[1]) // 2]
        whole = np.pad(
            moment.astype(np.float64),
            [(n, n) for n in rest] + [(0, 0)] * 2,
            constant_values=moment.mean() if degree == 2 else 0.0,
        )
        one, two = np.zeros_like(f1), np.zeros_like(f2)
        for c in range(h2):
            for d in range(w2):
                window = whole[c : c + h1, d : d + w1]
                one += np.einsum("abij,lj->abil", window, f2[c, d])
                two[c, d] = np.einsum("abil,abij->lj", f1, window)
        return one, two


def series(
    params: ArrayTree,
    path: str,
    names: tuple[str, str],
    hidden: int,
    key: Array,
    sizes: tuple[Size, Size] = ((1, 1), (1, 1)),
) -> Series:
    """Depth morphing of one layer (TYPE-I): solves for the two kernels.

    Args:
      params: nested dicts.
      path: of a dense or 2-D convolutional layer.
      names: of the two new layers, in the same dict.
      hidden: units between them, at least min(in, out); more for two wide kernels (`factor`).
      key: typed key of the free factor.
      sizes: K1 and K2 of a convolution.

    Raises:
      ValueError: for a layer of another kind, names that are taken, and as `factor`.
    """
    _checked_names(path, names, params)
    kernel = _kernel(find(params, path), path)
    return Series(path, names, *factor(kernel, hidden, sizes, key))


class BiggerKernel(NamedTuple):
    """Kernel size morphing: zeros around the kernel; its padding grows by `series_padding`.

    SAME padding grows by itself (at stride 1, or wherever the parent's SAME padding was not cut off
    at 0). New weights start with first moment 0 and the mean second moment of the kernel.

    Attributes:
      path: of a 2-D convolutional layer.
      size: the new kernel size.
    """

    path: str
    size: Size

    def __call__(self, tree: ArrayTree, degree: int = 0) -> ArrayTree:
        """The tree with the bigger kernel. Raises ValueError for a size of other parity."""
        layer = find(tree, self.path)
        kernel = _kernel(layer, self.path)
        if jnp.ndim(layer["kernel"]) != 4:
            raise ValueError(f"layer {self.path!r} is dense and has no kernel size")
        padded = pad_kernel(kernel, self.size)
        if degree == 2:
            inside = pad_kernel(np.ones_like(kernel, dtype=bool), self.size)
            padded = np.where(inside, padded, kernel.mean())
        return put(tree, f"{self.path}/kernel", jnp.asarray(padded))


class Parallel(NamedTuple):
    """One layer as several in parallel, whose outputs are added; made by `parallel`.

    Each part has the parent's gradient, hence its moments.

    Attributes:
      path: of the parent.
      names: of the parts; the first keeps the bias.
      kernels: of the parts, float64, in the shape of the parent's.
    """

    path: str
    names: tuple[str, ...]
    kernels: tuple[np.ndarray, ...]

    def __call__(self, tree: ArrayTree, degree: int = 0) -> ArrayTree:
        """The tree with the layer replaced."""
        layer = find(tree, self.path)
        parts: dict[str, Any] = {}
        for n, (name, kernel) in enumerate(zip(self.names, self.kernels, strict=True)):
            value = layer["kernel"] if degree else jnp.asarray(kernel, layer["kernel"].dtype)
            parts[name] = {"kernel": value}
            if "bias" in layer:
                keep = n == 0 or degree > 0
                parts[name]["bias"] = layer["bias"] if keep else jnp.zeros_like(layer["bias"])
        return _replace(tree, self.path, parts)


def parallel(params: ArrayTree, path: str, names: tuple[str, ...], key: Array) -> Parallel:
    """Stacked subnet morphing of one layer (TYPE-II); each part can go through `series` next.

    Raises:
      ValueError: for a missing layer, fewer than two names, or names that are taken.
    """
    _checked_names(path, names, params)
    layer = find(params, path)
    _kernel(layer, path)
    return Parallel(path, names, tuple(split_sum(layer["kernel"], len(names), key)))
