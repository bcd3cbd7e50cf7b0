"""Columns: which torso reads what, one-hot vectors, recurrence against acting step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.networks import columns
from mtrl_jax.types import EnvSpec

T, B, A = 5, 3, 4
HIDDEN, CORE_SIZE = (7, 6), 5


def _spec(shape=(3,), dtype=np.float32, vocabulary=None):
    return EnvSpec(
        task_names=("one",),
        observation_shape=shape,
        observation_dtype=np.dtype(dtype),
        vocabulary=None if vocabulary is None else np.asarray(vocabulary),
        num_actions=A,
        action_mask=np.ones((1, A), bool),
        episode_limit=np.array([9]),
        has_success=False,
    )


# ------------------------------------------------------------------------------------- torsos


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (_spec((49,), np.uint8, np.full(49, 5)), "onehot"),
        (_spec((7, 7, 3), np.uint8, np.full((7, 7, 3), 11)), "onehot"),
        (_spec((4, 84, 84), np.uint8), "conv"),
        (_spec((3, 32, 40), np.uint8), "conv"),
        (_spec((17,), np.float64), "mlp"),
        (_spec((2, 3)), "mlp"),
        (_spec(()), "mlp"),
    ],
)
def test_the_torso_follows_from_the_observation(spec, kind):
    assert columns.torso_kind(spec) == kind
    assert columns.from_spec(spec, HIDDEN, "none", CORE_SIZE).kind == kind


@pytest.mark.parametrize(
    "spec",
    [_spec((49,), np.uint8), _spec((3, 31, 84), np.uint8), _spec((2, 3, 4, 5)), _spec((5,), bool)],
)
def test_observations_that_nobody_reads(spec):
    with pytest.raises(ValueError, match=r"observation must be .*; got \w+\("):
        columns.torso_kind(spec)


@pytest.mark.parametrize(
    ("hidden", "core", "name"),
    [((), "none", "hidden"), ((8, 0), "none", "hidden"), ((8,), "rnn", "core")],
)
def test_bad_numbers_are_named(hidden, core, name):
    with pytest.raises(ValueError, match=f"{name} must"):
        columns.from_spec(_spec(), hidden, core, CORE_SIZE)


@pytest.mark.parametrize(("dtype", "most"), [(np.uint8, 256), (np.int32, 300)])
def test_one_hot_against_numpy(dtype, most):
    vocabulary = (3, 1, most, 2)
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(n, size=(6, 2)) for n in vocabulary], axis=-1).astype(dtype)
    x[0, 0, 2] = most - 1
    expected = np.concatenate([np.eye(n)[x[..., i]] for i, n in enumerate(vocabulary)], axis=-1)
    result = columns.one_hot(jnp.asarray(x), vocabulary)
    assert result.shape == (6, 2, most + 6) and result.dtype == jnp.float32
    np.testing.assert_array_equal(result, expected)


# --------------------------------------------------------------------------------- whole columns


def _inputs(spec, seed=0):
    rng = np.random.default_rng(seed)
    if spec.vocabulary is None:
        observation = rng.normal(size=(T, B, *spec.observation_shape))
    else:
        observation = rng.integers(spec.vocabulary, size=(T, B, *spec.observation_shape))
    first = np.zeros((T, B), bool)
    first[0], first[2, 1] = True, True  # one environment begins a new episode in the middle
    return (
        jnp.asarray(observation.astype(spec.observation_dtype)),
        jnp.asarray(np.where(first, -1, rng.integers(A, size=(T, B))).astype(np.int32)),
        jnp.asarray(np.where(first, 0.0, rng.normal(size=(T, B))).astype(np.float32)),
        jnp.asarray(first),
    )


@functools.cache
def _built(core):
    """Column, jitted apply and parameters; values that a fresh network would not have."""
    column = columns.from_spec(_spec(), HIDDEN, core, CORE_SIZE)
    carry = columns.initial_carry(core, CORE_SIZE, (B,))
    return column, jax.jit(column.apply), _draw(column, _inputs(_spec()), carry)


def _draw(column, inputs, carry, scale=0.4):
    shapes = jax.eval_shape(column.init, jax.random.key(0), *inputs, carry)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, scale, x.shape), x.dtype), shapes)


def _relu(x):
    return np.maximum(x, 0.0)


def _torso(params, observation, prev_action, prev_reward):
    """The dense layers of `Column`, in NumPy: action and reward join before the last of them."""
    previous = np.eye(A)[prev_action] * (prev_action >= 0)[..., None]
    x = _relu(observation @ params["dense0"]["kernel"] + params["dense0"]["bias"])
    x = np.concatenate([x, previous, prev_reward[..., None]], axis=-1)
    return _relu(x @ params["dense1"]["kernel"] + params["dense1"]["bias"])


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def _lstm_step(cell, c, h, x):
    """One step of an LSTM (Hochreiter & Schmidhuber 1997, with forget gate), gate by gate."""

    def gate(name):
        recurrent = cell[f"h{name}"]
        return x @ cell[f"i{name}"]["kernel"] + h @ recurrent["kernel"] + recurrent["bias"]

    c = _sigmoid(gate("f")) * c + _sigmoid(gate("i")) * np.tanh(gate("g"))
    return c, _sigmoid(gate("o")) * np.tanh(c)


def _gru_step(p, h, x):
    """Cho et al. 2014, with the reset gate behind the product, as flax and cuDNN have it."""

    def into(gate):
        return x @ p[f"i{gate}"]["kernel"] + p[f"i{gate}"]["bias"]

    reset, update = (_sigmoid(into(g) + h @ p[f"h{g}"]["kernel"]) for g in "rz")
    new = np.tanh(into("n") + reset * (h @ p["hn"]["kernel"] + p["hn"]["bias"]))
    return (1 - update) * new + update * h


@pytest.mark.parametrize("core", columns.CORES)
def test_a_column_against_numpy(core):
    """Previous action -1 is a vector of zeros, and the core forgets at `first`, here as there."""
    _, apply, params = _built(core)
    inputs = _inputs(_spec())
    carry = columns.initial_carry(core, CORE_SIZE, (B,))
    garbage = jax.tree.map(lambda x: x + 7.0, carry)  # row 0 is a first row, so it must not matter
    logits, value, after = apply(params, *inputs, garbage)

    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    x = _torso(p, *(np.asarray(i, np.float64) for i in inputs[:1]), *map(np.asarray, inputs[1:3]))
    if core == "lstm":
        c, h, rows = np.zeros((B, CORE_SIZE)), np.zeros((B, CORE_SIZE)), []
        for t in range(T):
            keep = ~np.asarray(inputs[3])[t][:, None]
            c, h = _lstm_step(p["lstm"], c * keep, h * keep, x[t])
            rows.append(h)
        x = np.stack(rows)
        np.testing.assert_allclose(after[0], c, atol=1e-5)
        np.testing.assert_allclose(after[1], h, atol=1e-5)
    if core == "gru":
        h, rows = np.zeros((B, CORE_SIZE)), []
        for t in range(T):
            h = _gru_step(p["gru"], h * ~np.asarray(inputs[3])[t][:, None], x[t])
            rows.append(h)
        x = np.stack(rows)
        np.testing.assert_allclose(after, h, atol=1e-5)
    np.testing.assert_allclose(logits, x @ p["policy"]["kernel"] + p["policy"]["bias"], atol=1e-5)
    expected = (x @ p["value"]["kernel"] + p["value"]["bias"])[..., 0]
    np.testing.assert_allclose(value, expected, atol=1e-5)
    assert logits.shape == (T, B, A) and value.shape == (T, B)
    assert logits.dtype == value.dtype == jnp.float32


@pytest.mark.parametrize("core", columns.CORES)
def test_an_unroll_is_acting_step_by_step(core):
    _, apply, params = _built(core)
    inputs = _inputs(_spec(), seed=2)
    carry = columns.initial_carry(core, CORE_SIZE, (B,))
    whole = apply(params, *inputs, carry)
    rows = []
    for t in range(T):
        logits, value, carry = apply(params, *(x[t : t + 1] for x in inputs), carry)
        rows.append((logits[0], value[0]))
    for expected, got in zip(whole[:2], zip(*rows, strict=True), strict=True):
        np.testing.assert_allclose(jnp.stack(got), expected, atol=1e-6)
    for expected, got in zip(jax.tree.leaves(whole[2]), jax.tree.leaves(carry), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_the_core_remembers_within_an_episode_only():
    _, apply, params = _built("lstm")
    observation, *rest = _inputs(_spec())
    carry = columns.initial_carry("lstm", CORE_SIZE, (B,))
    before = apply(params, observation, *rest, carry)[0]
    after = apply(params, observation.at[1].add(1.0), *rest, carry)[0]
    changed = np.abs(np.asarray(after - before)).max(-1) > 1e-6
    # Row 1 and what follows it, except where environment 1 begins anew at row 2.
    expected = np.ones((T, B), bool)
    expected[0], expected[2:, 1] = False, False
    np.testing.assert_array_equal(changed, expected)


def test_environments_do_not_meet():
    _, apply, params = _built("lstm")
    inputs = _inputs(_spec())
    carry = columns.initial_carry("lstm", CORE_SIZE, (B,))
    whole = apply(params, *inputs, carry)
    order = np.array([2, 0, 1])
    permuted = apply(params, *(x[:, order] for x in inputs), carry)
    np.testing.assert_allclose(permuted[0], whole[0][:, order], atol=1e-6)
    np.testing.assert_allclose(permuted[1], whole[1][:, order], atol=1e-6)


def _continuous():
    return _spec()._replace(num_actions=0, action_mask=np.ones((1, 0), bool), action_size=A)


def test_continuous_actions_enter_as_they_were_done_and_two_numbers_each_come_out():
    column = columns.from_spec(_continuous(), HIDDEN, "none", CORE_SIZE)
    observation, _, reward, first = map(np.asarray, _inputs(_spec()))
    drawn = np.random.default_rng(2).normal(size=(T, B, A)).astype(np.float32)
    before = columns.previous_action(jnp.asarray(drawn), first)
    done = np.where(first[..., None], 0.0, np.clip(drawn, -1.0, 1.0))
    np.testing.assert_array_equal(before, done)
    assert (np.abs(drawn) > 1.0).any()
    inputs = (observation, before, reward, first)
    params = _draw(column, inputs, ())
    logits, value, _ = jax.jit(column.apply)(params, *inputs, ())
    p = jax.tree.map(np.asarray, params["params"])
    x = _relu(observation @ p["dense0"]["kernel"] + p["dense0"]["bias"])
    x = np.concatenate([x, done, reward[..., None]], axis=-1)
    x = _relu(x @ p["dense1"]["kernel"] + p["dense1"]["bias"])
    np.testing.assert_allclose(logits, x @ p["policy"]["kernel"] + p["policy"]["bias"], atol=1e-5)
    assert logits.shape == (T, B, 2 * A) and value.shape == (T, B)


def test_before_the_first_action_there_is_none():
    none = columns.no_action(_spec(), (2, 3))
    assert none.shape == (2, 3) and none.dtype == jnp.int32 and (none == -1).all()
    none = columns.no_action(_continuous(), (2, 3))
    assert none.shape == (2, 3, A) and none.dtype == jnp.float32 and not none.any()


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [HIDDEN, (7,)])
@pytest.mark.parametrize(
    ("spec", "core"),
    [(_spec((2,), np.uint8, (3, 4)), "none"), (_spec(), "lstm"), (_spec((3, 36, 36)), "none")],
    ids=["onehot", "mlp-lstm", "conv"],
)
def test_a_pair_is_two_columns(spec, core, hidden):
    """Outputs and gradients of both, against one call each."""
    assert columns._PAIR_ROWS <= T * B  # else the two would be one code
    shared = columns.from_spec(spec, hidden, core, CORE_SIZE, has_value=False)
    task = columns.from_spec(spec, hidden, core, CORE_SIZE)
    inputs = _inputs(spec)
    carry = columns.initial_carry(core, CORE_SIZE, (B,))
    params = tuple(_draw(column, inputs, carry)["params"] for column in (shared, task))
    params = (jax.tree.map(lambda x: 0.5 * x + 0.1, params[0]), params[1])

    def apart(params):
        return tuple(
            column.apply({"params": p}, *inputs, carry)
            for column, p in zip((shared, task), params, strict=True)
        )

    def pair(params):
        return columns.apply_pair(shared, task, params, inputs, (carry, carry))

    def score(fn):
        return lambda params: sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(fn(params)))

    for one, other in ((apart, pair), (jax.grad(score(apart)), jax.grad(score(pair)))):
        expected, got = jax.jit(one)(params), jax.jit(other)(params)
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), got, expected
        )


def _shapes(spec, core="none", **heads):
    column = columns.from_spec(spec, HIDDEN, core, CORE_SIZE, **heads)
    row = jnp.zeros((1, 1))
    observation = jnp.zeros((1, 1, *spec.observation_shape), spec.observation_dtype)
    carry = columns.initial_carry(core, CORE_SIZE, (1,))
    tree = jax.eval_shape(
        column.init, jax.random.key(0), observation, row.astype(jnp.int32), row, row > 0, carry
    )["params"]
    return {name: tree[name]["kernel"].shape for name in tree if "kernel" in tree[name]}


def test_parameter_shapes():
    dense = {"dense1": (7 + A + 1, 6), "policy": (6, A), "value": (6, 1)}
    assert _shapes(_spec((3,))) == {"dense0": (3, 7), **dense}
    assert _shapes(_spec((2,), np.uint8, (3, 4))) == {"dense0": (3 + 4, 7), **dense}
    # Valid convolutions: 84 -> (84 - 8) / 4 + 1 = 20 -> (20 - 4) / 2 + 1 = 9, channels last.
    assert _shapes(_spec((4, 84, 84), np.uint8)) == {
        "conv0": (8, 8, 4, 16),
        "conv1": (4, 4, 16, 32),
        "dense0": (9 * 9 * 32, 7),
        **dense,
    }
    lstm = _shapes(_spec((3,)), core="lstm")
    assert lstm["policy"] == (CORE_SIZE, A) and lstm["value"] == (CORE_SIZE, 1)


@pytest.mark.parametrize(("has_policy", "has_value"), [(True, False), (False, True)])
def test_a_head_that_is_not_there_has_no_parameters_and_gives_zeros(has_policy, has_value):
    heads = {"has_policy": has_policy, "has_value": has_value}
    assert ("policy" in _shapes(_spec(), **heads), "value" in _shapes(_spec(), **heads)) == (
        has_policy,
        has_value,
    )
    column = columns.from_spec(_spec(), HIDDEN, "none", CORE_SIZE, **heads)
    _, _, params = _built("none")
    kept = {k: v for k, v in params["params"].items() if heads.get(f"has_{k}", True)}
    logits, value, _ = column.apply({"params": kept}, *_inputs(_spec()), ())
    assert bool(jnp.any(logits != 0)) == has_policy and bool(jnp.any(value != 0)) == has_value
    assert logits.shape == (T, B, A) and value.shape == (T, B)


def test_images_are_channels_first_and_scaled():
    """Against NumPy: one convolution written as a sum over windows, of pixels in [0, 1]."""
    spec = _spec((2, 36, 40), np.uint8)
    column = columns.from_spec(spec, (16,), "none", CORE_SIZE)
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(1, 2, *spec.observation_shape)).astype(np.uint8)
    row = jnp.zeros((1, 2))
    inputs = (jnp.asarray(images), row.astype(jnp.int32) - 1, row, row > 0)
    params = _draw(column, inputs, (), scale=0.1)
    logits, value, _ = column.apply(params, *inputs, ())

    def conv(x, layer, stride):
        kernel, bias = (np.asarray(layer[n], np.float64) for n in ("kernel", "bias"))
        size = kernel.shape[0]
        h, w = ((n - size) // stride + 1 for n in x.shape[1:3])
        out = np.empty((len(x), h, w, kernel.shape[-1]))
        for i in range(h):
            for j in range(w):
                cut = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
                out[:, i, j] = np.tensordot(cut, kernel, 3) + bias
        return _relu(out)

    p = params["params"]
    x = np.moveaxis(images[0].astype(np.float64) / 255.0, 1, -1)
    x = conv(conv(x, p["conv0"], 4), p["conv1"], 2).reshape(2, -1)
    x = np.concatenate([x, np.zeros((2, A + 1))], axis=1)
    x = _relu(x @ np.asarray(p["dense0"]["kernel"]) + np.asarray(p["dense0"]["bias"]))
    assert (x.max(0) > 0).sum() > 4  # not a comparison of zeros
    for name, got in (("value", value[0, :, None]), ("policy", logits[0])):
        expected = x @ np.asarray(p[name]["kernel"]) + np.asarray(p[name]["bias"])
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_fresh_policies_are_nearly_uniform():
    column = columns.from_spec(_spec(), (64, 64), "none", CORE_SIZE)
    inputs = _inputs(_spec())
    logits, value, _ = jax.jit(
        lambda key: column.apply(column.init(key, *inputs, ()), *inputs, ())
    )(jax.random.key(0))
    assert 0 < float(jnp.abs(logits).max()) < 0.1 < float(jnp.abs(value).max())
