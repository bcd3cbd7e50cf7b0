"""Jumanji's interface as a suite, beside a loop by hand."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs import suites
from mtrl_jax.envs.functional import auto_reset
from mtrl_jax.envs.jumanji import jumanji_suite
from tests.machinery import tiny


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


class Row(NamedTuple):
    step_type: Any
    reward: Any
    discount: Any
    observation: Any


class Spec(NamedTuple):
    num_values: Any


class Crane:
    """Two numbers move a hook on a line; home is an end, and so is the time limit, with discount 1.
    What it shows is a dictionary."""

    action_spec = Spec(np.array([2, 3]))
    time_limit = 5
    agents: Any = ()

    def reset(self, key):
        state = {"place": jax.random.randint(key, (), -3, 4), "time": 0}
        return state, self._row(state, 0, 0.0, 1.0)

    def step(self, state, action):
        place = state["place"] + (2 * action[0] - 1) * (action[1] + 1)
        state = {"place": place, "time": state["time"] + 1}
        home = place == 0
        last = home | (state["time"] >= self.time_limit)
        return state, self._row(state, 1 + last, 10.0 * action[0] + action[1], 1.0 - home)

    def _row(self, state, step_type, reward, discount):
        shown = {"time": state["time"], "ends": jnp.array([[True, False]]), "at": state["place"]}
        reward, discount = (
            jnp.broadcast_to(jnp.float32(x), self.agents) for x in (reward, discount)
        )
        return Row(jnp.int8(step_type), reward, discount, shown)


def rows_of(suite, actions):
    """Rows `[T + 1, ...]` and the keys of their resets."""
    reset, step = auto_reset(suite.env)
    keys, task = jax.random.split(jax.random.key(0), len(actions) + 1), suite.tasks[0]

    @jax.jit
    def run(actions):
        state, first = reset(keys[0], task)
        _, rows = jax.lax.scan(
            lambda state, x: step(x[0], state, x[1], task), state, (keys[1:], actions)
        )
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rows)

    return jax.tree.map(np.asarray, run(jnp.asarray(actions))), keys


def by_hand(env, actions, keys):
    """(observation, reward, discount, first) of each row, and how episodes ended."""
    reset, step, rows, ends = jax.jit(env.reset), jax.jit(env.step), [], []

    def flat(observation):
        return np.concatenate([np.float32(x).ravel() for x in jax.tree.leaves(observation)])

    ended = True
    for key, action in zip(keys, [None, *actions], strict=True):
        if ended:
            state, now = reset(jax.random.key_data(key))
            rows.append((flat(now.observation), 0.0, 1.0, True))
            ended = False
            continue
        state, now = step(state, action)
        rows.append((flat(now.observation), float(now.reward), float(now.discount), False))
        if ended := int(now.step_type) == 2:
            ends.append(float(now.discount))
    return [np.stack([row[i] for row in rows]) for i in range(4)], ends


def assert_rows(rows, wanted):
    fields = (rows.observation, rows.reward, rows.discount, rows.first)
    for got, want in zip(fields, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(rows.valid, ~rows.first)


def test_rows_are_those_of_a_loop_by_hand():
    suite = jumanji_suite(Crane(), "crane")
    spec = suite.spec
    assert (spec.task_names, spec.observation_shape, spec.num_actions) == (("crane",), (4,), 6)
    assert spec.episode_limit.tolist() == [5] and not spec.has_success
    actions = np.random.default_rng(0).integers(0, 6, 60).astype(np.int32)
    rows, keys = rows_of(suite, actions)
    pairs = np.stack([actions // 3, actions % 3], 1)
    wanted, ends = by_hand(Crane(), pairs, keys)
    assert_rows(rows, wanted)
    assert set(ends) == {0.0, 1.0}


def test_what_is_refused():
    for spec, message in (
        (Spec(np.array([64, 65])), "crane has 4,160 actions, all combinations of .64, 65.; at"),
        (object(), r"crane has actions \(object\) that are not discrete"),
    ):
        env = Crane()
        env.action_spec = spec
        with pytest.raises(ValueError, match=message):
            jumanji_suite(env, "crane")
    env = Crane()
    env.agents = (3,)
    with pytest.raises(ValueError, match="reward or discount for each of several agents"):
        jumanji_suite(env, "crane")
    env.reset = lambda key: 1 / 0
    with pytest.raises(ValueError, match="crane cannot be reset: ZeroDivisionError"):
        jumanji_suite(env, "crane")
    with pytest.raises(ValueError, match="jumanji: is of one id"):
        suites.make("jumanji:Snake-v1,Maze-v0")


@pytest.mark.parametrize(
    "name", ["jumanji:Snake-v1:time_limit=30", "jumanji:Tetris-v0", "jumanji:Maze-v0:time_limit=9"]
)
def test_the_librarys_own_environments(name):
    jumanji = pytest.importorskip("jumanji", reason="python -m pip install jumanji")
    suite = suites.make(name)
    actions = np.random.default_rng(0).integers(0, suite.spec.num_actions, 40).astype(np.int32)
    rows, keys = rows_of(suite, actions)
    options = {"time_limit": int(suite.spec.episode_limit[0])} if "time_limit" in name else {}
    env = jumanji.make(name.split(":")[1], **options)
    own: Any = actions
    if suite.env.numbers:
        own = np.stack(np.unravel_index(actions, suite.env.numbers), 1).astype(np.int32)
    wanted, ends = by_hand(env, own, keys)
    assert_rows(rows, wanted)
    assert ends
    with pytest.raises(ValueError, match="jumanji cannot make 'Snake-v99'"):
        suites.make("jumanji:Snake-v99")
    padded = suites.make("jumanji:Snake-v1,Maze-v0", pad=True).spec
    assert padded.num_tasks == 2 and padded.observation_mask.sum(1).min() > 100
