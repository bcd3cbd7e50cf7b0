"""Distillation's parts: what teachers say and see, masks, devices, transfer, bad input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import engines, learner, rollout
from mtrl_jax.algorithms import distill, q_network, student, teacher
from mtrl_jax.losses import distillation as losses
from tests.machinery import tiny

SUITE = tiny.suite()
SPEC = SUITE.spec
MASK = np.array([[True, False], [False, True]])
CONFIG = distill.Config(
    hidden=(4,),
    controller=3,
    unroll_length=4,
    replay_size=64,
    min_replay=8,
    replay_ratio=2.0,
    batch_size=8,
    temperature=0.5,
    feature_cost=0.1,
    learning_rate=1e-2,
)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def draw(shapes, seed=0):
    """Normal numbers of the shapes of a tree; much cheaper than compiling its initialisers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


@functools.cache
def q_net(network="separate", shape=SPEC.observation_shape):
    """A network and random parameters with a leading axis of two sets."""
    net = q_network.make(SPEC._replace(observation_shape=shape), network, "auto", (5,))
    shapes = jax.eval_shape(lambda: q_network.init_params(net, jax.random.key(0)))
    two = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), shapes)
    return net, draw(two)


def teachers(network="separate", features=True):
    net, params = q_net(network)
    return tuple(teacher.make(net, params, k, features=features) for k in range(SPEC.num_tasks))


@pytest.mark.parametrize("network", ["separate", "multihead", "onehot", "blind"])
def test_teachers_say_what_their_network_says_and_show_what_is_behind_it(network):
    net, params = q_net(network)
    observation = draw(jnp.zeros((SPEC.num_tasks, 3, *SPEC.observation_shape)), seed=1)
    for which in range(2):
        values, features = teacher.outputs(teachers(network), jnp.int32(which), observation)
        mine = jax.tree.map(lambda x, n=which: x[n], params)
        np.testing.assert_allclose(
            values, q_network.values(net, mine, observation), rtol=1e-5, atol=1e-5
        )
        for k in range(SPEC.num_tasks):
            if network in ("separate", "multihead"):
                out = {"kernel": mine.task["out_kernel"][k], "bias": mine.task["out_bias"][k]}
            else:
                out = mine.shared["head"]["out"]
            assert (features[k] >= 0).all() and features[k].shape == (3, 5)
            again = np.asarray(features[k]) @ out["kernel"] + np.asarray(out["bias"])
            np.testing.assert_allclose(again, values[k], rtol=1e-4, atol=1e-5)
        plain, nothing = teacher.outputs(teachers(network, False), jnp.int32(which), observation)
        np.testing.assert_allclose(plain, values, rtol=1e-5, atol=1e-5)
        assert nothing[0].shape == (3, 0)


@functools.cache
def agent(collectives=learner.ALONE, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return distill.agent(SPEC, config, teachers(), collectives=collectives)


@functools.cache
def fresh():
    return jax.jit(agent().init)(jax.random.key(0))


def test_actions_that_a_task_has_not_are_never_chosen():
    spec = SPEC._replace(action_mask=MASK)
    shape = (SPEC.num_tasks, 64)
    timestep = rollout.Timestep(*[jnp.zeros((*shape, *SPEC.observation_shape))] * 6)
    keys = jax.random.split(jax.random.key(1), shape)
    for actor in distill.ACTORS:
        for greedy in (False, True):
            config = dataclasses.replace(CONFIG, actor=actor, epsilon=0.5, eval_epsilon=0.5)
            masked = distill.agent(spec, config, teachers())
            action, log_prob, _ = masked.act(
                masked.policy_params(fresh()), (), timestep, keys, greedy=greedy
            )
            np.testing.assert_array_equal(action, [[0] * 64, [1] * 64])
            np.testing.assert_allclose(log_prob, 0.0, atol=1e-6)


def test_the_teacher_or_the_student_acts_in_training_and_the_student_when_it_is_scored():
    observation = draw(jnp.zeros((2, 16, *SPEC.observation_shape)), seed=7)
    timestep = rollout.Timestep(*[observation] * 6)
    keys = jax.random.split(jax.random.key(1), (2, 16))
    policy = agent().policy_params(fresh()._replace(which=jnp.int32(1)))
    theirs = teacher.outputs(teachers(), jnp.int32(1), observation)[0].argmax(-1)
    net = student.make(SPEC, CONFIG.outputs, "auto", CONFIG.hidden, CONFIG.controller)
    own = student.outputs(net, policy.params, observation).argmax(-1)
    assert (theirs != own).any()
    for actor, training in (("teacher", theirs), ("student", own)):
        act = agent(actor=actor, epsilon=0.0).act
        np.testing.assert_array_equal(act(policy, (), timestep, keys)[0], training)
        np.testing.assert_array_equal(act(policy, (), timestep, keys, greedy=True)[0], own)


def items(seed=0):
    batch = distill.Item(
        jnp.zeros((2, 8, *SPEC.observation_shape)), jnp.zeros((2, 8, 2)), jnp.zeros((2, 8, 5))
    )
    return draw(batch, seed)


@functools.cache
def step(actions="all"):
    spec = SPEC if actions == "all" else SPEC._replace(action_mask=MASK)
    parts = distill.make_parts(spec, CONFIG, teachers())
    return jax.jit(
        lambda state, batch: distill.gradient_step(parts, state.params, state.opt_state, batch)
    )


def test_a_tasks_rows_move_the_body_and_its_own_controller_only():
    batch = items()
    other = jax.tree.map(lambda x: np.stack([x[0], x[1] + 1.0]), batch)
    before = fresh().params
    # Gradients are read off adam's moments: its first step has the same size for any of them.
    (a, a_state, _), (b, b_state, _) = (step()(fresh(), x) for x in (batch, other))

    def moved(x, y):
        pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
        return [np.any(x != y) for x, y in pairs if x.ndim]  # without the counters

    def of(tree, k):
        return jax.tree.map(lambda x: x[k], tree.task)

    tiny.assert_trees_equal(of(a, 0), of(b, 0))
    tiny.assert_trees_equal(of(a_state, 0), of(b_state, 0))
    assert all(moved(of(a_state, 1), of(b_state, 1)))
    assert any(moved(a_state.shared, b_state.shared))
    assert all(moved(a.task, before.task))  # the map to the features too


def test_masked_values_change_nothing():
    batch = items()
    garbage = batch._replace(values=batch.values + np.where(MASK[:, None], 0.0, 1e3).astype("f4"))
    a, b = (step("masked")(fresh(), x) for x in (batch, garbage))
    tiny.assert_trees_equal(a, b)
    assert (a[2]["student/agreement"] == 1.0).all()  # only one action is left
    assert (step()(fresh(), batch)[2]["student/agreement"] < 1.0).any()


def experience():
    """Two steps of four environments, one of which is about to be reset."""
    rows = rollout.Timestep(
        draw(jnp.zeros((3, 2, 4, *SPEC.observation_shape)), seed=3), *[np.ones((3, 2, 4), bool)] * 5
    )
    valid = np.ones((3, 2, 4), bool)
    valid[2, 0, 3] = False  # row 1 of environment 3 of task 0 ended its episode
    return rollout.Rollout(rows._replace(valid=valid), np.zeros((2, 2, 4), np.int32), None, ())


def test_rows_go_into_the_replay_with_what_their_own_set_of_teachers_says():
    state = fresh()._replace(which=jnp.int32(1))
    # `min_replay` is not reached: rows are stored and nothing is learnt.
    new, metrics = jax.jit(agent(min_replay=9).update)(state, experience())
    tiny.assert_trees_equal(new.params, state.params)
    np.testing.assert_array_equal(metrics["replay/size"], [7, 8])
    assert new.updates == 0 and (metrics["loss/total"] == 0).all()
    rows = np.moveaxis(experience().timestep.observation[:2], 1, 0).reshape(2, 8, -1)
    keep = [0, 1, 2, 3, 4, 5, 6]  # time-major
    ring = new.replay.items
    np.testing.assert_array_equal(ring.observation[0, :7], rows[0, keep])
    np.testing.assert_array_equal(ring.observation[1, :8], rows[1])
    values, features = teacher.outputs(teachers(), jnp.int32(1), rows)
    np.testing.assert_allclose(ring.values[1, :8], values[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ring.features[0, :7], features[0][:7], rtol=1e-5, atol=1e-6)
    other, _ = teacher.outputs(teachers(), jnp.int32(0), rows)
    assert np.abs(other[1] - ring.values[1, :8]).max() > 0.1


def test_no_gradient_step_is_computed_before_there_is_enough_to_learn_from(monkeypatch):
    steps, inner = [], distill.gradient_step

    def counted(*args):
        jax.debug.callback(lambda: steps.append(1))
        return inner(*args)

    monkeypatch.setattr(distill, "gradient_step", counted)
    config = dataclasses.replace(CONFIG, min_replay=9)  # the first rollout brings 7 and 8 rows
    update = jax.jit(distill.agent(SPEC, config, teachers()).update)
    state, seen = fresh(), []
    for _ in range(3):
        state, _ = jax.block_until_ready(update(state, experience()))
        jax.effects_barrier()
        seen.append(len(steps))
    assert seen == [0, 2, 4]


def test_losses_have_their_names():
    q, z, mask = draw(jnp.zeros(3)), draw(jnp.zeros(3), seed=1), np.array([True, False, True])
    wanted = {
        "nll": losses.nll(q, z, mask),
        "mse": losses.mse(q, z, mask),
        "kl": losses.kl(q, z, 0.3, mask),
        "actor_mimic": losses.policy_regression(q, z, 0.3, mask),
    }
    assert distill.LOSSES.keys() == wanted.keys()
    for name, want in wanted.items():
        np.testing.assert_array_equal(distill.LOSSES[name](q, z, 0.3, mask), want)


def test_teachers_are_in_no_state():
    shapes = {x.shape for x in jax.tree.leaves(fresh()) if hasattr(x, "shape")}
    assert not any(
        x.shape in shapes or x.shape[1:] in shapes
        for x in jax.tree.leaves((teachers()[0].shared, teachers()[0].task))
    )


def published(num_tasks, num_actions, torso, hidden, controller=0):
    """Parameters of a student on four frames of 84 x 84; nothing is computed."""
    spec = SPEC._replace(
        task_names=tuple(str(k) for k in range(num_tasks)),
        observation_shape=(4, 84, 84),
        observation_dtype=np.dtype(np.uint8),
        num_actions=num_actions,
        action_mask=np.ones((num_tasks, num_actions), bool),
    )
    kind = "controllers" if controller else "shared"
    net = student.make(spec, kind, torso, (hidden,), controller)
    return student.size(jax.eval_shape(lambda: student.init_params(net, jax.random.key(0), 7)))


def test_published_networks_have_their_published_sizes():
    """Counted by hand from the layers that Rusu et al. give, for 18 actions."""
    assert published(1, 18, "nature", 512) == 1_693_362  # the teacher
    assert published(1, 18, "nature_16_32_32", 256) == 427_874
    assert published(1, 18, "nature_16_16_16", 128) == 113_346
    assert published(1, 18, "nature_16_16_16", 64) == 61_954
    assert published(3, 4, "nature", 512, 128) == 1_882_668  # three games of 12 actions in all
    # Ten games of 85 actions in all: half way between 8 and 9 each.
    ten = [published(10, n, "nature_64_64_64", 1500, 128) for n in (8, 9)]
    assert sum(ten) == 2 * 6_756_721


# -------------------------------------------------------------------------------------- transfer


def student_params(outputs, controller=0):
    net = student.make(SPEC, outputs, "auto", (5,), controller)
    shapes = jax.eval_shape(lambda: student.init_params(net, jax.random.key(0), 5))
    return net, draw(shapes, seed=4)


@pytest.mark.parametrize("network", ["blind", "onehot"])
def test_first_values_of_a_transferred_network_are_the_students_logits(network):
    net, params = student_params("shared")
    other, fresh_params = q_net(network)
    fresh_params = jax.tree.map(lambda x: x[0], fresh_params)
    observation = draw(jnp.zeros((2, 6, *SPEC.observation_shape)), seed=5)
    begun = student.to_q_network(params, fresh_params)
    np.testing.assert_array_equal(
        q_network.values(other, begun, observation), student.outputs(net, params, observation)
    )
    anew = student.to_q_network(params, fresh_params, "fresh")
    tiny.assert_trees_equal(anew.shared["head"]["out"], fresh_params.shared["head"]["out"])
    tiny.assert_trees_equal(anew.shared["head"]["dense0"], begun.shared["head"]["dense0"])


def test_a_new_head_may_begin_as_the_mean_of_the_controllers():
    net, params = student_params("controllers")
    other, fresh_params = q_net("blind")
    begun = student.to_q_network(params, jax.tree.map(lambda x: x[0], fresh_params), "mean")
    same = draw(jnp.zeros((1, 6, *SPEC.observation_shape)), seed=6)[[0, 0]]
    want = student.outputs(net, params, same).mean(0)
    np.testing.assert_allclose(q_network.values(other, begun, same)[0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "controller", "network", "way", "message"),
    [
        ("shared", 0, "blind", "sum", "outputs must be one of keep, mean, fresh; got 'sum'"),
        ("controllers", 0, "blind", "keep", "no output layer to begin with by outputs='keep'"),
        ("controllers", 3, "blind", "mean", "no output layer to begin with by outputs='mean'"),
        ("shared", 0, "separate", "keep", "all of whose layers are shared"),
        ("separate", 0, "blind", "fresh", "a student with a shared body"),
    ],
)
def test_what_cannot_be_transferred_is_said(outputs, controller, network, way, message):
    _, params = student_params(outputs, controller)
    _, fresh_params = q_net(network)
    with pytest.raises(ValueError, match=message):
        student.to_q_network(params, jax.tree.map(lambda x: x[0], fresh_params), way)


def test_a_body_of_another_width_is_not_transferred():
    net = student.make(SPEC, "shared", "auto", (6,))
    shapes = jax.eval_shape(lambda: student.init_params(net, jax.random.key(0)))
    _, fresh_params = q_net("blind")
    with pytest.raises(ValueError, match="params do not fit the Q-network"):
        student.to_q_network(draw(shapes), jax.tree.map(lambda x: x[0], fresh_params))


# ----------------------------------------------------------------------------------------- engines


@pytest.mark.slow
def test_on_a_host_suite_two_devices_learn_what_one_does():
    states = []
    for devices in (1, 2):
        config = tiny.run_config(num_devices=devices)
        engine = engines.make(config, tiny.host_suite(), agent(learner.across(devices)))
        carry = engine.start()
        for n in range(3):
            carry, values = engine.advance(carry, n)
        carry, values = engine.flush(carry)
        engine.close(carry)
        states.append(engine.state(carry))
        assert np.isfinite(values["loss/total"]).all() and values["loss/features"].min() > 0
    assert states[0].updates == 24
    plain = [state._replace(key=(), opt_state=()) for state in states]
    tiny.assert_trees_close(*plain, atol=1e-5)
    assert np.abs(states[0].params.task["map"] - fresh().params.task["map"]).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "l1"}, "loss must be one of nll, mse, kl, actor_mimic; got 'l1'"),
        ({"actor": "both"}, "actor must be one of teacher, student; got 'both'"),
        ({"outputs": "none"}, "outputs must be one of shared, controllers, separate; got 'none'"),
        ({"temperature": 0.0}, "temperature must be above 0; got 0.0"),
        ({"feature_cost": -1.0}, "feature_cost must not be negative; got -1.0"),
        ({"epsilon": 1.5}, r"epsilon must lie in \[0, 1\]; got 1.5"),
        ({"min_replay": 65}, "min_replay must not exceed replay_size = 64; got 65"),
        ({"hidden": ()}, r"hidden must hold at least one positive width; got \(\)"),
    ],
)
def test_bad_numbers_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        agent(**changes)


def test_teachers_that_do_not_fit_are_named():
    net, params = q_net()

    def build(those, **changes):
        return distill.agent(SPEC, dataclasses.replace(CONFIG, **changes), those)

    with pytest.raises(ValueError, match="teachers must be 2, one for each task; got 1"):
        build(teachers()[:1])
    with pytest.raises(ValueError, match="as many features; they show 0, 0"):
        build(teachers(features=False))
    build(teachers(features=False), feature_cost=0.0)
    one = jax.tree.map(lambda x: x[:1], params)
    with pytest.raises(ValueError, match="as many seeds: 2; that of memory_1 has 1"):
        build((teachers()[0], teacher.make(net, one, 1)))
    with pytest.raises(ValueError, match=r"teacher of memory_0 must read float32\(2,\)"):
        build(tuple(teacher.make(*q_net("separate", (3,)), k) for k in range(2)))
    with pytest.raises(ValueError, match=r"number must lie in \[0, 2\); got 2"):
        teacher.make(net, params, 2)
    film = q_network.make(SPEC, "film", "auto", (5,))
    with pytest.raises(ValueError, match="for their features to be seen; got FiLM"):
        teacher.make(film, learner.Params({}, {}), 0)
