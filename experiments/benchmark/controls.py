"""The controls of the benchmark: agents that never learn."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import evaluate
from mtrl_jax.benchmark.compiled import Entry, everything
from mtrl_jax.networks import columns
from mtrl_jax.types import Agent, Array, ArrayTree, EnvSpec, Key, Timestep

__all__ = ["frozen", "frozen_agent", "random"]

FROZEN_EPSILON = 0.05  # of the frozen network: it would stand still for ever otherwise


def random(track: str, overrides: Sequence[str]) -> Entry:
    return Entry(evaluate.random_agent, everything, {}, learns=False)


def frozen(track: str, overrides: Sequence[str]) -> Entry:
    return Entry(frozen_agent, everything, {}, learns=False)


def frozen_agent(spec: EnvSpec, hidden: tuple[int, ...] = (64, 64)) -> Agent:
    """The likeliest action of a network that never learns, or with probability .05 any other."""
    size = spec.action_size or spec.num_actions
    discrete = spec._replace(num_actions=size, action_size=0)  # one output a coordinate
    net = columns.from_spec(discrete, hidden, "none", 0, has_value=False)
    row = jnp.zeros((1, 1))

    def init(key: Key) -> Any:
        observation = jnp.zeros((1, 1, *spec.observation_shape), spec.observation_dtype)
        return net.init(key, observation, row.astype(jnp.int32), row, row > 0, ())

    def act(policy: Any, actor: ArrayTree, timestep: Timestep, keys: Key, **_: Any) -> Any:
        zeros = jnp.zeros(keys.shape)
        logits, _, _ = net.apply(  # type: ignore[misc]
            policy, timestep.observation, zeros.astype(jnp.int32) - 1, zeros, zeros > 0, ()
        )
        pair: Any = jax.vmap(jax.vmap(jax.random.split))(keys)
        flat = pair.reshape(-1, 2)
        explore = jax.vmap(jax.random.uniform)(flat[:, 0]).reshape(keys.shape) < FROZEN_EPSILON
        if spec.action_size:

            def draw(key):
                return jax.random.uniform(key, (size,), minval=-1.0)

            drawn: Array = jax.vmap(draw)(flat[:, 1]).reshape(*keys.shape, size)
            chosen, explore = jnp.tanh(1e4 * logits), explore[..., None]  # the head starts near 0
        else:

            def draw(key):
                return jax.random.randint(key, (), 0, size)

            drawn = jax.vmap(draw)(flat[:, 1]).reshape(keys.shape)
            chosen = logits.argmax(-1)
        action = jnp.where(explore, drawn, chosen).astype(spec.action_dtype)
        return action, zeros, actor

    return evaluate.random_agent(spec)._replace(
        init=init, policy_params=lambda state: state, act=act
    )
