"""Students of scripted teachers: every way to learn from them, and what cannot be learnt."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, evaluate, learner
from mtrl_jax.algorithms import distill, q_network, student, teacher
from tests.machinery import tiny
from tests.probes import probe_envs

WIDTH = 32  # of a teacher
CONFIG = distill.Config(
    hidden=(8,),
    controller=0,
    unroll_length=4,
    replay_size=512,
    min_replay=32,
    replay_ratio=4.0,
    learning_rate=2e-2,
    temperature=0.1,
)
RUN = engines.RunConfig(
    total_env_steps=1, num_envs_per_task=8, updates_per_dispatch=100, eval_episodes=16
)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def teachers(suite, flips, features=True):
    """Teachers that answer the cue, with values 0.5 for right and 0.2 for wrong.

    Two hidden units hold the cue's positive and negative part, the others nothing. `flips` is
    bool `[N, K]`: for which sets and tasks the answer is the opposite.
    """
    net = q_network.make(suite.spec, "separate", "auto", (WIDTH,))
    params = jax.eval_shape(lambda: q_network.init_params(net, jax.random.key(0)))
    n = len(flips)
    task = {k: np.zeros((n, *x.shape), np.float32) for k, x in params.task.items()}
    task["dense0_kernel"][..., 0, :2] = (1.0, -1.0)
    sign = np.where(flips, -1.0, 1.0)
    for unit, positive in enumerate((True, False)):
        for action in range(2):
            right = (action == 1) == positive
            task["out_kernel"][..., unit, action] = 0.35 + 0.15 * sign * (1 if right else -1)
    every = learner.Params({}, task)
    spec = suite.spec
    return tuple(teacher.make(net, every, k, features=features) for k in range(spec.num_tasks))


def train(suite, config, those, run=RUN):
    """The agent, its state, and metrics of the last update, `[S, ...]` of several seeds."""
    agent = distill.agent(suite.spec, config, those)
    engine = engines.make(run, suite, agent)
    carry = engine.start()
    saved = engine.save(carry)
    state = distill.assign_teachers(saved["state"], teacher.num_sets(those))
    carry = engine.load({**saved, "state": state})
    for n in range(2):
        carry, values = engine.advance(carry, n * engine.updates)
    state = engine.state(carry)
    return agent, state, {k: v[-1] for k, v in values.items()}


def returns_of(suite, agent, policies):
    """Of 32 episodes for each policy of `[S, ...]`, `[S, K, 32]`."""
    score = evaluate.functional_scorer(suite, agent, 32)
    keys = jax.random.key(9)
    return jax.jit(jax.vmap(score, (0, None)))(policies, keys).episode_return


WAYS = {
    "values": {"loss": "mse", "controller": 16},
    "mimic": {
        "loss": "actor_mimic",
        "actor": "student",
        "feature_cost": 0.01,
        "epsilon": 0.2,
    },
}


@functools.cache
def opposite(way):
    """Two tasks with opposite answers to one cue."""
    suite = probe_envs.action_and_cue((0.0, 1.0))
    those = teachers(suite, np.array([[False, True]]))
    before = jax.tree.map(np.copy, [(t.shared, t.task) for t in those])
    result = train(suite, dataclasses.replace(CONFIG, **WAYS[way]), those)
    tiny.assert_trees_equal(before, [(t.shared, t.task) for t in those])  # nobody trains a teacher
    return suite, those, result


@pytest.mark.parametrize("way", tiny.slow_but(["mimic"], WAYS))
def test_a_quarter_of_the_teachers_width_is_enough_to_answer_as_they_do(way):
    _, those, (_, state, metrics) = opposite(way)
    np.testing.assert_allclose(metrics["student/agreement"], 1.0, atol=0.02)
    theirs = len(those) * (2 * WIDTH + 2 * WIDTH + 2)  # one input, two actions
    if not WAYS[way].get("controller"):  # which learn reliably with more units only
        assert student.size(state.params) < 0.3 * theirs


def test_values_and_policies_are_the_teachers():
    """mse gives values, actor_mimic the probabilities of values over a temperature."""
    cues = jnp.array([[[1.0], [-1.0]]] * 2)
    values = np.array([[[0.2, 0.5], [0.5, 0.2]], [[0.5, 0.2], [0.2, 0.5]]])
    for way in WAYS:
        suite, _, (_, state, _) = opposite(way)
        config = dataclasses.replace(CONFIG, **WAYS[way])
        net = student.make(suite.spec, config.outputs, "auto", config.hidden, config.controller)
        y = student.outputs(net, state.params, cues)
        if way == "values":
            np.testing.assert_allclose(y, values, atol=0.02)
        else:
            want = jax.nn.softmax(values / CONFIG.temperature)
            np.testing.assert_allclose(jax.nn.softmax(y), want, atol=0.02)


def test_features_are_predicted_from_the_students():
    _, _, (_, state, metrics) = opposite("mimic")
    assert state.params.task["map"].shape == (2, 8, WIDTH)
    # One of the cue's two parts is 1: two units that are 1/2 throughout would be 0.5 off.
    assert metrics["loss/features"].max() < 0.05


@pytest.mark.slow
def test_each_seed_follows_its_own_teachers_but_one_output_layer_only_where_tasks_agree():
    """Set 0 answers as the tasks want, which are opposite; set 1 answers all cues alike."""
    suite = probe_envs.action_and_cue((0.0, 1.0))
    flips = np.array([[False, True], [True, True]])
    run = dataclasses.replace(RUN, num_seeds=3)
    config = dataclasses.replace(CONFIG, outputs="shared", loss="nll", actor="student")
    those = teachers(suite, flips, False)
    agent, state, metrics = train(suite, config, those, run)
    np.testing.assert_array_equal(state.which, [0, 1, 0])
    assert metrics["student/agreement"].shape == (3, 2)
    assert metrics["student/agreement"][1].min() > 0.98
    returns = returns_of(suite, agent, agent.policy_params(state))
    np.testing.assert_array_equal(returns[1], [[-1.0] * 32, [1.0] * 32])  # the likeliest actions
    agreement = metrics["student/agreement"][[0, 2]].mean(1)
    np.testing.assert_allclose(agreement, 0.5, atol=0.1)
    assert metrics["loss/imitation"][[0, 2]].mean(1).min() > 0.6  # log 2 is the best there is
    # The teachers themselves, as agents.
    theirs = returns_of(suite, teacher.agent(suite.spec, those), jnp.arange(2))
    np.testing.assert_array_equal(theirs.mean(-1), [[1.0, 1.0], [-1.0, 1.0]])
