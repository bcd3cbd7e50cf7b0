"""What a student network learns from a frozen teacher's values: policy distillation, Actor-Mimic.

Rusu et al. 2015, *Policy Distillation*, arXiv 1511.06295; Parisotto, Ba & Salakhutdinov 2015,
*Actor-Mimic*, arXiv 1511.06342. Everything is one state: `[A]` in, a scalar out; vmap for more. The
losses are sums over states in both papers and in Actor-Mimic's code, means where a caller averages.

Which is which: distillation's student z reads states that its teacher visits and is trained with a
sharp target (temperature 0.01), Actor-Mimic's reads those that it visits itself and is trained with
a soft one (1). The student's logits are never divided by the temperature: they would only come out
as many times smaller.

`teacher` are action-values, or logits of a policy (with temperature 1 its own probabilities). What
a teacher says about actions that a task does not have is ignored, and so is what a student says.
"""

import jax
import jax.numpy as jnp

from mtrl_jax import distributions
from mtrl_jax._checks import at_least_float32, check_range, check_shape
from mtrl_jax.types import Array

__all__ = [
    "feature_regression",
    "kl",
    "mse",
    "nll",
    "policy_regression",
    "target_entropy",
]


def nll(teacher: Array, logits: Array, action_mask: Array | None = None) -> Array:
    """Negative log-likelihood of the teacher's best action.

    L = -log pi(a* | s),   a* = argmax_a q[a],   pi = softmax(z)
    (Rusu et al. 2015, section 3, L_NLL)

    Args:
      teacher: [A], q; of equal values the first action counts as best.
      logits: [A], the student's z.
      action_mask: bool [A], the actions that the task has, at least one; None: all.

    Returns:
      [] in nats. Gradient to `logits` only: softmax(z) - onehot(a*), 0 where masked.

    Raises:
      ValueError: for a wrong shape, or a mask that is not bool.
    """
    q = _teacher(teacher, logits, action_mask)
    if action_mask is not None:
        q = jnp.where(action_mask, q, -jnp.inf)
    return -distributions.categorical_log_prob(logits, q.argmax(), action_mask)


def mse(teacher: Array, values: Array, action_mask: Array | None = None) -> Array:
    """Squared error of the student's action-values, summed over actions.

    L = sum_a (q[a] - q_S[a])^2   (Rusu et al. 2015, section 3, L_MSE)

    Args:
      teacher: [A], q.
      values: [A], the student's q_S.
      action_mask: bool [A], the actions that the task has; None: all.

    Returns:
      [] in squared units of the values. Gradient to `values` only: 2 (q_S - q), 0 where masked.

    Raises:
      ValueError: for a wrong shape, or a mask that is not bool.
    """
    error = at_least_float32(values) - _teacher(teacher, values, action_mask, "values")
    if action_mask is not None:
        error = jnp.where(action_mask, error, 0.0)
    return jnp.square(error).sum()


def kl(
    teacher: Array,
    logits: Array,
    temperature: float | Array = 0.01,
    action_mask: Array | None = None,
) -> Array:
    """Divergence of the student's policy from the softmax of the teacher's values.

    L = sum_a p[a] log(p[a] / pi(a | s)),   p = softmax(q / tau),   pi = softmax(z)
    (Rusu et al. 2015, section 3, L_KL)

    Values of neighbouring actions differ by little, so tau is small, which sharpens the target,
    where distillation of classifiers softens it. As tau goes to 0 this becomes `nll`: they differ
    only where the best two values are within a few tau (see `target_entropy`).

    Args:
      teacher: [A], q.
      logits: [A], the student's z.
      temperature: [] tau, in units of the values, above 0.
      action_mask: bool [A], the actions that the task has, at least one; None: all.

    Returns:
      [] in nats, at least 0. Gradient to `logits` only: softmax(z) - p, 0 where masked.

    Raises:
      ValueError: for a wrong shape, a mask that is not bool, or a temperature that is not above 0.
    """
    target = _sharpened(teacher, logits, temperature, action_mask)
    return distributions.categorical_kl(target, logits, action_mask)


def policy_regression(
    teacher: Array,
    logits: Array,
    temperature: float | Array = 1.0,
    action_mask: Array | None = None,
) -> Array:
    """Cross-entropy of the student's policy with the softmax of the expert's values.

    L = -sum_a p[a] log pi(a | s),   p = softmax(q / tau),   pi = softmax(z)
    (Parisotto et al. 2015, L_policy; both over the game's own actions)

    That is `kl` plus the entropy of p, and has its gradient. The authors' code has tau = 1.

    Args:
      teacher: [A], the expert's q.
      logits: [A], the student's z.
      temperature: [] tau, in units of the values, above 0.
      action_mask: bool [A], the game's actions, at least one; None: all.

    Returns:
      [] in nats, at least `target_entropy`. Gradient to `logits` only: softmax(z) - p, 0 where
      masked.

    Raises:
      ValueError: for a wrong shape, a mask that is not bool, or a temperature that is not above 0.
    """
    target = _sharpened(teacher, logits, temperature, action_mask)
    p = jnp.exp(distributions.categorical_log_probs(target, action_mask))
    return -(p * distributions.categorical_log_probs(logits, action_mask)).sum()


def target_entropy(
    teacher: Array, temperature: float | Array, action_mask: Array | None = None
) -> Array:
    """Entropy of softmax(q / tau) over the task's actions, [] in nats, without gradient.

    To be watched: where it is nearly 0 a target says no more than the best action, where it is
    nearly log A no action stands out. Arguments and errors as in `kl`.
    """
    target = _sharpened(teacher, teacher, temperature, action_mask)
    return distributions.categorical_entropy(target, action_mask)


def feature_regression(features: Array, teacher_features: Array, kernel: Array) -> Array:
    """Squared error of the expert's last hidden layer, predicted from the student's.

    L = ||W^T h_S - h_E||^2   (Parisotto et al. 2015, L_feature, f linear and of one game)

    h are activations of the last hidden layer, behind its nonlinearity. The sum over units is the
    paper's; the authors' code descends half of it, so that its weight of 0.01 is 0.005 here.

    Args:
      features: [H], the student's h_S.
      teacher_features: [F], the expert's h_E.
      kernel: [H, F], W of this game.

    Returns:
      []. Gradient to `features` (2 W e) and `kernel` (2 h_S e^T), e being W^T h_S - h_E; none to
      the expert.

    Raises:
      ValueError: for a wrong shape.
    """
    for name, x in (("features", features), ("teacher_features", teacher_features)):
        if jnp.ndim(x) != 1:
            raise ValueError(f"{name} must have one axis, got shape {jnp.shape(x)}")
    check_shape("kernel", kernel, (*jnp.shape(features), *jnp.shape(teacher_features)), "[H, F]")
    goal = jax.lax.stop_gradient(at_least_float32(teacher_features))
    return jnp.square(at_least_float32(features) @ kernel - goal).sum()


def _teacher(
    teacher: Array, student: Array, action_mask: Array | None, name: str = "logits"
) -> Array:
    """The teacher's numbers as a constant, once all shapes are right."""
    if jnp.ndim(teacher) != 1:
        raise ValueError(f"teacher must have shape [A], got {jnp.shape(teacher)}")
    shape = jnp.shape(teacher)
    check_shape(name, student, shape, "[A]")
    if action_mask is not None:
        check_shape("action_mask", action_mask, shape, "[A]")
        if jnp.result_type(action_mask) != jnp.bool_:
            raise ValueError(f"action_mask must be bool, got {jnp.result_type(action_mask)}")
    return jax.lax.stop_gradient(at_least_float32(teacher))


def _sharpened(
    teacher: Array, student: Array, temperature: float | Array, action_mask: Array | None
) -> Array:
    """q / tau, as logits."""
    check_shape("temperature", temperature, (), "[]")
    check_range("temperature", temperature, 0.0, jnp.inf, open_low=True)
    return _teacher(teacher, student, action_mask) / temperature
