"""brax's interface as a suite, beside a loop by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs.brax import brax_suite
from mtrl_jax.envs.check import check_suite
from mtrl_jax.envs.functional import auto_reset
from tests.machinery import brax_envs, tiny

LENGTH = 6
ENVS, NAMES = (brax_envs.Push(2.0), brax_envs.Push(-1.5)), ("right", "left")


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def rows_of(suite, task, actions):
    reset, step = auto_reset(suite.env)
    keys = jax.random.split(jax.random.key(3), len(actions) + 1)

    @jax.jit
    def run(actions):
        state, first = reset(keys[0], jnp.int32(task))
        _, rows = jax.lax.scan(
            lambda state, x: step(x[0], state, x[1], jnp.int32(task)), state, (keys[1:], actions)
        )
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rows)

    return jax.tree.map(np.asarray, run(actions)), keys


@pytest.mark.parametrize("task", range(2))
def test_rows_are_those_of_a_loop_by_hand(task):
    env, suite = ENVS[task], brax_suite(ENVS, NAMES, episode_length=LENGTH)
    side = (1.0, -0.4)[task]
    actions = np.random.default_rng(task).normal(0.3 * side, 0.8, (80, 1)).astype(np.float32)
    rows, keys = rows_of(suite, task, jnp.asarray(actions))
    state, time, ended = env.reset(jax.random.key_data(keys[0])), 0, False
    kinds = set()
    for t, action in enumerate(actions, 1):
        if ended:
            state, time, ended = env.reset(jax.random.key_data(keys[t])), 0, False
            assert rows.first[t] and not rows.valid[t] and rows.reward[t] == 0
        else:
            state, time = env.step(state, np.clip(action, -1, 1)), time + 1
            done = bool(state.done)
            ended = done or time >= LENGTH
            kinds |= {(done, time >= LENGTH)} if ended else set()
            assert not rows.first[t] and rows.valid[t]
            assert rows.discount[t] == 1.0 - done
            assert rows.success[t] == bool(state.metrics["success"])
            np.testing.assert_allclose(rows.reward[t], state.reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rows.observation[t], state.obs, rtol=1e-5, atol=1e-6)
    assert {(True, False), (False, True)} <= kinds  # for good, and cut off


def test_tasks_at_once_are_tasks_one_by_one():
    suite = brax_suite(ENVS, NAMES, episode_length=LENGTH)
    check_suite(suite, "push")
    keys = jax.random.split(jax.random.key(1), (2, 3))
    actions = jax.random.normal(jax.random.key(2), (2, 3, 1))
    one = (
        jax.vmap(jax.vmap(suite.env.reset, (0, None))),
        jax.vmap(jax.vmap(suite.env.step, (0, 0, 0, None))),
    )
    found = []
    for tasks, (reset, step) in (
        (suite.tasks, (suite.env.reset_tasks, suite.env.step_tasks)),
        (jnp.asarray(suite.tasks), one),
    ):
        state, row = reset(keys, tasks)
        found.append((row, step(keys, state, actions, tasks)))
    tiny.assert_trees_close(*found, atol=1e-6)


def test_the_spec():
    spec = brax_suite(ENVS, NAMES).spec
    assert spec.task_names == NAMES and spec.episode_limit.tolist() == [1000, 1000]
    assert (spec.observation_shape, spec.action_shape, spec.num_actions) == ((2,), (1,), 0)
    assert spec.has_success
    assert brax_suite([brax_envs.Two()], ["two"], key="state").spec.observation_shape == (1,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: brax_suite(ENVS, ["one"]), "as many as envs, at least one; got 1 and 2"),
        (lambda: brax_suite([], []), "at least one; got 0 and 0"),
        (lambda: brax_suite(ENVS, NAMES, episode_length=0), "episode_length must be at least 1"),
        (lambda: brax_suite([ENVS[0], brax_envs.Two()], NAMES), "right and left have different"),
        (
            lambda: brax_suite([brax_envs.Two()], ["x"]),
            "key must be one of privileged, state .*; got ''",
        ),
        (lambda: brax_suite([ENVS[0]], ["x"], key="state"), "key must be '' .*; got 'state'"),
        (lambda: brax_suite([3], ["x"]), "x cannot be reset: AttributeError"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_librarys_own_environment():
    envs = pytest.importorskip("brax.envs", reason="python -m pip install brax")
    env = envs.get_environment("fast")
    suite = brax_suite([env], ["fast"], episode_length=4)
    actions = jnp.zeros((9, *suite.spec.action_shape))
    with jax.numpy_rank_promotion("allow"):
        rows, keys = rows_of(suite, 0, actions)
        state = env.reset(jax.random.key_data(keys[0]))
        for t in range(1, 5):
            state = env.step(state, actions[t - 1])
            np.testing.assert_allclose(rows.observation[t], np.asarray(state.obs).reshape(-1))
            np.testing.assert_allclose(rows.reward[t], state.reward)
    assert rows.first.tolist() == [t in (0, 5) for t in range(10)]
