"""A suite seen through a frozen encoder: observations are its codes, and nothing can train it.

Higgins, Pal et al. 2017, *DARLA*, arXiv 1707.08475: a policy reads s_z = F(s_o). Whatever learns on
this suite meets vectors, so replay stores vectors, and F has no part in any gradient. What F is and
how its codes are scaled are data of the tasks, so that suites with other encoders of one shape
share compiled programs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax._checks import assert_shape
from mtrl_jax.types import Array, ArrayTree, FunctionalEnv, FunctionalSuite, Key, Timestep

__all__ = ["Encoder", "encoded"]

Encode = Callable[[ArrayTree, Array], Array]


class Encoder(NamedTuple):
    """F and the scale of its codes; all of it constant.

    Attributes:
      params: of F.
      mean, std: `[Z]`, of the codes, by which they are brought to mean 0 and variance 1.
    """

    params: ArrayTree
    mean: Array
    std: Array


class _Task(NamedTuple):
    task: ArrayTree
    encoder: Encoder


class _Encoded(NamedTuple):
    env: FunctionalEnv
    encode: Encode

    def reset(self, key: Key, task: _Task) -> tuple[ArrayTree, Timestep]:
        state, timestep = self.env.reset(key, task.task)
        return state, self._seen(timestep, task.encoder)

    def step(
        self, key: Key, state: ArrayTree, action: Array, task: _Task
    ) -> tuple[ArrayTree, Timestep, Array]:
        state, timestep, ended = self.env.step(key, state, action, task.task)
        return state, self._seen(timestep, task.encoder), ended

    def _seen(self, timestep: Timestep, encoder: Encoder) -> Timestep:
        code = self.encode(encoder.params, timestep.observation[None])[0]
        code = (code - encoder.mean) / encoder.std
        return timestep._replace(observation=code.astype(jnp.float32))


def encoded(suite: FunctionalSuite, encode: Encode, encoder: Encoder) -> FunctionalSuite:
    """The suite whose observations are `(encode(params, observation) - mean) / std`, float32 `[Z]`.

    Args:
      suite: of any observations.
      encode: `(params, observations [B, ...]) -> codes [B, Z]`: means, not draws.
      encoder: params, and mean and std `[Z]`, std above 0.

    Raises:
      ValueError: for codes that are not `[B, Z]`, or a mean or std that does not go with them.
    """
    spec = suite.spec
    one = jax.ShapeDtypeStruct((1, *spec.observation_shape), spec.observation_dtype)
    shape = jax.eval_shape(encode, encoder.params, one).shape
    if len(shape) != 2 or shape[0] != 1:
        raise ValueError(f"encode must give codes [B, Z], got {shape} for B = 1")
    assert_shape("[Z], of a code", shape[1:], mean=encoder.mean, std=encoder.std)
    std = np.asarray(encoder.std)
    if not ((std > 0) & np.isfinite(std)).all():
        raise ValueError(f"std must be above 0 and finite, got {std}")
    told = spec._replace(
        observation_shape=shape[1:],
        observation_dtype=np.dtype(np.float32),
        vocabulary=None,
        observation_mask=None,
    )
    each: Any = jax.tree.map(
        lambda x: jnp.broadcast_to(jnp.asarray(x), (spec.num_tasks, *jnp.shape(x))), encoder
    )
    return FunctionalSuite(told, _Encoded(suite.env, encode), _Task(suite.tasks, each))
