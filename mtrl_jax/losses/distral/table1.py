"""The seven algorithms of Distral's Table 1 as settings of one loss, `loss.distral_loss`.

Teh et al. 2017, arXiv 1707.04175. h are the logits of the shared column, which are those of pi_0,
and g the logits of a task's own column; pi_i = softmax(shared_scale h + task_scale g)::

    name            pi_i          c_kl, c_ent in 1/beta   what reaches the shared column
    a3c             g             0,   1                  nothing (separate agents)
    a3c_multitask   h             0,   1                  policy gradient
    a3c_2col        h + g         0,   1                  policy gradient
    kl_1col         g             1,   0                  distillation
    kl_2col         h + g         1,   0                  both
    kl_ent_1col     g             1/2, 1/2                distillation
    kl_ent_2col     h/2 + g       1/2, 1/2                both

Choices where the paper is silent or literal reading fails:

  1. a3c_2col: its alpha is 0 in the loss; taken literally in equation (8) that would remove h.
  2. The value belongs to the task column (of a3c_multitask, which has none, to the shared column).
"""

from typing import NamedTuple

import jax.numpy as jnp

from mtrl_jax._checks import assert_shape, at_least_float32, check_range
from mtrl_jax.distributions import Gaussian, product
from mtrl_jax.losses.distral.objective import Scalar, costs_from_alpha_beta
from mtrl_jax.types import Array

__all__ = ["ALGORITHMS", "Coefficients", "Column", "Variant", "coefficients", "task_policy"]

Column = Array | Gaussian  # logits [..., A], or a Gaussian with such leaves


class Variant(NamedTuple):
    """A row of Table 1; ``ALGORITHMS["kl_ent_2col"]._replace(alpha=0.7)`` makes another.

    Attributes:
      alpha: share of 1/beta that is divergence cost, in [0, 1]; the rest is entropy cost.
      task_policy: "own" (one column), "shared" (no column per task) or "two_column".
    """

    alpha: float
    task_policy: str

    @property
    def has_task_column(self) -> bool:
        """Whether there are parameters per task; the value belongs to them where there are."""
        return self.task_policy != "shared"

    @property
    def has_shared_column(self) -> bool:
        """Whether there is a pi_0 that anything trains."""
        return self.task_policy != "own" or self.distils

    @property
    def policy_gradient_reaches_shared(self) -> bool:
        """Whether a task's policy gradient goes into pi_0 by way of pi_i."""
        return self.task_policy != "own"

    @property
    def distils(self) -> bool:
        """Whether the distillation term reaches the shared column."""
        return self.alpha > 0.0


ALGORITHMS: dict[str, Variant] = {
    "a3c": Variant(alpha=0.0, task_policy="own"),
    "a3c_multitask": Variant(alpha=0.0, task_policy="shared"),
    "a3c_2col": Variant(alpha=0.0, task_policy="two_column"),
    "kl_1col": Variant(alpha=1.0, task_policy="own"),
    "kl_2col": Variant(alpha=1.0, task_policy="two_column"),
    "kl_ent_1col": Variant(alpha=0.5, task_policy="own"),
    "kl_ent_2col": Variant(alpha=0.5, task_policy="two_column"),
}


class Coefficients(NamedTuple):
    """The four numbers that make an algorithm of the loss.

    Scalars, or [K] under a vmap over tasks, so that each task may have costs of its own. Two-column
    costs c_kl, c_ent [K] that differ in their ratio too are
    ``Coefficients(c_kl, c_ent, alpha_beta_from_costs(c_kl, c_ent).alpha, 1.0)``.

    Attributes:
      c_kl: cost of a nat of KL(pi_i || pi_0), in units of reward; alpha / beta.
      c_ent: cost of a nat of lost entropy, in units of reward; (1 - alpha) / beta.
      shared_scale: what multiplies the shared logits h in pi_i; alpha in two columns.
      task_scale: what multiplies the task's logits g in pi_i.
    """

    c_kl: Scalar
    c_ent: Scalar
    shared_scale: Scalar
    task_scale: Scalar


def coefficients(variant: Variant, beta: Scalar) -> Coefficients:
    """Numbers of a row of Table 1 at inverse temperature `beta`.

    Args:
      variant: a row of `ALGORITHMS`, or one made from it.
      beta: scalar above 0, or [K] for one per task; infinity switches the regulariser off. The
        paper's "entropy cost" is 1/beta.

    Returns:
      `Coefficients` of Python floats where `beta` is one; where it is an array, c_kl and c_ent
      have its shape and the scales do not (`in_axes=Coefficients(0, 0, None, None)`).

    Raises:
      ValueError: for alpha outside [0, 1], beta not above 0, or an unknown task_policy.
    """
    c_kl, c_ent = costs_from_alpha_beta(variant.alpha, beta)
    scales = {
        "own": (0.0, 1.0),
        "shared": (1.0, 0.0),
        "two_column": (variant.alpha if variant.distils else 1.0, 1.0),  # choice 1
    }
    if variant.task_policy not in scales:
        raise ValueError(
            f"task_policy must be one of {', '.join(scales)}, got {variant.task_policy!r}"
        )
    return Coefficients(c_kl, c_ent, *scales[variant.task_policy])


def task_policy(h: Column | None, g: Column | None, coefficients: Coefficients) -> Column:
    """The task's policy for any row of Table 1, equation (8); also to act with.

        pi_i ~ pi_0^shared_scale expert^task_scale
             = softmax(shared_scale h + task_scale g)

    The second line is of logits. For continuous actions, which the paper's equations are not for,
    each column gives a Gaussian, and so does their product (`distributions.product`).

    The task column emits g = beta f, the same family as (8). Emitting f would multiply a fresh
    network's output by beta, about 1e3 at the paper's costs, and make its first policy nearly
    deterministic. Nothing bounds a standard deviation here: the caller does, and a product is never
    less precise than a factor of scale 1.

    Args:
      h: logits [..., A] of the shared column, or a Gaussian with such leaves, which is pi_0; None
        where there is none.
      g: the same of the task's column; None where there is none.
      coefficients: from `coefficients`; the two scales are used.

    Returns:
      Logits or a Gaussian, [..., A], float32 at least. Carries gradient to h and g, exactly 0 to a
      column whose scale is 0.

    Raises:
      ValueError: where both are None, only one is a Gaussian, their shapes differ, or the scales of
        the Gaussians that exist add up to 0 (a product of nothing cannot be normalised).
    """
    if h is None and g is None:
        raise ValueError("one of h and g must be an array [..., A], got None for both")
    if isinstance(h, Gaussian) or isinstance(g, Gaussian):
        return _gaussian_policy(h, g, coefficients)
    logits: Scalar = 0.0
    if h is not None:
        logits = logits + coefficients.shared_scale * at_least_float32(h)
    if g is not None:
        assert_shape("[..., A], that of h,", jnp.shape(g if h is None else h), g=g)
        logits = logits + coefficients.task_scale * at_least_float32(g)
    return jnp.asarray(logits)


def _gaussian_policy(h: Column | None, g: Column | None, coefficients: Coefficients) -> Gaussian:
    factors, scales = [], []
    for name, x, scale in (
        ("h", h, coefficients.shared_scale),
        ("g", g, coefficients.task_scale),
    ):
        if x is None:
            continue
        if not isinstance(x, Gaussian):
            raise ValueError(f"{name} must be a Gaussian, as the other column; got {type(x)}")
        factors.append(x)
        scales.append(scale)
        leaves = {f"{name}.mean": x.mean, f"{name}.log_std": x.log_std}
        assert_shape("[..., A]", jnp.shape(factors[0].mean), **leaves)
    check_range("sum of scales of h and g", sum(scales), 0.0, float("inf"), open_low=True)
    return product(factors, scales)
