"""Weights of the tasks: fixed ones of their losses, or such that follow how the tasks go, of losses
or of how many environments step.

With weights w `[K]` of mean 1 the shared parameters descend

    sum_k w_k L_k(shared, own_k)        by task gradients  g_k = w_k dL_k/dshared

and surgery, which sees g_k and w_k L_k, combines those. What belongs to one task alone descends its
own L_k as ever: it has an optimiser and a clip of its own, in which a factor would only cancel.

Two rules move weights, from the episodes that end in training. With x_k a task's success rate (its
mean return where the suite knows no success) over the n_k episodes that ended in a rollout, and r a
rate for one episode,

    fast_k <- fast_k + (1 - (1 - r)^n_k) (x_k - fast_k)
    slow_k <- slow_k + (1 - (1 - s)^n_k) (fast_k - slow_k)

    success     p_k = 1 - fast_k                     tasks that fail
    progress    p_k = |fast_k - slow_k| / range_k    tasks that get better, or worse

    w_k = floor + (1 - floor) K p_k / sum_j p_j

The last is the mixture with equal weights that Matiisen et al. 2017, *Teacher-Student Curriculum
Learning*, arXiv 1707.00183, explore with, and `progress` the absolute learning progress of
Kanitscheider et al. 2021, arXiv 2106.14876 (two averages, one slower), without what they do for
small success rates. For r = 1 it is, up to a factor that all tasks share, |Q| of the former's
online algorithm, Q <- s (x_t - x_tm1) + (1 - s) Q: that sum telescopes to s / (1 - s) (x_t -
slow_t).

Both papers draw tasks with these probabilities. Here, of `over`, "losses" weighs losses, and every
task steps as many environments as ever; with "environments" losses weigh the same, and of task k
only the first

    E_k = max(1, round(E w_k / max_j w_j))

of E environments step in the next rollout. The others rest: they keep their state, and what the
rollout has of them is not valid (`types.Timestep`), so that nothing learns from it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import by_name
from mtrl_jax.ranges import OneOf, Range, check
from mtrl_jax.types import Array, EnvSpec, Metrics

__all__ = [
    "KINDS",
    "OVER",
    "Plan",
    "Rule",
    "State",
    "all_to_stepping",
    "environments",
    "fixed",
    "init",
    "logged",
    "make",
    "observe",
    "observer",
    "parse",
    "scaled",
    "stepping",
    "weights",
]

KINDS = ("success", "progress")
OVER = ("losses", "environments")
_Rate = Annotated[float, Range(0, 1, open_low=True)]


class Rule(NamedTuple):
    """What moves weights, and how fast.

    Attributes:
      kind: one of `KINDS`.
      rate: r, of the fast average, for each episode.
      slow: s, of the slow one.
      floor: least weight, of a mean of 1.
      over: what weighs, one of `OVER`.
    """

    kind: Annotated[str, OneOf(KINDS)]
    rate: _Rate = 0.02
    slow: _Rate = 0.002
    floor: _Rate = 0.2
    over: Annotated[str, OneOf(OVER)] = "losses"


class State(NamedTuple):
    """What a rule remembers, all `[K]`.

    Attributes:
      fast, slow: float32, averages of scores.
      low, high: float32, least and greatest `fast` so far: its range.
      episodes: float32, how many have ended.
    """

    fast: Array
    slow: Array
    low: Array
    high: Array
    episodes: Array


class Plan(NamedTuple):
    """Where the weights of an agent come from; at most one of them is not None.

    Attributes:
      fixed: float32 `[K]`.
      rule: that moves them.
      has_success: whether scores are success rates, whose range is 1.
    """

    fixed: np.ndarray | None
    rule: Rule | None
    has_success: bool


# ------------------------------------------------------------------------------------------- fixed


def fixed(values: Sequence[float], num_tasks: int) -> np.ndarray | None:
    """Weights with mean 1 over the tasks that have one above 0, in float32 `[K]`.

    So those with 0 are absent, and the shared parameters learn what they would without them.

    Args:
      values: one a task, or none at all.
      num_tasks: K.

    Returns:
      None where all are equal, or there are none: then nothing is to be weighed, and numbers are
      those of a run without weights to the bit.

    Raises:
      ValueError: for another number of them, one that is negative or not finite, or none above 0.
    """
    if len(values) not in (0, num_tasks):
        raise ValueError(
            f"task_weights must hold {num_tasks} numbers, one per task; got {tuple(values)}"
        )
    for value in values:
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise ValueError(
                f"task_weights must be finite and not negative; got {value!r} among {tuple(values)}"
            )
    if len(values) and not any(values):
        raise ValueError(f"task_weights must have one above 0; got {tuple(values)}")
    given = np.asarray(values, np.float64)
    if not len(given) or (given == given[0]).all():
        return None
    return (given / given[given > 0].mean()).astype(np.float32)


# ------------------------------------------------------------------------------------------- rules


def parse(text: str, spec: EnvSpec) -> Rule | None:
    """The rule that `kind:name=value` names, None for "".

    Raises:
      ValueError: for another kind, option or number; `success` where the suite knows none; one
        task.
    """
    if not text:
        return None
    kind, options = by_name.parse(text)
    if kind not in KINDS:
        raise ValueError(f"curriculum must be one of {', '.join(KINDS)}, or nothing; got {text!r}")
    unknown = [name for name in options if name not in Rule._fields[1:]]
    if unknown:
        raise ValueError(
            f"curriculum {kind} has the options {', '.join(Rule._fields[1:])}; got {unknown[0]}"
        )
    rule = Rule(kind, **options)
    check(rule)
    if kind == "success" and not spec.has_success:
        raise ValueError(
            "curriculum must be progress where the suite knows no success; got success"
        )
    if spec.num_tasks < 2:
        raise ValueError(f"curriculum {kind} needs at least two tasks; the suite has one")
    return rule


def make(spec: EnvSpec, task_weights: Sequence[float], curriculum: str) -> Plan:
    """The plan of an agent's config.

    Raises:
      ValueError: as `fixed` and `parse`, or if both are asked for.
    """
    plan = Plan(
        fixed(task_weights, spec.num_tasks), parse(curriculum, spec), bool(spec.has_success)
    )
    if task_weights and plan.rule is not None:
        raise ValueError(
            f"task_weights must be left out where a curriculum moves them; got {task_weights} and "
            f"curriculum={curriculum!r}"
        )
    return plan


def init(plan: Plan, num_tasks: int) -> State | tuple[()]:
    """Nothing seen; () where nothing moves."""
    if plan.rule is None:
        return ()
    return State(*(jnp.zeros(num_tasks) for _ in State._fields))


def observe(plan: Plan, state: State, episodes: Metrics) -> State:
    """The state with the episodes that ended in a rollout; a task without one keeps its own.

    Args:
      plan: with a rule.
      state: before.
      episodes: `episode/count`, `/return` and `/success`, float32 `[K]`, sums over episodes, of
        all devices.
    """
    rule, n = plan.rule, episodes["episode/count"]
    assert rule is not None
    total = episodes["episode/success" if plan.has_success else "episode/return"]
    x = total / jnp.maximum(n, 1.0)
    begins = state.episodes == 0
    fast = state.fast + (1.0 - jnp.power(1.0 - rule.rate, n)) * (x - state.fast)
    fast = jnp.where(begins, x, fast)
    slow = state.slow + (1.0 - jnp.power(1.0 - rule.slow, n)) * (fast - state.slow)
    slow = jnp.where(begins, x, slow)
    low = jnp.where(begins, x, jnp.minimum(state.low, fast))
    high = jnp.where(begins, x, jnp.maximum(state.high, fast))
    new = State(fast, slow, low, high, state.episodes + n)
    return State(*(jnp.where(n > 0, a, b) for a, b in zip(new, state, strict=True)))


def weights(plan: Plan, state: State | tuple[()]) -> Array | np.ndarray | None:
    """What the losses are weighed with, float32 `[K]`, or None: not at all.

    Without a gradient. A task of which no episode has ended yet counts as failing (`success`), or
    as the mean of the others (`progress`). Where all p are 0, weights are 1.
    """
    if plan.rule is None or not isinstance(state, State):
        return plan.fixed
    return _moved(plan, state) if plan.rule.over == "losses" else None


def environments(plan: Plan, state: State | tuple[()], num_envs: int) -> Array | None:
    """How many of E = `num_envs` environments of each task step, int32 `[K]`; None: always all."""
    if plan.rule is None or plan.rule.over == "losses" or not isinstance(state, State):
        return None
    w = _moved(plan, state)
    return jnp.maximum(jnp.round(num_envs * w / w.max()), 1.0).astype(jnp.int32)


def all_to_stepping(plan: Plan, state: State | tuple[()], num_envs: int) -> Array | None:
    """E / E_k, float32 `[K]`; None: 1. It makes of a mean over all environments, to which one that
    rests adds 0, one over those that step."""
    stepping = environments(plan, state, num_envs)
    return None if stepping is None else num_envs / stepping


def scaled(found: Any, factor: Array | None) -> Any:
    """A task's loss and metrics, times what `all_to_stepping` says of it."""
    return found if factor is None else jax.tree.map(lambda x: x * factor, found)


def _moved(plan: Plan, state: State) -> Array:
    """The weights of a rule, float32 `[K]`."""
    rule = plan.rule
    assert rule is not None
    seen = state.episodes > 0
    if rule.kind == "success":
        p = jnp.where(seen, 1.0 - state.fast, 1.0)
    else:
        span = 1.0 if plan.has_success else state.high - state.low
        p = jnp.abs(state.fast - state.slow) / jnp.maximum(span, 1e-12)
        p = jnp.where(seen, p, 0.0)
        p = jnp.where(seen, p, p.sum() / jnp.maximum(seen.sum(), 1))
    mean = p.mean()
    share = jnp.where(mean > 0, p / jnp.maximum(mean, 1e-12), 1.0)
    return rule.floor + (1.0 - rule.floor) * share


def observer(plan: Plan) -> Callable[[Any, Metrics], Any] | None:
    """For `types.Agent.observe`: of an agent whose state has a field `curriculum`."""
    if plan.rule is None:
        return None

    def see(state: Any, episodes: Metrics) -> Any:
        return state._replace(curriculum=observe(plan, state.curriculum, episodes))

    return see


def stepping(plan: Plan) -> Callable[[Any, int], Array | None] | None:
    """For `types.Agent.environments`: of an agent whose state has a field `curriculum`."""
    if plan.rule is None or plan.rule.over == "losses":
        return None
    return lambda state, num_envs: environments(plan, state.curriculum, num_envs)


def logged(plan: Plan, state: State | tuple[()]) -> Metrics:
    """`curriculum/weight` and `/score` `[K]` for the log, {} where nothing moves."""
    if plan.rule is None or not isinstance(state, State):
        return {}
    return {"curriculum/weight": _moved(plan, state), "curriculum/score": state.fast}
