"""What a network that has learnt one task may lose while it learns the next: quadratic anchors.

    L(theta) = L_new(theta) + (lambda / 2) sum_i F_i (theta_i - a_i)^2

a are the parameters at the end of a task, the anchor, and F says how much each of them matters
there. EWC, its online form, MAS and plain L2 differ in F alone::

    l2          F = 1                                               `l2_anchor`
    EWC         F = E_x E_{a ~ pi(.|x)} (d log pi(a|x) / dtheta)^2  `importance.fisher`, `merge`
    online EWC  the same, F <- decay F + F_new, at the newest a  `follow`
    MAS         F = E_x |d |f(x)|^2 / dtheta|                       `importance.sensitivity`

Everything is for parameters of any structure and a loop of one's own::

    F = importance.fisher(policy, params, observations)          # when a task has been learnt
    anchor = continual.Anchor(params, F)
    loss = lambda params: new_loss(params) + continual.penalty(params, anchor, 400.0)

What belongs to one task alone, such as its output layer, is best left out of the anchored tree.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_shape, check_range
from mtrl_jax.ranges import NotNegative, check_value
from mtrl_jax.types import Array, ArrayTree

__all__ = ["Anchor", "follow", "l2_anchor", "merge", "penalty"]


class Anchor(NamedTuple):
    """Where parameters are held, and how firmly.

    Attributes:
      params: a, a tree of `[*param]`.
      importance: F, the same tree of shapes, at least 0.
    """

    params: ArrayTree
    importance: ArrayTree


def penalty(params: ArrayTree, anchor: Anchor, strength: Array | float) -> Array:
    """What moving away from an anchor costs.

    Kirkpatrick et al. 2017, *Overcoming catastrophic forgetting in neural networks*, arXiv
    1612.00796, equation 3:

        (lambda / 2) sum_i F_i (theta_i - a_i)^2

    Args:
      params: theta.
      anchor: of the same structure and shapes.
      strength: [], lambda, at least 0 and finite. It belongs to the reductions of the loss beside
        it and to the scale of F: lambdas of other code cannot be carried over.

    Returns:
      [] in float32 at least. Carries gradient to `params` only; value and gradient are 0 at a.

    Raises:
      ValueError: for another structure or shape, or a strength that is negative or not finite.
    """
    check_value("strength", strength, NotNegative)
    assert_shape("[]", (), strength=strength)
    held, firmness = jax.lax.stop_gradient(anchor)
    _same(params=params, anchor=held, importance=firmness)

    def cost(x: Array, at: Array, f: Array) -> Array:
        wide = jnp.promote_types(jnp.result_type(x), jnp.float32)
        return jnp.sum(f.astype(wide) * jnp.square(x.astype(wide) - at.astype(wide)))

    each = jax.tree.leaves(jax.tree.map(cost, params, held, firmness))
    return 0.5 * strength * sum(each, jnp.zeros(()))


def l2_anchor(params: ArrayTree) -> Anchor:
    """Every parameter held alike, F = 1: what every other importance has to be better than."""
    return Anchor(params, jax.tree.map(jnp.ones_like, params))


def merge(first: Anchor, second: Anchor) -> Anchor:
    """One anchor whose penalty is the sum of both, up to a constant.

    EWC keeps an anchor of every task that it has learnt. A sum of squares is a square, so one is
    enough, and gradients are those of the sum:

        F = F_1 + F_2,    a = (F_1 a_1 + F_2 a_2) / F    (a_2 where F = 0)

    Raises:
      ValueError: for another structure or shape.
    """
    _same(
        first=first.params,
        importance=first.importance,
        second=second.params,
        second_importance=second.importance,
    )
    total = jax.tree.map(jnp.add, first.importance, second.importance)

    # As a step from a_2, which is exact where a_1 = a_2 and where F_1 = 0.
    def middle(x: Array, f: Array, y: Array, both: Array) -> Array:
        share = jnp.where(both > 0, f / jnp.where(both > 0, both, 1.0), 0.0)
        moved: Array = y + (share * (x - y)).astype(jnp.result_type(y))
        return moved

    middles = jax.tree.map(middle, first.params, first.importance, second.params, total)
    return Anchor(middles, total)


def follow(old: Anchor, new: Anchor, decay: Array | float) -> Anchor:
    """The anchor of online EWC: at the newest parameters, with an importance that fades.

    Schwarz et al. 2018, *Progress & Compress*, arXiv 1805.06370: F <- gamma F + F_new.

    Args:
      old: before the task.
      new: of the task.
      decay: [], gamma, in [0, 1].

    Raises:
      ValueError: for another structure or shape, or a decay outside [0, 1].
    """
    check_range("decay", decay, 0.0, 1.0)
    _same(old=old.importance, new=new.importance)
    importance = jax.tree.map(lambda f, g: decay * f + g, old.importance, new.importance)
    return Anchor(new.params, importance)


def _same(**trees: ArrayTree) -> None:
    """Raises ValueError unless all have the structure and the shapes of the first."""
    (first, tree), *others = trees.items()
    for name, other in others:
        try:
            chex.assert_trees_all_equal_shapes(tree, other)
        except AssertionError as error:
            why = str(error).splitlines()[-1].strip()
            raise ValueError(f"{name} must have the shapes of {first}: {why}") from None
