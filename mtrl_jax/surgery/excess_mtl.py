"""ExcessMTL: more weight to the tasks that are furthest from where they can get."""

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from mtrl_jax.surgery.checks import check_positive
from mtrl_jax.surgery.memory import zero_rows
from mtrl_jax.surgery.method import Memory
from mtrl_jax.surgery.transform import Inputs, Method, Options, Transform, factory, make_transform

__all__ = ["ExcessMTLState", "excess_mtl", "excess_mtl_step"]


class ExcessMTLState(NamedTuple):
    """Attributes: logits, float32 `[K]`, of the weights; first, float32 `[K]`, each task's first
    excess risk that was not 0, 0 before it."""

    logits: Array
    first: Array


def excess_mtl_step(
    state: ExcessMTLState, excess: Array, step_size: Array | float, present: Array | None = None
) -> ExcessMTLState:
    """`logits_i + eta e_i`, e_i the excess risk over the task's first; what is common to all tasks
    is left out, so that they stay in range.

    Args:
      state: before the step.
      excess: float32 `[K]`, estimated excess risks, not negative.
      step_size: eta.
      present: bool `[K]`, the tasks that take part; None: all.
    """
    first = jnp.where(state.first > 0, state.first, excess)
    ratio = jnp.where(first > 0, excess / jnp.where(first > 0, first, 1.0), 1.0)
    logits = state.logits + step_size * (ratio - jnp.mean(ratio, where=present))
    return ExcessMTLState(logits, first)


@factory
def excess_mtl(num_tasks: int, *, step_size: float = 0.01, **options: Unpack[Options]) -> Transform:
    """ExcessMTL, robust multi-task learning with excess risks.

    He, Zhou, Zhang, Yun, Xu, Zeng, Chilimbi & Zhao 2024, "Robust Multi-Task Learning with Excess
    Risks", ICML, arXiv 2402.02009. The distance of a loss from its best value is estimated by its
    Taylor expansion, with the diagonal of Adagrad for the Hessian, and sums over updates s:

        E_i = sum_p g_ip^2 / sqrt(sum_s g_ip(s)^2),    w_i ~ w_i exp(eta E_i / E_i(1))

    so that a task whose large loss is noise gets no weight for it. Of the paper the abstract was
    seen; the method is that of the authors' released code, without its epsilon of 1e-7. The
    weights have sum 1 (there K).

    Needs the gradients only. Its state has the size of the task gradients, `[K, *param]`.

    Args:
      num_tasks: K.
      step_size: eta; the authors' code has 0.01 as default and 1 in its example.
      options: see `Options`.
    """
    check_positive("step_size", step_size)

    def before(inputs: Inputs, grads: list[Array], memory: list[Any], total: Any) -> Any:
        roots = [jnp.hypot(r, g) for r, g in zip(memory, grads, strict=True)]

        def risk(g: Array, r: Array) -> Array:
            each = jnp.abs(g) * jnp.where(r > 0, jnp.abs(g) / jnp.where(r > 0, r, 1.0), 0.0)
            return each.reshape(inputs.num_tasks, -1).sum(1)

        risks = total([risk(g, r) for g, r in zip(grads, roots, strict=True)])
        return grads, roots, risks

    def weights(inputs: Inputs, state: Any) -> tuple[Array, Any]:
        new = excess_mtl_step(state, inputs.seen, step_size, inputs.present)
        return jax.nn.softmax(new.logits, where=inputs.present), new

    def init(k: int) -> Any:
        return ExcessMTLState(jnp.zeros((k,), jnp.float32), jnp.zeros((k,), jnp.float32))

    memory = Memory(zero_rows, before)
    method = Method("excess_mtl", weights, init=init, uses_gram=False, memory=memory)
    return make_transform(method, num_tasks, **options)
