"""Keys of observations, which are not learnt with the policy: what episodic memory looks up.

Blundell et al. 2016, *Model-free episodic control*, arXiv 1606.04460, section 3::

    projection   phi(x) = x P, P Gaussian: distances are kept in the mean (`random_projection`)
    identity     phi(x) = x, for short vectors

and, of `encoder`, what another network has learnt of frames (the paper's second is a VAE's latent
means). What x is stands at `inputs`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import episodic
from mtrl_jax.networks import columns
from mtrl_jax.types import Array, ArrayTree, EnvSpec, Key

__all__ = ["EMBEDDINGS", "Embedding", "encoder", "identity", "inputs", "make", "projection"]


class Embedding(NamedTuple):
    """A function from observations to keys, and what it is made of.

    Attributes:
      init: `(key) -> params`, which an agent's state holds and never changes.
      apply: `(params, observations [B, ...]) -> keys`, float32 `[B, dim]`.
      dim: numbers of a key.
    """

    init: Callable[[Key], ArrayTree]
    apply: Callable[[ArrayTree, Array], Array]
    dim: int


def inputs(spec: EnvSpec, observation: Array) -> Array:
    """float32 `[B, F]` of observations `[B, ...]`: classes as one-hot vectors, bytes in [0, 1], all
    else as it is; of an image all its frames."""
    x = observation.reshape(observation.shape[0], -1)
    if spec.vocabulary is not None:
        return columns.one_hot(x, tuple(int(n) for n in spec.vocabulary.flat))
    x = x.astype(jnp.float32)
    return x / 255.0 if spec.observation_dtype == np.uint8 else x


def num_inputs(spec: EnvSpec) -> int:
    """F."""
    if spec.vocabulary is not None:
        return int(np.sum(spec.vocabulary))
    return int(np.prod(spec.observation_shape))


def projection(spec: EnvSpec, dim: int) -> Embedding:
    """A random projection to `dim` numbers, drawn from the run's key."""
    return Embedding(
        init=lambda key: episodic.random_projection(key, num_inputs(spec), dim),
        apply=lambda matrix, observation: inputs(spec, observation) @ matrix,
        dim=dim,
    )


def identity(spec: EnvSpec, dim: int = 0) -> Embedding:
    """The observation itself; `dim` is its own."""
    return Embedding(
        init=lambda key: (),
        apply=lambda params, observation: inputs(spec, observation),
        dim=num_inputs(spec),
    )


def encoder(
    apply: Callable[[ArrayTree, Array], Array], params: ArrayTree, spec: EnvSpec
) -> Embedding:
    """A network that has learnt elsewhere.

    Args:
      apply: `(params, observations [B, ...]) -> [B, D]`.
      params: its parameters, which every state holds.
      spec: of the suite.
    """
    observation = jax.ShapeDtypeStruct((1, *spec.observation_shape), spec.observation_dtype)
    keys: Any = jax.eval_shape(apply, params, observation)

    def fixed(params: ArrayTree, observation: Array) -> Array:
        return jax.lax.stop_gradient(apply(params, observation)).astype(jnp.float32)

    return Embedding(lambda key: jax.tree.map(jnp.asarray, params), fixed, keys.shape[-1])


EMBEDDINGS: dict[str, Callable[[EnvSpec, int], Embedding]] = {
    "projection": projection,
    "identity": identity,
}


def make(spec: EnvSpec, name: str, dim: int) -> Embedding:
    """The embedding of that name.

    Raises:
      ValueError: for an unknown one.
    """
    if name not in EMBEDDINGS:
        raise ValueError(f"embedding must be one of {', '.join(EMBEDDINGS)}; got {name!r}")
    return EMBEDDINGS[name](spec, dim)
