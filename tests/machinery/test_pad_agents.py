"""An agent on a padded task learns what it would without the padding: an update of each algorithm,
with noise in all parameters that only the padding can reach."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import evaluate, export, normalisers, serve
from mtrl_jax.algorithms import distral, dqn, ppo, sac, sac_step
from mtrl_jax.algorithms.experience import Transition
from mtrl_jax.types import EnvSpec, Rollout, Timestep
from tests.machinery import tiny

T, E = 4, 3
SEEN, A = (3, 5), (2, 3)  # numbers of an observation and of an action, alone and padded
# What stands where, in an axis that is longer where the task is padded; by both lengths.
PLACES = {
    SEEN: [0, 1, 2],
    A: [0, 1],
    (4, 6): [0, 1, 3, 4],  # means, and what deviations are made of
    (5, 8): [0, 1, 2, 5, 6],  # a critic's observation and action
    (11, 12): [*range(10), 11],  # of a column: features, action before, reward
}


def spec(padded: bool, continuous: bool) -> EnvSpec:
    has = [True, True, False] if padded else [True, True]
    return EnvSpec(
        task_names=("task",),
        observation_shape=(SEEN[padded],),
        observation_dtype=np.float32,
        vocabulary=None,
        num_actions=0 if continuous else A[padded],
        action_mask=np.array([has]),
        episode_limit=np.array([9]),
        has_success=False,
        action_size=A[padded] if continuous else 0,
        observation_mask=np.array([[True] * 3 + [False] * 2]) if padded else None,
    )


def places(small: Any, big: Any) -> Any:
    return np.ix_(
        *(
            np.array(PLACES[pair] if pair[0] != pair[1] else range(pair[0]))
            for pair in zip(small.shape, big.shape, strict=True)
        )
    )


def is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def embedded(small: Any, big: Any) -> Any:
    """The state of the padded agent with the other's numbers in it."""

    def one(a, b):
        if not is_float(a):
            return b
        b = np.array(b)
        b[places(a, b)] = a
        return b

    return jax.tree.map(one, small, big)


def noisy(tree: Any) -> Any:
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32), tree)


def assert_same(small: Any, big: Any, before: Any) -> None:
    """Equal numbers where both have them; what only the padded one has is as it was before."""
    moved = 0
    for (path, a), b, old in zip(
        jax.tree.leaves_with_path(small), jax.tree.leaves(big), jax.tree.leaves(before), strict=True
    ):
        if is_float(a):
            at, name = places(a, b), jax.tree_util.keystr(path)
            b, old = np.array(b), np.asarray(old)
            np.testing.assert_allclose(b[at], a, rtol=1e-4, atol=2e-6, err_msg=name)
            moved += (b[at] != old[at]).any()
            b[at] = old[at]
            np.testing.assert_array_equal(b, old, err_msg=name)
    assert moved > 3  # it has learnt something


def rollouts(continuous: bool, agents: Any) -> list[Rollout]:
    """The same experience as either agent sees it."""
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(T + 1, 1, E, SEEN[0])).astype(np.float32)
    action = rng.normal(size=(T, 1, E, A[0])).astype(np.float32)
    if not continuous:
        action = rng.integers(0, A[0], (T, 1, E)).astype(np.int32)
    shape = (T + 1, 1, E)
    rest = Timestep(
        None,
        rng.normal(size=shape).astype(np.float32),
        np.ones(shape, np.float32),
        np.zeros(shape, bool),
        np.ones(shape, bool),
        np.zeros(shape, bool),
    )
    log_prob = np.full((T, 1, E), -2.0, np.float32)

    def seen(padded: bool, actor: Any) -> Rollout:
        def wide(x, pair):
            return np.pad(x, [(0, 0)] * 3 + [(0, pair[padded] - pair[0])])

        acted = wide(action, A) if continuous else action
        row = rest._replace(observation=wide(observation, SEEN))
        return Rollout(*jax.tree.map(jnp.asarray, (row, acted, log_prob)), actor)

    return [seen(padded, agent.init_actor(E)) for padded, agent in enumerate(agents)]


class Case(NamedTuple):
    module: Any
    config: Any
    continuous: bool


SIZES = {"hidden": (8, 8), "unroll_length": T, "learning_rate": 0.01}
PPO = {"network": "separate", "epochs": 1, "minibatches": 1}
DQN = {"replay_size": 16, "min_replay": 4, "batch_size": 4, "replay_ratio": 0.7}
CASES = {
    "ppo": Case(ppo, ppo.Config(**SIZES, **PPO), False),
    "ppo, continuous": Case(ppo, ppo.Config(**SIZES, **PPO, entropy_cost=0.1), True),
    "distral": Case(distral, distral.Config(**SIZES), False),
    "distral, continuous": Case(distral, distral.Config(**SIZES), True),
    "dqn": Case(dqn, dqn.Config(**SIZES, **DQN, network="separate"), False),
}


# Of discrete actions the mask is older than padding, and tested with the losses.
NAMES = tiny.slow_but(["ppo, continuous"], CASES)


@pytest.mark.parametrize("name", NAMES)
def test_an_update_on_a_padded_task_is_that_of_the_task(name):
    case = CASES[name]
    agents = [
        case.module.agent(spec(padded, case.continuous), case.config) for padded in (False, True)
    ]
    with tiny.quick_compiles():
        small, big = (jax.jit(agent.init)(jax.random.key(0)) for agent in agents)
        small = small._replace(params=noisy(small.params))
        big = embedded(small, big._replace(params=noisy(big.params)))
        updates = [jax.jit(agent.update) for agent in agents]
        data = rollouts(case.continuous, agents)
        (after, metrics), (padded, theirs) = (
            update(state, rollout)
            for update, state, rollout in zip(updates, (small, big), data, strict=True)
        )
        # And it acts the same.
        acts = []
        for agent, state, rollout in zip(agents, (after, padded), data, strict=True):
            row = jax.tree.map(lambda x: x[0], rollout.timestep)
            act = jax.jit(functools.partial(agent.act, greedy=True))
            policy, keys = agent.policy_params(state), jax.random.split(jax.random.key(1), (1, E))
            acts.append(act(policy, rollout.actor_state, row, keys))
    assert_same(after.params, padded.params, big.params)
    for key in metrics:
        if not key.startswith("grad/"):  # of all parameters; equal too, but for their number
            np.testing.assert_allclose(metrics[key], theirs[key], rtol=1e-4, atol=1e-5, err_msg=key)
    (action, log_prob, _), (theirs, log_probs, _) = acts
    if case.continuous:
        assert not np.any(theirs[..., A[0] :])
        theirs = theirs[..., : A[0]]
    np.testing.assert_allclose(theirs, action, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_probs, log_prob, rtol=1e-4, atol=1e-5)


def test_a_step_of_sac_on_a_padded_task_is_that_of_the_task():
    config = sac.Config(
        network="separate", hidden=(8, 8), layer_norm=False, batch_size=4, capacity=8
    )
    parts = [sac.make_parts(spec(padded, True), config) for padded in (False, True)]
    np.testing.assert_array_equal([p.numbers.target_entropy for p in parts], [[-2.0]] * 2)
    rng = np.random.default_rng(3)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    batch = Transition(
        normal(1, 4, 3),
        np.tanh(normal(1, 4, 2)),
        normal(1, 4),
        np.zeros((1, 4), bool),
        normal(1, 4, 3),
    )
    noise = normal(1, 4, 2, 2)

    def wide(x, pair):
        return np.pad(x, [(0, 0)] * 2 + [(0, pair[1] - pair[0])])

    padded_batch = batch._replace(
        observation=wide(batch.observation, SEEN),
        next_observation=wide(batch.next_observation, SEEN),
        action=wide(batch.action, A),
    )
    padded_noise = np.concatenate([noise, normal(1, 4, 2, 1)], -1)  # drawn, whatever is made of it
    with tiny.quick_compiles():
        small, big = (
            jax.jit(lambda key, p=p: sac.init(p, key).learned)(jax.random.key(0)) for p in parts
        )

        def noised(learned):
            return learned._replace(
                **{n: noisy(getattr(learned, n)) for n in ("actor", "critic", "target")}
            )

        small = noised(small)
        big = embedded(small, noised(big))
        results = []
        for p, state, one, draws in (
            (parts[0], small, batch, noise),
            (parts[1], big, padded_batch, padded_noise),
        ):
            moments = normalisers.init_moments((1, one.observation.shape[-1]))
            step = jax.jit(lambda *args, p=p: sac_step.step(p.numbers, *args))
            results.append(step(state, moments, one, draws))
    (after, metrics), (padded, theirs) = results
    for n in ("actor", "critic", "log_temperature"):
        got, expected, old = (getattr(x, n) for x in (padded, after, big))
        if n == "log_temperature":
            np.testing.assert_allclose(got, expected, rtol=1e-5)
        else:
            assert_same(expected, got, old)
    for key in ("policy/log_prob", "loss/actor", "loss/critic"):
        np.testing.assert_allclose(metrics[key], theirs[key], rtol=1e-4, atol=1e-5)
    # Uniform actions of the warm-up, too.
    policy = sac.Policy(padded.actor, normalisers.init_moments((1, 5)), jnp.bool_(True))
    keys = jax.random.split(jax.random.key(1), (1, 4))
    with tiny.quick_compiles():
        act = jax.jit(functools.partial(sac.act, parts[1]))
        action, log_prob = act(policy, padded_batch.observation, keys)
    assert not np.any(action[..., 2:]) and np.all(np.abs(action[..., :2]) > 0)
    np.testing.assert_allclose(log_prob, -2 * np.log(2.0), rtol=1e-6)


def test_padding_stays_0_when_tasks_share_their_statistics():
    rng = np.random.default_rng(1)
    real = np.array([[True, True, False], [True, True, True]])
    x = np.where(real[:, None, None], 5.0 + rng.normal(size=(2, T, E, 3)), 0.0).astype(np.float32)
    counts = jnp.ones((2, T, E), bool)
    moments = normalisers.init_moments((2, 3))
    normalise = jax.jit(jax.vmap(normalisers.normalise))
    for together in (True, False):
        observe = jax.jit(functools.partial(normalisers.observe, together=together, real=real))
        after = observe(moments, x, counts)
        y = normalise(x, after)
        assert not np.any(np.asarray(y)[0, ..., 2])
        own = x[1, ..., 2]  # only the second task has it
        np.testing.assert_allclose(after.mean[1, 2], own.mean(), rtol=1e-5)
        np.testing.assert_allclose(after.variance[1, 2], own.var(), rtol=1e-4)
        first = x[..., 0] if together else x[:1, ..., 0]
        np.testing.assert_allclose(after.mean[0, 0], first.mean(), rtol=1e-5)
    y = normalise(x, normalisers.observe(moments, jnp.asarray(x), counts, True))
    assert np.all(np.asarray(y)[0, ..., 2] < -0.5)  # what it would have been


def test_random_actions_are_those_of_the_task():
    agent = evaluate.random_agent(spec(True, True))
    keys = jax.random.split(jax.random.key(0), (1, E))
    action, log_prob, _ = agent.act((), (), None, keys)
    assert not np.any(action[..., 2:]) and np.all(action[..., :2])
    np.testing.assert_allclose(log_prob, np.full((1, E), -2 * np.log(2.0)), rtol=1e-6)


def test_an_exported_policy_says_what_its_tasks_have(tmp_path):
    agent = evaluate.random_agent(spec(True, True))
    folder = export.write(tmp_path / "policy", spec(True, True), agent, (), step=0)
    description = serve.load(folder).description
    assert description["observation"]["elements"] == {"task": [0, 1, 2]}
    assert description["action"]["coordinates"] == {"task": [0, 1]}
    whole = spec(False, True)
    folder = export.write(tmp_path / "whole", whole, evaluate.random_agent(whole), (), step=0)
    description = serve.load(folder).description
    assert "elements" not in description["observation"]
    assert "coordinates" not in description["action"]
