"""The envpool adapter: how episodes end, what is refused, and that garbage stays out."""

import functools
import itertools
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from mtrl_jax.envs import pool as pool_module
from mtrl_jax.envs import suites
from mtrl_jax.envs.envpool_spec import TaskSpec, describe
from mtrl_jax.envs.permute import permutation, permute_actions
from mtrl_jax.envs.pool import EnvpoolPool, check_actions, environment_seeds
from mtrl_jax.types import HostSuite, Timestep

CARTPOLE = "CartPole-v1"
EMPTY = "MiniGrid-Empty-5x5-v0"  # from (1, 1) looking right to the goal at (3, 3), always
TO_GOAL = (2, 2, 1, 2, 2)  # forward, forward, turn right, forward, forward


def limited(env_id: str, limit: int) -> TaskSpec:
    task = describe(env_id)
    return task._replace(options=task.options | {"max_episode_steps": limit}, episode_limit=limit)


def play(pool: EnvpoolPool, actions: Any) -> Timestep:
    """Rows `[T + 1, K, E]` of a pool with one group; every environment gets the same actions."""
    shape = pool.spec.num_tasks, pool._size
    rows = [pool.reset(0)]
    for action in actions:
        pool.send(0, np.full(shape, action))
        rows.append(pool.recv(0))
    return Timestep(*(np.stack(field) for field in zip(*rows, strict=True)))


def test_a_fall_terminates_and_the_limit_truncates() -> None:
    # Pushing one way, the pole falls after 8 to 11 steps; pushing in turns, not within 12.
    fall = play(EnvpoolPool([limited(CARTPOLE, 50)], 3, seed=0), [1] * 12)
    cut = play(EnvpoolPool([limited(CARTPOLE, 12)], 3, seed=0), [0, 1] * 7)
    for e in range(3):
        end = int(np.flatnonzero(fall.first[1:, 0, e])[0])
        assert 8 <= end <= 11
        assert fall.discount[end, 0, e] == 0.0
        assert fall.reward[end, 0, e] == 1.0
    np.testing.assert_array_equal(np.flatnonzero(cut.first[:, 0, 0]), [0, 13])
    assert (cut.discount == 1.0).all()
    # The row that was cut off carries its true last observation, not the next episode's first.
    assert (np.abs(cut.observation[12]) > 0).all()
    assert not np.allclose(cut.observation[12], cut.observation[13])


def test_solving_minigrid_on_the_last_allowed_step_is_an_end() -> None:
    """envpool calls it truncated; a value would be bootstrapped from beyond the goal."""
    for limit in (5, 6):
        rows = play(EnvpoolPool([limited(EMPTY, limit)], 1, seed=0), [*TO_GOAL, 0])
        np.testing.assert_array_equal(rows.success[:, 0, 0], [False] * 5 + [True, False])
        np.testing.assert_array_equal(rows.discount[:, 0, 0], [1.0] * 5 + [0.0, 1.0])
        # MiniGrid pays 1 - 0.9 t / limit, t counted from 1.
        np.testing.assert_allclose(rows.reward[5, 0, 0], 1 - 0.9 * 5 / limit, rtol=1e-6)
    rows = play(EnvpoolPool([limited(EMPTY, 4)], 1, seed=0), [0] * 5)
    assert rows.first[5, 0, 0] and not rows.success.any() and (rows.discount == 1.0).all()


def test_minigrid_observation_is_image_then_direction() -> None:
    row = play(EnvpoolPool([describe(EMPTY)], 1, seed=0), []).observation[0, 0, 0]
    image = row[:-1].reshape(7, 7, 3)  # column, row, (object, colour, state); the agent at (3, 6)
    assert row[-1] == 0  # looks right
    # Looking right from the upper left corner: two cells ahead the goal's column, walls beside.
    assert image[3, 6, 0] == 1 and image[3, 4, 0] == 1 and image[3, 3, 0] == 2
    assert image[5, 4, 0] == 8 and image[2, 6, 0] == 2


def test_rewards_on_reset_rows_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some envpool families leave the last reward, or noise, on the row of the reset."""
    make = functools.partial(EnvpoolPool, [limited(CARTPOLE, 3)], 2, 0)
    clean = play(make(), [0, 1] * 4)
    recv = pool_module._TaskPool.recv

    def garbage(self: Any) -> dict[str, np.ndarray]:
        raw = recv(self)
        first = raw["step_type"] == 0
        for name in ("reward", "discount"):
            raw[name] = np.where(first, np.float32(np.nan), raw[name])
        raw["done"] = first | raw["done"]
        return raw

    monkeypatch.setattr(pool_module._TaskPool, "recv", garbage)
    for a, b in zip(play(make(), [0, 1] * 4), clean, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("env_id", [CARTPOLE, "MiniGrid-DoorKey-5x5-v0", "Catch-v0"])
def test_the_public_interface_gives_the_same_rows(env_id: str) -> None:
    actions = np.random.default_rng(0).integers(0, 2, 40)
    raw, public = (EnvpoolPool([limited(env_id, 15)], 2, seed=1) for _ in range(2))
    for task_pool in public._pools[0]:
        assert task_pool._raw
        task_pool._raw = False
    for a, b in zip(play(raw, actions), play(public, actions), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((1, 3), int), r"shape \(1, 4\), got \(1, 3\)"),
        (np.zeros((1, 5), int), r"shape \(1, 4\), got \(1, 5\)"),
        (np.zeros((4,), int), r"shape \(1, 4\), got \(4,\)"),
        (np.zeros((1, 4, 1), int), "shape"),
        (np.zeros((1, 4), np.float32), "integer dtype, got float32"),
        (np.zeros((1, 4), bool), "integer dtype, got bool"),
        (np.array([[0, 1, 2, 0]]), r"in \[0, 2\), got values in \[0, 2\]"),
        (np.array([[0, -1, 1, 0]]), r"in \[0, 2\), got values in \[-1, 1\]"),
        (None, "action must"),
    ],
)
def test_a_bad_action_is_refused_before_it_is_sent(action: Any, message: str) -> None:
    good = np.array([[0, 1, 1, 0]])
    rows = []
    for bad in (None, action):
        pool = EnvpoolPool([describe(CARTPOLE)], 4, seed=0)
        pool.reset(0)
        if bad is not None or action is None:
            with pytest.raises(ValueError, match=message):
                pool.send(0, action)
        pool.send(0, good)
        rows.append(pool.recv(0))
    for a, b in zip(*rows, strict=True):
        np.testing.assert_array_equal(a, b)


def test_arrays_of_any_owner_are_accepted_and_kept_apart() -> None:
    """Read-only, non-contiguous and later overwritten actions; results that are the caller's."""
    pools = [EnvpoolPool([describe(CARTPOLE)], 4, seed=0) for _ in range(2)]
    plain = np.array([[0, 1, 1, 0]], np.int32)
    strided = np.repeat(plain, 2, axis=1).astype(np.int64)[:, ::2]
    strided.flags.writeable = False
    rows: list[list[Timestep]] = []
    for pool, action in zip(pools, (plain, strided), strict=True):
        kept = [pool.reset(0)]
        before = kept[0].observation.copy()
        for _ in range(3):
            mine = action.copy()
            pool.send(0, mine if mine is not action else action)
            mine[:] = 0  # the pool must have taken its copy
            kept.append(pool.recv(0))
        np.testing.assert_array_equal(kept[0].observation, before)
        rows.append(kept)
    for a, b in zip(*rows, strict=True):
        np.testing.assert_array_equal(a.observation, b.observation)


def test_staggered_environments_are_at_different_points_of_their_episodes() -> None:
    tasks = [describe("Pendulum-v1")]  # 200 actions an episode
    plain, staggered = (EnvpoolPool(tasks, 4, 0, 2, stagger=stagger) for stagger in (False, True))
    rng, rows = np.random.default_rng(0), {plain: [], staggered: []}
    for t in range(260):
        actions = rng.uniform(-1, 1, (2, 1, 2, 1))
        for pool, kept in rows.items():
            if t == 0:
                groups = [pool.reset(g) for g in range(2)]
            else:
                for g in range(2):
                    pool.send(g, actions[g])
                groups = [pool.recv(g) for g in range(2)]
            kept.append(jax.tree.map(lambda *x: np.concatenate(x, 1)[0], *groups))
    a, b = (jax.tree.map(lambda *x: np.stack(x), *kept) for kept in rows.values())  # [T, E, ...]
    starts = [np.flatnonzero(b.first[:, e]).tolist() for e in range(4)]
    # The row after the last action of an episode is the next one's first.
    assert starts == [[0, 201], [0, 51, 252], [0, 101], [0, 151]]
    assert (b.valid == ~b.first).all() and (b.discount == 1).all()
    assert (b.reward[b.first] == 0).all() and (b.reward[~b.first] < 0).all()
    for e, cut in enumerate((260, 51, 101, 151)):  # nothing else changes before that
        np.testing.assert_array_equal(a.observation[:cut, e], b.observation[:cut, e])
        assert cut == 260 or (a.observation[cut, e] != b.observation[cut, e]).any()


def test_episodes_without_a_limit_cannot_be_staggered() -> None:
    task = describe(CARTPOLE)._replace(episode_limit=0)
    with pytest.raises(ValueError, match="stagger must be False where episodes have no limit"):
        EnvpoolPool([task], 2, 0, stagger=True)


def test_calls_out_of_order_are_refused() -> None:
    pool = EnvpoolPool([describe(CARTPOLE)], 4, seed=0, num_groups=2)
    pool.reset(0)
    with pytest.raises(ValueError, match="send must come before recv"):
        pool.recv(0)
    pool.send(0, np.zeros((1, 2), int))
    with pytest.raises(ValueError, match="recv must come first"):
        pool.send(0, np.zeros((1, 2), int))
    with pytest.raises(ValueError, match=r"group must be in \[0, 2\), got 2"):
        pool.reset(2)
    with pytest.raises(ValueError, match="render=True"):
        pool.render(1)
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.recv(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1; got 0"),
        ({"num_envs": 3, "num_groups": 2}, "num_groups must divide num_envs = 3, got 2"),
        ({"num_groups": 0}, "num_groups"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_bad_sizes(arguments: dict[str, int], message: str) -> None:
    suite = suites.make(f"envpool:{CARTPOLE}")
    assert isinstance(suite, HostSuite)
    with pytest.raises(ValueError, match=message):
        suite.make_pool(**({"num_envs": 2, "seed": 0} | arguments))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maze9", "unknown suite 'maze9'; did you mean maze8"),
        ("envpool:", "at least one envpool id"),
        ("envpool:Pong", "no environment 'Pong'; the nearest ids are Pong-v5"),
        ("envpool:Pong-v5,Pong-v5", "once"),
        ("envpool:Acrobot-v1,MountainCar-v0", "Acrobot-v1 and MountainCar-v0 .*observations"),
        (
            "envpool:MiniGrid-Empty-5x5-v0,MiniGrid-Dynamic-Obstacles-5x5-v0",
            "MiniGrid-Empty-5x5-v0 and MiniGrid-Dynamic-Obstacles-5x5-v0 .*action spaces: 7 and 3",
        ),
        ("envpool:Go9x9-v1", "several players"),
    ],
)
def test_suites_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suites.make(name)


def test_skiing_is_padded_and_its_missing_actions_are_no_ops() -> None:
    suite = suites.make("envpool:Pong-v5,Skiing-v5")
    np.testing.assert_array_equal(suite.spec.action_mask.sum(1), [18, 9])
    assert isinstance(suite, HostSuite)
    sent = []
    pool = suite.make_pool(1, 0, 1)
    pool.reset(0)
    for task_pool in pool._pools[0]:
        task_pool.send = sent.append
    pool.send(0, np.array([[17], [17]]))
    np.testing.assert_array_equal(np.stack(sent), [[17], [0]])


def test_pictures() -> None:
    pool = EnvpoolPool([describe(EMPTY), describe("MiniGrid-Empty-8x8-v0")], 2, 0, render=True)
    pool.reset(0)
    before = pool.render()
    assert [image.dtype for image in before] == [np.uint8] * 2
    pool.send(0, np.full((2, 2), 2))
    pool.recv(0)
    for image, later in zip(before, pool.render(), strict=True):
        assert image.shape == later.shape == (*image.shape[:2], 3)
        assert (image != later).any()


def test_seeds_differ_and_do_not_depend_on_the_number_of_environments() -> None:
    np.testing.assert_array_equal(environment_seeds(7, 1, 8)[:3], environment_seeds(7, 1, 3))
    seeds = [environment_seeds(s, k, 64) for s, k in itertools.product((0, 1), (0, 1, 2))]
    assert len(np.unique(seeds)) == 6 * 64
    assert seeds[0].dtype == np.int32 and np.min(seeds) >= 0


def test_permuted_actions_are_undone_by_the_inverse() -> None:
    suite = suites.make("envpool:MiniGrid-DoorKey-5x5-v0,MiniGrid-DoorKey-6x6-v0")
    permuted = suites.make("envpool:MiniGrid-DoorKey-5x5-v0,MiniGrid-DoorKey-6x6-v0", 11)
    assert isinstance(suite, HostSuite) and isinstance(permuted, HostSuite)
    table = permutation(11, 2, 7)
    np.testing.assert_array_equal(np.sort(table, axis=1), [range(7)] * 2)
    assert (table[0] != table[1]).any()
    plain_pool, permuted_pool = suite.make_pool(2, 0, 1), permuted.make_pool(2, 0, 1)
    rng = np.random.default_rng(0)
    plain_pool.reset(0), permuted_pool.reset(0)
    for _ in range(20):
        action = rng.integers(0, 7, (2, 2))
        plain_pool.send(0, np.take_along_axis(table, action, axis=1))
        permuted_pool.send(0, action)
        a, b = plain_pool.recv(0), permuted_pool.recv(0)
        np.testing.assert_array_equal(a.observation, b.observation)
    with pytest.raises(ValueError, match=r"in \[0, 7\)"):
        permuted_pool.send(0, np.full((2, 2), 7))
    with pytest.raises(ValueError, match="shape"):
        permuted_pool.send(0, np.zeros((2, 3), int))


def test_permuted_mask_follows_the_actions() -> None:
    suite = suites.make("envpool:Pong-v5,Skiing-v5")
    permuted = permute_actions(suite, 5)
    table = permutation(5, 2, 18)
    for a in range(18):
        assert permuted.spec.action_mask[1, a] == suite.spec.action_mask[1, table[1, a]]


def test_check_actions_returns_what_it_was_given() -> None:
    action = np.array([[1, 0], [0, 1]], np.uint8)
    np.testing.assert_array_equal(check_actions(action.tolist(), 2, 2, 2), action)


def test_listing_suites_loads_no_environment_library() -> None:
    code = (
        "import sys; from mtrl_jax.envs import suites; names = suites.list_suites();"
        "assert suites.DEFAULT_SUITE in names and 'maze8' in names and all(names.values());"
        "suites.make('maze8'); print('envpool' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_closed_pool_returns_most_of_its_memory() -> None:
    code = """if True:
        import pathlib
        from mtrl_jax.envs import suites
        pages = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        before = pages()
        pool = suites.make("metaworld:reach,push").make_pool(10, 0, 1)
        pool.reset(0)
        full = pages()
        pool.close()
        print((pages() - before) / (full - before))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5  # 0.7 to 0.8 without returning any
