"""AuxiLearn: how the weights of training losses would change a validation loss, at its optimum."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax.surgery.checks import check_positive, static_int

__all__ = ["auxilearn_gradient"]


def auxilearn_gradient(
    train_loss: Callable[[Any, Any], jax.Array],
    validation_loss: Callable[[Any], jax.Array],
    params: Any,
    weights: Any,
    *,
    step_size: jax.Array | float,
    terms: int = 3,
) -> Any:
    """The implicit gradient of a validation loss in what combines the training losses.

    Navon, Achituve, Maron, Chechik & Fetaya 2021, "Auxiliary Learning by Implicit Differentiation",
    arXiv 2007.02693, with the truncated Neumann series of Lorraine, Vicol & Duvenaud 2020 (arXiv
    1911.02590). At W where the gradient of L_train(W, phi) is 0, W moves with phi, and

        grad_phi L_val = -(grad_W L_val) H^-1 (grad_phi grad_W L_train)
        H = grad_W grad_W L_train
        H^-1 v ~ step_size sum_{j < terms} (1 - step_size H)^j v

    The series is that of `terms` gradient steps of `step_size` on W; it converges to H^-1 where H
    is positive definite with eigenvalues below 2 / step_size. Descend phi by any optimiser::

        def train_loss(params, phi):
            main, auxiliary = losses(params, batch)
            return main + jax.nn.softplus(phi) @ auxiliary
        gradient = auxilearn_gradient(train_loss, validation_loss, params, phi, step_size=1e-2)
        updates, state = optax.adam(1e-3).update(gradient, state, phi)

    Args:
      train_loss: `(params, weights) -> []`.
      validation_loss: `(params) -> []`, the main loss, on data that `train_loss` does not see.
      params: W, any tree of floats.
      weights: phi, any tree of floats; what is learnt of the combination.
      step_size: positive.
      terms: of the series, at least 1. Each but the first costs one Hessian-vector product, about
        two gradients of `train_loss`.

    Returns:
      A tree like `weights`; no gradient is meant to pass.

    Raises:
      ValueError: for a step size that is not positive, or `terms` below 1.
    """
    check_positive("step_size", step_size)
    n = static_int("terms", terms)

    def slope(w: Any, phi: Any) -> Any:
        return jax.grad(train_loss)(w, phi)

    def one(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        term, total = carry
        hessian_term = jax.jvp(lambda w: slope(w, weights), (params,), (term,))[1]
        term = jax.tree.map(lambda u, h: u - step_size * h, term, hessian_term)
        return (term, jax.tree.map(jnp.add, total, term)), None

    first = jax.grad(validation_loss)(params)
    (_, total), _ = jax.lax.scan(one, (first, first), None, n - 1)
    # The mixed derivative times a vector, without making it: of <dL_train/dW, vector> in phi.
    back = jax.vjp(lambda phi: slope(params, phi), weights)[1]
    (mixed,) = back(total)
    return jax.tree.map(lambda g: -step_size * g, mixed)
