"""What a method of continual learning is: a few functions around a learner that knows of none.

A method holds on to what was learnt before by what it remembers, and by what it does to the
gradients and updates of the policy's parameters while something else is learnt. `around` puts it
around an optimiser, so that the learner's own loss and steps stay as they are.

The policy may be one branch of the learner's shared parameters, `{"actor": ..., "critic": ...}` of
PPO, or all of them: of a Q-network, or of the actor of SAC, whose critics have an optimiser of
their own. `part` says which.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax.distributions import Distribution
from mtrl_jax.types import Array, ArrayTree, Key

__all__ = ["FINETUNE", "Lesson", "Method", "Situation", "Steps", "around", "part_of", "with_part"]

# (actor, own, observations [B, ...], k) to a distribution [B, ...].
Policy = Callable[[ArrayTree, ArrayTree, Array, Array], Distribution]


class Lesson(NamedTuple):
    """What a learner with a replay can keep of a task, and learn from it later.

    Attributes:
      items: leaves `[M, ...]`, transitions of the task that is learnt.
      loss: `(actor, own, item, k) -> []`, of one of them, which was task k's.
    """

    items: ArrayTree
    loss: Callable[[ArrayTree, ArrayTree, ArrayTree, Array], Array]


class Situation(NamedTuple):
    """What a method is told besides its memory; N is the number of tasks.

    Attributes:
      policy: of the shared parameters, of those that belong to task k alone, of observations and
        of k.
      own: what belongs to each task alone, leaves `[N, *param]`.
      task: int32, k of the task that is learnt, from 0; always 0 for an agent that is not told.
      done: int32, updates made of it.
      seen: `[M, ...]`, observations of the newest rollout, or drawn from the replay.
      told: whether the agent knows where tasks change.
      key: of this update.
      lesson: what was seen as transitions; None for a learner that cannot learn from old ones.
    """

    policy: Policy
    own: ArrayTree
    task: Array
    done: Array
    seen: Array
    told: bool
    key: Key
    lesson: Lesson | None = None


class Method(NamedTuple):
    """Functions of a memory; None where a method does nothing. `actor` are the policy's shared
    parameters.

    Attributes:
      init: `(actor, situation) -> memory`.
      remember: `(memory, actor, situation) -> memory`, when a task has been learnt, or by the clock
        where nobody says so.
      correct: `(memory, gradient, actor, situation, key) -> gradient`, at every step of the
        optimiser, with a key of its own.
      trainable: `(memory, params, situation) -> tree of bool`, what of these may move: the policy's
        parameters, or all shared ones where `everything`.
      after: `(memory, actor, situation) -> (actor, memory)`, behind every update.
      view: `(memory, actor, k, task) -> actor`, what task k acts with while `task` is learnt.
      needs_told: whether it must know where tasks change.
      everything: whether `trainable` is of the critic's parameters too, which are free otherwise.
    """

    init: Callable[[ArrayTree, Situation], ArrayTree] = lambda actor, situation: ()
    remember: Callable[..., ArrayTree] | None = None
    correct: Callable[..., ArrayTree] | None = None
    trainable: Callable[..., ArrayTree] | None = None
    after: Callable[..., tuple[ArrayTree, ArrayTree]] | None = None
    view: Callable[..., ArrayTree] | None = None
    needs_told: bool = False
    everything: bool = False


FINETUNE = Method()


class Steps(NamedTuple):
    """State of `around`: int32 steps made, and what the optimiser inside keeps."""

    made: Array
    inner: Any


def part_of(shared: Any, part: str) -> Any:
    """The branch `part` of shared parameters; "": all of them."""
    return shared[part] if part else shared


def with_part(shared: Any, part: str, tree: ArrayTree) -> Any:
    """Shared parameters with `tree` as their branch `part`; "": `tree`."""
    return {**shared, part: tree} if part else tree


def around(
    inner: optax.GradientTransformationExtraArgs,
    method: Method,
    memory: ArrayTree,
    situation: Situation,
    part: str = "actor",
) -> optax.GradientTransformationExtraArgs:
    """An optimiser of the shared parameters of one task at a time, with a method in front of it
    (`correct`) and behind it (`trainable`).

    Args:
      inner: takes gradients `[1, *param]`, of the one task, to updates `[*param]`.
      method: what to do.
      memory: its own.
      situation: of this update.
      part: the branch of the parameters that is the policy; "": all of them.

    Returns:
      The same with a `Steps` as its state. Its `init` needs neither memory nor situation.
    """

    def init(params: Any) -> Steps:
        return Steps(jnp.int32(0), inner.init(params))

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Steps]:
        if method.correct is not None:
            g = jax.tree.map(lambda x: x[0], part_of(grads, part))
            key = jax.random.fold_in(situation.key, state.made)
            g = method.correct(memory, g, part_of(params, part), situation, key)
            grads = with_part(grads, part, jax.tree.map(lambda x: x[None], g))
        if method.trainable is None:
            updates, after = inner.update(grads, state.inner, params, **extra)
            return updates, Steps(state.made + 1, after)
        where = "" if method.everything else part
        may = method.trainable(memory, part_of(params, where), situation)

        def only(tree: Any) -> Any:
            return with_part(tree, where, jax.tree.map(_where, part_of(tree, where), may))

        # In front, so that what stays has no part in a norm; behind, where there are moments.
        updates, after = inner.update(only(grads), state.inner, params, **extra)
        return only(updates), Steps(state.made + 1, after)

    return optax.GradientTransformationExtraArgs(init, update)


def _where(x: Array, may: Array) -> Array:
    """`x`, which may lead with 1, and 0 where `may` is False."""
    return jnp.where(may.reshape(x.shape), x, jnp.zeros_like(x))
