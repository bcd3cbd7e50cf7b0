"""Functional environments: the rows they hand out, and the auto-reset around them.

Everything is unbatched and pure; the caller vmaps over environments, then over tasks. Of the two
common auto-reset conventions this is the one of `dm_env` and envpool (gymnasium calls it
next-step): see `mtrl_jax.types.Timestep`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, ArrayTree, FunctionalEnv, Key, Timestep

__all__ = [
    "AutoResetState",
    "auto_reset",
    "auto_reset_batch",
    "environment_keys",
    "over_tasks",
    "restart",
    "strong",
    "transition",
]


class AutoResetState(NamedTuple):
    """What `auto_reset` carries from row to row.

    Attributes:
      env: the environment's own state.
      ended: bool, the last row ended its episode, so that the next row is a reset row.
    """

    env: ArrayTree
    ended: Array


def restart(observation: ArrayTree) -> Timestep:
    """A reset row: reward 0, discount 1, `first`, not `valid`."""
    return Timestep(
        observation=observation,
        reward=jnp.float32(0.0),
        discount=jnp.float32(1.0),
        first=jnp.bool_(True),
        valid=jnp.bool_(False),
        success=jnp.bool_(False),
    )


def transition(
    observation: ArrayTree,
    reward: Array,
    discount: Array | float = 1.0,
    success: Array | bool = False,
) -> Timestep:
    """The row after an action. `discount` is 0 at true termination only, never at a time limit."""
    return Timestep(
        observation=observation,
        reward=jnp.asarray(reward, jnp.float32),
        discount=jnp.asarray(discount, jnp.float32),
        first=jnp.bool_(False),
        valid=jnp.bool_(True),
        success=jnp.asarray(success, jnp.bool_),
    )


Reset = Callable[[Key, ArrayTree], tuple[AutoResetState, Timestep]]
Step = Callable[[Key, AutoResetState, Array, ArrayTree], tuple[AutoResetState, Timestep]]


def auto_reset(env: FunctionalEnv) -> tuple[Reset, Step]:
    """Wraps an environment so that episodes follow each other, with one reset row between them.

    Args:
      env: `reset(key, task)` and `step(key, state, action, task)`, unbatched.

    Returns:
      `reset(key, task) -> (state, timestep)` and
      `step(key, state, action, task) -> (state, timestep)`. On the call after the row that ended an
      episode the action is ignored and the row is the first of the next episode. No gradient is
      meant to pass through either.
    """

    def reset(key: Key, task: ArrayTree) -> tuple[AutoResetState, Timestep]:
        state, timestep = env.reset(key, task)
        return AutoResetState(state, jnp.bool_(False)), timestep

    def step(
        key: Key, state: AutoResetState, action: Array, task: ArrayTree
    ) -> tuple[AutoResetState, Timestep]:
        # Under vmap a branch on `ended` would compute both sides anyway. One key serves both, since
        # only one of the two results is ever kept.
        on_reset = env.reset(key, task)
        *on_step, ended = env.step(key, state.env, action, task)
        env_state, timestep = jax.tree.map(
            lambda first, next_: jnp.where(state.ended, first, next_), on_reset, tuple(on_step)
        )
        return AutoResetState(env_state, ended & ~state.ended), timestep

    return reset, step


def over_tasks(env: FunctionalEnv) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`reset` and `step` over `[K, E]`: the environment's own `reset_tasks` and `step_tasks` where
    it has them, else two vmaps."""
    env_reset = getattr(env, "reset_tasks", None)
    env_step = getattr(env, "step_tasks", None)
    return (
        env_reset or jax.vmap(jax.vmap(env.reset, (0, None))),
        env_step or jax.vmap(jax.vmap(env.step, (0, 0, 0, None))),
    )


def auto_reset_batch(env: FunctionalEnv) -> tuple[Reset, Step]:
    """`auto_reset` over the batch axes `[K, E]`: the same rows, with fewer resets computed.

    A reset is computed for the whole batch, but only on steps on which some environment needs one;
    with episodes of equal length those are few. (Under a further vmap, over seeds for instance, the
    branch turns into a selection and the saving is gone.)

    An environment whose tasks differ in more than data may bring its own `reset_tasks(key, task)`
    and `step_tasks(key, state, action, task)` over `[K, E]`, which must give what two vmaps of
    `reset` and `step` would; those are used then.

    Returns:
      `reset(key, task)` and `step(key, state, action, task)` with keys and actions `[K, E]`, leaves
      of state and time step `[K, E, ...]`, and leaves of task `[K, ...]`.
    """
    env_reset, env_step = over_tasks(env)
    select = jax.vmap(jax.vmap(jnp.where))

    def reset(key: Key, task: ArrayTree) -> tuple[AutoResetState, Timestep]:
        env_state, timestep = env_reset(key, task)
        return AutoResetState(env_state, jnp.zeros(key.shape, bool)), timestep

    def step(
        key: Key, state: AutoResetState, action: Array, task: ArrayTree
    ) -> tuple[AutoResetState, Timestep]:
        env_state, timestep, ended = env_step(key, state.env, action, task)

        def with_resets(on_step: ArrayTree) -> ArrayTree:
            on_reset = env_reset(key, task)
            return jax.tree.map(lambda a, b: select(state.ended, a, b), on_reset, on_step)

        env_state, timestep = jax.lax.cond(
            state.ended.any(), with_resets, lambda on_step: on_step, (env_state, timestep)
        )
        return AutoResetState(env_state, ended & ~state.ended), timestep

    return reset, step


def strong(tree: ArrayTree) -> ArrayTree:
    """Leaves as arrays of their own dtypes, which stay what they are when a loop carries them; for
    states of other libraries, which may begin with numbers of Python's."""

    def one(x: Any) -> Any:
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(one, tree)


def environment_keys(key: Key, index: Array) -> Key:
    """One key for each environment, whatever the number of devices that share them.

    Args:
      key: of this step, the same on every device.
      index: int `[...]`, the global number of each environment, for example `k * E + e`.

    Returns:
      Keys `[...]`; equal index, equal key.
    """
    flat = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index.reshape(-1))
    return flat.reshape(index.shape)
