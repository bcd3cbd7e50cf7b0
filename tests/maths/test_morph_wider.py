"""Wider layers: the output and the optimiser go on as if nothing had happened."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import morph_models as models
import numpy as np
import optax
import pytest

from mtrl_jax.networks import morph

OLD, NEW = 4, 8
KEY = jax.random.key(3)


def growths(row):
    """Every kind of growth that the row allows."""
    yield "copies", morph.copies(OLD, NEW, KEY, even=row.even)
    yield "random shares", morph.copies(OLD, NEW, KEY, even=row.even, split="random")
    if not row.even:
        yield "new units", morph.new_units(OLD, NEW)
        yield "silent", morph.new_units(OLD, NEW, zero="incoming", activation=jnp.tanh)


@functools.cache
def parent(name, train=False):
    """Variables and what they give; computed once for all growths."""
    row = models.ROWS[name]
    variables = models.initial(row.make(OLD), models.inputs_of(row))
    return variables, *models.runner(name, OLD)(variables, train)


@pytest.mark.parametrize("name", models.ROWS)
def test_output_stays(name):
    row = models.ROWS[name]
    for train in (False, True) if name == "conv" else (False,):
        variables, expected, stats = parent(name, train)
        assert np.std(expected) > 0.05
        for what, growth in growths(row):
            wide = morph.Wider(growth, row.edits, key=KEY)(variables)
            got, new_stats = models.runner(name, NEW)(wide, train)
            np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0, err_msg=what)
            if train and what == "copies":  # the running averages are those of the originals
                for old, new in zip(*map(jax.tree.leaves, (stats, new_stats)), strict=True):
                    np.testing.assert_allclose(new, old[growth.origin], atol=1e-6)


LR, B1, B2, EPS = 1e-2, 0.9, 0.99, 1e-8
TX = optax.chain(optax.clip_by_global_norm(1e9), optax.adam(LR, B1, B2, EPS))


@functools.cache
def step(name, width):
    return models.step_of(name, width, TX)


def parts(variables):
    """Parameters, and the other collections."""
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def gradient(name, variables):
    params, rest = parts(variables)
    zeros = jax.tree.map(np.zeros_like, params)
    adam = optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)
    state = (optax.EmptyState(), (adam, optax.EmptyState()))
    return step(name, NEW)(params, rest, state)[0]


@pytest.mark.parametrize("name", ["dense", "conv", "norms", "lstm", "gru", "residual"])
def test_adam_goes_on(name):
    """A step of adam after the morph is the mapping of the parent's step: moments and parameters,
    the latter through adam's formula in NumPy."""
    row = models.ROWS[name]
    params, rest = parts(parent(name)[0])
    state = TX.init(params)
    for _ in range(3):
        _, updates, state = step(name, OLD)(params, rest, state)
        params = jax.tree.map(lambda p, u: jnp.asarray(np.asarray(p) + u), params, updates)
    _, updates, after = step(name, OLD)(params, rest, state)

    split = "equal" if row.even else "random"
    growth = morph.copies(OLD, NEW, KEY, even=row.even, split=split)
    wider = morph.Wider(growth, row.edits)
    big = parts(wider({"params": params, **rest}))
    _, got, big_after = step(name, NEW)(*big, morph.carry(state, params, wider))

    mapped = morph.carry(after, params, wider)
    assert int(mapped[1][0].count) == int(big_after[1][0].count) == 4
    close = functools.partial(np.testing.assert_allclose, rtol=2e-3)
    for field in ("mu", "nu"):
        want, have = getattr(mapped[1][0], field), getattr(big_after[1][0], field)
        scale = max(np.abs(x).max() for x in jax.tree.leaves(want))
        jax.tree.map(lambda a, b, s=scale: close(b, a, atol=1e-5 * s), want, have)
    mu, nu = (
        jax.tree.map(lambda x, b=b: np.asarray(x, np.float64) / (1 - b**4), moment)
        for moment, b in ((big_after[1][0].mu, B1), (big_after[1][0].nu, B2))
    )
    want = jax.tree.map(lambda m, v: -LR * m / (np.sqrt(v) + EPS), mu, nu)
    jax.tree.map(lambda a, b: close(b, a, atol=1e-6), want, got)
    # The layer behind the grown one moves as it would have: its rows are copies, undivided.
    reader = {"conv": "flat"}.get(name, "head")
    index = (
        growth.origin
        if name != "conv"
        else np.concatenate([OLD * n + growth.origin for n in range(16)])
    )
    old, new = updates[reader]["kernel"], got[reader]["kernel"]
    np.testing.assert_allclose(new, old[index], atol=2e-4 * LR)


def columns(name, gradient, origin):
    """Gradients of the incoming and of the outgoing weights, one row a unit."""
    if name == "lstm":
        incoming = np.concatenate([gradient["core"][f"i{g}"]["kernel"] for g in "ifgo"])
    else:
        incoming = np.asarray(gradient["grown"]["kernel"]).reshape(-1, len(origin))
    reader = gradient["conv" if name == "conv" else "head"]["kernel"]
    outgoing = np.moveaxis(np.asarray(reader), -2, 0).reshape(len(origin), -1)
    return incoming.T, outgoing


def gaps(rows):
    """Smallest distance between two rows, relative to the longer of the two."""
    apart, norm = np.linalg.norm(rows[:, None] - rows[None], axis=-1), np.linalg.norm(rows, axis=-1)
    return (apart / np.maximum(norm[:, None], norm[None]) + np.eye(len(rows))).min()


@pytest.mark.parametrize("name", ["dense", "conv", "lstm"])
def test_noise_makes_all_gradients_differ(name):
    row = models.ROWS[name]
    variables = parent(name)[0]
    growth = morph.copies(OLD, NEW, KEY)

    def of(wide):
        return gradient(name, wide)

    incoming, outgoing = columns(name, of(morph.Wider(growth, row.edits)(variables)), growth.origin)
    assert gaps(incoming) < 5e-6 and gaps(outgoing) < 5e-6  # without noise copies are twins
    noisy = morph.Wider(growth, row.edits, noise=0.01, key=KEY)(variables)
    incoming, outgoing = columns(name, of(noisy), growth.origin)
    assert gaps(incoming) > 1e-4 and gaps(outgoing) > 1e-4
    # Unequal shares do it for the incoming weights with no change of the output.
    shared = morph.copies(OLD, NEW, KEY, split="random")
    incoming, _ = columns(name, of(morph.Wider(shared, row.edits)(variables)), growth.origin)
    assert gaps(incoming) > 1e-3


def test_noise_leaves_originals_and_changes_the_output_by_its_size():
    row = models.ROWS["dense"]
    variables, expected, _ = parent("dense")
    growth = morph.copies(OLD, NEW, KEY)
    plain = morph.Wider(growth, row.edits)(variables)
    errors = []
    for noise in (1e-3, 1e-2):
        wide = morph.Wider(growth, row.edits, noise=noise, key=KEY)(variables)
        for layer, original in (("grown", np.s_[:, :OLD]), ("head", np.s_[:OLD])):
            a, b = plain["params"][layer]["kernel"], wide["params"][layer]["kernel"]
            np.testing.assert_array_equal(a[original], b[original])
            assert (np.asarray(a != b).sum()) == a.size // 2
        got, _ = models.runner("dense", NEW)(wide, False)
        errors.append(np.abs(np.asarray(got) - expected).max())
    assert 1e-4 < errors[0] < 1e-2 and 7 < errors[1] / errors[0] < 14


def test_new_units_learn():
    """Silent at first, but one step of gradients wakes their outgoing weights, two the others."""
    row = models.ROWS["dense"]
    variables = parent("dense")[0]
    wide = morph.Wider(morph.new_units(OLD, NEW), row.edits, key=KEY)(variables)
    first = gradient("dense", wide)
    assert not np.any(first["grown"]["kernel"][:, OLD:])
    assert gaps(np.asarray(first["head"]["kernel"])) > 1e-3
    moved = jax.tree.map(lambda p, g: np.asarray(p) - 0.1 * np.asarray(g), wide["params"], first)
    assert gaps(np.asarray(gradient("dense", {"params": moved})["grown"]["kernel"]).T) > 1e-4


def test_moments_of_new_units():
    row = models.ROWS["dense"]
    params = parent("dense")[0]["params"]
    state = optax.ScaleByAdamState(jnp.zeros(()), params, jax.tree.map(np.square, params))
    wide = morph.carry(state, params, morph.Wider(morph.new_units(OLD, NEW), row.edits, key=KEY))
    for layer, new in (("grown", np.s_[:, OLD:]), ("head", np.s_[OLD:])):
        assert not np.any(wide.mu[layer]["kernel"][new])
        mean = np.square(params[layer]["kernel"]).mean()
        np.testing.assert_allclose(wide.nu[layer]["kernel"][new], mean, rtol=1e-6)


def test_twice_is_once_after_the_other_and_stacked_trees_grow_at_once():
    row = models.ROWS["dense"]
    first = morph.copies(OLD, 6, KEY)
    second = morph.copies(6, 9, jax.random.key(5), split="random")
    both = morph.Sequence(morph.Wider(first, row.edits), morph.Wider(second, row.edits))
    variables, expected, _ = parent("dense")
    got, _ = models.runner("dense", 9)(both(variables), False)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    other = jax.tree.map(lambda x: 2 * np.asarray(x), variables)
    stacked = both(jax.tree.map(lambda *x: np.stack(x), variables, other))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), stacked, both(other))


def test_plain_trees():
    """Lists of arrays, with the edits written by hand."""
    w = [np.random.default_rng(0).normal(size=s).astype(np.float32) for s in ((3, 4), (4,), (4, 2))]
    growth = morph.copies(4, 7, KEY)
    edits = (
        morph.Edit("0", -1, "copy"),
        morph.Edit("1", -1, "copy", fill=0.0),
        morph.Edit("2", -2, "split"),
    )
    u = morph.Wider(growth, edits)(w)
    count = np.bincount(growth.origin)
    np.testing.assert_array_equal(u[0], w[0][:, growth.origin])
    np.testing.assert_array_equal(u[1], w[1][growth.origin])
    np.testing.assert_allclose(u[2], (w[2] / count[:, None])[growth.origin], rtol=1e-6)
    assert list(growth.origin[:4]) == [0, 1, 2, 3] and count.sum() == 7


def test_carries_go_along():
    row = models.ROWS["lstm"]
    variables = parent("lstm")[0]
    growth = morph.copies(OLD, NEW, KEY)
    wide = morph.Wider(growth, row.edits)(variables)
    state = tuple(
        jnp.asarray(np.random.default_rng(n).normal(size=(2, OLD)), jnp.float32) for n in (0, 1)
    )
    x = jnp.ones((2, 4))

    def run(n, v, c):
        return jax.jit(nn.LSTMCell(n).apply)({"params": v["params"]["core"]}, c, x)

    (cell, hidden), _ = run(OLD, variables, state)
    new, _ = run(NEW, wide, tuple(morph.widen_units(s, growth) for s in state))
    for a, b in zip((cell, hidden), new, strict=True):
        np.testing.assert_allclose(b, morph.widen_units(a, growth), atol=1e-6)
    fresh = morph.widen_units(state[0], morph.new_units(OLD, NEW))
    assert not np.any(fresh[:, OLD:]) and np.array_equal(fresh[:, :OLD], state[0])


EDITS = (*morph.outputs("a"), *morph.inputs("b"))
TREE = {"a": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "b": {"kernel": jnp.ones((4, 2))}}


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("softmax scaled", lambda: morph.outputs("a", "attention")),
        ("borders of its groups", lambda: morph.through("group_norm", "n")),
        ("dropped independently", lambda: morph.through("dropout", "n")),
        ("other groups", lambda: morph.outputs("a", "grouped_conv")),
        ("kind must be one of", lambda: morph.inputs("a", "transformer")),
        ("new must exceed old", lambda: morph.copies(4, 4, KEY)),
        ("multiple of old=4", lambda: morph.copies(4, 6, KEY, even=True)),
        ("split must be", lambda: morph.copies(4, 6, KEY, split="half")),
        ("zero must be", lambda: morph.new_units(4, 6, zero="both")),
        ("be 0 at 0", lambda: morph.new_units(4, 6, zero="incoming", activation=nn.sigmoid)),
        ("be 0 at 0", lambda: morph.new_units(4, 6, zero="incoming")),
        ("no leaf 'c/kernel'", lambda: _wide((*EDITS, *morph.inputs("c")))),
        ("has 4 positions, expected 2 x 4", lambda: _wide(morph.inputs("b", blocks=2))),
        ("expected 1 x 4 units from 1", lambda: _wide(morph.inputs("b", start=1))),
        ("named twice", lambda: _wide((*EDITS, *morph.inputs("b")))),
        ("lacks axis", lambda: _wide((morph.Edit("a/bias", -2, "copy"),))),
        ("equally many copies", lambda: _wide((*EDITS, *morph.through("layer_norm", "n")))),
        ("key must be given", lambda: _wide(EDITS, noise=0.1)),
        ("noise must not be negative", lambda: _wide(EDITS, noise=-1.0)),
        ("x must have shape", lambda: morph.widen_units(jnp.ones(3), morph.copies(4, 6, KEY))),
    ],
)
def test_errors_say_why(what, call):
    with pytest.raises(ValueError, match=what):
        call()


def _wide(edits, **options):
    return morph.Wider(morph.copies(4, 6, KEY), tuple(edits), **options)(TREE)


def test_states_without_a_rule_are_refused():
    wider = morph.Wider(morph.copies(4, 6, KEY), EDITS)
    for tx, what in (
        (optax.adafactor(1e-3, min_dim_size_to_factor=2), "factored or masked"),
        (optax.masked(optax.adam(1e-3), {"a": True, "b": False}), "factored or masked"),
        (optax.ema(0.9), "say with degrees="),
    ):
        with pytest.raises(ValueError, match=what):
            morph.carry(tx.init(TREE), TREE, wider)
    state = optax.ema(0.9).init(TREE)
    assert morph.carry(state, TREE, wider, {"ema": 1}).ema["a"]["kernel"].shape == (3, 6)
    # Copies of parameters are widened as parameters, and momentum as gradients.
    momentum = optax.sgd(0.1, momentum=0.9).init(TREE)
    momentum = jax.tree.map(lambda x: x + 1, momentum)
    wide = morph.carry(momentum, TREE, wider)[0].trace
    np.testing.assert_allclose(wide["a"]["kernel"].sum(), 12, rtol=1e-6)
    np.testing.assert_allclose(wide["b"]["kernel"].sum(), 12, rtol=1e-6)
