"""Weights, frozen parameters and curricula in every algorithm, in a run, and as flags."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import agents, runs, task_flags
from mtrl_jax import curriculum, engines, freeze, metrics
from mtrl_jax.algorithms import distral, dqn, ppo, sac
from mtrl_jax.types import EnvSpec, Rollout, Timestep
from tests.machinery import tiny

K, T, E = 2, 4, 2
SPEC = EnvSpec(("a", "b"), (3,), np.float32, None, 3, np.ones((K, 3), bool), np.full(K, 9), True)
CONTINUOUS = SPEC._replace(action_size=2, num_actions=0, action_mask=np.ones((K, 0), bool))
# The second task weighs nothing, and some layers stay.
SAME = {"hidden": (4, 4), "unroll_length": T, "task_weights": (5.0, 0.0), "freeze": ("dense0",)}
AGENTS = {
    "ppo": (ppo, SPEC, {"epochs": 2, "minibatches": 1, "target_kl": 0.0}),
    "dqn": (dqn, SPEC, {"min_replay": 4, "replay_size": 8, "batch_size": 4, "n_step": 1}),
    "sac": (sac, CONTINUOUS, {"capacity": 8, "batch_size": 4, "warmup": 0}),
    "distral": (distral, SPEC, {"surgery": "pcgrad"}),
}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def experience(agent, spec, other):
    """A rollout; the second task's rewards and observations are others with `other`."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(T + 1, K, E, 3)).astype(np.float32)
    reward = rng.normal(size=(T + 1, K, E)).astype(np.float32)
    action = rng.integers(0, 3, (T, K, E)).astype(np.int32)
    if spec.action_size:
        action = rng.uniform(-0.9, 0.9, (T, K, E, 2)).astype(np.float32)
    if other:
        x[:, 1], reward[:, 1] = x[::-1, 1] + 1, 1 - reward[:, 1]
    yes = np.ones((T + 1, K, E), bool)
    row = Timestep(x, reward, yes.astype(np.float32), ~yes, yes, ~yes)
    log_prob = np.full((T, K, E), -1.0, np.float32)
    return jax.tree.map(jnp.asarray, Rollout(row, action, log_prob, agent.init_actor(E)))


def parameters(state):
    """Of all networks that learn, by name."""
    if hasattr(state, "params"):
        networks = {"": state.params}
    else:
        networks = {"actor/": state.learned.actor, "critic/": state.learned.critic}
    return {
        network + name: np.asarray(x)
        for network, params in networks.items()
        for name, x in zip(freeze.names(params), jax.tree.leaves(params), strict=True)
    }


@pytest.mark.parametrize("kind", tiny.slow_but(["dqn"], AGENTS))
def test_a_task_of_no_weight_teaches_nothing_and_what_is_frozen_stays(kind):
    module, spec, more = AGENTS[kind]
    agent = module.agent(spec, module.Config(**SAME, **more))
    state = jax.jit(agent.init)(jax.random.key(0))
    update = jax.jit(agent.update)
    before = parameters(state)
    one, two = (
        parameters(update(state, experience(agent, spec, other))[0]) for other in (False, True)
    )
    still = {name for name in before if "dense0" in name}
    assert still and all("dense1" not in name for name in still)
    for name, x in before.items():
        if name in still:
            np.testing.assert_array_equal(one[name], x, name)
        elif "shared/" in name:
            assert (one[name] != x).any(), name
            np.testing.assert_array_equal(one[name], two[name], name)
        else:
            np.testing.assert_array_equal(one[name][0], two[name][0], name)
    if kind == "distral":  # the others' tasks have next to nothing of their own here
        name = "task/dense1/kernel"
        assert (one[name][1] != two[name][1]).any() and (one[name][1] != before[name][1]).any()
    without = module.agent(spec, module.Config(**{**SAME, "freeze": ()}, **more))
    leaves = [
        len(jax.tree.leaves(jax.eval_shape(one.init, jax.random.key(0))))
        for one in (without, agent)
    ]
    assert leaves[0] - leaves[1] == 2 * len(still)  # Adam's moments


def test_equal_weights_are_none_to_the_bit():
    config = distral.Config(hidden=(4,), unroll_length=T)
    found = []
    for weights in ((), (0.1, 0.1)):
        agent = distral.agent(SPEC, dataclasses.replace(config, task_weights=weights))
        state = jax.jit(agent.init)(jax.random.key(0))
        found.append(jax.jit(agent.update)(state, experience(agent, SPEC, False)))
    tiny.assert_trees_equal(*found)


# ------------------------------------------------------------------------------------ freeze


def test_patterns_name_parameters_from_slash_to_slash():
    agent_config = ppo.Config(hidden=(4, 4), network="multihead")
    state = jax.eval_shape(ppo.agent(SPEC, agent_config).init, jax.random.key(0))

    def chosen(*patterns):
        frozen = freeze.select(patterns, lambda key: state.params)
        return {
            name
            for name, is_frozen in zip(
                freeze.names(state.params), jax.tree.leaves(frozen), strict=True
            )
            if is_frozen
        }

    every = set(freeze.names(state.params))
    shared = {name for name in every if name.startswith("shared/")}
    assert chosen("torso") == chosen("shared") == shared
    assert chosen("actor") == {name for name in every if "/actor/" in name}
    assert chosen("shared/critic/dense*/kernel") == {
        f"shared/critic/dense{n}/kernel" for n in (0, 1)
    }
    assert chosen("out_kernel", "dense0") == {
        n for n in every if "out_kernel" in n or "dense0" in n
    }
    one_hot = ppo.agent(SPEC, ppo.Config(hidden=(4,)))
    frozen = freeze.select(("torso",), lambda key: one_hot.init(key).params)
    assert frozen.shared["actor"]["dense0"]["kernel"] and not frozen.shared["actor"]["out"]["bias"]
    for wrong in ("dense", "dense2", "", "Actor"):
        with pytest.raises(
            ValueError, match=f"freeze: '{wrong}' names no parameter; there are shared/"
        ):
            chosen("actor", wrong)
    with pytest.raises(ValueError, match="freeze: shared, task leave nothing that could learn"):
        chosen("shared", "task")


def test_a_reset_of_networks_and_frozen_ones_exclude_each_other():
    with pytest.raises(ValueError, match="freeze must be left out where networks are made anew"):
        sac.check(CONTINUOUS, sac.Config(freeze=("actor",), reset_every=10))


# --------------------------------------------------------------------------------- curriculum


def test_a_curriculum_is_told_of_episodes_logged_and_goes_on_to_the_bit():
    suite = tiny.suite()
    moved = {"algorithm": "a3c_multitask", "curriculum": "progress:rate=.2:slow=.05"}
    agent = distral.agent(suite.spec, dataclasses.replace(tiny.CONFIG, **moved))
    engine = engines.make(tiny.run_config(), suite, agent)
    carry, first = engine.advance(engine.start(), 0)
    saved = engine.save(carry)  # what a checkpoint holds
    carry, second = engine.advance(carry, 5)
    whole = engine.state(carry)
    carry, again = engine.advance(engine.load(saved), 5)
    tiny.assert_trees_equal(again, second)
    tiny.assert_trees_equal(engine.state(carry), whole)

    values = {name: np.concatenate([x, second[name]]) for name, x in first.items()}
    weights = values["curriculum/weight"]  # [N, K], of the update that used them
    np.testing.assert_array_equal(weights[0], 1.0)
    np.testing.assert_allclose(weights.mean(1), 1.0, 1e-5)
    assert (weights > 0.2 - 1e-6).all() and np.ptp(weights[-1]) > 1e-3
    ended = values["episode/count"].sum(0)
    np.testing.assert_allclose(whole.curriculum.episodes, ended)
    plan = curriculum.make(suite.spec, (), moved["curriculum"])
    state = curriculum.init(plan, tiny.K)
    for n in range(len(weights)):  # the log's own numbers give the log's weights
        np.testing.assert_allclose(curriculum.weights(plan, state), weights[n], 1e-4)
        episodes = {name: x[n] for name, x in values.items() if name.startswith("episode/")}
        state = curriculum.observe(plan, state, episodes)
    row = metrics.log_row(metrics.accumulate({}, values, suite.spec, 0), suite.spec, 1)
    assert row[f"task/{suite.spec.task_names[1]}/curriculum/weight"] == pytest.approx(
        weights[:, 1].mean()
    )


# -------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("text", "weights"),
    [("1,.5,0", (1.0, 0.5, 0.0)), ("b=2, c=.5", (1.0, 2.0, 0.5)), ("x=y=3", None)],
)
def test_weights_by_number_or_by_name(text, weights):
    names = ("a", "b", "c") if weights else ("x=y", "z")
    assert task_flags.weights_of(text.split(","), names) == (weights or (3.0, 1.0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("d=1", "'d' is no task of the suite; it has a, b, c"),
        ("a=1,2", "must be numbers, or name=number throughout; got 'a=1,2'"),
        ("a=1,a=2", "must name each task once; got 'a' twice"),
        ("a=x", "must hold numbers; got 'a=x'"),
        ("", "must hold numbers; got ''"),
    ],
)
def test_weights_that_are_none_are_refused(text, words):
    with pytest.raises(ValueError, match=f"--task_weights.* {words}" if words[0] != "'" else words):
        task_flags.weights_of(text.split(","), ("a", "b", "c"))


def test_settings_say_so_only_where_there_is_something_to_say():
    """A run from before these fields goes on."""
    suite = {"suite": "x", "permute_actions": None}

    def saved(config):
        settings = runs.settings_of("dqn", suite, tiny.RUN, config)
        assert agents.config_of(dqn.Config, settings) == config
        return {name.removeprefix("config/") for name in settings}

    plain = saved(dqn.Config())
    assert "surgery" in plain and not plain & {"task_weights", "curriculum", "freeze"}
    assert saved(dqn.Config(task_weights=(1.0, 2.0), freeze=("torso",))) - plain == {
        "task_weights",
        "freeze",
    }
