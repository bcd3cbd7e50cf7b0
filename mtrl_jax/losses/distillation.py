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
from mtrl_jax._checks import assert_bool, assert_shape, at_least_float32, check_range
from mtrl_jax.types import Array

__all__ = ["feature_regression", "kl", "mse", "nll", "policy_regression", "target_entropy"]


def nll(teacher: Array, logits: Array, action_mask: Array | None = None) -> Array:
    """Negative log-likelihood of the teacher's best action.

    Rusu et al. 2015, section 3, L_NLL:

        L = -log pi(a^*|s),   a^* = argmax_a q[a],   pi = softmax(z)

    Args:
      teacher: [A], q; of equal values the first action counts as best.
      logits: [A], the student's z.
      action_mask: bool [A], the actions that the task has, at least one; None: all.

    Returns:
      [] in nats. Gradient to `logits` only: softmax(z) - onehot(a^*), 0 where masked.

    Raises:
      ValueError: for a wrong shape, or a mask that is not bool.
    """
    q = _teacher(teacher, action_mask, logits=logits)
    if action_mask is not None:
        q = jnp.where(action_mask, q, -jnp.inf)
    return -distributions.log_prob(distributions.categorical(logits, action_mask), q.argmax())


def mse(teacher: Array, values: Array, action_mask: Array | None = None) -> Array:
    """Squared error of the student's action-values, summed over actions.

    Rusu et al. 2015, section 3, L_MSE:

        L = sum_a (q[a] - q_S[a])^2

    Args:
      teacher: [A], q.
      values: [A], the student's q_S.
      action_mask: bool [A], the actions that the task has; None: all.

    Returns:
      [] in squared units of the values. Gradient to `values` only: 2 (q_S - q), 0 where masked.

    Raises:
      ValueError: for a wrong shape, or a mask that is not bool.
    """
    error = at_least_float32(values) - _teacher(teacher, action_mask, values=values)
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

    Rusu et al. 2015, section 3, L_KL:

        L = sum_a p[a] log(p[a] / pi(a|s)),   p = softmax(q / tau),   pi = softmax(z)

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
    return distributions.kl(target, distributions.categorical(logits, action_mask))


def policy_regression(
    teacher: Array,
    logits: Array,
    temperature: float | Array = 1.0,
    action_mask: Array | None = None,
) -> Array:
    """Cross-entropy of the student's policy with the softmax of the expert's values.

    Parisotto et al. 2015, L_policy, both over the game's own actions:

        L = -sum_a p[a] log pi(a|s),   p = softmax(q / tau),   pi = softmax(z)

    That is `kl` plus the entropy of p, and has its gradient. The authors' code has tau = 1.

    Args:
      teacher: [A], the expert's q.
      logits: [A], the student's z.
      temperature: [] tau, in units of the values, above 0.
      action_mask: bool [A], the game's actions, at least one; None: all.

    Returns:
      [] in nats, at least `target_entropy`. Gradient to `logits` only: softmax(z) - p, 0 if masked.

    Raises:
      ValueError: for a wrong shape, a mask that is not bool, or a temperature that is not above 0.
    """
    target = _sharpened(teacher, logits, temperature, action_mask)
    return distributions.cross_entropy(target, distributions.categorical(logits, action_mask))


def target_entropy(
    teacher: Array, temperature: float | Array, action_mask: Array | None = None
) -> Array:
    """Entropy of the softmax of the teacher's values over the task's actions.

        H = -sum_a p[a] log p[a],   p = softmax(q / tau)

    To be watched: where it is nearly 0 a target says no more than the best action, where it is
    nearly log A no action stands out.

    Arguments and errors as in `kl`.

    Returns:
      [] in nats, without gradient.
    """
    return distributions.entropy(_sharpened(teacher, teacher, temperature, action_mask))


def feature_regression(features: Array, teacher_features: Array, kernel: Array) -> Array:
    """Squared error of the expert's last hidden layer, predicted from the student's.

    Parisotto et al. 2015, L_feature, f being linear and of one game:

        L = |W^T h_S - h_E|^2

    h are activations of the last hidden layer, behind its nonlinearity. The sum over units is the
    paper's; the authors' code descends half of it, so that its weight of 0.01 is 0.005 here.

    Args:
      features: [H], the student's h_S.
      teacher_features: [F], the expert's h_E.
      kernel: [H, F], W of this game.

    Returns:
      []. Gradient to `features` (2 W e) and `kernel` (2 h_S e^T), e = W^T h_S - h_E, not to h_E.

    Raises:
      ValueError: for a wrong shape.
    """
    assert_shape("[H]", (None,), features=features)
    assert_shape("[F]", (None,), teacher_features=teacher_features)
    assert_shape("[H, F]", jnp.shape(features) + jnp.shape(teacher_features), kernel=kernel)
    goal = jax.lax.stop_gradient(at_least_float32(teacher_features))
    return jnp.square(at_least_float32(features) @ kernel - goal).sum()


def _teacher(teacher: Array, action_mask: Array | None, **student: Array) -> Array:
    """The teacher's numbers as a constant, once all shapes are right."""
    assert_shape("[A]", (None,), teacher=teacher)
    assert_shape("[A]", jnp.shape(teacher), **student)
    if action_mask is not None:
        assert_shape("[A]", jnp.shape(teacher), action_mask=action_mask)
        assert_bool(action_mask=action_mask)
    return jax.lax.stop_gradient(at_least_float32(teacher))


def _sharpened(
    teacher: Array, student: Array, temperature: float | Array, action_mask: Array | None
) -> distributions.Categorical:
    """softmax(q / tau)."""
    assert_shape("[]", (), temperature=temperature)
    check_range("temperature", temperature, 0.0, jnp.inf, open_low=True)
    values = _teacher(teacher, action_mask, logits=student) / temperature
    return distributions.categorical(values, action_mask)
