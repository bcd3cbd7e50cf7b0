"""One contract for every suite, functional or pooled; episode statistics against plain loops."""

import functools
import itertools
import re
import sys
from typing import Any, NamedTuple

import envpool
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import by_name
from mtrl_jax.envs import suites
from mtrl_jax.envs.functional import (
    auto_reset,
    auto_reset_batch,
    environment_keys,
    restart,
    transition,
)
from mtrl_jax.envs.gymnax import gymnax_suite
from mtrl_jax.envs.pool import environment_seeds
from mtrl_jax.types import FunctionalSuite, HostSuite, Timestep
from tests.machinery import gymnax_envs, tiny
from tests.machinery.gymnax_envs import NAMES, TASKS
from tests.probes.probe_envs import PROBES

SEED = 3


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


class Ragged(NamedTuple):
    """Episodes of 1 to 6 actions, at random, in one task terminated and in the other truncated."""

    def reset(self, key: Any, task: Any) -> Any:
        left = jax.random.randint(key, (), 1, 7)
        return left, restart(jax.random.normal(key, (2,)))

    def step(self, key: Any, state: Any, action: Any, task: Any) -> Any:
        left = state - 1
        observation = jnp.stack([left, action]).astype(jnp.float32)
        discount = jnp.where((left == 0) & (task == 0), 0.0, 1.0)
        return left, transition(observation, state * 1.5, discount, action == 1), left == 0


def ragged() -> FunctionalSuite:
    spec = PROBES["truncation"]().spec
    spec = spec._replace(observation_shape=(2,), episode_limit=np.zeros(2, int))
    return FunctionalSuite(spec, Ragged(), jnp.arange(2))


class Case:
    """A suite, how many environments, and enough steps to see an episode end (Atari's do not)."""

    def __init__(self, name: str, num_envs: int, num_steps: int, build: Any = None) -> None:
        self.name, self.num_envs, self.num_steps = name, num_envs, num_steps
        self._build = build or functools.partial(suites.make, name)

    @functools.cached_property
    def suite(self) -> FunctionalSuite | HostSuite:
        return self._build()

    @functools.cached_property
    def actions(self) -> np.ndarray:
        """int32 `[T, K, E]`, legal ones."""
        spec = self.suite.spec
        rng = np.random.default_rng(SEED)
        shape = (self.num_steps, spec.num_tasks, self.num_envs)
        return rng.integers(0, spec.action_mask.sum(1)[None, :, None], shape, dtype=np.int32)

    @functools.cached_property
    def rows(self) -> Timestep:
        return roll(self.suite, self.actions)


CASES = [
    Case("maze8", 2, 230),
    Case("small_games", 2, 110),
    Case("rooms:episode_length=12", 3, 30),
    Case("goal_rooms:episode_length=12", 2, 30),
    Case("minigrid_ladder", 4, 170),
    Case("minigrid_nav4", 2, 130),
    Case("envpool:CartPole-v1", 4, 60),
    Case("envpool:Pong-v5,Breakout-v5", 2, 8),
    Case("doom:basic,take_cover", 2, 80),
    Case("gymnasium:CartPole-v1", 4, 60),
    Case("gymnasium:Acrobot-v1:max_episode_steps=13", 2, 40),
    Case("gymnax", 4, 40, lambda: gymnax_suite(gymnax_envs.New(), TASKS, NAMES)),
    Case("ragged", 5, 40, ragged),
    *(Case(name, 3, 12, build) for name, build in PROBES.items()),
]


@pytest.fixture(params=CASES, ids=[case.name for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def roll(
    suite: FunctionalSuite | HostSuite,
    actions: np.ndarray,
    seed: int = SEED,
    num_groups: int = 1,
    batched: bool = False,
) -> Timestep:
    """Rows `[T + 1, K, E, ...]` as NumPy; row t + 1 follows action t."""
    if isinstance(suite, FunctionalSuite):
        run = _scan(suite.env, *actions.shape[1:], batched)
        rows = run(jnp.int32(seed), jnp.asarray(actions), suite.tasks)
        return jax.tree.map(np.asarray, rows)
    size = actions.shape[2] // num_groups
    parts = [slice(g * size, (g + 1) * size) for g in range(num_groups)]
    pool = suite.make_pool(actions.shape[2], seed, num_groups)
    rows = [[pool.reset(g) for g in range(num_groups)]]
    for action in actions:
        for g, part in enumerate(parts):
            pool.send(g, action[:, part])
        rows.append([pool.recv(g) for g in range(num_groups)])
    pool.close()
    joined = [jax.tree.map(lambda *x: np.concatenate(x, axis=1), *groups) for groups in rows]
    return jax.tree.map(lambda *x: np.stack(x), *joined)


def _keys(seed: int, t: Any, num_tasks: int, num_envs: int) -> jax.Array:
    index = jnp.arange(num_tasks * num_envs).reshape(num_tasks, num_envs)
    return environment_keys(jax.random.fold_in(jax.random.key(seed), t), index)


@functools.cache
def _scan(env: Any, num_tasks: int, num_envs: int, batched: bool) -> Any:
    """Compiled once for all the tests of a suite."""
    if batched:
        reset, step = auto_reset_batch(env)
    else:
        reset, step = auto_reset(env)
        reset = jax.vmap(jax.vmap(reset, (0, None)))
        step = jax.vmap(jax.vmap(step, (0, 0, 0, None)))

    @jax.jit
    def run(seed: jax.Array, actions: jax.Array, tasks: Any) -> Timestep:
        def body(state: Any, step_input: Any) -> Any:
            t, action = step_input
            return step(_keys(seed, t, num_tasks, num_envs), state, action, tasks)

        state, first = reset(_keys(seed, 0, num_tasks, num_envs), tasks)
        times = jnp.arange(1, len(actions) + 1)
        _, rows = jax.lax.scan(body, state, (times, actions))
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rows)

    return run


def assert_same(a: Timestep, b: Timestep) -> None:
    for name, x, y in zip(Timestep._fields, a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


# --- the contract


def test_shapes_dtypes_and_vocabulary(case: Case) -> None:
    spec, rows = case.suite.spec, case.rows
    batch = (case.num_steps + 1, spec.num_tasks, case.num_envs)
    assert rows.observation.shape == (*batch, *spec.observation_shape)
    assert rows.observation.dtype == spec.observation_dtype
    assert {name: getattr(rows, name).shape for name in Timestep._fields[1:]} == dict.fromkeys(
        Timestep._fields[1:], batch
    )
    dtypes = [getattr(rows, name).dtype for name in Timestep._fields[1:]]
    assert dtypes == [np.float32, np.float32, np.bool_, np.bool_, np.bool_]
    assert spec.action_mask.shape == (spec.num_tasks, spec.num_actions)
    assert spec.action_mask.dtype == np.bool_ and spec.action_mask.any(axis=1).all()
    assert spec.episode_limit.shape == (spec.num_tasks,)
    assert len(set(spec.task_names)) == spec.num_tasks
    if spec.vocabulary is not None:
        assert spec.vocabulary.shape == spec.observation_shape
        assert (rows.observation < spec.vocabulary).all()
    assert np.isfinite(rows.observation).all() and np.isfinite(rows.reward).all()
    # An observation that never changes is a broken one (two probes are blank on purpose).
    blank = case.name in ("constant_reward", "action_matters", "truncation")
    assert (np.ptp(rows.observation.reshape(len(rows.reward), -1), axis=0) > 0).any() != blank


def test_same_seed_same_bytes_and_groups_change_nothing(case: Case) -> None:
    assert_same(roll(case.suite, case.actions), case.rows)
    if isinstance(case.suite, HostSuite):
        assert_same(roll(case.suite, case.actions, num_groups=2), case.rows)


def test_batched_auto_reset_gives_the_same_rows(case: Case) -> None:
    if isinstance(case.suite, HostSuite):
        pytest.skip("functional suites only")
    assert_same(roll(case.suite, case.actions, batched=True), case.rows)


def test_another_seed_is_another_run(case: Case) -> None:
    if case.name in ("constant_reward", "delayed_reward", "action_matters", "truncation"):
        pytest.skip("nothing is drawn at random in this probe")
    if case.name.startswith("envpool:Pong"):
        pytest.skip("a few Atari frames after a reset are the same for all seeds")
    other = roll(case.suite, case.actions, seed=SEED + 1)
    assert (other.observation != case.rows.observation).any()
    # Environments of one task differ too.
    assert (case.rows.observation[0, :, 0] != case.rows.observation[0, :, 1]).any()


def test_reset_rows(case: Case) -> None:
    rows, limit = case.rows, case.suite.spec.episode_limit
    assert rows.first[0].all()
    np.testing.assert_array_equal(rows.valid, ~rows.first)
    assert (rows.reward[rows.first] == 0).all()
    assert (rows.discount[rows.first] == 1).all()
    assert not rows.success[rows.first].any()
    assert np.isin(rows.discount, (0.0, 1.0)).all()
    # A terminated row is followed by a reset row; a truncated one comes exactly at the limit.
    assert rows.first[1:][rows.discount[:-1] == 0].all()
    assert not (rows.first[1:] & rows.first[:-1]).any()
    elapsed = np.zeros(rows.first.shape[1:], int)
    for t in range(len(rows.first) - 1):
        elapsed = np.where(rows.first[t], 0, elapsed + 1)
        cut = rows.first[t + 1] & (rows.discount[t] == 1)
        at_limit = (elapsed == limit[:, None]) & (limit[:, None] > 0)
        assert (at_limit | (limit[:, None] == 0))[cut].all()
        assert rows.first[t + 1][at_limit].all()
    assert rows.first[1:].any() or "Pong" in case.name


def test_the_action_on_an_episodes_last_row_is_ignored(case: Case) -> None:
    last = case.rows.first[1:]  # row t is the last of its episode
    if not last.any():
        pytest.skip("no episode ends in so few steps")
    changed = np.where(last, case.actions[::-1], case.actions)
    assert (changed != case.actions).any()
    assert_same(roll(case.suite, changed), case.rows)


def test_episode_statistics_equal_a_plain_loop(case: Case) -> None:
    """Return, length, how it ended, and success of every complete episode, in order."""
    if case.name.startswith("doom"):
        pytest.skip("envpool's rewards are not the scenario's; test_doom.py compares with ViZDoom")
    rows, spec = case.rows, case.suite.spec
    plain = _functional_loop if isinstance(case.suite, FunctionalSuite) else _gymnasium_loop
    expected = plain(case)
    for k in range(spec.num_tasks):
        for e in range(case.num_envs):
            starts = np.flatnonzero(rows.first[:, k, e])
            episodes = [
                (
                    np.float32(rows.reward[a:b, k, e].sum(dtype=np.float64)),
                    b - a - 1,
                    bool(rows.discount[b - 1, k, e] == 0),
                    bool(rows.success[a:b, k, e].any()),
                )
                for a, b in itertools.pairwise(starts)
            ]
            assert episodes == expected[k][e], (spec.task_names[k], e)


def _functional_loop(case: Case) -> list[list[list[tuple]]]:
    """One environment at a time, without the auto-reset wrapper, vmap or scan."""
    suite = case.suite
    assert isinstance(suite, FunctionalSuite)
    reset, step = jax.jit(suite.env.reset), jax.jit(suite.env.step)
    num_tasks, num_envs = case.actions.shape[1:]
    keys = [_keys(SEED, t, num_tasks, num_envs) for t in range(case.num_steps + 1)]
    result: list[list[list[tuple]]] = []
    for k in range(num_tasks):
        task = jax.tree.map(lambda leaf, k=k: leaf[k], suite.tasks)
        result.append([])
        for e in range(num_envs):
            episodes, total, length, success = [], 0.0, 0, False
            state, _ = reset(keys[0][k, e], task)
            ended = False
            for t in range(case.num_steps):
                if ended:
                    state, _ = reset(keys[t + 1][k, e], task)
                    total, length, success, ended = 0.0, 0, False, False
                    continue
                state, row, ended = step(keys[t + 1][k, e], state, case.actions[t, k, e], task)
                total, length = total + float(row.reward), length + 1
                success, ended = success or bool(row.success), bool(ended)
                if ended and t + 1 < case.num_steps:
                    episode = (np.float32(total), length, float(row.discount) == 0, success)
                    episodes.append(episode)
            result[k].append(episodes)
    return result


def _gymnasium_loop(case: Case) -> list[list[list[tuple]]]:
    """envpool's own gymnasium interface or gymnasium itself, one environment a pool."""
    result: list[list[list[tuple]]] = []
    for k, env_id in enumerate(case.suite.spec.task_names):
        seeds = environment_seeds(SEED, k, case.num_envs)
        result.append([])
        for e in range(case.num_envs):
            env = _one(case.name, env_id, int(seeds[e]))
            env.reset()
            episodes, total, length, ended = [], 0.0, 0, False
            for t in range(case.num_steps):
                _, reward, terminated, truncated, _ = env.step(case.actions[t, k, e : e + 1])
                if ended:
                    total, length, ended = 0.0, 0, False
                    continue
                total, length = total + float(reward[0]), length + 1
                ended = bool(terminated[0] | truncated[0])
                if ended and t + 1 < case.num_steps:
                    success = "MiniGrid" in env_id and bool(reward[0] > 0)
                    episodes.append((np.float32(total), length, bool(terminated[0]), success))
            result[k].append(episodes)
    return result


def _one(name: str, env_id: str, seed: int) -> Any:
    """One environment, vectorised by its own library, that resets itself on the next step."""
    from mtrl_jax.envs.envpool_spec import describe

    if not name.startswith("gymnasium:"):
        return envpool.make_gymnasium(env_id, num_envs=1, seed=seed, **describe(env_id).options)
    options = by_name.parse(name)[1]
    env = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(env_id, **options)])
    env.reset(seed=seed)
    env.reset = lambda: None  # has been done, with the seed
    return env


FOR_EXAMPLE = {
    "envpool:": "Pong-v5",
    "atari42:": "Pong-v5",
    "small_games:": "catch,snake",
    "metaworld:": "reach",
    "doom:": "basic",
    "gymnasium:": "CartPole-v1",
}
OF_THE_TABLE = [
    name for name in suites.list_suites() if not name.startswith(("<", "gymnax:", "jumanji:"))
]


@pytest.mark.parametrize("name", OF_THE_TABLE)
def test_without_envpool_a_suite_is_made_or_names_the_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)  # what an import meets that is not installed
    prefix, listed, _ = name.partition("<")
    name = prefix + FOR_EXAMPLE[prefix] if listed else name
    if name.startswith(("maze8", "rooms", "goal", "small_games", "gymnasium")):
        assert suites.make(name).spec.num_tasks
        return
    try:
        made = suites.make(name)
    except ImportError as error:
        assert re.search(r"needs envpool, .* the extra rl \(.*\[rl\]", str(error))
    else:  # a new one, in pure JAX
        assert isinstance(made, FunctionalSuite)
