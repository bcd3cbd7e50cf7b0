"""What a progressive network takes from which column: its Fisher sensitivity."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax._checks import assert_shape
from mtrl_jax.distributions import Distribution
from mtrl_jax.losses import importance
from mtrl_jax.types import Array, ArrayTree

__all__ = ["layer_sensitivity", "sensitivity"]


def layer_sensitivity(fisher: Array, activations: Array) -> Array:
    """Average Fisher sensitivity of one layer: which column's features a policy depends on.

    Rusu et al. 2016, *Progressive Neural Networks*, arXiv 1606.04671, the section on transfer
    analysis (the equation is from memory). With h_m^k what feature m of column k says, s_m^k its
    standard deviation and h / s in the place of h,

        F_m^k = E_x sum_a pi(a|x) (d log pi(a|x) / d (h_m^k / s_m^k))^2
        AFS_k = mean_m F_m^k / sum_j F_m^j

    The mean is over the features that matter in any column.

    Args:
      fisher: `[K, H]`, E_x E_a (d log pi / d h_m^k)^2, at least 0.
      activations: `[K, B, H]`, h of B observations, of which s is taken.

    Returns:
      `[K]`, shares that add up to 1; 0 where no feature matters. Without gradient.

    Raises:
      ValueError: for shapes that do not match.
    """
    assert_shape("[K, H]", (None, None), fisher=fisher)
    k, h = jnp.shape(fisher)
    assert_shape("[K, B, H]", (k, None, h), activations=activations)
    scaled = jax.lax.stop_gradient(fisher * jnp.var(activations, axis=1))
    total = scaled.sum(0, keepdims=True)
    matters = total > 0
    shares = jnp.where(matters, scaled / jnp.where(matters, total, 1.0), 0.0)
    mean: Array = shares.sum(1) / jnp.maximum(matters.sum(), 1)
    return mean


def sensitivity(
    policy: Callable[[Any, Any], Distribution],
    columns: ArrayTree,
    activations: list[Array],
    observations: ArrayTree,
) -> Array:
    """`layer_sensitivity` of every layer of `networks.progressive`, exact over actions.

    Args:
      policy: `(columns, observation) -> Distribution` of the task that was learnt, of one
        observation, as `importance.fisher` takes it.
      columns: the network's parameters.
      activations: of each layer `[K, B, H_i]`, at these observations.
      observations: leaves `[B, ...]`, of the task.

    Returns:
      `[L, K]`, layers from the input on. Columns behind that of the task have 0.

    Raises:
      ValueError: as `importance.fisher` and `layer_sensitivity`.
    """
    nudges = {f"nudge{i}": jnp.zeros((h.shape[0], h.shape[2])) for i, h in enumerate(activations)}

    def nudged(nudges: Any, observation: Any) -> Distribution:
        return policy({**columns, **nudges}, observation)

    f = importance.fisher(nudged, nudges, observations)
    each = [layer_sensitivity(f[f"nudge{i}"], h) for i, h in enumerate(activations)]
    return jnp.stack(each)
