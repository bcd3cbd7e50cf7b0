"""Experts that are orthogonal to each other at every input, mixed by each task."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import layers
from mtrl_jax.types import Array

__all__ = ["MOORE", "gram_schmidt"]

_EPSILON = 1e-8  # of what is left of a vector, squared, against the vector itself


class MOORE(nn.Module):
    """Mixture of orthogonal experts.

    Hendawy et al. 2024, *Multi-Task Reinforcement Learning with Mixture of Orthogonal Experts*,
    arXiv 2311.11385. M experts h_m, MLPs of the input alone whose last layer is linear, are made
    orthonormal at every sample and mixed with weights of the task, in front of its own head:

        u_1 .. u_M = GramSchmidt(h_1(x) .. h_M(x)),   v = tanh(Σ_m w_{i,m} u_m),   y = W_i v + b_i

    What stands in the authors' code only, and what is ours:
      1. tanh behind the mixture is what their code runs Meta-World with: followed.
      2. The code divides by norms as they are, so an expert that is zero or depends on the others
         gives NaN. Here `gram_schmidt` lets such an expert count as (nearly) nothing.
      3. w_i is a linear map of the one-hot number without bias: a row for each task, which starts
         as their Xavier-uniform map would. Other layers start as everywhere in this library.
      4. ReLU stands behind the hidden layers there; here the chosen activation.

    The u have length 1, so v is of size 1/sqrt(H) in each coordinate and the initial outputs are
    H times smaller in variance than `out_scale` says, as in their code.

    Attributes:
      num_experts: M; 4 for MT10 and 6 for MT50 in the paper.
      others: as in `OneHot`. `hidden` are an expert's layers; the last one, H wide, is linear.
        w_i, W_i and b_i are the task's own, the experts shared.

    Raises:
      ValueError: `x` is not `[B, F]`, `task` not one integer, `num_experts` below 1, or more
        experts than H, which cannot be orthogonal.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0
    num_experts: int = 4

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        layers.check(x, task, num_experts=self.num_experts)
        if self.num_experts > self.hidden[-1]:
            raise ValueError(
                f"num_experts must be at most the last width {self.hidden[-1]} of hidden, or the "
                f"experts cannot be orthogonal; got {self.num_experts}"
            )
        bound = (6.0 / (self.num_tasks + self.num_experts)) ** 0.5

        def draw(key):
            return jax.random.uniform(key, (self.num_experts,), minval=-bound, maxval=bound)

        w = layers.own(self, "weights", draw)
        u = gram_schmidt(layers.stacked_mlp(self, x, self.num_experts, self.hidden, name="expert"))
        v = jnp.tanh(jnp.tensordot(w, u, 1))
        return layers.own_dense(self, "out", v, self.size, self.out_scale)


def gram_schmidt(h: Array) -> Array:
    """Orthonormal vectors along the first axis, `[M, ..., H]`, in the order given.

    u_m = r_m / ‖r_m‖,   r_m = h_m - Σ_{j<m} (h_m · u_j) u_j

    with each projection subtracted before the next is taken (the modified form: the same in exact
    arithmetic, better in float32). ‖r_m‖² is enlarged by 1e-8 (1 + ‖h_m‖²), so that a vector in the
    span of those before it, of which only rounding is left, comes out near 0 and not as a direction
    of its own, nor as NaN. Carries gradient.

    A loop over M and not a QR decomposition, whose batched form deadlocks XLA:CPU of jax 0.10.
    """
    basis: list[Array] = []
    for r in h:
        floor = _EPSILON * (1.0 + (r * r).sum(-1, keepdims=True))
        for u in basis:
            r = r - (r * u).sum(-1, keepdims=True) * u
        basis.append(r * jax.lax.rsqrt((r * r).sum(-1, keepdims=True) + floor))
    return jnp.stack(basis)
