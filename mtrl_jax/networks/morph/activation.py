"""Activations that can be inserted without a trace, and the checks of those that cannot.

Network morphism (Wei et al. 2016, arXiv 1603.01670; Wei et al. 2017, arXiv 1701.03281, equation 8)
puts a parametric activation between the halves of a split layer,

    f_a(x) = (1 - a) f(x) + a x,   a in [0, 1]

which is the identity at a = 1 and f at a = 0, for any continuous f; PReLU is f = relu.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtrl_jax.types import Array

__all__ = ["LINEAR_SHARE", "PActivation", "check_idempotent", "keep_shares", "p_activation"]

LINEAR_SHARE = "linear_share"
"""Name of the parameter a, for masks of weight decay (it should have none) and `keep_shares`."""


def p_activation(x: Array, a: Array, activation: Callable[[Array], Array]) -> Array:
    """f_a(x) = (1 - a) f(x) + a x.

    Args:
      x: `[..., C]`.
      a: `[C]`, or a scalar. Carries gradient: d f_a / d a = x - f(x).
      activation: f.
    """
    a = jnp.broadcast_to(a, x.shape)
    return (1 - a) * activation(x) + a * x


class PActivation(nn.Module):
    """`p_activation` with one a for each channel.

    Attributes:
      activation: f.
      initial: a at the start: 1 where it is inserted into a network, 0 where it takes the place of
        f. Keep a in [0, 1] with `keep_shares`.
    """

    activation: Callable[[Array], Array]
    initial: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        a = self.param(LINEAR_SHARE, nn.initializers.constant(self.initial), x.shape[-1:])
        return p_activation(x, a, self.activation)


def keep_shares() -> optax.GradientTransformation:
    """Keeps every `linear_share` in [0, 1]: last in the chain, after the learning rate.

    Projects the updated parameter; a clip in the forward pass would stop its gradient outside.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("params must be given to update, as keep_shares projects them")

        def one(path: Any, u: Array, p: Array) -> Array:
            if getattr(path[-1], "key", None) != LINEAR_SHARE:
                return u
            return jnp.clip(p + u, 0.0, 1.0) - p

        return jax.tree_util.tree_map_with_path(one, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def check_idempotent(activation: Callable[[Any], Any]) -> None:
    """Whether an identity layer may follow the activation: f(f(x)) = f(x) on a grid in [-20, 20].

    relu, relu6, hard_tanh, abs and the identity pass.

    Raises:
      ValueError: for tanh, sigmoid, gelu, silu, leaky_relu, softmax and the like, with the gap.
    """
    name = getattr(activation, "__name__", str(activation))
    x = jnp.asarray(np.linspace(-20, 20, 401), jnp.float32)
    once = activation(x)
    gap = np.abs(np.asarray(activation(once) - once))
    if not gap.max() <= 1e-6:
        at = int(gap.argmax())
        raise ValueError(
            f"activation {name} must satisfy f(f(x)) = f(x) for an identity layer to be inserted "
            f"after it; |f(f(x)) - f(x)| = {gap[at]:.3g} at x = {float(x[at]):.3g}. Insert a "
            "PActivation instead of it behind the new layer, or a residual branch that ends in "
            "`silent`, which are exact for every activation"
        )
