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
    `[K]`, above their bounds, of the last update in which the task was present, 0 before it."""

    logits: Array
    adam: Any
    losses: Array


def famo_weights(logits: Array, task_losses: Array, present: Array | None = None) -> Array:
    """`w_i = c z_i / L_i`, `z = softmax(logits)`, `c = 1 / sum_j (z_j / L_j)`: float32 `[K]`, sum
    1.

    Args:
      logits: float32 `[K]`.
      task_losses: float32 `[K]`, above their lower bounds, which are already subtracted; positive.
      present: bool `[K]`, the tasks that get a weight; None: all.
    """
    if present is not None:
        task_losses = jnp.where(present, task_losses, jnp.inf)
    z = jax.nn.softmax(logits, where=present)
    scaled = z * (jnp.min(task_losses) / task_losses)  # of ratios, whatever the losses' scale
    return scaled / scaled.sum()


def famo_step(
    state: FAMOState,
    losses_after: Array,
    optimiser: optax.GradientTransformation,
    present: Array | None = None,
) -> tuple[Array, Any]:
    """New logits and optimiser state, from the fall of the log losses over the last step.

    The gradient is `J' (log L_before - log L_after)`, J the Jacobian of the softmax: tasks that
    fell more than the others lose weight. Of tasks that are absent, or were never seen before,
    nothing is known: they take no part.
    """
    seen = state.losses > 0
    seen = seen if present is None else seen & present
    before, after = (jnp.where(seen, x, 1.0) for x in (state.losses, losses_after))
    delta = jnp.log(before) - jnp.log(after)
    z = jax.nn.softmax(state.logits, where=seen)
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

    Needs `task_losses` above `min_losses` (at one below, the last weights stand in and nothing is
    learned), and no per-task gradients beyond their weighted sum:
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
        def above(losses: Array) -> Array:
            room = jnp.where(losses >= bound, losses - bound + 1e-8, jnp.nan)
            return jnp.where(inputs.present, room, 1.0)

        now = above(inputs.task_losses)
        after = now if inputs.task_losses_after is None else above(inputs.task_losses_after)
        logits, adam = famo_step(state, after, optimiser, inputs.present)
        old = (state.logits, state.adam)
        known = (inputs.present & (state.losses > 0)).any()
        logits, adam = jax.tree.map(lambda a, b: jnp.where(known, a, b), (logits, adam), old)
        return famo_weights(logits, now, inputs.present), FAMOState(logits, adam, now)

    def init(k: int) -> FAMOState:
        logits = jnp.zeros((k,), jnp.float32)
        return FAMOState(logits, optimiser.init(logits), jnp.zeros((k,), jnp.float32))

    method = Method("famo", weights, init=init, uses_gram=False, uses_losses=True)
    return make_transform(method, num_tasks, **options)
