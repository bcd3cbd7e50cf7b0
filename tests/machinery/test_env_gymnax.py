"""gymnax's interface as a suite, beside a loop by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs import pad, suites
from mtrl_jax.envs.functional import auto_reset, auto_reset_batch
from mtrl_jax.envs.gymnax import gymnax_suite
from tests.machinery import gymnax_envs, tiny
from tests.machinery.gymnax_envs import NAMES, TASKS


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


def rows_of(suite, task, actions, seed=0):
    """Rows `[T + 1, ...]` of one environment of one task."""
    reset, step = auto_reset(suite.env)
    params = jax.tree.map(lambda x: x[task], suite.tasks)
    keys = jax.random.split(jax.random.key(seed), len(actions) + 1)

    @jax.jit
    def run(params, actions):
        state, first = reset(keys[0], params)
        _, rows = jax.lax.scan(
            lambda state, x: step(x[0], state, x[1], params), state, (keys[1:], actions)
        )
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rows)

    return jax.tree.map(np.asarray, run(params, jnp.asarray(actions))), keys


def by_hand(env, params, actions, keys):
    """(observation, reward, discount, first, success) of each row; the library's functions and
    nothing of ours. `ends` says of a step whether it is terminated, and whether truncated."""
    observation, state = env.reset_env(keys[0], params)
    rows, ended = [(observation, 0.0, 1.0, True, False)], False
    for key, action in zip(keys[1:], actions, strict=True):
        if ended:
            observation, state = env.reset_env(key, params)
            rows.append((observation, 0.0, 1.0, True, False))
            ended = False
            continue
        observation, state, reward, done, info = env.step_env(key, state, action, params)
        limit = int(state.time) >= params.max_steps_in_episode
        if hasattr(env, "is_truncated"):
            terminated = bool(done)
        else:  # what is over at the limit may be over anyway
            terminated = bool(done) and (not limit or bool(info["success"]))
        ended = terminated or limit
        success = bool(info.get("success", False))
        rows.append((observation, reward, 1.0 - terminated, False, success))
    return [np.stack([np.asarray(row[i]) for row in rows]) for i in range(5)]


def assert_rows(rows, wanted):
    fields = (rows.observation, rows.reward, rows.discount, rows.first, rows.success)
    for got, want in zip(fields, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(rows.valid, ~rows.first)


@pytest.mark.parametrize("task", range(3))
@pytest.mark.parametrize("kind", [gymnax_envs.New, gymnax_envs.Old])
def test_rows_are_those_of_a_loop_by_hand(kind, task):
    env = kind()
    suite = gymnax_suite(env, TASKS, NAMES)
    actions = np.random.default_rng(task).integers(0, 3, 60).clip(0, 1)  # mostly to the right
    rows, keys = rows_of(suite, task, actions)
    assert_rows(rows, by_hand(env, TASKS[task], actions, keys))
    ends = rows.discount[:-1][rows.first[1:]]
    assert set(ends) == ({1.0} if task == 2 else {0.0, 1.0} if task else set(ends)) and len(ends)


def test_an_end_at_the_very_limit_is_an_end():
    """From place 0, four steps to the goal, with four steps allowed."""
    params = gymnax_envs.Params(goal=4, max_steps_in_episode=4)
    for kind in (gymnax_envs.New, gymnax_envs.Old):
        suite = gymnax_suite(kind(), [params], ["one"])
        seed = next(s for s in range(99) if rows_of(suite, 0, [1], s)[0].observation[0, 0] == 0)
        rows, _ = rows_of(suite, 0, [1] * 5, seed)
        assert rows.first.tolist() == [True, False, False, False, False, True]
        assert rows.discount.tolist() == [1, 1, 1, 1, 0, 1] and rows.success[4]


def test_the_spec():
    spec = gymnax_suite(gymnax_envs.New(), TASKS, NAMES).spec
    assert spec.task_names == NAMES and spec.episode_limit.tolist() == [6, 6, 3]
    assert (spec.observation_shape, spec.num_actions, spec.action_size) == ((2,), 2, 0)
    assert spec.has_success and spec.vocabulary is None
    pushed = gymnax_suite(gymnax_envs.Pushed(), TASKS, NAMES)
    assert (pushed.spec.num_actions, pushed.spec.action_shape) == (0, (2,))
    assert not pushed.spec.has_success and pushed.spec.action_mask.shape == (3, 0)
    actions = np.array([[-1, -1], [0, -1], [9, 1]], np.float32)  # stretched to [0, 4], cut off
    rows, _ = rows_of(pushed, 2, actions)
    np.testing.assert_allclose(rows.reward, [0, 0, 2, 8])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gymnax_suite(gymnax_envs.New(), TASKS, ["a"]), "at least one; got 1 and 3"),
        (lambda: gymnax_suite(gymnax_envs.New(), [], []), "at least one; got 0 and 0"),
        (lambda: suites.make("gymnax:"), "gymnax: is of one id"),
        (lambda: suites.make("gymnax:CartPole-v1,Acrobot-v1"), "gymnax: is of one id"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("field", "space", "message"),
    [
        ("observations", {"x": 1}, r"walk has observations \(dict\)"),
        ("actions", gymnax_envs.Box(-np.inf, 1.0, (2,)), "neither discrete nor bounded"),
    ],
)
def test_spaces_that_are_refused(field, space, message):
    env = gymnax_envs.New()
    setattr(env, field, space)
    with pytest.raises(ValueError, match=message):
        gymnax_suite(env, TASKS, NAMES)


@pytest.mark.parametrize(
    ("name", "task", "discrete"),
    [
        ("gymnax:CartPole-v1:length=[.25,.5]:max_steps_in_episode=15", 1, True),
        ("gymnax:Acrobot-v1:max_steps_in_episode=9", 0, True),
        ("gymnax:Pendulum-v1:max_steps_in_episode=9", 0, False),
    ],
)
def test_the_librarys_own_environments(name, task, discrete):
    gymnax = pytest.importorskip("gymnax", reason="python -m pip install gymnax")
    suite = suites.make(name)
    assert suite.spec.episode_limit[task] in (9, 15)
    rng, shape = np.random.default_rng(0), (40, *suite.spec.action_shape)
    actions = rng.integers(0, 2, 40) if discrete else rng.uniform(-1, 1, shape).astype(np.float32)
    rows, keys = rows_of(suite, task, actions)
    env, params = gymnax.make(name.split(":")[1])
    params = params.replace(max_steps_in_episode=int(suite.spec.episode_limit[task]))
    own = actions if discrete else actions * 2.0  # Pendulum's torque
    assert_rows(rows, by_hand(env, params, own, keys))
    assert rows.first[1:].any()


@pytest.mark.parametrize("library", [False, True])
def test_padded_rows_are_those_of_each_environment_by_hand(library):
    """An agent's program runs this: all tasks, all environments, one step."""
    if library:
        gymnax = pytest.importorskip("gymnax", reason="python -m pip install gymnax")
        suite = suites.make("gymnax:CartPole-v1,Acrobot-v1:max_steps_in_episode=9", pad=True)
        games = [gymnax.make(name) for name in ("CartPole-v1", "Acrobot-v1")]
        games = [(env, params.replace(max_steps_in_episode=9)) for env, params in games]
    else:
        games = [(gymnax_envs.New(), TASKS[0]), (gymnax_envs.Wide(), TASKS[1])]
        suite = pad.join([gymnax_suite(env, [p], [type(env).__name__]) for env, p in games])
    spec = suite.spec
    sizes = (4, 6) if library else (2, 3)
    assert spec.observation_shape == (sizes[1],) and spec.num_actions == 3
    np.testing.assert_array_equal(spec.observation_mask.sum(1), sizes)
    np.testing.assert_array_equal(spec.action_mask.sum(1), [2, 3])
    t = 20
    keys = jax.random.split(jax.random.key(0), (t + 1, 2, 1))
    actions = np.random.default_rng(0).integers(0, 3, (t, 2, 1)).astype(np.int32)
    reset, step = auto_reset_batch(suite.env)

    @jax.jit
    def run(keys, actions):
        state, first = reset(keys[0], suite.tasks)
        _, rows = jax.lax.scan(
            lambda state, x: step(x[0], state, x[1], suite.tasks), state, (keys[1:], actions)
        )
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rows)

    rows = jax.tree.map(np.asarray, run(keys, actions))
    for k, (env, params) in enumerate(games):
        mine = jax.tree.map(lambda x, k=k: x[:, k, 0], rows)
        own = actions[:, k, 0]
        own = np.where(spec.action_mask[k, own], own, 0)  # one that it does not have is sent as 0
        assert not mine.observation[:, sizes[k] :].any() and mine.first[1:].any()
        mine = mine._replace(observation=mine.observation[:, : sizes[k]])
        assert_rows(mine, by_hand(env, params, own, keys[:, k, 0]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gymnax:CartPoll", "gymnax has no environment 'CartPoll'"),
        ("gymnax:CartPole-v1:size=3", "CartPole-v1 has the parameters .*; got size"),
        ("gymnax:CartPole-v1:length=[1.,2.]:gravity=[1.]", "needs lists of one length"),
        ("gymnax:CartPole-v1:length=[]", "needs lists of one length"),
    ],
)
def test_ids_and_parameters_that_are_refused(name, message):
    pytest.importorskip("gymnax", reason="python -m pip install gymnax")
    with pytest.raises(ValueError, match=message):
        suites.make(name)


def test_parameters_name_the_tasks():
    pytest.importorskip("gymnax", reason="python -m pip install gymnax")
    spec = suites.make("gymnax:CartPole-v1:length=[.25,.5]:gravity=[9,1]").spec
    assert spec.task_names == ("length=0.25,gravity=9", "length=0.5,gravity=1")
    assert suites.make("gymnax:CartPole-v1").spec.task_names == ("CartPole-v1",)
