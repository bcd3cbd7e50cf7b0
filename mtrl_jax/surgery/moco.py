"""MoCo: weights from running means of the task gradients, which correct their bias."""

from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_choice, check_positive
from mtrl_jax.surgery.memory import zero_rows
from mtrl_jax.surgery.method import Memory
from mtrl_jax.surgery.parts import per_task
from mtrl_jax.surgery.sdmgrad import project_to_simplex
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["moco", "moco_step"]


def moco_step(
    w: Array,
    gram: Array,
    learning_rate: Array | float,
    ridge: Array | float = 0.0,
    onto: Literal["softmax", "simplex"] = "softmax",
    present: Array | None = None,
) -> Array:
    """A step of gradient descent on `1/2 w'(G + rho I)w`, and back onto the simplex.

    Args:
      w: float32 `[K]`, on the simplex.
      gram: float32 `[K, K]`, G, of the running means.
      learning_rate: gamma.
      ridge: rho.
      onto: by a softmax, or to the nearest point.
      present: bool `[K]`, the tasks that get weight; None: all.
    """
    v = w - learning_rate * (jnp.dot(gram, w, precision="highest") + ridge * w)
    if onto == "simplex":
        return project_to_simplex(v, present)
    return jax.nn.softmax(v, where=present)


@factory
def moco(
    num_tasks: int,
    *,
    beta: tuple[float, float] = (0.5, 0.5),
    gamma: tuple[float, float] = (0.1, 0.5),
    ridge: float = 0.0,
    onto: Literal["softmax", "simplex"] = "softmax",
    **options: Unpack[Options],
) -> Transform:
    """MoCo, multi-objective gradient correction.

    Fernando, Shen, Liu, Chaudhury, Murugesan & Chen 2023, "Mitigating Gradient Bias in
    Multi-objective Learning: A Provably Convergent Approach", ICLR, arXiv 2210.12624. MGDA with
    weights that follow slowly, from running means of the task gradients: at update n = 1, 2, ...

        y_i := y_i - beta_n (y_i - L_i g_i / |g_i|),    w := softmax(w - gamma_n (Y Y' + rho I) w)
        d = sum_i w_i y_i

    Of the paper the abstract was seen; the method is that of LibMTL, which is based on code that
    the authors shared, without its epsilon of 1e-8. A softmax keeps the weights of K tasks within
    a factor e of each other while the second term is small; `onto='simplex'` takes the nearest
    point instead.

    Needs the gradients, and positive `task_losses`. Its state has the size of the task gradients,
    `[K, *param]`.

    Args:
      num_tasks: K.
      beta: (c, p) of the rate of the means `beta_n = c / n^p`, c at most 1; LibMTL's default.
      gamma: the same for the rate of the weights.
      ridge: rho.
      onto: 'softmax' or 'simplex'.
      options: see `Options`.
    """
    check_positive("beta", beta[0])
    check_positive("gamma", gamma[0])
    check_positive("ridge", ridge, or_zero=True)
    check_choice("onto", onto, ("softmax", "simplex"))

    def rate(inputs: Inputs, pair: tuple[float, float]) -> Array:
        return pair[0] / (inputs.step + 1.0).astype(inputs.dtype) ** pair[1]

    def before(inputs: Inputs, grads: list[Array], memory: list[Any], total: Any) -> Any:
        flat = [g.reshape(inputs.num_tasks, -1) for g in grads]
        norms = jnp.sqrt(total([jnp.sum(g**2, axis=1) for g in flat]))
        good, b = inputs.task_losses > 0, rate(inputs, beta)
        scale = jnp.where(norms > 0, inputs.task_losses / jnp.where(norms > 0, norms, 1.0), 0.0)

        def mean(y: Array, g: Array) -> Array:
            return jnp.where(per_task(good, g), y - b * (y - per_task(scale, g) * g), y)

        means = [mean(y, g) for y, g in zip(memory, grads, strict=True)]
        return means, means, ()

    def weights(inputs: Inputs, kept: Array) -> tuple[Array, Any]:
        kept = jnp.where(inputs.present, kept, 0.0)
        start = jnp.where(kept.sum() > 0, kept, inputs.ones)
        w = moco_step(
            start / start.sum(), inputs.gram, rate(inputs, gamma), ridge, onto, inputs.present
        )
        # What is kept has mean 1, so that it says the same whatever other tasks are present.
        return jnp.where(inputs.task_losses > 0, w, jnp.nan), w * inputs.num_present

    def init(k: int) -> Any:
        return jnp.ones((k,), jnp.float32)

    memory = Memory(zero_rows, before)
    method = Method("moco", weights, init=init, uses_losses=True, memory=memory)
    return make_transform(method, num_tasks, **options)
