"""What an algorithm must say of itself to learn N tasks one after the other.

`in_turn_ppo`, `in_turn_dqn` and `in_turn_sac` fill this record in; `continual` trains with it and
knows nothing else of the algorithm. Parameters are of all N tasks, an update is of one: the rows of
what belongs to that task alone are taken out, `[1, ...]`, and put back.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import optax

from mtrl_jax import learner
from mtrl_jax.continual import Situation
from mtrl_jax.types import Array, ArrayTree, EnvSpec, Key, Metrics, Rollout

__all__ = ["Acting", "Learner", "Wrap", "alone", "put_row", "refuse", "row"]


class Wrap(Protocol):
    """Puts a method around the optimiser of shared parameters, of those of critics alone where
    `critic`."""

    def __call__(
        self, inner: optax.GradientTransformationExtraArgs, critic: bool = False
    ) -> optax.GradientTransformationExtraArgs: ...


class Acting(NamedTuple):
    """What acting reads: parameters that tasks share, what belongs to each alone (leaves `[N,
    ...]`, or `[1, ...]` of one task), and what is neither."""

    shared: Any
    own: Any
    rest: Any = ()


class Learner(NamedTuple):
    """One algorithm of N tasks, as functions of its own state.

    Attributes:
      spec: of all N tasks.
      config: the algorithm's numbers, with `unroll_length` and `overlap`.
      collectives: of the devices of the run.
      part: the branch of the shared parameters that methods act on; "": all of them.
      init: `(key) -> state`, fresh.
      shared, with_shared: the shared parameters that methods act on, in part or all of them, and
        the state with others in their place.
      own, with_own: what belongs to each task alone, leaves `[N, ...]`, and the same.
      acting: `(state) -> Acting`.
      act: `(acting, task, observation, keys, greedy) -> (action, log_prob)`, of one task: leaves
        `[1, E, ...]`.
      situation: `(state, task, done, seen, told) -> Situation`.
      network: `(state, task, observations [B, ...]) -> (module, branch, x)`: the policy's network,
        which branch of what methods act on holds its parameters ("": all), and what it reads.
      unseen: what `seen` is before anything was, leaves `[M, ...]`.
      seen: `(state, rollout) -> seen`, after an update of one task.
      update: `(state, task, rollout, wrap) -> (state, metrics)`, of one task's rows.
      begin: `(state, task, wrap) -> state`, the same where its task begins: optimisers, and what
        else is to begin anew.
    """

    spec: EnvSpec
    config: Any
    collectives: learner.Collectives
    part: str
    init: Callable[[Key], Any]
    shared: Callable[[Any], Any]
    with_shared: Callable[[Any, Any], Any]
    own: Callable[[Any], Any]
    with_own: Callable[[Any, Any], Any]
    acting: Callable[[Any], Acting]
    act: Callable[[Acting, Array, Array, Key, bool], tuple[Array, Array]]
    situation: Callable[[Any, Array, Array, Any, bool], Situation]
    network: Callable[[Any, Array, Array], tuple[Any, str, Array]]
    unseen: Any
    seen: Callable[[Any, Rollout], Any]
    update: Callable[[Any, Array, Rollout, Wrap], tuple[Any, Metrics]]
    begin: Callable[[Any, Array, Wrap], Any]


def row(tree: ArrayTree, task: Array) -> Any:
    """Leaves `[1, ...]` of one task."""
    return jax.tree.map(lambda x: x[task][None], tree)


def put_row(tree: ArrayTree, mine: ArrayTree, task: Array) -> Any:
    """`tree` with the rows `[1, ...]` of one task in their place."""
    return jax.tree.map(lambda x, y: x.at[task].set(y[0]), tree, mine)


def alone(of: Learner, state: Any, task: Array) -> Any:
    """The state of one task: what is a task's own with leaves `[1, ...]`."""
    return of.with_own(state, row(of.own(state), task))


def refuse(numbers: Any, **only: Any) -> None:
    """Raises ValueError for a field of the algorithm's numbers that has another value than the only
    one with a meaning where one task is learnt at a time."""
    for name, value in only.items():
        if getattr(numbers, name) != value:
            raise ValueError(
                f"{name} must be {value!r} where one task is learnt at a time; got "
                f"{getattr(numbers, name)!r}"
            )
