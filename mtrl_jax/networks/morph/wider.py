"""Wider layers that compute what the narrow ones did.

Net2WiderNet (Chen, Goodfellow & Shlens 2015, arXiv 1511.05641): new units copy old ones, and
whoever reads them shares each old weight among the copies. The width operation of network morphism
(Wei et al. 2016, arXiv 1603.01670): new units are random, and nobody listens to them yet (or the
reverse). Both are a `Growth`, and `Wider` applies one to a tree of parameters or of moments.

Where this departs from the papers: noise goes to the incoming and outgoing weights of new units
(with the outgoing weights left equal, the incoming weights of copied rectifiers get equal gradients
at first); an old weight can also be shared unequally, which breaks the symmetry and leaves the
output exactly as it was; the side that network morphism zeroes is an argument instead of the one
with fewer parameters, because zeroing the incoming side needs an activation with f(0) = 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks.morph.edits import Edit, group, leaf_name, positions
from mtrl_jax.types import Array, ArrayTree

__all__ = ["Growth", "Wider", "copies", "generator", "new_units", "widen_units"]


class Growth(NamedTuple):
    """From m units to q.

    Attributes:
      old: m.
      origin: int `[q]`, the unit that each new one copies, g; -1 where it copies nobody.
      share: float `[q]`, the part of the old outgoing weight that it gets; the shares of all copies
        of a unit add up to 1.
      zero: "outgoing" or "incoming", the side on which units that copy nobody have zeros.
    """

    old: int
    origin: np.ndarray
    share: np.ndarray
    zero: str = "outgoing"


def generator(key: Array) -> np.random.Generator:
    """NumPy's generator from a typed key: growing happens on the host, once."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _check_sizes(old: int, new: int) -> None:
    if old < 1 or new <= old:
        raise ValueError(f"new must exceed old, and old be at least 1; got old={old}, new={new}")


def copies(old: int, new: int, key: Array, *, even: bool = False, split: str = "equal") -> Growth:
    """Net2WiderNet's growth: the first units are the old ones, the others copy units at random.

    Chen et al. 2015, equations 3 and 4: g(j) = j for j < m, uniform on the old units for the rest,
    and c_i = #{j: g(j) = i};

        U1[:, j] = W1[:, g(j)],   U2[j, :] = W2[g(j), :] / c_{g(j)}

    Args:
      old, new: units before and after, m and q.
      key: typed key of the choice of units, and of unequal shares.
      even: every unit gets q / m copies, as layer norms need.
      split: "equal" for shares 1 / c, "random" for shares drawn from U(0.5, 1.5) and normalised.

    Raises:
      ValueError: unless old < new; if even and new is no multiple of old; for another split.
    """
    _check_sizes(old, new)
    if even and new % old:
        raise ValueError(f"new must be a multiple of old={old} for even copies; got {new}")
    if split not in ("equal", "random"):
        raise ValueError(f"split must be 'equal' or 'random'; got {split!r}")
    rng = generator(key)
    index = np.arange(new) % old if even else np.arange(new)
    if not even:
        index[old:] = rng.integers(old, size=new - old)
    share = np.ones(new) if split == "equal" else rng.uniform(0.5, 1.5, new)
    share /= np.bincount(index, weights=share, minlength=old)[index]
    return Growth(old, index, share)


def new_units(
    old: int, new: int, *, zero: str = "outgoing", activation: Callable[[Any], Any] | None = None
) -> Growth:
    """Network morphism's growth in width (Wei et al. 2016): units that copy nobody.

    One side's weights are zero, the other's are drawn (`Wider`), so that the new units are silent
    and learn all the same: the zero side has a gradient from the first step, the other from the
    second.

    Args:
      old, new: units before and after.
      zero: "outgoing", exact for every activation, or "incoming".
      activation: the function behind the units, needed for "incoming" only.

    Raises:
      ValueError: unless old < new; for another side; for "incoming" unless f(0) = 0.
    """
    _check_sizes(old, new)
    if zero not in ("outgoing", "incoming"):
        raise ValueError(f"zero must be 'outgoing' or 'incoming'; got {zero!r}")
    if zero == "incoming":
        at_zero = None if activation is None else float(activation(jnp.zeros(())))
        if at_zero != 0.0:
            raise ValueError(
                "activation must be given and be 0 at 0 for zero='incoming', because readers with "
                f"random weights would hear it; got {activation} with value {at_zero}"
            )
    index = np.concatenate([np.arange(old), np.full(new - old, -1)])
    return Growth(old, index, np.ones(new), zero)


class Wider(NamedTuple):
    """Applies a growth to a tree: `Wider(growth, edits)(params)`.

    Works on parameters, on variables with batch statistics, and with `degree` on the moments of an
    optimiser (`carry`). With shares a and a loss that does not change, gradients obey

        dL/dU1[:, j] = a_j dL/dW1[:, g(j)],   dL/dU2[j, :] = dL/dW2[g(j), :]

    so first moments of copied leaves are multiplied by a, second moments by its square. (Behind a
    layer norm this needs equal shares.) Units that copy nobody start with first moment 0 and with
    the mean second moment of their leaf.

    Attributes:
      growth: from `copies` or `new_units`.
      edits: every leaf that makes, carries or reads the units; see `outputs`, `inputs`, `through`.
      noise: standard deviation of what is added to all weights of copies, in units of the standard
        deviation of the leaf; 0 keeps the output exactly, 0.01 changes it by about a hundredth.
      key: typed key of the noise and of random weights.
    """

    growth: Growth
    edits: tuple[Edit, ...]
    noise: float = 0.0
    key: Array | None = None

    def __call__(self, tree: ArrayTree, degree: int = 0) -> ArrayTree:
        """The wider tree; `degree` 0 for parameters, d for averages of d-th powers of gradients.

        Raises:
          ValueError: for a leaf that is missing or of another width, a layer norm with uneven
            copies, noise or random weights without a key, or negative noise.
        """
        growth = self.growth
        counts = np.bincount(growth.origin[growth.origin >= 0], minlength=growth.old)
        fresh = bool((growth.origin < 0).any())
        norms = [edit.path for edit in self.edits if edit.even]
        if norms and (fresh or counts.min() != counts.max()):
            raise ValueError(
                f"growth: {norms[0]!r} belongs to a norm over the units, which keeps its output "
                "only if every unit has equally many copies; use copies(..., even=True)"
            )
        if self.noise < 0:
            raise ValueError(f"noise must not be negative; got {self.noise}")
        if self.key is None and (fresh or self.noise > 0):
            raise ValueError("key must be given for noise and for random weights")
        grouped = group(tree, self.edits)
        flat, structure = jax.tree_util.tree_flatten_with_path(tree)
        leaves = []
        for n, (path, leaf) in enumerate(flat):
            mine = grouped.get(leaf_name(path))
            key = None if self.key is None else jax.random.fold_in(self.key, n)
            leaves.append(leaf if mine is None else _grow(leaf, mine, self, degree, key))
        return jax.tree.unflatten(structure, leaves)


def _grow(leaf: Any, edits: list[Edit], wider: Wider, degree: int, key: Array | None) -> Array:
    """One leaf along all its edited axes; in NumPy, as every new shape would be a compilation."""
    growth, old = wider.growth, np.asarray(leaf, np.float64)
    out = old
    new = np.zeros((1,) * old.ndim, bool)  # touches a unit that was not there
    silent = new  # on the side that stays zero
    for edit in edits:
        source, unit = positions(edit, out, np.maximum(growth.origin, 0), growth.old)
        along = np.ones(out.ndim, int)
        along[edit.axis] = len(unit)
        mine = (unit >= growth.old).reshape(along)
        new = new | mine
        if edit.role == ("split" if growth.zero == "outgoing" else "copy"):
            silent = silent | mine
        factor = np.where(unit >= 0, growth.share[np.maximum(unit, 0)], 1.0)
        power = degree if edit.role == "copy" else int(degree == 0)
        out = np.take(out, source, axis=edit.axis) * (factor**power).reshape(along)
    fill = edits[0].fill
    if (growth.origin < 0).any():
        if degree:
            value = np.full(out.shape, old.mean() if degree == 2 else 0.0)
        elif fill is not None:
            value = np.full(out.shape, fill)
        else:
            assert key is not None  # `Wider` has checked
            fan_in = max(int(np.prod(out.shape[:-1])), 1)
            value = generator(key).normal(size=out.shape) / np.sqrt(fan_in)
            value = np.where(silent, 0.0, value)
        out = np.where(new, value, out)
    elif wider.noise and not degree and fill is None:
        assert key is not None
        drawn = generator(key).normal(size=out.shape)
        out = np.where(new, out + wider.noise * old.std() * drawn, out)
    return jnp.asarray(out, leaf.dtype)


def widen_units(x: Array, growth: Growth) -> Array:
    """Units `[..., m]` to `[..., q]`: what a wider layer gives, for stored carries and features.

    Both halves of an LSTM's carry are units. Units that copy nobody are 0, an LSTM's start.
    """
    if jnp.shape(x)[-1:] != (growth.old,):
        raise ValueError(f"x must have shape [..., {growth.old}], got {jnp.shape(x)}")
    taken = np.take(np.asarray(x), np.maximum(growth.origin, 0), axis=-1)
    return jnp.asarray(np.where(growth.origin >= 0, taken, np.zeros((), taken.dtype)))
