"""Encoders that are mixed by attention to a description of the task."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import layers, task_text
from mtrl_jax.types import Array

__all__ = ["CARE"]


class CARE(nn.Module):
    """Contextual attention-based representations.

    Sodhani et al. 2021, *Multi-Task Reinforcement Learning with Context-based Representations*,
    arXiv 2102.06177. With t_i a fixed vector of the task's description and E_m encoders,

        c = MLP(t_i),   z_m = E_m(x),   a = softmax_m(z_m · stop_gradient(c)),
        y = f([Σ_m a_m z_m; c])

    Paper and authors' code (mtrl), and which is followed:
      1. The paper attends by the product of encoding and context, so the mixture depends on the
         input; the code makes the M logits from the context alone by an MLP. The paper.
      2. Both stop the attention's gradient in front of the context, which learns through f.
      3. Descriptions are encoded by a language model (RoBERTa, 768 numbers) in both. Here
         `task_text.task_vectors` counts hashed words and letter groups: nothing is downloaded, and
         tasks that share words are near each other, but synonyms are not.
      4. In both, actor and critic share the encoders, and the critic's loss alone trains them. Here
         the two share nothing, so each trains its own, and a critic's encoders see its actions, if
         it reads any.
      5. The paper has one more MLP on the mixture, before the context joins it; here f's own first
         layer reads both.

    Everything is shared: a task differs from another by its description only.

    Attributes:
      task_names: K names, which `task_text` turns into vectors.
      num_experts: M; 6 for MT10 and 10 for MT50 in the paper.
      encoder: widths of each E_m and of the context's MLP, whose last layers are linear.
      others: as in `OneHot`; `hidden` are f's.

    Raises:
      ValueError: `x` is not `[B, F]`, `task` not one integer, `num_experts` below 1, no encoder
        layer, or not K different task names.
    """

    num_tasks: int
    hidden: tuple[int, ...]
    size: int
    activation: str = "relu"
    layer_norm: bool = False
    out_scale: float = 1.0
    task_names: tuple[str, ...] = ()
    num_experts: int = 6
    encoder: tuple[int, ...] = (50, 50)

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        layers.check(x, task, num_experts=self.num_experts, encoder=min(self.encoder, default=0))
        if len(self.task_names) != self.num_tasks:
            raise ValueError(
                f"task_names must hold {self.num_tasks} names, one a task; got {self.task_names}"
            )
        vectors = jnp.asarray(task_text.task_vectors(self.task_names))
        which = jax.nn.one_hot(task, self.num_tasks)
        context = layers.mlp(
            self, (which @ vectors)[None], self.encoder, name="context_", last_linear=True
        )[0]
        z = layers.stacked_mlp(self, x, self.num_experts, self.encoder, name="encoder")
        query = jnp.broadcast_to(jax.lax.stop_gradient(context), z.shape)
        attention = jax.nn.softmax((z * query).sum(-1), axis=0)  # [M, B]
        self.sow("intermediates", "attention", attention)
        mixed = (attention[..., None] * z).sum(0)
        x = layers.mlp(self, layers.beside(mixed, context), self.hidden)
        return nn.Dense(self.size, kernel_init=layers.scaled(self.out_scale), name="out")(x)
