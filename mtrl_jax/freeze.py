"""Which parameters stay as they are while the others learn, by their names.

A parameter's name is its place: `shared/actor/dense0/kernel` for one that all tasks share,
`task/actor/net/out_kernel` for one that every task has of its own. A pattern is a part of such a
name, from slash to slash, in which * stands for anything::

    shared                  all that tasks share
    dense0                  the first layer, wherever there is one
    shared/critic*/dense*   some layers of some networks
    torso                   what is shared and no output layer

Frozen parameters are no arguments of the loss's gradient: they have no part in surgery's Gram
matrix, in a norm that is clipped, or in an optimiser's moments (`learner.Transforms.frozen`).
"""

import fnmatch
from collections.abc import Callable, Sequence

import jax

from mtrl_jax.learner import Params
from mtrl_jax.types import Key

__all__ = ["TORSO", "names", "select"]

TORSO = "torso"
_OUTPUTS = ("out", "out_kernel", "out_bias", "policy", "value")  # of networks and columns


def names(params: Params) -> list[str]:
    """Of every parameter, in the order of the leaves; shapes do for `params`."""
    found = jax.tree_util.tree_flatten_with_path(params)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found]


def select(patterns: Sequence[str], init: Callable[[Key], Params]) -> Params | None:
    """Which parameters are frozen: True or False for each; None without a pattern.

    Args:
      patterns: as above.
      init: makes parameters; asked for their names only.

    Raises:
      ValueError: for a pattern that names no parameter, with the names that there are; for patterns
        that name all of them.
    """
    if not patterns:
        return None
    params = jax.eval_shape(init, jax.random.key(0))
    known = names(params)
    for pattern in patterns:
        if not isinstance(pattern, str) or not any(_matches(pattern, name) for name in known):
            raise ValueError(
                f"freeze: {pattern!r} names no parameter; there are {', '.join(known)}"
            )
    frozen = [any(_matches(pattern, name) for pattern in patterns) for name in known]
    if all(frozen):
        raise ValueError(f"freeze: {', '.join(patterns)} leave nothing that could learn")
    return jax.tree.unflatten(jax.tree.structure(params), frozen)


def _matches(pattern: str, name: str) -> bool:
    if pattern == TORSO and name.startswith("shared/"):
        return not set(name.split("/")) & set(_OUTPUTS)
    return bool(pattern) and fnmatch.fnmatchcase(f"/{name}/", f"*/{pattern.strip('/')}/*")
