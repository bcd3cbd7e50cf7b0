"""The optimiser's state through a morph: moments move as the gradients that they average."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax.types import ArrayTree

__all__ = ["DEGREES", "Morph", "Sequence", "carry"]

Morph = Callable[[Any, int], Any]
"""`morph(tree, degree)`: a tree of parameters (degree 0), or of averages of powers of gradients."""

DEGREES = {
    "mu": 1,  # adam and its kin, lion
    "nu": 2,  # adam and its kin, rmsprop
    "nu_max": 2,  # amsgrad
    "trace": 1,  # momentum
    "sum_of_squares": 2,  # adagrad
    "acc_grads": 1,  # MultiSteps
    "params": 0,  # surgery's curvature, which compares two steps
    "grads": 1,
}
"""Fields of optax's states that look like the parameters, and the power of gradients they hold."""


class Sequence:
    """Several morphs, one after the other, as one: `Sequence(wider, deeper)(params)`."""

    def __init__(self, *morphs: Morph):
        self.morphs = morphs

    def __call__(self, tree: ArrayTree, degree: int = 0) -> ArrayTree:
        for morph in self.morphs:
            tree = morph(tree, degree)
        return tree


def carry(
    state: Any, params: ArrayTree, morph: Morph, degrees: Mapping[str, int] | None = None
) -> Any:
    """An optax state for the morphed parameters.

    Every part of the state with the structure and shapes of `params` goes through the morph;
    counters and keys stay, so that bias corrections and schedules go on where they were. What
    gradient surgery remembers of the tasks stays too; what it remembers of each leaf or module
    (`scope='leaf'`, `'module'`) stays where the morph leaves these as they are.

    Args:
      state: of any chain of optax transforms.
      params: before the morph.
      morph: what the parameters went through.
      degrees: field name to power, added to `DEGREES`; 0 for copies or averages of parameters.
        adamax keeps a maximum of absolute values in `nu`: `{"nu": 1}`.

    Raises:
      ValueError: for a field that looks like the parameters and is in neither table, and for
        state of single parameters in another shape (factored or masked), which has no rule, and
        for surgery by leaf or module if the morph adds or renames leaves, or by a method that
        remembers gradients.
    """
    _check_surgery(state, params, morph)
    known = {**DEGREES, **(degrees or {})}
    structure: Any = jax.tree.structure(params)  # Any: mypy has no == of tree structures
    shapes = [jnp.shape(x) for x in jax.tree.leaves(params)]
    names = {path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]}

    def like_params(x: Any) -> bool:
        return (
            jax.tree.structure(x) == structure
            and [jnp.shape(leaf) for leaf in jax.tree.leaves(x)] == shapes
        )

    def one(path: Any, x: Any) -> Any:
        if like_params(x):
            field = getattr(path[-1], "name", None) if path else None
            if field not in known:
                raise ValueError(
                    f"state: {jax.tree_util.keystr(path)} looks like the parameters but is none of "
                    f"{', '.join(known)}; say with degrees= which power of gradients it averages"
                )
            return morph(x, known[field])
        if any(path[n:] in names for n in range(len(path))):
            raise ValueError(
                f"state: {jax.tree_util.keystr(path)} belongs to a parameter but the whole is not "
                "shaped like the parameters (a factored or masked state), so there is no rule for "
                "it; start it anew with tx.init"
            )
        return x

    return jax.tree_util.tree_map_with_path(one, state, is_leaf=like_params)


def _check_surgery(state: Any, params: ArrayTree, morph: Morph) -> None:
    """Refuses a surgery state whose groups of leaves would be others after the morph, or that holds
    the gradients of the tasks."""

    def is_surgery(x: Any) -> bool:  # by name: networks know nothing of surgery
        return type(x).__name__ == "SurgeryState"

    def names(tree: Any) -> list[Any]:
        return [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]

    found = jax.tree_util.tree_flatten_with_path(state, is_leaf=is_surgery)[0]
    for path, x in found:
        if is_surgery(x) and x.memory is not None:
            raise ValueError(
                f"state: {jax.tree_util.keystr(path)}, a SurgeryState, remembers the gradients of "
                "the tasks (memory), for which there is no rule; start it anew with tx.init"
            )
    by_group = [(path, x) for path, x in found if is_surgery(x) and int(x.scope)]
    if by_group and names(params) != names(morph(params, 0)):
        path, x = by_group[0]
        raise ValueError(
            f"state: {jax.tree_util.keystr(path)}, a SurgeryState, remembers something of each "
            f"{('', 'leaf', 'module')[int(x.scope)]} of the parameters, and the morph changes "
            "which there are, so there is no rule for it; start it anew with tx.init, or do "
            "surgery with scope='global'"
        )
