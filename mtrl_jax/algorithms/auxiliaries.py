"""The auxiliary tasks of `unreal` on a column and its heads: each a loss of a recorded stretch.

A stretch is T + 1 rows of one environment as they were played, from a replay. The column reads it
from an empty memory, not from the one that it had when it was played (as the released code of
1611.05397 does). Losses are sums over tasks of means over stretches, as the agent's own is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import surgery
from mtrl_jax.losses import auxiliary, reward_prediction
from mtrl_jax.networks import auxiliary as heads
from mtrl_jax.networks import columns
from mtrl_jax.types import Array, ArrayTree, EnvSpec, Key, Rollout

__all__ = [
    "AUXILIARIES",
    "COMBINE",
    "Numbers",
    "Stretch",
    "init_heads",
    "look",
    "recorded",
    "stretch_spec",
    "time_major",
]


class Stretch(NamedTuple):
    """What a replay keeps, leaves `[T + 1, ...]` of one environment.

    Attributes:
      observation, reward, discount, first, valid: of the rows, as in `types.Timestep`.
      prev_action: int32, of the row before, whatever that was.
    """

    observation: Array
    reward: Array
    discount: Array
    first: Array
    valid: Array
    prev_action: Array


class Numbers(NamedTuple):
    """What the losses are told.

    Attributes:
      column: the network.
      core, core_size: of it.
      num_actions: A.
      num_tasks: K, by which means over all stretches become sums over tasks.
      cells: (H', W') of pixel control.
      cell, margin: in pixels.
      control_discount, discount: of changes, and of rewards.
      reward_scale: of the agent.
      history, num_samples: of reward prediction.
      noise_size: numbers of noise that are to be foretold at every row.
    """

    column: columns.Column
    core: str
    core_size: int
    num_actions: int
    num_tasks: int
    cells: tuple[int, int]
    cell: int
    margin: int
    control_discount: float
    discount: float
    reward_scale: float
    history: int
    num_samples: int
    noise_size: int


class Seen(NamedTuple):
    """What a column makes of stretches: values `[T + 1, B]`, features `[T + 1, B, F]`."""

    value: Array
    seen: Array
    core: Array


def stretch_spec(spec: EnvSpec, unroll_length: int) -> Stretch:
    """Shapes and dtypes of one stretch."""

    def rows(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((unroll_length + 1, *shape), dtype)

    f32, flag = rows(jnp.float32), rows(jnp.bool_)
    observation = rows(spec.observation_dtype, *spec.observation_shape)
    return Stretch(observation, f32, f32, flag, flag, rows(jnp.int32))


def recorded(rollout: Rollout) -> Stretch:
    """The stretches of a rollout, leaves `[K, E, T + 1, ...]`."""
    rows = rollout.timestep
    before = jnp.concatenate([rollout.actor_state.prev_action[None], rollout.action])
    stretch = Stretch(rows.observation, rows.reward, rows.discount, rows.first, rows.valid, before)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2), stretch)


def time_major(drawn: Stretch) -> Stretch:
    """Leaves `[K, B, T + 1, ...]` to `[T + 1, K B, ...]`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, *x.shape[2:]), 0, 1), drawn)


def look(numbers: Numbers, params: ArrayTree, rows: Stretch) -> Seen:
    """The column on time-major stretches, leaves `[T + 1, B, ...]`, from an empty memory."""
    inputs = (
        rows.observation,
        columns.previous_action(rows.prev_action, rows.first),
        jnp.where(rows.valid, rows.reward * numbers.reward_scale, 0.0),
        rows.first,
        columns.initial_carry(numbers.core, numbers.core_size, rows.first.shape[1:]),
    )
    found: Any = numbers.column.apply({"params": params}, *inputs, mutable=["intermediates"])
    (_, value, _), kept = found
    return Seen(value, *(kept["intermediates"][name][0] for name in ("seen", "core")))


def _pixel_control(numbers: Numbers, head: ArrayTree, seen: Seen, rows: Stretch, key: Key) -> Array:
    net = heads.PixelControl(numbers.num_actions, numbers.cells)
    parts: Any = net.apply({"params": head}, seen.core)
    q = auxiliary.dueling(*parts)
    valid = rows.valid[1:]

    def one(q: Array, frames: Array, action: Array, discount: Array, valid: Array) -> Array:
        change = auxiliary.pixel_changes(frames, valid, numbers.cell, numbers.margin)
        return auxiliary.pixel_control_loss(q, action, change, discount, valid)

    discount = numbers.control_discount * rows.discount[1:]
    action = rows.prev_action[1:]
    return jax.vmap(one, 1)(q, rows.observation, action, discount, valid).mean()


def _reward_prediction(
    numbers: Numbers, head: ArrayTree, seen: Seen, rows: Stretch, key: Key
) -> Array:
    reward, valid = rows.reward[1:], rows.valid[1:]
    chosen = reward_prediction.balanced_samples(
        key, reward, valid, numbers.num_samples, numbers.history
    )
    back = jnp.arange(1 - numbers.history, 1)
    frames = seen.seen[chosen.t[:, None] + back[None], chosen.env[:, None]]
    logits: Any = heads.RewardPrediction(len(reward_prediction.CLASSES)).apply(
        {"params": head}, frames.reshape(numbers.num_samples, -1)
    )
    return reward_prediction.reward_prediction_loss(
        logits, reward[chosen.t, chosen.env], chosen.weight
    )


def _value_replay(numbers: Numbers, head: ArrayTree, seen: Seen, rows: Stretch, key: Key) -> Array:
    reward, discount = numbers.reward_scale * rows.reward[1:], numbers.discount * rows.discount[1:]
    loss = jax.vmap(auxiliary.value_replay_loss, 1)
    return loss(seen.value, reward, discount, rows.valid[1:]).mean()


def _noise(numbers: Numbers, head: ArrayTree, seen: Seen, rows: Stretch, key: Key) -> Array:
    """Harmful by construction: what is to be foretold is drawn anew at every update."""
    foretold = seen.core @ head["kernel"]
    drawn = jax.random.normal(key, foretold.shape)
    return jnp.square(foretold - drawn).sum(-1).mean()


# `(numbers, head, seen, rows, key) -> []`, a mean over stretches.
AUXILIARIES: dict[str, Callable[[Numbers, Any, Seen, Stretch, Key], Array]] = {
    "pixel_control": _pixel_control,
    "reward_prediction": _reward_prediction,
    "value_replay": _value_replay,
    "noise": _noise,
}


# `num_losses -> transform`; the main loss is number 0.
COMBINE: dict[str, Callable[..., surgery.Transform]] = {
    "sum": surgery.sum,
    "gradient_cosine": surgery.gradient_cosine,
    "pcgrad": lambda n, **options: surgery.pcgrad(n, main=0, **options),
    "gradnorm": surgery.gradnorm,
    "uncertainty_weighting": surgery.uncertainty_weighting,
    "dwa": lambda n, **options: surgery.dwa(n, period=10, **options),
    "ol_aux": surgery.ol_aux,
    "auxilearn": surgery.sum,  # of gradients that phi has weighed
}


def init_heads(
    numbers: Numbers, column: ArrayTree, one: Stretch, names: tuple[str, ...], key: Key
) -> dict[str, ArrayTree]:
    """Fresh heads by name; {} of a task that has none of its own.

    Args:
      numbers: of the losses.
      column: parameters.
      one: a stretch of zeros, leaves `[T + 1, 1, ...]`.
      names: of the auxiliary tasks.
      key: consumed.
    """
    shapes = jax.eval_shape(lambda p: look(numbers, p, one), column)
    features, seen = shapes.core.shape[-1], shapes.seen.shape[-1]

    def make(name: str, key: Key) -> ArrayTree:
        if name == "pixel_control":
            net = heads.PixelControl(numbers.num_actions, numbers.cells)
            return net.init(key, jnp.zeros((1, features)))["params"]
        if name == "reward_prediction":
            width = numbers.history * seen
            return heads.RewardPrediction(len(reward_prediction.CLASSES)).init(
                key, jnp.zeros((1, width))
            )["params"]
        if name == "noise":
            shape = (features, numbers.noise_size)
            return {"kernel": jax.random.normal(key, shape) * features**-0.5}
        return {}

    return {n: make(n, jax.random.fold_in(key, i)) for i, n in enumerate(names)}
