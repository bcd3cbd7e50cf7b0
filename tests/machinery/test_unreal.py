"""UNREAL: without auxiliary tasks it is the base agent, with them both learn, and runs go on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, learner, rollout
from mtrl_jax.algorithms import auxiliaries, distral, unreal
from mtrl_jax.envs import rooms, suites
from tests.machinery import tiny

K, E, T = 2, 2, 5
SUITE = rooms.rooms(episode_length=4)
CONFIG = unreal.Config(
    hidden=(8,),
    core_size=8,
    unroll_length=T,
    replay_size=6,
    replay_batch=3,
    reward_samples=8,
    noise_size=4,
    learning_rate=1e-2,
    cell=8,
)


CALLS = ("init", "init_actor", "policy_params", "act", "update")


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def change(**values):
    return dataclasses.replace(CONFIG, **values)


def experience(agent, key=0):
    """A rollout of a fresh policy."""
    index, key = jnp.asarray(rollout.env_indices(K, E)), jax.random.key(key)

    @jax.jit
    def play(key):
        state = agent.init(key)
        loop = rollout.init_env_loop(SUITE, key, index, agent.init_actor)
        policy = agent.policy_params(state)
        return state, rollout.unroll(SUITE, agent.act, policy, loop, key, T)[1]

    return play(key)


@pytest.fixture(scope="module")
def base():
    agent = distral.agent(SUITE.spec, unreal.base_config(CONFIG))
    return (agent, *experience(agent))


@pytest.fixture(scope="module")
def three(base):
    """States and metrics behind two updates: of the base agent, of one without auxiliary tasks, and
    of one whose auxiliary tasks weigh nothing; and how the last one began."""
    agent, state, played = base
    off = unreal.agent(SUITE.spec, change(auxiliaries=()))
    weights = dict.fromkeys(auxiliaries.AUXILIARIES, 0.0)
    idle = unreal.agent(SUITE.spec, change(auxiliaries=tuple(weights), **weights))
    found = []
    for one, own in ((agent, state), (off, state), (idle, jax.jit(idle.init)(jax.random.key(0)))):
        fresh, update = own, jax.jit(one.update)
        for _ in range(2):
            own, metrics = update(own, played)
        found.append((own, metrics))
    return (*found, fresh)


def test_without_auxiliaries_it_is_the_base_agent_to_the_bit(base, three):
    agent, state, _ = base
    tiny.assert_trees_equal(three[0], three[1])
    off = unreal.agent(SUITE.spec, change(auxiliaries=()))
    assert off._replace(**dict.fromkeys(CALLS)) == agent._replace(**dict.fromkeys(CALLS))
    # With them, too, it begins as the base agent does, but for the last digits of another program.
    tiny.assert_trees_close(three[3].params["column"], state.params.shared, 1e-6)


def test_auxiliaries_of_no_weight_change_nothing(three):
    (state, metrics), _, (own, own_metrics), fresh = three
    tiny.assert_trees_close(own.params["column"], state.params.shared, 1e-6)
    np.testing.assert_allclose(own_metrics["loss/total"], metrics["loss/total"], rtol=1e-4)
    tiny.assert_trees_equal(own.params["heads"], fresh.params["heads"])
    assert own_metrics["aux/noise/loss"] == 0 and own_metrics["aux/noise/cosine"] == 0


def test_the_replay_holds_what_was_played(base, three):
    played, (own, _) = base[2], three[2]
    stored = own.replay.items
    np.testing.assert_array_equal(own.replay.stored, 2 * E)
    for k in range(K):
        for e in range(E):
            np.testing.assert_array_equal(
                stored.observation[k, e], played.timestep.observation[:, k, e]
            )
            np.testing.assert_array_equal(stored.prev_action[k, e, 1:], played.action[:, k, e])
            np.testing.assert_array_equal(stored.valid[k, e], played.timestep.valid[:, k, e])


@pytest.mark.slow
@pytest.mark.parametrize("combine", auxiliaries.COMBINE)
def test_every_way_of_combining_trains(combine, base):
    names = ("pixel_control", "reward_prediction", "value_replay", "noise")
    agent = unreal.agent(SUITE.spec, change(auxiliaries=names, combine=combine, phi_every=2))
    (plain, _, played), state = base, jax.jit(agent.init)(jax.random.key(0))
    before, update = state, jax.jit(agent.update)
    seen = []
    for _ in range(25):
        state, metrics = update(state, played)
        seen.append(metrics)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, seen)))
    for name in ("pixel_control", "reward_prediction"):
        own = [float(m[f"aux/{name}/loss"]) for m in seen]
        assert np.mean(own[-5:]) < np.mean(own[:5]), name
    if combine == "pcgrad":  # nothing is set back along the main gradient
        assert min(float(m["aux/main/cosine_update"]) for m in seen) > 0
    if combine == "auxilearn":
        assert (state.phi != before.phi).all()
    # Acting is the base agent's.
    row = jax.tree.map(lambda x: x[0], played.timestep)
    args = (agent.init_actor(E), row, jax.random.split(jax.random.key(3), (K, E)))
    policy = agent.policy_params(before)
    tiny.assert_trees_equal(jax.jit(agent.act)(policy, *args), jax.jit(plain.act)(policy, *args))


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(tmp_path):
    from mtrl_jax import train

    agent = unreal.agent(SUITE.spec, CONFIG, 0, learner.across(1))
    config = tiny.run_config(
        total_env_steps=4 * T * K * E,
        num_envs_per_task=E,
        updates_per_dispatch=2,
        log_every=T * K * E,
        checkpoint_every=2 * T * K * E,
        writers=(),
    )
    whole = train.run(config, SUITE, agent, tmp_path / "whole", {}, lambda *a: None)
    part = dataclasses.replace(config, total_env_steps=2 * T * K * E)
    train.run(part, SUITE, agent, tmp_path / "part", {}, lambda *a: None)
    rest = train.run(config, SUITE, agent, tmp_path / "part", {}, lambda *a: None)
    tiny.assert_trees_equal(whole.state, rest.state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auxiliaries": ("pixels",)}, "auxiliaries must be some of pixel_control, reward_pred"),
        ({"auxiliaries": ("noise", "noise")}, "each once"),
        ({"cell": 40}, "cell must fit into 32 pixels"),
        ({"history": 9}, "history must be at most unroll_length = 5; got 9"),
        ({"combine": "mgda"}, "combine must be one of sum"),
        ({"replay_size": 2_000_000_000}, "GiB are free; at most"),
    ],
)
def test_what_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        unreal.check(SUITE.spec, change(**changes))


def test_only_images_have_pixels_to_control():
    spec = suites.make("maze8", None, False).spec
    with pytest.raises(ValueError, match="auxiliaries are of images"):
        unreal.check(spec, CONFIG)
    unreal.check(spec, change(auxiliaries=()))
    engines.check(tiny.run_config(writers=()), SUITE, unreal.agent(SUITE.spec, CONFIG))
