"""Networks for many tasks: Linen modules called with `(x, task)`, one task at a time.

A network is called so::

    x     float32 [B, F], inputs of one task (an observation, already normalised)
    task  int32 [], its number

    variables = module.init(key, x, task)
    y = module.apply(variables, x, task)      # [B, size]

Parameters that all tasks share are in the collection `params`; what belongs to one task alone is in
the collection `task`, where `apply` wants that task's own, so that K of them are leaves
`[K, *param]` and one vmap over tasks is the whole of batching. Gradients of different tasks cannot
meet in them.

`per_sample` defines what a network does to samples of any tasks in any order. `by_task` computes
the same for `[K, B, F]` without looking a parameter up: dots over K stacked ones.

To add a network write such a module and give it a row in `NETWORKS`. One of your own needs no row:
`module:class` names it wherever `NETWORKS` are named (`networks/contract.py` says what it must
take and give, and `check` holds it to that).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks import contract
from mtrl_jax.networks.care import CARE
from mtrl_jax.networks.embedding import Embedding
from mtrl_jax.networks.film import FiLM
from mtrl_jax.networks.layers import ACTIVATIONS
from mtrl_jax.networks.moore import MOORE
from mtrl_jax.networks.multihead import MultiHead
from mtrl_jax.networks.onehot import OneHot
from mtrl_jax.networks.paco import PaCo
from mtrl_jax.networks.separate import Separate
from mtrl_jax.networks.soft_modules import SoftModules
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, ArrayTree, Key

__all__ = ["ACTIVATIONS", "NETWORKS", "by_task", "init", "make", "names", "per_sample"]

NETWORKS: dict[str, Any] = {
    "onehot": OneHot,
    "multihead": MultiHead,
    "separate": Separate,
    "embedding": Embedding,
    "film": FiLM,
    "soft_modules": SoftModules,
    "care": CARE,
    "paco": PaCo,
    "moore": MOORE,
}


def names(*more: str) -> str:
    """What a network may be called, for a message; `more` are names that only the caller knows."""
    return f"one of {', '.join((*more, *NETWORKS))}, or module:class of your own"


def make(
    name: str,
    num_tasks: int,
    hidden: tuple[int, ...],
    size: int,
    *,
    num_inputs: int = 0,
    task_names: Sequence[str] = (),
    **options: Any,
) -> Any:
    """The network `name`.

    Args:
      name: key of `NETWORKS`, or `module:class` with options (`mtrl_jax.by_name`).
      num_tasks: K.
      hidden: widths.
      size: of the output.
      num_inputs: F, on which a network of the user's own is tried; 0 where nobody knows it.
      task_names: K names, for a network that reads them; others do without.
      **options: further attributes of the module. One of the user's own gets those of
        `contract.OPTIONAL` that it has.

    Raises:
      ValueError: for an unknown network, option or activation, no task, no hidden layer, or a
        network of the user's own that does not keep to the contract.
    """
    own = ":" in name
    if not own and name not in NETWORKS:
        raise ValueError(f"network must be {names()}; got {name!r}")
    if options.get("activation", "relu") not in ACTIVATIONS:
        raise ValueError(
            f"activation must be one of {', '.join(ACTIVATIONS)}; got {options['activation']!r}"
        )
    check_value("num_tasks", num_tasks, Count)
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden must hold at least one positive width; got {hidden}")
    if own:
        return contract.make(
            name,
            {"num_tasks": num_tasks, "hidden": hidden, "size": size},
            {**options, "task_names": tuple(task_names)},
            num_inputs,
        )
    given = ("num_tasks", "hidden", "size", "parent", "name")  # the last two are flax's
    known = [f.name for f in dataclasses.fields(NETWORKS[name]) if f.name not in given]
    if "task_names" in known:
        options["task_names"] = tuple(task_names)
    for option in options:
        if option not in known:
            raise ValueError(
                f"options of the network {name!r} are {', '.join(known)}; got {option!r}"
            )
    return NETWORKS[name](num_tasks, hidden, size, **options)


def init(net: Any, key: Key, num_inputs: int) -> tuple[ArrayTree, ArrayTree]:
    """Fresh parameters: shared ones, and the tasks' own with leaves `[K, *param]`; either may be
    {}. One program draws all tasks' own; of the shared parameters the first draw is kept."""
    x = jnp.zeros((1, num_inputs))

    def draw(key, k):
        return net.init(key, x, k)

    every = jax.vmap(draw)(jax.random.split(key, net.num_tasks), jnp.arange(net.num_tasks))
    return jax.tree.map(lambda p: p[0], every.get("params", {})), every.get("task", {})


def by_task(net: Any, shared: ArrayTree, own: ArrayTree, x: Array) -> Array:
    """`[K, B, size]` of inputs `[K, B, F]`, those of task k at k.

    Carries gradient to shared and own parameters and to `x`.

    Raises:
      ValueError: `x` is not `[K, B, F]`.
    """
    if jnp.ndim(x) != 3 or x.shape[0] != net.num_tasks:
        raise ValueError(f"x must have shape [K = {net.num_tasks}, B, F], got {jnp.shape(x)}")

    def one(own, x, k):
        return net.apply({"params": shared, "task": own}, x, k)

    return jax.vmap(one)(own, x, jnp.arange(net.num_tasks))


def per_sample(net: Any, shared: ArrayTree, own: ArrayTree, x: Array, task: Array) -> Array:
    """`[B, size]` of inputs `[B, F]` and the task number of each, int `[B]`: the definition.

    Every sample picks its task's own parameters, so this is for tests and odd batches.

    Raises:
      ValueError: `x` is not `[B, F]`, `task` not integers `[B]`, or a number outside [0, K), unless
        it is traced.
    """
    if jnp.ndim(x) != 2:
        raise ValueError(f"x must have shape [B, F], got {jnp.shape(x)}")
    if jnp.shape(task) != x.shape[:1] or not jnp.issubdtype(jnp.result_type(task), jnp.integer):
        raise ValueError(
            f"task must be integers of shape [B] = {x.shape[:1]}, got {jnp.result_type(task)} of "
            f"shape {jnp.shape(task)}"
        )
    if not isinstance(task, jax.core.Tracer):
        numbers = np.asarray(task)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < net.num_tasks:
            raise ValueError(f"task must lie in [0, {net.num_tasks}), got {numbers}")

    def one(x, k):
        mine = jax.tree.map(lambda p: p[k], own)
        return net.apply({"params": shared, "task": mine}, x[None], k)[0]

    return jax.vmap(one)(x, task)
