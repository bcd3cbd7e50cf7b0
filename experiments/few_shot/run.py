"""One method on one family, all seeds as one program, and its directory; Meta-World's: `hosted`.

config.json                     what it is
checkpoints/, metrics.jsonl     of meta-training, if there is any
scores.json                     adaptation curves on training and test tasks, a number a seed
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax.algorithms.few_shot import Learner

from ..common import steps
from . import hosted
from .asked import Asked, keys_of, scores_of
from .host_presets import is_hosted
from .presets import learner

__all__ = ["check", "run"]

LOG_EVERY, CHECKPOINT_EVERY = 25, 250  # updates


def check(asked: Asked, folder: pathlib.Path) -> bool:
    """Whether `folder` holds this very run, finished.

    Raises:
      ValueError: for numbers that cannot be, or a folder of another run; nothing is written.
    """
    if is_hosted(asked.tasks):
        return hosted.check(asked, folder)
    learner(asked.tasks, asked.plan.config, asked.curve)
    return steps.finished(folder, asked.settings())


def run(asked: Asked, folder: pathlib.Path) -> dict[str, Any]:
    """What scores.json holds; learns and scores what is left.

    Raises:
      ValueError: as `check`.
    """
    check(asked, folder)
    if is_hosted(asked.tasks):
        return hosted.run(asked, folder)

    def make() -> dict[str, Any]:
        made = learner(asked.tasks, asked.plan.config, asked.curve)
        return scores_of(asked, made, _learn(asked, made, folder))

    return steps.scores(folder, asked.settings(), make)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _updates(made: Learner, states: Any, keys: jax.Array, begin: int, end: int) -> Any:
    """Updates `begin` to `end` of all seeds; update n draws from fold_in(key, n) alone. Metrics are
    of the last of them, `[S]`."""

    def one(n: Any, carry: Any) -> Any:
        states, _ = carry
        return jax.vmap(lambda s, key: made.update(s, jax.random.fold_in(key, n)))(states, keys)

    shapes = jax.eval_shape(one, jnp.int32(0), (states, None))[1]
    values = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(begin, end, one, (states, values))


def _learn(asked: Asked, made: Learner, folder: pathlib.Path) -> Any:
    """States after the last update, `[S, ...]`, from the newest checkpoint on."""
    states, total = jax.jit(jax.vmap(made.init))(keys_of(asked, 0)), asked.plan.updates
    if not total:
        return states
    keys = keys_of(asked, 1)

    def advance(states: Any, begin: int, end: int) -> Any:
        return _updates(made, states, keys, jnp.int32(begin), jnp.int32(end))

    return steps.learn(
        asked.method,
        folder,
        states,
        total,
        advance,
        log_every=LOG_EVERY,
        checkpoint_every=CHECKPOINT_EVERY,
        unit="update",
    )
