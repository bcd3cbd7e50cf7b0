"""The network of one student with several teachers: a body, and who gives the answers.

Parameters stand as `networks.multitask` has them, and its `init` draws them; but no part of this
network is told the number of its task, and `apply` gives the features behind the answers as well.
"""

import flax.linen as nn

from mtrl_jax.networks import layers
from mtrl_jax.types import Array

__all__ = ["OUTPUTS", "Student"]

# Who gives the answers: one output layer for all tasks, a controller for each, or all is separate.
OUTPUTS = ("shared", "controllers", "separate")


class Student(nn.Module):
    """A body h of relu layers, and who gives the answers behind it.

    The three kinds of `outputs`::

        shared        y = W h + b, of all tasks (Actor-Mimic: Parisotto et al. 2015, 1511.06342)
        controllers   y = W_i relu(V_i h + c_i) + b_i (multi-game policy distillation: Rusu et al.
                      2015, 1511.06295, whose hidden layers have 128 units); y = W_i h + b_i where
                      `controller` is 0
        separate      as "shared", with a body for each task: K students side by side

    Attributes:
      num_tasks: K.
      hidden: widths of the body.
      size: of the output.
      outputs: one of `OUTPUTS`.
      controller: units of a controller's hidden layer; 0 for none, and not read by the others.
      activation, layer_norm: what `networks.layers` reads.

    Raises:
      ValueError: `x` is not `[B, F]`, or `task` not one integer.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    outputs: str = "controllers"
    controller: int = 128
    activation: str = "relu"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, task: Array) -> tuple[Array, Array]:
        """`[B, size]` outputs, and `[B, hidden[-1]]` the body's last activations."""
        layers.check(x, task)
        if self.outputs == "separate":
            for i, width in enumerate(self.hidden):
                x = layers.activate(self, layers.own_dense(self, f"dense{i}", x, width, 2.0))
            return layers.own_dense(self, "out", x, self.size, 1.0), x
        h = layers.mlp(self, x, self.hidden)
        if self.outputs == "shared":
            out = nn.Dense(self.size, kernel_init=layers.scaled(1.0), name="out")
            return out(h), h
        x = h
        if self.controller:
            x = layers.own_dense(self, "controller", x, self.controller, 2.0)
            x = layers.activate(self, x)
        return layers.own_dense(self, "out", x, self.size, 1.0), h
