"""envpool's DeepMind Control and Gymnasium MuJoCo groups: action bounds, limits and true ends."""

from typing import Any

import numpy as np

from mtrl_jax.envs import suites
from mtrl_jax.types import HostSuite, Timestep


def played(name: str, steps: int, action: Any = None) -> tuple[HostSuite, Timestep]:
    """One environment a task: rows `[T + 1, K]`, of random actions or always the same."""
    suite = suites.make(name)
    assert isinstance(suite, HostSuite)
    pool, rng = suite.make_pool(1, 0, 1), np.random.default_rng(0)
    shape = (suite.spec.num_tasks, 1, suite.spec.action_size)
    rows = [pool.reset(0)]
    for _ in range(steps):
        chosen = rng.uniform(-1, 1, shape) if action is None else np.full(shape, action)
        pool.send(0, chosen.astype(np.float32))
        rows.append(pool.recv(0))
    pool.close()
    stacked = (np.stack(field)[:, :, 0] for field in zip(*rows, strict=True))
    return suite, Timestep(*stacked)


def test_walkers_are_one_suite_whose_episodes_are_cut_off() -> None:
    suite, rows = played("envpool:WalkerStand-v1,WalkerWalk-v1,WalkerRun-v1", 1003)
    spec = suite.spec
    assert spec.observation_shape == (24,) and spec.observation_dtype == np.float32
    assert spec.action_shape == (6,) and not spec.has_success
    assert (spec.episode_limit == 1000).all()
    first = np.zeros(1004, bool)
    first[[0, 1001]] = True
    np.testing.assert_array_equal(rows.first, np.stack([first] * 3, axis=1))
    np.testing.assert_array_equal(rows.valid, ~rows.first)
    assert (rows.discount == 1.0).all()  # the limit is not an end
    valid = rows.reward[rows.valid]
    assert 0.0 <= valid.min() and valid.max() <= 1.0
    # An episode starts at rest; its last row is of the old episode, in motion.
    speed = np.abs(rows.observation[..., -9:]).max(-1)
    assert (speed[[0, 1001]] < 1e-3).all() and (speed[[1, 999, 1000]] > 0.1).all()
    assert (rows.reward[2:1001].mean(0) > 0).all() and rows.reward[:1001, 0].mean() > 0.1


def test_a_hopper_that_falls_has_come_to_an_end() -> None:
    suite, rows = played("envpool:Hopper-v4", 300)
    ended = rows.discount[:, 0] == 0.0
    assert ended.sum() >= 2 and suite.spec.episode_limit[0] == 1000
    np.testing.assert_array_equal(rows.first[1:, 0], ended[:-1])  # and the next row is a new one
    assert rows.valid[ended].all()
    height = rows.observation[:, 0, 0]
    assert (height[ended] < 0.8).all() or (np.abs(rows.observation[ended, 0, 1]) > 0.1).all()
    assert (height[rows.first[:, 0]] > 1.2).all()


def test_actions_beyond_the_bounds_cost_and_do_what_the_bounds_do() -> None:
    """HalfCheetah pays 0.1 |a|^2 for what is sent, the humanoid's motors end at 0.4."""
    for name in ("HalfCheetah-v4", "Humanoid-v4"):
        (_, one), (_, seven), (_, half) = (
            played(f"envpool:{name}", 3, action) for action in (1.0, 7.0, 0.5)
        )
        np.testing.assert_array_equal(one.observation, seven.observation)
        np.testing.assert_array_equal(one.reward, seven.reward)
        assert np.abs(one.observation[3] - half.observation[3]).max() > 1e-3
