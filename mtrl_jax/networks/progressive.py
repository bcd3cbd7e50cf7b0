"""A column for each task, which reads the columns of the tasks before it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import layers
from mtrl_jax.types import Array

__all__ = ["Progressive"]


class Progressive(nn.Module):
    """Progressive networks with adapters.

    Rusu et al. 2016, *Progressive Neural Networks*, arXiv 1606.04671. Layer i of column k:

        h_i^k = act(W_i^k h_{i-1}^k + U_i^k act(V_i^k z_i^k))

    where z_i^k holds alpha_i^{kj} h_{i-1}^j of all columns j < k, one behind the other, with learnt
    scalars alpha, small at first. The first layer has no adapter, the output layer has one. V
    projects to the width of one column. All columns are parameters `[K, ...]` of the collection
    `params` and all are computed; what column k says depends on the columns up to k alone. Whoever
    trains task k moves row k only (`continual.progressive`).

    What each layer says is in the collection `intermediates`, `h0`, `h1`, ..., `[K, B, H_i]`, for
    whoever makes it mutable. Where parameters hold a `nudge0`, `nudge1`, ..., `[K, H_i]`, they are
    added to that, so that a gradient with respect to them is one to what layers say
    (`continual.columns`); `init` makes none.

    Attributes as in `networks.onehot.OneHot`.

    Raises:
      ValueError: `x` is not `[B, F]`, or `task` not one integer.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        layers.check(x, task)
        h = layers.stacked_dense(self, "dense0", x, self.num_tasks, self.hidden[0])
        h = self._activated(h, 0)
        for i, width in enumerate(self.hidden[1:], 1):
            y = layers.stacked_dense(self, f"dense{i}", h, self.num_tasks, width)
            h = self._activated(y + self._lateral(h, i, width, 2.0), i)
        kernel = self._param("out_kernel", self.out_scale, h.shape[-1], self.size)
        bias = self.param("out_bias", nn.initializers.zeros, (self.num_tasks, self.size))
        y = layers.add_bias(jnp.einsum("nbf,nfh->nbh", h, kernel), bias[:, None])
        return (y + self._lateral(h, len(self.hidden), self.size, self.out_scale))[task]

    def _activated(self, h: Array, i: int) -> Array:
        if self.layer_norm:
            h = layers.stacked_norm(self, f"norm{i}", h)
        h = layers.activate(self, h)
        if self.has_variable("params", f"nudge{i}"):
            nudge: Array = self.get_variable("params", f"nudge{i}")
            h = layers.add_bias(h, nudge[:, None])
        self.sow("intermediates", f"h{i}", h)
        return h

    def _param(self, name: str, scale: float, width: int, out: int) -> Array:
        return self.param(name, layers.scaled(scale, stacked=True), (self.num_tasks, width, out))

    def _lateral(self, h: Array, i: int, width: int, scale: float) -> Array:
        """`[K, B, width]`, what each column adds of those before it, `[K, B, H]`."""
        n, b, f = h.shape
        alpha = self.param(f"alpha{i}", nn.initializers.constant(0.1), (n, n))
        before = jnp.tril(alpha, -1)
        read = jnp.einsum("kj,jbf->kbjf", before, h).reshape(n, b, n * f)
        v = self._param(f"adapter{i}_in", 2.0, n * f, f)
        u = self._param(f"adapter{i}_out", scale, f, width)
        inner = layers.activate(self, jnp.einsum("kbf,kfh->kbh", read, v))
        lateral: jax.Array = jnp.einsum("kbf,kfh->kbh", inner, u)
        return lateral
