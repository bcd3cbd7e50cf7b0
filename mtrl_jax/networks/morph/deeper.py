"""Deeper networks that compute what the shallow ones did.

Net2DeeperNet (Chen, Goodfellow & Shlens 2015, arXiv 1511.05641): an identity layer behind an
activation with f(f(x)) = f(x). Two ways for everything else, of later papers: a `PActivation`
behind the identity layer, or a residual branch whose last layer is `silent`, x + branch(x) with
branch(x) = 0, for any activation, norm or recurrent core inside the branch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks.morph.activation import check_idempotent
from mtrl_jax.networks.morph.edits import PARAMETERS
from mtrl_jax.types import Array, ArrayTree

__all__ = ["Deeper", "Rename", "batch_norm_identity", "find", "identity", "put", "silent"]

_NO_IDENTITY = {
    "lstm": "its output passes a tanh and a sigmoid",
    "gru": "its output is an average with its past",
    "layer_norm": "it normalises every example, whatever its scale and bias",
    "rms_norm": "it normalises every example, whatever its scale",
    "group_norm": "it normalises every example, whatever its scale and bias",
    "attention": "its softmax mixes positions",
    "max_pool": "it is an identity only with a window of 1",
    "batch_norm": "it needs the statistics of its input: see batch_norm_identity",
}


def identity(
    kind: str,
    width: int,
    activation: Callable[[Any], Any],
    *,
    kernel_size: tuple[int, ...] = (3, 3),
    use_bias: bool = True,
) -> dict[str, Array]:
    """Parameters of a Linen layer that hands its input on.

    Args:
      kind: "dense", or "conv" (stride 1, SAME padding, one group).
      width: units in and out.
      activation: f, in front of and behind the layer; the identity function where there is none.
      kernel_size: of the convolution, odd.
      use_bias: whether the layer has one.

    Raises:
      ValueError: for another kind, with the reason; for an activation with f(f(x)) != f(x); for an
        even kernel, which has no centre.
    """
    if kind in _NO_IDENTITY:
        raise ValueError(
            f"kind {kind!r} has no identity: {_NO_IDENTITY[kind]}. A residual branch that ends in "
            "a `silent` layer may hold it"
        )
    if kind not in ("dense", "conv"):
        raise ValueError(f"kind must be 'dense' or 'conv'; got {kind!r}")
    check_idempotent(activation)
    kernel: np.ndarray = np.eye(width, dtype=np.float32)
    if kind == "conv":
        if any(size % 2 == 0 for size in kernel_size):
            raise ValueError(f"kernel_size must be odd to have a centre; got {kernel_size}")
        centre = np.zeros((*kernel_size, width, width), np.float32)
        centre[tuple(size // 2 for size in kernel_size)] = kernel
        kernel = centre
    return {"kernel": jnp.asarray(kernel)} | (
        {"bias": jnp.asarray(np.zeros(width, np.float32))} if use_bias else {}
    )


def batch_norm_identity(
    mean: Array, var: Array, epsilon: float = 1e-5
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Parameters and statistics of a batch norm that hands its input on in evaluation mode.

    Exact there; in training mode it normalises each batch by the batch's own statistics, so the
    output changes by as much as those differ from `mean` and `var`. Only a batch of exactly these
    statistics passes unchanged.

    Args:
      mean, var: of the layer's input over data `[C]`.
      epsilon: of the layer.
    """
    return {"scale": jnp.sqrt(var + epsilon), "bias": mean}, {"mean": mean, "var": var}


def silent(layer: ArrayTree) -> ArrayTree:
    """The last layer of a residual branch, all zeros; its gradient is not zero, so it learns."""
    return jax.tree.map(lambda x: jnp.asarray(np.zeros_like(x)), layer)


def whole_path(tree: Any, path: str) -> str:
    """The path with the Linen collection that it may leave out, as in edits: "dense0" of
    `{"params": {"dense0": ...}}` is "params/dense0"."""
    inside = isinstance(tree, Mapping) and path.partition("/")[0] not in tree
    return f"{PARAMETERS}/{path}" if inside and PARAMETERS in tree else path


def find(tree: Any, path: str) -> Any:
    """The subtree at `a/b/c` of nested mappings (dicts, Flax NNX states).

    Raises:
      ValueError: if there is none.
    """
    node = tree
    for key in whole_path(tree, path).split("/"):
        if not isinstance(node, Mapping) or key not in node:
            held = ", ".join(node) if isinstance(node, Mapping) else type(node).__name__
            raise ValueError(f"no {path!r} in the tree of nested dicts: {key!r} is not in {held}")
        node = node[key]
    return node


def put(tree: Any, path: str, node: Any) -> Any:
    """The tree with `node` at `a/b/c`; None removes what is there."""
    if not isinstance(tree, dict):  # a state of Flax NNX, whose inner nodes are dicts
        return type(tree)(put(_plain(tree), path, _plain(node)))
    key, _, rest = path.partition("/")
    out = dict(tree)
    value = put(out.get(key, {}), rest, node) if rest else node
    out.pop(key, None)
    return out if value is None else out | {key: value}


def _plain(node: Any) -> Any:
    """Nested mappings as dicts; what they hold stays as it is."""
    if not isinstance(node, Mapping):
        return node
    return {key: _plain(value) for key, value in node.items()}


def _held_like(layer: Any, like: Any) -> Any:
    """A layer's arrays in variables, where `like` holds its own in such (Flax NNX)."""
    if isinstance(like, dict) or not isinstance(like, Mapping):
        return layer
    held = next(x for x in like.values() if not isinstance(x, Mapping))
    variable: Any = jax.tree.structure(held)
    return jax.tree.map(lambda x: jax.tree.unflatten(variable, [x]), layer)


class Deeper(NamedTuple):
    """Inserts a layer: `Deeper("dense1", identity("dense", 64, nn.relu), like="dense0")(params)`.

    Where the layers behind it change their names in the bigger network, `Rename` goes first.

    Layers are named as in edits (`outputs`, `inputs`): joined by "/", with or without the Linen
    collection "params"; a state of Flax NNX gets its layer in the variables that `like` has.

    Attributes:
      path: where the tree of nested dicts gets the layer, "torso/dense1".
      layer: its parameters.
      like: path of a layer whose mean second moment the new one starts with. From 0, adam's steps
        would be sqrt((1 - b1)^2 / (1 - b2)) = 3 times too long at first, and more soon after,
        because its bias correction counts from the start of the run. First moments start at 0.
    """

    path: str
    layer: ArrayTree
    like: str

    def __call__(self, tree: ArrayTree, degree: int = 0) -> ArrayTree:
        """The deeper tree. Raises ValueError if `path` is taken or `like` is missing."""
        path = whole_path(tree, self.path)
        parent, _, name = path.rpartition("/")
        if name in (find(tree, parent) if parent else tree):
            raise ValueError(f"path {self.path!r} is taken; rename what is there first")
        like = find(tree, self.like)
        if degree == 0:
            return put(tree, path, _held_like(self.layer, like))
        every = np.concatenate([np.ravel(x) for x in jax.tree.leaves(like)])
        value = every.mean() if degree == 2 else 0.0

        def full(x):
            return jnp.asarray(np.full(jnp.shape(x), value, x.dtype))

        return put(tree, path, _held_like(jax.tree.map(full, self.layer), like))


class Rename(NamedTuple):
    """Moves subtrees of nested dicts, all at once: `Rename({"dense1": "dense2"})(params)`."""

    names: Mapping[str, str]

    def __call__(self, tree: ArrayTree, degree: int = 0) -> ArrayTree:
        del degree
        moved = {new: find(tree, old) for old, new in self.names.items()}
        out = tree
        for old in self.names:
            out = put(out, old, None)
        for new, node in moved.items():
            out = put(out, new, node)
        return out
