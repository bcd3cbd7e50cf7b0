"""M-ConFIG: ConFIG of running means of the task gradients, with the step sizes of Adam."""

from typing import Any, NamedTuple, Unpack

import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_fraction, check_positive
from mtrl_jax.surgery.config import config_weights
from mtrl_jax.surgery.memory import zero_rows
from mtrl_jax.surgery.method import Memory
from mtrl_jax.surgery.parts import per_task
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["MConFIGMemory", "MConFIGState", "m_config", "m_config_step"]


class MConFIGState(NamedTuple):
    """Attributes, int32: counts, `[K]`, how often each mean was updated; updates, `[]`, since all
    of them have been."""

    counts: Array
    updates: Array


class MConFIGMemory(NamedTuple):
    """Of one leaf. Attributes: means, `[K, *param]`; square, `[*param]`, running mean of the square
    of the pseudo-gradient; direction, `[*param]`, the last direction, not corrected."""

    means: Array
    square: Array
    direction: Array


def m_config_step(
    direction: Array,
    memory: MConFIGMemory,
    updates: Array,
    betas: tuple[Array | float, Array | float],
    epsilon: Array | float,
) -> tuple[Array, MConFIGMemory]:
    """The update of one leaf, and its memory, from the direction d (equations of `m_config`).

    Args:
      direction: `[*param]`, zero while a task has not been seen.
      memory: before.
      updates: int32 `[]`, t, this one counted; 0: the square stays as it is.
      betas: beta_1 and beta_2.
      epsilon: added to the root.
    """
    t = jnp.maximum(updates, 1).astype(direction.dtype)
    f = (1.0 - betas[0] ** t) * direction
    h = (f - betas[0] * memory.direction) / (1.0 - betas[0])
    v = jnp.where(updates > 0, betas[1] * memory.square + (1.0 - betas[1]) * h**2, memory.square)
    update = direction / (jnp.sqrt(v / (1.0 - betas[1] ** t)) + epsilon)
    return update, MConFIGMemory(memory.means, v, f)


@factory
def m_config(
    num_tasks: int,
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    alternate: bool = False,
    **options: Unpack[Options],
) -> Transform:
    """M-ConFIG, ConFIG with momentum.

    Liu, Chu & Thuerey 2024, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", arXiv 2408.11104. With running means m_i of the task gradients, corrected for their
    start at 0 as in Adam, and the operator G of `config`,

        d_t = G(m_1, ..., m_K),    f_t = (1 - beta_1^t) d_t
        h_t = (f_t - beta_1 f_tm1) / (1 - beta_1),    v_t = beta_2 v_tm1 + (1 - beta_2) h_t^2

    and the update is `d_t / (sqrt(v_t / (1 - beta_2^t)) + epsilon)`; h is the gradient whose mean
    over time f would be. Of the paper the abstract was seen, and the authors' page of theory; the
    equations are those of their code (`PseudoMomentumOperator`).

    The means make one backward pass a step enough: with `alternate` update n looks at the gradient
    of task n mod K alone (the rest of the rows may be anything finite), and the update is zero
    until each task has had its turn. Use plain SGD behind it, as the authors advise: the step sizes
    are those of Adam already. Needs the gradients only. Its state has the size of the task
    gradients and of two copies of the parameters.

    Args:
      num_tasks: K.
      beta_1, beta_2: decays of the means and of the square, from 0 to below 1.
      epsilon: as in Adam.
      alternate: whether only one task's mean changes an update.
      options: see `Options`.
    """
    check_fraction("beta_1", beta_1)
    check_fraction("beta_2", beta_2)
    check_positive("epsilon", epsilon)

    def turn(inputs: Inputs) -> Array:
        own = jnp.arange(inputs.num_tasks) == inputs.step % inputs.num_tasks
        return inputs.present & (own if alternate else True)

    def before(inputs: Inputs, grads: list[Array], memory: list[Any], total: Any) -> Any:
        now, means = turn(inputs), []
        for g, old in zip(grads, memory, strict=True):
            mean = beta_1 * old.means + (1.0 - beta_1) * g
            means.append(jnp.where(per_task(now, g), mean, old.means))
        new = [old._replace(means=m) for m, old in zip(means, memory, strict=True)]
        return means, new, ()

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        counts = state.counts + turn(inputs)
        ready = ((counts > 0) | ~inputs.present).all()
        correction = 1.0 / (1.0 - beta_1 ** jnp.maximum(counts, 1).astype(inputs.dtype))
        gram = inputs.gram * correction[:, None] * correction[None, :]
        w = jnp.where(ready, config_weights(gram) * correction, 0.0)
        return w, MConFIGState(counts, state.updates + ready)

    def after(inputs: Inputs, state: Any, update: list[Array], memory: list[Any]) -> Any:
        betas = (beta_1, beta_2)
        both = [
            m_config_step(d, m, state.updates, betas, epsilon)
            for d, m in zip(update, memory, strict=True)
        ]
        return [u for u, _ in both], [m for _, m in both]

    def init(k: int) -> Any:
        return MConFIGState(jnp.zeros((k,), jnp.int32), jnp.zeros((), jnp.int32))

    def start(k: int, leaf: Any) -> Any:
        square, direction = (jnp.zeros(leaf.shape, leaf.dtype) for _ in range(2))
        return MConFIGMemory(zero_rows(k, leaf), square, direction)

    memory = Memory(start, before, after)
    method = Method("m_config", weights, init=init, memory=memory, sums=True)
    return make_transform(method, num_tasks, **options)
