"""A column: torso, optional recurrent core, policy head, value head. One task's, or the shared one.

Teh et al. 2017 (arXiv 1707.04175) use columns of one architecture for the distilled policy and for
every task: a torso over the observation, and a recurrent core that also sees the previous action
and reward. K task columns are `jax.vmap` over the parameters of one column; no special module is
needed. A shared and a task column on the same rows go through `apply_pair`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks.convolution import BlockConv
from mtrl_jax.types import Array, ArrayTree, EnvSpec

CORES = ("none", "lstm", "gru")
_PAIR_ROWS = 12  # T * B from which two columns share a product


def torso_kind(spec: EnvSpec) -> str:
    """`onehot` for categorical observations, `conv` for images (C, H, W), `mlp` for the rest.

    Raises:
      ValueError: for observations that none of them reads.
    """
    rank = len(spec.observation_shape)
    if spec.vocabulary is not None:
        return "onehot"
    if rank == 3 and min(spec.observation_shape[1:]) >= 32:
        return "conv"
    if rank <= 2 and np.issubdtype(spec.observation_dtype, np.floating):
        return "mlp"
    raise ValueError(
        "observation must be categorical (with a vocabulary), a (C, H, W) image of at least 32 x "
        f"32, or a float vector; got {np.dtype(spec.observation_dtype)}{spec.observation_shape}"
    )


def one_hot(x: Array, vocabulary: tuple[int, ...]) -> Array:
    """Integers `[..., N]` with `vocabulary[n]` classes each to float32 `[..., sum(vocabulary)]`."""
    if len(set(vocabulary)) == 1:  # a comparison without a gather: a fifth of the time on a CPU
        classes = jnp.arange(vocabulary[0], dtype=x.dtype).reshape((1,) * x.ndim + (-1,))
        return (x[..., None] == classes).astype(jnp.float32).reshape(*x.shape[:-1], -1)
    element = np.repeat(np.arange(len(vocabulary)), vocabulary)
    value = np.concatenate([np.arange(n) for n in vocabulary])
    repeated = x[..., element]
    equal = repeated == jnp.broadcast_to(jnp.asarray(value, x.dtype), repeated.shape)
    return equal.astype(jnp.float32)


class Column(nn.Module):
    """Time-major: works on `[T, B, ...]` at once, and on T = 1 when acting.

    Attributes:
      num_actions: A, 0 where actions are continuous.
      kind: from `torso_kind`.
      vocabulary: classes of each element of a categorical observation, flattened; else ().
      hidden: widths of the dense layers (after the convolutions, for images).
      core: "none", "lstm" or "gru".
      core_size: width of the core.
      has_policy, has_value: which heads exist.
      action_size: 0, or the coordinates A of a continuous action; the policy head then emits 2 A
        numbers, a mean and whatever a standard deviation is made of.
    """

    num_actions: int
    kind: str
    vocabulary: tuple[int, ...]
    hidden: tuple[int, ...]
    core: str
    core_size: int
    has_policy: bool
    has_value: bool
    action_size: int = 0

    @nn.compact
    def __call__(
        self,
        observation: Array,
        prev_action: Array,
        prev_reward: Array,
        first: Array,
        carry: Any,
        dense0: Array | None = None,
    ) -> tuple[Array, Array, Any]:
        """One pass over a trajectory of B environments.

        Args:
          observation: `[T, B, ...]`.
          prev_action: int32 `[T, B]`, -1 where there is none; or float32 `[T, B, A]`, then 0.
          prev_reward: float32 `[T, B]`.
          first: bool `[T, B]`; the core forgets before such a row.
          carry: the core's state before row 0, `initial_carry(...)`.
          dense0: `[T, B, hidden[0]]`, the first dense layer's output before its relu, if somebody
            has computed it already (`apply_pair`).

        Returns:
          logits float32 `[T, B, A]`, or `[T, B, 2 A]` where actions are continuous (zeros without a
          policy head), value float32 `[T, B]` (zeros without a value head), and the core's state
          after the last row. With `mutable=["intermediates"]` also what auxiliary heads read:
          "seen" `[T, B, N]`, the convolutions' output, and "core" `[T, B, F]`, what the heads read.
        """
        t, b = first.shape

        def dense(n, scale, name):
            return nn.Dense(n, kernel_init=_init(scale), name=name)

        if self.kind == "conv":
            x = jnp.moveaxis(observation, 2, -1).astype(jnp.float32) / 255.0
            x = x.reshape(-1, *x.shape[2:])
            for i, (features, size, stride) in enumerate(((16, 8, 4), (32, 4, 2))):
                x = nn.relu(BlockConv(features, size, stride, name=f"conv{i}")(x))
            x = x.reshape(t, b, -1)
            self.sow("intermediates", "seen", x)
        else:
            x = flat_features(self, observation) if dense0 is None else dense0
        for i, width in enumerate(self.hidden):
            if i == len(self.hidden) - 1:
                if not self.action_size:
                    prev_action = jax.nn.one_hot(prev_action, self.num_actions)
                x = jnp.concatenate([x, prev_action, prev_reward[..., None]], -1)
            given = i == 0 and dense0 is not None
            x = nn.relu(x if given else dense(width, 2.0, f"dense{i}")(x))
        if self.core != "none":
            x, carry = _recur(self.core, self.core_size, x, first, carry)
        self.sow("intermediates", "core", x)
        outputs = 2 * self.action_size or self.num_actions
        logits = jnp.zeros((t, b, outputs))
        value = jnp.zeros((t, b))
        if self.has_policy:
            logits = dense(outputs, 1e-4, "policy")(x).astype(jnp.float32)
        if self.has_value:
            value = dense(1, 1.0, "value")(x)[..., 0].astype(jnp.float32)
        return logits, value, carry


def flat_features(column: Column, observation: Array) -> Array:
    """What the first dense layer reads of observations `[T, B, ...]`, float32 `[T, B, N]`."""
    flat = observation.reshape(*observation.shape[:2], -1)
    if column.kind == "onehot":
        return one_hot(flat, column.vocabulary)
    return flat.astype(jnp.float32)


def apply_pair(
    shared: Column,
    task: Column,
    params: tuple[ArrayTree, ArrayTree],
    inputs: tuple[Array, Array, Array, Array],
    carries: tuple[Any, Any],
) -> tuple[tuple[Array, Array, Any], tuple[Array, Array, Any]]:
    """Both columns on the same rows, as two calls would give them, but faster.

    The first layer is most of a small column's work: as one product with both kernels side by
    side it reads the observation once, forward and backward.

    Args:
      shared, task: columns of one architecture, but for their heads.
      params: of the shared column and of one task's.
      inputs: observation, prev_action, prev_reward, first, as `Column` takes them.
      carries: states of the two cores.

    Returns:
      What `Column` returns, of each.
    """
    first_layers: tuple[Array | None, Array | None] = (None, None)
    # With one hidden layer the previous action enters there; an image's first layer is no product.
    # Laying the kernels side by side is a copy, which a few rows do not pay for, nor a number of
    # rows that `jax.export` leaves open.
    rows = inputs[3].size
    many = isinstance(rows, int) and rows >= _PAIR_ROWS
    if shared.kind != "conv" and len(shared.hidden) > 1 and many:
        kernel, bias = (
            jnp.concatenate([p["dense0"][name] for p in params], axis=-1)
            for name in ("kernel", "bias")
        )
        x = flat_features(shared, inputs[0]) @ kernel
        both = x + jnp.broadcast_to(bias, x.shape)
        first_layers = (both[..., : shared.hidden[0]], both[..., shared.hidden[0] :])
    h, g = [
        column.apply({"params": p}, *inputs, carry, dense0)
        for column, p, carry, dense0 in zip(
            (shared, task), params, carries, first_layers, strict=True
        )
    ]
    return h, g  # type: ignore[return-value]  # what flax says of `apply`


def _init(scale: float) -> Any:
    # Not orthogonal: its batched QR (one program for all tasks' columns) deadlocks XLA:CPU of jax
    # 0.10.
    return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")


def _recur(core: str, size: int, x: Array, first: Array, carry: Any) -> tuple[Array, Any]:
    def body(cell, carry, row):
        features, reset = row
        carry = jax.tree.map(lambda c: jnp.where(reset[:, None], 0.0, c), carry)
        return cell(carry, features)

    kind: Any = nn.OptimizedLSTMCell if core == "lstm" else nn.GRUCell
    cell = kind(size, recurrent_kernel_init=_init(1.0), name=core)
    scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
    carry, x = scan(cell, carry, (x, first))
    return x, carry


def previous_action(action: Array, first: Array) -> Array:
    """As a column takes it: what the environment made of the action before, none on `first` rows.

    Args:
      action: int32 `[T, B]`, or float32 `[T, B, A]`, before the environment cuts it off.
      first: bool `[T, B]`.
    """
    if jnp.issubdtype(action.dtype, jnp.integer):
        return jnp.where(first, -1, action)
    return jnp.where(first[..., None], 0.0, jnp.clip(action, -1.0, 1.0))


def initial_carry(core: str, core_size: int, batch: tuple[int, ...]) -> Any:
    """Zeros `[*batch, core_size]`, an LSTM's for cell and hidden state; () without a core."""
    if core == "none":
        return ()
    if core == "gru":
        return jnp.zeros((*batch, core_size))
    return (jnp.zeros((*batch, core_size)), jnp.zeros((*batch, core_size)))


def from_spec(
    spec: EnvSpec,
    hidden: tuple[int, ...],
    core: str,
    core_size: int,
    *,
    has_policy: bool = True,
    has_value: bool = True,
) -> Column:
    """A column that reads the observations of `spec`.

    Raises:
      ValueError: for an unknown core, no hidden layer, or an observation nobody reads.
    """
    if core not in CORES:
        raise ValueError(f"core must be one of {', '.join(CORES)}; got {core!r}")
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden must hold at least one positive width; got {hidden}")
    vocabulary = () if spec.vocabulary is None else tuple(int(n) for n in spec.vocabulary.flat)
    return Column(
        spec.num_actions,
        torso_kind(spec),
        vocabulary,
        hidden,
        core,
        core_size,
        has_policy,
        has_value,
        spec.action_size,
    )


def no_action(spec: EnvSpec, batch: tuple[int, ...]) -> Array:
    """What a column is given as the action before the first: -1, or zeros `[*batch, A]`."""
    if spec.action_size:
        return jnp.zeros((*batch, spec.action_size))
    return jnp.full(batch, -1, jnp.int32)
