"""Layers of modules whose connections a second network weighs for each task and input."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import layers
from mtrl_jax.types import Array

__all__ = ["SoftModules"]


class SoftModules(nn.Module):
    """Soft modularization.

    Yang et al. 2020, *Multi-Task Reinforcement Learning with Soft Modularization*,
    arXiv 2003.13661. With f(x) an MLP whose last layer is linear and h_i in R^D the task's own,

        m          = W_2 act(W_1 act(f(x) ⊙ h_i))
        P^1        = softmax(V^1 act(m))
        P^{l+1}    = softmax(V^{l+1} act(U^l [P^1; ..; P^l] ⊙ m))
        g^1_j      = W^1_j act(f(x))
        g^{l+1}_k  = W^{l+1}_k act(Σ_j P^l_kj g^l_j)
        y          = W_out act(Σ_j P^L_j g^L_j) + b_out

    m is what routing starts from; P^l is [n, n], a row a destination, and a single row at last.

    Paper and authors' code, and which is followed:
      1. The paper routes layer l + 1 on the logits of layer l; the code on the probabilities of all
         layers so far. The code.
      2. The paper activates each module's output, then takes the weighted sum; the code activates
         the sum. The code.
      3. h_i is a linear layer of the one-hot number in both; here a row for each task, without the
         bias that all would share.
      4. The code starts weights uniformly within 1/sqrt(fan) and biases at 0.1. Here all start as
         everywhere in this library; the V near 0 as there, so routing starts even.
      5. Their weighting of the tasks' losses by temperatures is an affair of the algorithm.

    Attributes:
      num_layers: L, layers of modules.
      num_modules: n, modules in a layer.
      module_width, gate_width: of the modules, and of m; None for the last width of `hidden`.
      others: as in `OneHot`. `hidden` are the layers of f, whose last width is D. Layer norms stand
        in f and behind each weighted sum. h_i is the task's own, all else shared.

    For MT10 the paper's network has `hidden=(400, 400)`, 2 layers of 2 modules and both widths 256;
    for MT50 4 layers of 4 modules 128 wide.

    Raises:
      ValueError: `x` is not `[B, F]`, `task` not one integer, a size below 1, or `num_layers`
        below 2.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0
    num_layers: int = 2
    num_modules: int = 2
    module_width: int | None = None
    gate_width: int | None = None

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        given = (self.module_width, self.gate_width)
        width, gate = (self.hidden[-1] if w is None else w for w in given)
        layers.check(x, task, num_modules=self.num_modules, module_width=width, gate_width=gate)
        if self.num_layers < 2:
            raise ValueError(f"num_layers must be at least 2; got {self.num_layers}")
        base = layers.mlp(self, x, self.hidden, name="base_", last_linear=True)
        routes = self._route(base, gate)
        x = layers.activate(self, base)
        for i, route in enumerate(routes):
            g = layers.stacked_dense(self, f"module{i}", x, self.num_modules, width)
            # A sum over a few modules, not a batched dot of size n: XLA fuses it.
            weights = jnp.moveaxis(route, 0, 2)[..., None]  # [to, from, B, 1]
            x = (weights * jnp.broadcast_to(g, (len(weights), *g.shape))).sum(1)
            if self.layer_norm:
                x = layers.stacked_norm(self, f"mix{i}_norm", x)
            x = layers.activate(self, x)
        return nn.Dense(self.size, kernel_init=layers.scaled(self.out_scale), name="out")(x[0])

    def _route(self, base: Array, gate: int) -> list[Array]:
        """L arrays `[B, to, from]`, rows adding up to 1; the last one has one row."""
        n, act = self.num_modules, lambda x: layers.activate(self, x)

        def dense(name, x, size, scale):
            return nn.Dense(size, kernel_init=layers.scaled(scale), name=name)(x)

        own = layers.own(self, "embedding", lambda key: jax.random.normal(key, base.shape[1:]))
        m = base * jnp.broadcast_to(own, base.shape)
        for i in range(2):
            m = dense(f"gate{i}", act(m), gate, 2.0)
        routes: list[Array] = []
        for i in range(self.num_layers):
            rows = n if i < self.num_layers - 1 else 1
            inner = m
            if routes:
                seen = [p.reshape(p.shape[0], n * n) for p in routes]
                inner = m * dense(f"up{i}", jnp.concatenate(seen, -1), gate, 2.0)
            logits = dense(f"route{i}", act(inner), rows * n, 1e-4)
            routes.append(jax.nn.softmax(logits.reshape(-1, rows, n), -1))
            self.sow("intermediates", "routes", routes[-1])
        return routes
