"""A gradient step of SAC against a single-task one written out here; what splitting tasks does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import normalisers, surgery
from mtrl_jax.algorithms import actor_q, ppo, sac, sac_step
from mtrl_jax.algorithms.experience import Transition
from mtrl_jax.networks import multitask
from tests.machinery import tiny
from tests.probes.test_ppo_probes import aim

B, F, A = 8, 3, 2
EPSILON = 1e-2  # of adam: gradients that cancel to rounding errors must not look large
CONFIG = sac.Config(
    hidden=(5, 6),
    layer_norm=False,
    discount=0.9,
    batch_size=B,
    capacity=B,
    learning_rate=0.01,
    temperature_learning_rate=0.02,
    temperature=0.5,
    target_rate=0.1,
    max_grad_norm=0.3,
    adam_epsilon=EPSILON,
)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@functools.cache
def made(k, **changes):
    spec = aim(tuple(float(n) for n in range(k))).spec
    spec = spec._replace(observation_shape=(F,), action_size=A)
    parts = sac.make_parts(spec, dataclasses.replace(CONFIG, **changes))
    start = functools.partial(sac_step.init_learned, parts.numbers, temperature=CONFIG.temperature)
    learned = jax.jit(lambda key: start(key))(jax.random.key(0))
    step = jax.jit(functools.partial(sac_step.step, parts.numbers))
    return parts, learned, step


def data(k, seed=0):
    """A batch with true ends in it, and noise."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=(k, B, *shape)).astype(np.float32)

    batch = Transition(normal(F), np.tanh(normal(A)), 3 * normal(), normal() > 0.7, normal(F))
    return batch, normal(2, A)


def no_moments(k):
    return normalisers.init_moments((k, F))


# ------------------------------------------------------------------- single-task SAC, written out


def mlp(p, x):
    for name in ("dense0", "dense1"):
        y = jnp.einsum("bi,ij->bj", x, p[name]["kernel"])
        x = jnp.maximum(y + jnp.tile(p[name]["bias"], (B, 1)), 0.0)
    out = jnp.einsum("bi,ij->bj", x, p["out"]["kernel"])
    return out + jnp.tile(p["out"]["bias"], (B, 1))


def with_one(x):
    """The task number of the only task: a column of ones."""
    return jnp.concatenate([x, jnp.ones((B, 1))], 1)


def play(p, x, noise):
    out = mlp(p, with_one(x))
    mean, raw = out[:, :A], out[:, A:]
    log_std = -4.0 + 6.0 * jnp.tanh(raw + np.arctanh(4.0 / 6.0))  # in (-10, 2), 0 at raw = 0
    std = jnp.exp(log_std)
    u = mean + std * noise
    density = jnp.exp(-0.5 * jnp.square(noise)) / (std * np.sqrt(2 * np.pi)) * jnp.cosh(u) ** 2
    return jnp.tanh(u), jnp.log(density).sum(1)


def critic(p, c, x, a):
    return mlp(p[f"critic{c}"], with_one(jnp.concatenate([x, a], 1)))[:, 0]


def adam(grad, p, m, v, t, rate):
    tree = jax.tree.map
    m = tree(lambda m, g: 0.9 * m + 0.1 * g, m, grad)
    v = tree(lambda v, g: 0.999 * v + 0.001 * g * g, v, grad)

    def scale(m, v):
        return (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + EPSILON)

    return tree(lambda p, m, v: p - rate * scale(m, v), p, m, v), m, v


def clipped(grad):
    norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(grad)))
    return jax.tree.map(lambda g: g * jnp.minimum(1.0, CONFIG.max_grad_norm / norm), grad), norm


@jax.jit
def reference(t, actor, critics, slow, log_alpha, memory, batch, noise):
    """Step number `t` (from 1); everything new, and the norm of the critics' gradient."""
    s, a, r, ended, s_next = batch
    alpha = jnp.exp(log_alpha)
    a_next, log_prob = play(actor, s_next, noise[:, 0])
    q_next = jnp.minimum(critic(slow, 0, s_next, a_next), critic(slow, 1, s_next, a_next))
    y = r + 0.9 * (1.0 - ended) * (q_next - alpha * log_prob)

    def critic_loss(p):
        errors = [critic(p, c, s, a) - y for c in range(2)]
        return sum(0.5 * (e * e).mean() for e in errors)

    grad, norm = clipped(jax.grad(critic_loss)(critics))
    critics, *of_critics = adam(grad, critics, *memory[0], t, 0.01)

    def actor_loss(p):
        a, log_prob = play(p, s, noise[:, 1])
        q = jnp.minimum(critic(critics, 0, s, a), critic(critics, 1, s, a))
        return (alpha * log_prob - q).mean(), log_prob.mean()

    grad, log_prob = jax.grad(actor_loss, has_aux=True)(actor)
    actor, *of_actor = adam(clipped(grad)[0], actor, *memory[1], t, 0.01)
    log_alpha, *of_alpha = adam(-(log_prob - A), log_alpha, *memory[2], t, 0.02)
    slow = jax.tree.map(lambda s, c: 0.9 * s + 0.1 * c, slow, critics)
    return (actor, critics, slow, log_alpha, [of_critics, of_actor, of_alpha]), norm


def test_one_task_is_single_task_sac():
    _, learned, step = made(1)
    # A policy whose outputs depend on the input, as the initial one's hardly do.
    wide = jax.tree.map(lambda x: x * 30.0, learned.actor.shared["out"])
    actor = learned.actor._replace(shared={**learned.actor.shared, "out": wide})
    first = learned = learned._replace(actor=actor)

    def zeros(tree):
        return [jax.tree.map(jnp.zeros_like, tree)] * 2

    alpha = learned.log_temperature[0]
    params = learned.actor.shared, learned.critic.shared
    memory = [zeros(params[1]), zeros(params[0]), zeros(alpha)]
    want, norms = (*params, params[1], alpha, memory), []
    for t in range(1, 5):
        batch, noise = data(1, seed=t)
        want, norm = reference(float(t), *want, *jax.tree.map(lambda x: x[0], (batch, noise)))
        norms.append(norm)
        learned, _ = step(learned, no_moments(1), batch, noise)
        tiny.assert_trees_close(learned.actor.shared, want[0], 2e-6)
        tiny.assert_trees_close(learned.critic.shared, want[1], 2e-6)
        tiny.assert_trees_close(learned.target.shared, want[2], 2e-6)
        np.testing.assert_allclose(learned.log_temperature, want[3][None], rtol=1e-5)
    assert max(norms) > CONFIG.max_grad_norm  # the clip was met
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.actor.shared, learned.actor.shared)
    assert min(jax.tree.leaves(moved)) > 1e-3


# ----------------------------------------------------------------------------------- several tasks


def test_splitting_the_critic_loss_by_task_changes_neither_it_nor_its_gradient():
    k = 3
    parts, learned, _ = made(k, network="multihead")
    batch, _ = data(k)
    nets = parts.numbers.nets
    y = jnp.asarray(np.random.default_rng(1).normal(size=(k, B)).astype(np.float32))
    number = jnp.repeat(jnp.arange(k), B)

    def together(params):
        """One batch of all tasks' samples in an order of their own, no task axis anywhere."""
        order = np.random.default_rng(2).permutation(k * B)
        x = jnp.concatenate([batch.observation, batch.action], -1).reshape(k * B, -1)[order]
        total = 0.0
        for c in range(2):
            shared, own = (half[f"critic{c}"] for half in params)
            q = multitask.per_sample(nets.critic, shared, own, x, number[order])[:, 0]
            total += 0.5 * jnp.square(q - y.reshape(-1)[order]).mean()
        return total

    def one_task(shared, own, batch):
        x, action, y, k = batch
        q = actor_q.q_values(nets, shared, own, x, action, k)
        return sac_step.losses.critic_loss(q, y)[0]

    args = (batch.observation, batch.action, y, jnp.arange(k))
    fn = jax.jit(jax.vmap(jax.value_and_grad(one_task, argnums=(0, 1)), in_axes=(None, 0, 0)))
    losses, (g_shared, g_own) = fn(learned.critic.shared, learned.critic.task, args)
    value, grad = jax.jit(jax.value_and_grad(together))(learned.critic)
    np.testing.assert_allclose(losses.mean(), value, rtol=1e-5)
    assert losses.std() > 1e-2
    mean = jax.tree.map(lambda g: g.mean(0), g_shared)
    tiny.assert_trees_close(mean, grad.shared, 1e-6)
    tiny.assert_trees_close(jax.tree.map(lambda g: g / k, g_own), grad.task, 1e-6)


def test_surgery_combines_the_critics_gradients_and_the_actors_apart():
    k = 2
    batch, noise = data(k)
    batch = batch._replace(reward=batch.reward + np.array([[10.0], [-30.0]], np.float32))
    _, learned, step = made(k, surgery="pcgrad")
    after, metrics = step(learned, no_moments(k), batch, noise)
    opts = (after.critic_opt.shared, after.actor_opt.shared)
    critic, actor = (surgery.diagnostics(opt) for opt in opts)
    assert metrics["grad/conflicts_critic"] == 1  # the one pair
    norms = np.asarray(critic.task_norms)
    gram = np.asarray(critic.cosine) * norms[:, None] * norms
    assert gram.mean(0).min() < 0  # the mean would set a task back
    assert min(critic.update_cosine.min(), actor.update_cosine.min()) > -1e-6  # this does not
    assert abs(critic.cosine[0, 1] - actor.cosine[0, 1]) > 1e-2
    np.testing.assert_allclose(metrics["grad/cosine_actor"], actor.cosine[0, 1], rtol=1e-5)
    # A temperature enters the target of its own task only.
    hot = learned._replace(log_temperature=learned.log_temperature + jnp.array([0.0, 1.0]))
    _, other = step(hot, no_moments(k), batch, noise)
    assert other["q/target"][0] == metrics["q/target"][0]
    assert abs(other["q/target"][1] - metrics["q/target"][1]) > 0.1
    moved = after.log_temperature > learned.log_temperature
    np.testing.assert_array_equal(moved, metrics["policy/log_prob"] > A)


def test_the_methods_accepted_are_ppos():
    spec = made(2)[0].spec

    def accepted(module, config):
        for name in surgery.METHODS:
            try:
                module.check(spec, dataclasses.replace(config, surgery=name))
            except ValueError as error:
                assert "positive losses" in str(error)
            else:
                yield name

    names = list(accepted(sac, CONFIG))
    assert names == list(accepted(ppo, ppo.Config()))
    assert "pcgrad" in names and "famo" not in names


@pytest.mark.parametrize("network", sorted(multitask.NETWORKS))
def test_every_network_fits(network):
    spec = made(2)[0].spec
    nets = sac.make_parts(spec, dataclasses.replace(CONFIG, network=network)).numbers.nets

    def one_task(key):
        params = actor_q.init_params(nets, key)
        own = [jax.tree.map(lambda p: p[0], p.task) for p in params]
        x, k = jnp.zeros((B, F)), jnp.int32(0)
        action, log_prob = actor_q.draw(nets, params[0].shared, own[0], x, jnp.zeros((B, A)), k)
        return action, log_prob, actor_q.q_values(nets, params[1].shared, own[1], x, action, k)

    shapes = [x.shape for x in jax.eval_shape(one_task, jax.random.key(0))]
    assert shapes == [(B, A), (B,), (2, B)]
