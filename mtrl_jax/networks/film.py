"""One network whose hidden layers are scaled and shifted for each task."""

import flax.linen as nn
import jax

from mtrl_jax.networks import layers
from mtrl_jax.types import Array

__all__ = ["FiLM"]


class FiLM(nn.Module):
    """Feature-wise linear modulation by a learnt vector of the task.

    Perez et al. 2018, *FiLM: Visual Reasoning with a General Conditioning Layer*, arXiv 1709.07871;
    a multi-task baseline in Sodhani et al. 2021, arXiv 2102.06177. With one feature vector a layer,

        h_l = act(γ_l(z_i) ⊙ (W_l h_{l-1} + b_l) + β_l(z_i)),   γ_l = 1 + G_l z_i,   β_l = B_l z_i

    Differences:
      1. The paper modulates each feature; the multi-task code published with the 2021 paper (mtrl)
         has one γ and one β for a whole layer. Each feature is followed.
      2. z_i in R^Z is learnt for each task; there it is an encoding of the task's description.
      3. G_l and B_l start small, so that all tasks start near one network; γ is written as 1 plus a
         small number, since a γ near 0 would switch the layer off.
      4. Modulation stands before the activation, as in the paper; public code has it behind.
      5. The observation's encoder is the network itself; there is no second MLP behind it.

    Attributes:
      embedding_size: Z.
      others: as in `OneHot`. `z_i` is the task's own; W, b, G and B are shared.

    Raises:
      ValueError: `x` is not `[B, F]`, `task` not one integer, or `embedding_size` below 1.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0
    embedding_size: int = 32

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        layers.check(x, task, embedding_size=self.embedding_size)

        def draw(key):
            return jax.random.normal(key, (self.embedding_size,))

        z = layers.own(self, "embedding", draw)
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, kernel_init=layers.scaled(2.0), name=f"dense{i}")(x)
            if self.layer_norm:
                x = nn.LayerNorm(name=f"norm{i}")(x)
            generate = nn.Dense(
                2 * width, use_bias=False, kernel_init=layers.scaled(0.1), name=f"film{i}"
            )
            gamma, beta = generate(z).reshape(2, width)
            x = layers.activate(self, layers.modulate(x, 1.0 + gamma, beta))
        return nn.Dense(self.size, kernel_init=layers.scaled(self.out_scale), name="out")(x)
