"""How much each parameter matters for what a network does: the F of `losses.continual`.

All are means over samples of something of one sample, never something of a mean: the square of a
mean gradient is too small by about the number of samples. Samples are looked at `chunk` at a time,
so that memory does not grow with their number.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_shape
from mtrl_jax.distributions import Categorical, Distribution, Gaussian
from mtrl_jax.ranges import Count, check_value
from mtrl_jax.types import Array, ArrayTree

__all__ = ["empirical_fisher", "fisher", "sensitivity"]


def fisher(
    policy: Callable[[Any, Any], Distribution],
    params: ArrayTree,
    observations: ArrayTree,
    *,
    chunk: int = 32,
) -> ArrayTree:
    """Diagonal of the Fisher information of a policy, exact over actions, mean over observations.

    Kirkpatrick et al. 2017. With J the Jacobian of the outputs,

        softmax     F_i = E_x sum_a pi(a|x) (d log pi(a|x) / dtheta_i)^2
        Gaussian    F_i = E_x sum_n (d mu_n / dtheta_i)^2 / sigma_n^2
                          + 2 (d log sigma_n / dtheta_i)^2

    For a Q-network the paper does not say what log pi is; a softmax over Q / temperature is one
    choice.

    Args:
      policy: `(params, observation) -> Distribution`, of one observation, leaves [A] or [N].
      params: theta, a tree of floats.
      observations: leaves [B, ...], of the task that has been learnt.
      chunk: how many observations are worked on at once; memory is about chunk times A networks.

    Returns:
      The tree of `params` in float32 at least, at least 0. Without gradient.

    Raises:
      ValueError: for no observations, leaves of different B, a distribution with leading axes, or a
        chunk below 1.
    """

    def one(observation: Any) -> ArrayTree:
        def outputs(params: ArrayTree) -> Array:
            return _outputs(policy(params, observation))

        weights = _weights(policy(params, observation))
        rows = jax.jacrev(outputs)(params)
        return jax.tree.map(lambda j: jnp.tensordot(weights, jnp.square(j), axes=1), rows)

    return _mean(one, observations, chunk)


def empirical_fisher(
    loss: Callable[[Any, Any], Array], params: ArrayTree, samples: ArrayTree, *, chunk: int = 32
) -> ArrayTree:
    """Mean of squared gradients of single samples' losses: E_x (d loss(theta, x) / dtheta)^2.

    What much code calls the Fisher information. It is, where the loss is the log-likelihood of
    labels that the model itself drew; with data's labels or a policy-gradient loss it is not.

    Args:
      loss: `(params, sample) -> []`.
      params: theta.
      samples: leaves [B, ...].
      chunk: how many gradients are held at once.

    Returns, Raises: as `fisher`.
    """
    return _mean(
        lambda sample: jax.tree.map(jnp.square, jax.grad(loss)(params, sample)), samples, chunk
    )


def sensitivity(
    outputs: Callable[[Any, Any], Array], params: ArrayTree, samples: ArrayTree, *, chunk: int = 32
) -> ArrayTree:
    """How much outputs depend on each parameter, without labels or actions (MAS).

    Aljundi et al. 2018, *Memory Aware Synapses*, arXiv 1711.09601: E_x |d |f(x)|_2^2 / dtheta|.

    Args:
      outputs: `(params, sample) -> [...]`, f.
      params: theta.
      samples: leaves [B, ...].
      chunk: how many gradients are held at once.

    Returns, Raises: as `fisher`.
    """

    def square(params: ArrayTree, sample: Any) -> Array:
        return jnp.sum(jnp.square(outputs(params, sample)))

    return _mean(
        lambda sample: jax.tree.map(jnp.abs, jax.grad(square)(params, sample)), samples, chunk
    )


def _outputs(distribution: Distribution) -> Array:
    assert_shape("[A] or [N], of one observation", (None,), policy=distribution[0])
    if isinstance(distribution, Categorical):
        return distribution.log_probs
    return jnp.concatenate([distribution.mean, distribution.log_std])


def _weights(distribution: Distribution) -> Array:
    """Of the squared rows of the Jacobian of `_outputs`."""
    if isinstance(distribution, Gaussian):
        precision = jnp.exp(-2.0 * distribution.log_std)
        weights = jnp.concatenate([precision, jnp.full_like(precision, 2.0)])
        real = distribution.real
        return weights if real is None else jnp.where(jnp.concatenate([real, real]), weights, 0.0)
    return jnp.exp(distribution.log_probs)


def _mean(each: Callable[[Any], ArrayTree], samples: ArrayTree, chunk: int) -> ArrayTree:
    """Mean over samples [B, ...] of trees that are held `chunk` at a time."""
    check_value("chunk", chunk, Count)
    sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(samples)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(f"samples must have leaves [B, ...] of one B above 0, got leading {sizes}")
    count = sizes.pop()[0]

    def some(samples: ArrayTree) -> ArrayTree:
        return jax.tree.map(lambda x: x.sum(0), jax.vmap(each)(samples))

    whole, chunk = count // min(chunk, count), min(chunk, count)
    rest = jax.tree.map(lambda x: jnp.asarray(x)[whole * chunk :], samples)
    split = jax.tree.map(
        lambda x: jnp.asarray(x)[: whole * chunk].reshape(whole, chunk, *jnp.shape(x)[1:]), samples
    )
    zero = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(some, jax.tree.map(lambda x: x[0], split)),
    )
    total, _ = jax.lax.scan(
        lambda sum_, part: (jax.tree.map(jnp.add, sum_, some(part)), None), zero, split
    )
    if count > whole * chunk:
        total = jax.tree.map(jnp.add, total, some(rest))
    return jax.lax.stop_gradient(jax.tree.map(lambda x: x / count, total))
