"""Which axes of which leaves change when a layer gets wider: the map of producers and consumers.

A layer's width appears as an axis of its own parameters (they are copied along it), of normalising
layers behind it (copied), and of every layer that reads it (copied and divided among the copies).
An `Edit` is one such axis of one leaf; the functions here list the edits of Linen's layers, and for
other trees they are written by hand. Axes are counted from the end, so that stacked leaves
(`[K, *param]` of K tasks or seeds) need nothing else.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import ArrayTree

__all__ = ["Edit", "group", "inputs", "leaf_name", "outputs", "positions", "through"]


class Edit(NamedTuple):
    """One axis of one leaf.

    Attributes:
      path: keys joined by "/", without the collection: `torso/dense0/kernel`, or `0/w` in a list.
      axis: negative.
      role: "copy" where the leaf makes or carries the units, "split" where it reads them.
      start: first position of the units on the axis, where others are concatenated before or behind
        them (those are kept); None if the axis holds nothing else.
      blocks: how often all units appear there, one after the other: height x width for a dense
        layer that reads flattened `[H, W, C]` features.
      fill: value for units that copy nobody, None for weights (drawn at random).
      optional: whether the leaf may be absent (a layer without bias).
      even: whether the layer averages over the axis, so that all units need equally many copies.
    """

    path: str
    axis: int
    role: str
    start: int | None = None
    blocks: int = 1
    fill: float | None = None
    optional: bool = False
    even: bool = False


_UNSUPPORTED = {
    "attention": "its heads share a softmax scaled by the square root of their width, so that "
    "copied units change every weight; widen the layers around it",
    "grouped_conv": "copies of a channel would belong to other groups of the convolution; use "
    "feature_group_count=1, or through('depthwise', ...) for one channel a group",
    "group_norm": "new channels move the borders of its groups, whose means and variances change",
    "instance_norm": "Linen holds it as a group norm; use a batch norm or none",
    "weight_norm": "it divides by the norm of a column, which the copies change; fold it into the "
    "kernel first",
    "spectral_norm": "copying units changes the largest singular value that it divides by",
    "dropout": "copies of a unit are dropped independently, so that the output has another "
    "distribution in training mode; it has no parameters, so widen the layers around it as if it "
    "were not there if that is acceptable",
    "softmax": "copies would share the probability of their original",
}


def _refuse(kind: str, known: Iterable[str]) -> None:
    if kind in _UNSUPPORTED:
        raise ValueError(f"kind {kind!r} cannot be widened: {_UNSUPPORTED[kind]}")
    raise ValueError(f"kind must be one of {', '.join(known)}; got {kind!r}")


_GATES = {
    "lstm": tuple("ifgo"),
    "gru": tuple("rzn"),
}
_OUTPUTS = ("dense", "conv", "embedding", *_GATES)


def outputs(layer: str, kind: str = "dense") -> tuple[Edit, ...]:
    """Edits of the layer whose units grow.

    Args:
      layer: its path, "torso/dense0".
      kind: "dense" or "conv" (`[..., in, out]` kernels, transposed convolutions too),
        "embedding", "lstm" (Linen's `LSTMCell` or `OptimizedLSTMCell`: copied inside every gate,
        its recurrent kernels read themselves) or "gru".

    Raises:
      ValueError: for another kind, with the reason where it cannot be done.
    """
    if kind in ("dense", "conv"):
        return (
            Edit(f"{layer}/kernel", -1, "copy"),
            Edit(f"{layer}/bias", -1, "copy", fill=0.0, optional=True),
        )
    if kind == "embedding":
        return (Edit(f"{layer}/embedding", -1, "copy"),)
    if kind not in _GATES:
        _refuse(kind, _OUTPUTS)
    edits: list[Edit] = []
    for gate in _GATES[kind]:
        edits += outputs(f"{layer}/i{gate}") + outputs(f"{layer}/h{gate}")
        edits += inputs(f"{layer}/h{gate}")
    return tuple(edits)


def inputs(
    layer: str, kind: str = "dense", *, start: int | None = None, blocks: int = 1
) -> tuple[Edit, ...]:
    """Edits of a layer that reads the units. Every reader needs them: heads and skips too.

    Args:
      layer: its path.
      kind: "dense", "conv", "lstm" or "gru".
      start: position of the first unit among the inputs, where other inputs are concatenated
        before or behind; None if the units are all it reads.
      blocks: H x W where a dense layer reads flattened `[H, W, C]` features.

    Raises:
      ValueError: as `outputs`.
    """
    if kind in ("dense", "conv"):
        return (Edit(f"{layer}/kernel", -2, "split", start, blocks),)
    if kind not in _GATES:
        _refuse(kind, ("dense", "conv", *_GATES))
    return tuple(edit for gate in _GATES[kind] for edit in inputs(f"{layer}/i{gate}", start=start))


def through(kind: str, layer: str) -> tuple[Edit, ...]:
    """Edits of a layer that hands each unit on: nothing is divided here.

    A batch norm of a copied channel has that channel's statistics, in training and in evaluation
    mode. A layer norm or RMS norm averages over the units, which stays the same only if every unit
    gets equally many copies; otherwise widening refuses.

    Args:
      kind: "batch_norm", "layer_norm", "rms_norm" or "depthwise" (a convolution with one filter a
        channel).
      layer: its path.

    Raises:
      ValueError: as `outputs`.
    """
    if kind == "depthwise":
        return outputs(layer)
    fills = {"scale": 1.0, "bias": 0.0}
    if kind == "batch_norm":
        fills |= {"mean": 0.0, "var": 1.0}
    elif kind not in ("layer_norm", "rms_norm"):
        _refuse(kind, ("batch_norm", "layer_norm", "rms_norm", "depthwise"))
    return tuple(
        Edit(f"{layer}/{leaf}", -1, "copy", fill=fill, optional=True, even=kind != "batch_norm")
        for leaf, fill in fills.items()
    )


PARAMETERS = "params"
_COLLECTIONS = (PARAMETERS, "batch_stats")


def leaf_name(path: Any) -> str:
    """A key path as edits spell it: joined by "/", without a leading Linen collection, and without
    the attribute in which a variable of Flax NNX holds its array."""
    if path and getattr(path[-1], "name", None) == "value":
        path = path[:-1]
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    first, _, rest = name.partition("/")
    return rest if first in _COLLECTIONS and rest else name


def group(tree: ArrayTree, edits: Iterable[Edit]) -> dict[str, list[Edit]]:
    """Edits by leaf.

    Raises:
      ValueError: if an edit names a leaf that the tree lacks, or names an axis twice.
    """
    names = [leaf_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    grouped: dict[str, list[Edit]] = {}
    for edit in edits:
        if edit.path not in names:
            if edit.optional:
                continue
            raise ValueError(f"edits: no leaf {edit.path!r}; the tree has {', '.join(names)}")
        mine = grouped.setdefault(edit.path, [])
        if any((e.axis, e.start) == (edit.axis, edit.start) for e in mine):
            raise ValueError(f"edits: axis {edit.axis} of {edit.path!r} is named twice")
        mine.append(edit)
    return grouped


def positions(edit: Edit, leaf: Any, index: np.ndarray, old: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each new position of the edited axis comes from.

    Args:
      edit: the axis.
      leaf: the array.
      index: the old unit of every new unit `[q]`.
      old: units before, m.

    Returns:
      Old position and new unit (-1: not one of the units) of every new position.

    Raises:
      ValueError: if the axis does not hold `blocks` times `old` positions from `start` on.
    """
    if edit.axis >= 0 or jnp.ndim(leaf) < -edit.axis:
        raise ValueError(f"edits: {edit.path!r} of shape {jnp.shape(leaf)} lacks axis {edit.axis}")
    length = jnp.shape(leaf)[edit.axis]
    start = edit.start or 0
    stop = start + edit.blocks * old
    if stop > length or (edit.start is None and stop != length):
        rest = "" if edit.start is None else f" from {start} on"
        raise ValueError(
            f"edits: axis {edit.axis} of {edit.path!r} has {length} positions, expected "
            f"{edit.blocks} x {old} units{rest}"
        )
    block = start + old * np.arange(edit.blocks)[:, None] + index[None]
    source = np.concatenate([np.arange(start), block.ravel(), np.arange(stop, length)])
    unit = np.full(source.shape, -1)
    unit[start : start + block.size] = np.tile(np.arange(len(index)), edit.blocks)
    return source, unit
