"""FAMO: all losses fall at the same rate, learned from the losses alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["FAMOState", "famo", "famo_step", "famo_weights"]


class FAMOState(NamedTuple):
    """Attributes: logits, float32 `[K]`; adam, the state of their optimiser; losses, float32
    `[K]`, of the last update."""

    logits: Array
    adam: Any
    losses: Array


def famo_weights(logits: Array, task_losses: Array) -> Array:
    """`w_i = c z_i / L_i`, `z = softmax(logits)`, `c = 1 / sum_j (z_j / L_j)`: float32 `[K]`, sum
    1.

    Args:
      logits: float32 `[K]`.
      task_losses: float32 `[K]`, above their lower bounds, which are already subtracted; positive.
    """
    z = jax.nn.softmax(logits)
    scaled = z * (jnp.min(task_losses) / task_losses)  # of ratios, whatever the losses' scale
    return scaled / scaled.sum()


def famo_step(state: FAMOState, losses_after: Array, optimiser) -> tuple[Array, Any]:
    """New logits and optimiser state, from the fall of the log losses over the last step.

    The gradient is `J' (log L_before - log L_after)`, J the Jacobian of the softmax: tasks that
    fell more than the others lose weight.
    """
    delta = jnp.log(state.losses) - jnp.log(losses_after)
    z = jax.nn.softmax(state.logits)
    gradient = z * (delta - jnp.sum(z * delta))
    change, adam = optimiser.update(gradient, state.adam, state.logits)
    return state.logits + change, adam


@factory
def famo(
    num_tasks: int,
    *,
    learning_rate: float = 0.025,
    decay: float = 0.001,
    min_losses: float | Sequence[float] = 0.0,
    **options: Unpack[Options],
) -> Transform:
    """FAMO, fast adaptive multitask optimisation.

    Liu, Feng, Stone & Liu 2023, "FAMO: Fast Adaptive Multitask Optimization", arXiv 2306.03792,
    algorithm 2:

        w_i = c z_i / (L_i - b_i),    z = softmax(xi),    c = 1 / sum_j (z_j / (L_j - b_j))

    and xi follows Adam on the change of log(L - b) over each step. The paper computes both losses
    of a change on the same minibatch: pass those of the *previous* call's batch under the present
    parameters as `task_losses_after=`. Without it the present losses stand in, which saves the
    second forward pass and adds the noise of two different minibatches.

    Needs `task_losses` above `min_losses`, and no per-task gradients beyond their weighted sum:
    where K gradients are too dear, differentiate the weighted loss instead (`famo_weights`).

    Args:
      num_tasks: K.
      learning_rate: of the logits.
      decay: their weight decay (added to the gradient, before Adam); the authors' code has 1e-5.
      min_losses: b, lower bounds of the losses, one number or one a task.
      options: see `Options`.
    """
    check_positive("learning_rate", learning_rate)
    check_positive("decay", decay, or_zero=True)
    bound = jnp.asarray(min_losses, jnp.float32)
    optimiser = optax.chain(optax.add_decayed_weights(decay), optax.adam(learning_rate))

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        def above(losses):
            return losses - bound + 1e-8

        now = above(inputs.task_losses)
        after = now if inputs.task_losses_after is None else above(inputs.task_losses_after)
        logits, adam = famo_step(state, after, optimiser)
        old = (state.logits, state.adam)

        def keep(new, old):
            return jnp.where(inputs.step > 0, new, old)

        logits, adam = jax.tree.map(keep, (logits, adam), old)
        return famo_weights(logits, now), FAMOState(logits, adam, now)

    def init(k):
        logits = jnp.zeros((k,), jnp.float32)
        return FAMOState(logits, optimiser.init(logits), jnp.ones((k,), jnp.float32))

    method = Method("famo", weights, init=init, uses_gram=False, uses_losses=True)
    return make_transform(method, num_tasks, **options)
