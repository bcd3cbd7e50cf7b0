"""What methods do to a gradient, against closed forms; columns and reservoirs against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax import continual, distributions
from mtrl_jax.continual import Situation, samples
from mtrl_jax.losses.continual import Anchor
from mtrl_jax.networks.progressive import Progressive

RNG = np.random.default_rng(0)
N, M, F, A = 3, 8, 4, 3  # tasks, observations, inputs, actions
ACTOR = {"w": jnp.asarray(RNG.normal(size=(F, 5)), jnp.float32)}
OWN = {"head": jnp.asarray(RNG.normal(size=(N, 5, A)), jnp.float32)}
SEEN = jnp.asarray(RNG.normal(size=(M, F)), jnp.float32)
KEY = jax.random.key(0)


def policy(actor, own, observation, k):
    return distributions.categorical(jnp.tanh(observation @ actor["w"]) @ own["head"])


def situation(task=0, done=0, told=True):
    return Situation(policy, OWN, jnp.int32(task), jnp.int32(done), SEEN, told, KEY)


def moved(by=0.3):
    return jax.tree.map(lambda x: x + by, ACTOR)


ZERO = jax.tree.map(jnp.zeros_like, ACTOR)


def corrected(method, memory, actor, at):
    def run(memory, actor):
        return method.correct(memory, ZERO, actor, at, jax.random.key(1))["w"]

    return jax.jit(run)(memory, actor)


def by_hand_fisher(task):
    """E_x sum_a pi (d log pi / dw)^2 by loops."""
    head = {"head": OWN["head"][task]}

    @jax.jit
    def row(x, a):
        return jax.value_and_grad(lambda p: policy(p, head, x[None], 0).log_probs[0, a])(ACTOR)

    rows = [row(x, a) for x in SEEN for a in range(A)]
    return sum(np.exp(log_pi) * np.square(g["w"]) for log_pi, g in rows) / M


@pytest.mark.parametrize("name", ["l2", "ewc", "online_ewc"])
def test_an_anchor_pulls_back_by_how_much_a_weight_matters(name):
    make = {"l2": continual.l2, "ewc": continual.ewc}
    method = continual.online_ewc(2.0, 0.5) if name == "online_ewc" else make[name](2.0)
    memory = method.init(ACTOR, situation())
    assert not corrected(method, memory, moved(), situation()).any()  # nothing is learnt yet
    memory = method.remember(memory, ACTOR, situation(task=1))
    f = np.ones((F, 5)) if name == "l2" else by_hand_fisher(1)
    assert not corrected(method, memory, ACTOR, situation(2)).any()
    pull = corrected(method, memory, moved(), situation(2))
    np.testing.assert_allclose(pull, 2.0 * f * 0.3, rtol=1e-4, atol=1e-6)
    again = method.remember(memory, ACTOR, situation(task=2))
    if name != "l2":
        both = by_hand_fisher(2) + {"ewc": 1.0, "online_ewc": 0.5}[name] * f
        np.testing.assert_allclose(again.importance["w"], both, rtol=1e-4)


def test_mas_is_the_sensitivity_of_the_action_probabilities():
    method = continual.mas(1.0)
    memory = method.remember(method.init(ACTOR, situation()), ACTOR, situation(1))

    def square(actor, x):
        return jnp.square(
            jnp.exp(policy(actor, {"head": OWN["head"][1]}, x[None], 1).log_probs)
        ).sum()

    each = [np.abs(jax.grad(square)(ACTOR, x)["w"]) for x in SEEN]
    np.testing.assert_allclose(memory.importance["w"], np.mean(each, 0), rtol=1e-4)
    assert isinstance(memory, Anchor)


def by_hand_divergence(actor, tasks):
    """Mean KL(before || now) over observations and tasks."""
    total = []
    for k in tasks:
        own = {"head": OWN["head"][k]}
        p, q = (policy(params, own, SEEN, k).log_probs for params in (ACTOR, actor))
        total.append((jnp.exp(p) * (p - q)).sum(-1).mean())
    return jnp.mean(jnp.stack(total))


def test_distillation_is_of_the_tasks_before_alone():
    method = continual.distill(3.0, 4000)
    memory = method.init(ACTOR, situation())
    memory = method.remember(memory, ACTOR, situation(0))
    assert not corrected(method, memory, moved(), situation(0)).any()
    np.testing.assert_allclose(corrected(method, memory, ACTOR, situation(2)), 0.0, atol=1e-5)
    found = corrected(method, memory, moved(), situation(2))
    expected = jax.grad(by_hand_divergence)(moved(), (0, 1))["w"]
    np.testing.assert_allclose(found, 3.0 * expected, atol=0.05 * np.abs(3.0 * expected).max())


def test_a_reservoir_says_again_what_was_said_of_tasks_before():
    method = continual.reservoir(2.0, M, 4000)
    kept = method.init(ACTOR, situation(1))
    assert not corrected(method, kept, moved(), situation(1)).any()
    _, kept = method.after(kept, ACTOR, situation(1))
    assert not corrected(method, kept, moved(), situation(1)).any()  # of the task that is learnt
    untold = corrected(method, kept, moved(), situation(1, told=False))
    found = corrected(method, kept, moved(), situation(2))
    expected = 2.0 * jax.grad(by_hand_divergence)(moved(), (1,))["w"]
    for one in (found, untold):
        np.testing.assert_allclose(one, expected, atol=0.05 * np.abs(expected).max())


def test_a_gem_takes_out_what_conflicts_with_the_samples():
    method = continual.a_gem(M, 512)
    _, kept = method.after(method.init(ACTOR, situation(0)), ACTOR, situation(0))
    at, key = situation(1), jax.random.key(1)
    reference = continual.reservoir(1.0, M, 512).correct(kept, ZERO, moved(), at, key)["w"]
    bad = {"w": -reference}
    np.testing.assert_allclose(method.correct(kept, bad, moved(), at, key)["w"], 0.0, atol=1e-5)
    good = {"w": reference}
    np.testing.assert_array_equal(method.correct(kept, good, moved(), at, key)["w"], reference)


def test_what_is_kept_is_a_uniform_sample_of_all_that_was_offered():
    def item(numbers, key):
        n = len(numbers)
        return continual.Kept(jax.random.uniform(key, (n,)), jnp.asarray(numbers), numbers)

    @jax.jit
    def stream(key):
        kept = item(jnp.zeros(10, jnp.int32), key)._replace(priority=jnp.full(10, -1.0))
        for i in range(5):  # 100 items in five portions, so that the last do not win
            numbers = jnp.arange(20, dtype=jnp.int32) + 20 * i
            kept = continual.keep(kept, item(numbers, jax.random.fold_in(key, i)))
        return kept.task

    drawn = np.asarray(jax.vmap(stream)(jax.random.split(KEY, 2000)))
    assert all(len(set(row)) == 10 for row in drawn[:50])
    shares = np.bincount(drawn.ravel() // 20, minlength=5) / drawn.size
    np.testing.assert_allclose(shares, 0.2, atol=0.015)


def test_a_batch_is_a_uniform_draw_of_what_counts():
    counts = np.array([False, True, True, False, False, True, False])
    drawn = np.asarray(samples.draw(jnp.asarray(counts), KEY, 6000))
    shares = np.bincount(drawn, minlength=7) / 6000
    np.testing.assert_allclose(shares, counts / 3, atol=0.03)
    assert not shares[~counts].any()
    nothing = np.asarray(samples.draw(jnp.zeros(3, bool), KEY, 6000))
    assert nothing.min() >= 0 and nothing.max() < 3


def test_what_may_not_move_has_no_part_in_a_norm_and_stays_whatever_moments_say():
    params = {"actor": {"w": jnp.ones((N, 2))}, "critic": {"w": jnp.ones((N, 2))}}
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.1))

    def whole(grads, state, p=None, **extra):  # of one task: [1, *param] to [*param]
        return inner.update(jax.tree.map(lambda x: x[0], grads), state, p)

    one = optax.GradientTransformationExtraArgs(inner.init, whole)
    method, grads = continual.progressive(), jax.tree.map(lambda x: 3.0 * x[None], params)
    state = continual.around(one, method, (), situation(0)).init(params)
    for task in (0, 1):
        tx = continual.around(one, method, (), situation(task))
        updates, state = tx.update(grads, state, params)
        for row in range(N):
            assert bool(updates["critic"]["w"][row].any()) == (row == task)
    clipped = 3.0 / np.sqrt(4 * 9.0)  # of four numbers, not of twelve
    first = optax.tree.get(state.inner, "mu")["actor"]["w"]
    np.testing.assert_allclose(first[1], 0.1 * clipped, rtol=1e-5)


def test_packnet_moves_what_is_free_then_what_it_keeps_and_others_read_their_own():
    method, memory, actor = continual.packnet(2, prune_at=3), None, ACTOR
    memory = method.init(actor, situation(0))
    free = method.trainable(memory, {}, situation(0, done=1))["w"]
    assert free.all()
    same, owner = method.after(memory, actor, situation(0, done=2))
    assert not owner["w"].any() and same["w"] is not None
    actor, owner = method.after(memory, actor, situation(0, done=3))
    assert (owner["w"] == 1).sum() == F * 5 // 2
    kept = method.trainable(owner, {}, situation(0, done=4))["w"]
    np.testing.assert_array_equal(kept, owner["w"] == 1)
    np.testing.assert_array_equal(method.trainable(owner, {}, situation(1))["w"], owner["w"] == 0)
    later = {"w": jnp.where(owner["w"] == 0, 7.0, actor["w"])}  # another task moves what is free
    np.testing.assert_array_equal(method.view(owner, later, 0, jnp.int32(1))["w"], actor["w"])
    np.testing.assert_array_equal(method.view(owner, later, 1, jnp.int32(1))["w"], later["w"])
    with pytest.raises(ValueError, match="prune_at must be at least 1; got 0"):
        continual.packnet(2, 0)


def columns_by_hand(p, x, k, nudge=None, act=None):
    """Column k of `Progressive`, with loops over columns, and what all say, by layer; `nudge` is
    (layer, column, feature, by)."""

    def nudged(h, layer):
        if nudge is not None and nudge[0] == layer and nudge[1] < len(h):
            h[nudge[1]][:, nudge[2]] += nudge[3]
        said.append(np.stack(h))
        return h

    said = []

    def relu(x):
        return np.maximum(x, 0.0) if act is None else act(x)

    h = [relu(x @ p["dense0_kernel"][j] + p["dense0_bias"][j]) for j in range(k + 1)]
    nudged(h, 0)
    for layer, name in ((1, "dense1"), (2, "out")):
        new = []
        for j in range(k + 1):
            width = h[0].shape[-1]
            read = np.zeros((len(x), N * width))
            for i in range(j):
                read[:, i * width : (i + 1) * width] = p[f"alpha{layer}"][j, i] * h[i]
            lateral = relu(read @ p[f"adapter{layer}_in"][j]) @ p[f"adapter{layer}_out"][j]
            y = h[j] @ p[f"{name}_kernel"][j] + p[f"{name}_bias"][j] + lateral
            new.append(y if name == "out" else relu(y))
        h = new if name == "out" else nudged(new, layer)
    return h[k], said


def noisy(net, scale):
    """Parameters of which none is 0."""

    @jax.jit
    def draw():
        params = net.init(KEY, SEEN, jnp.int32(0))["params"]
        return jax.tree.map(lambda x: x + scale * jax.random.normal(KEY, x.shape), params)

    return draw()


def test_progressive_columns_read_those_before_and_none_behind():
    net = Progressive(N, (6, 5), A)
    apply = jax.jit(lambda params, k: net.apply({"params": params}, SEEN, k))
    params = noisy(net, 0.1)
    before = [apply(params, jnp.int32(k)) for k in range(N)]
    numbers = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    for k in range(N):
        np.testing.assert_allclose(
            before[k], columns_by_hand(numbers, np.asarray(SEEN), k)[0], rtol=2e-4
        )
    other = jax.tree.map(lambda x: x.at[1].add(0.5), params)  # the middle one learns
    after = [apply(other, jnp.int32(k)) for k in range(N)]
    np.testing.assert_array_equal(before[0], after[0])  # to the bit
    assert (before[1] != after[1]).any() and (before[2] != after[2]).any()
    alone = {n: (0 * x if n.endswith("_out") else x) for n, x in params.items()}
    changed = jax.tree.map(lambda x: x.at[0].add(0.5), alone)
    both = [apply(p, jnp.int32(2)) for p in (alone, changed)]
    np.testing.assert_array_equal(*both)  # without U a column is on its own


def test_sensitivity_to_columns_is_that_of_differences_of_log_probabilities():
    """E_x sum_a pi (d log pi / d (h / s))^2 by central differences, as shares of the columns."""
    net, k = Progressive(N, (6, 5), A, activation="tanh"), 1
    params = noisy(net, 0.3)

    def policy(columns, observation):
        logits = net.apply({"params": columns}, observation[None], jnp.int32(k))[0]
        return distributions.categorical(logits)

    @jax.jit
    def run(params, seen):
        _, found = net.apply({"params": params}, seen, jnp.int32(k), mutable=["intermediates"])
        said = [found["intermediates"][f"h{i}"][0] for i in range(2)]
        return said, continual.sensitivity(policy, params, said, seen)

    said, found = run(params, SEEN)
    numbers, x = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, SEEN))

    def log_pi(nudge=None):
        logits, said = columns_by_hand(numbers, x, k, nudge, np.tanh)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), said

    pi, h = log_pi()
    assert found.shape == (2, N) and not found[:, 2].any()
    for layer, width in enumerate((6, 5)):
        np.testing.assert_allclose(said[layer][:2], h[layer], rtol=1e-4, atol=1e-5)
        f = np.zeros((2, width))
        for j in range(2):
            for m in range(width):
                up, down = (log_pi((layer, j, m, by))[0] for by in (1e-5, -1e-5))
                slope = (up - down) / 2e-5
                f[j, m] = (np.exp(pi) * slope**2).sum(-1).mean() * h[layer][j, :, m].var()
        expected = (f / f.sum(0)).mean(1)
        np.testing.assert_allclose(found[layer, :2], expected, rtol=1e-3)
        assert 0.005 < expected[0] < 0.995  # both columns matter
    dead = continual.layer_sensitivity(jnp.zeros((2, 3)), jnp.ones((2, 4, 3)))
    np.testing.assert_array_equal(dead, 0.0)
    with pytest.raises(ValueError, match=r"activations must have shape \[K, B, H\]"):
        continual.layer_sensitivity(jnp.zeros((2, 3)), jnp.ones((2, 4, 5)))
