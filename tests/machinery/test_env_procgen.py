"""Procgen's fixed mazes, where Qt is installed; what is said where it is not."""

import numpy as np
import pytest

from mtrl_jax.envs import suites
from mtrl_jax.types import HostSuite


def _has_qt() -> bool:
    import envpool

    try:
        envpool.make_spec("MazeMemory-v0")
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("name", ["procgen_maze8", "envpool:CoinrunEasy-v0"])
def test_without_qt_the_error_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import envpool

    def fail(*args: object, **kwargs: object) -> None:
        raise ImportError("libQt5Gui.so.5: cannot open shared object file")

    if _has_qt():
        monkeypatch.setattr(envpool, "make_spec", fail)
    with pytest.raises(ImportError, match=r"libQt5Gui\.so\.5.*apt-get install libqt5gui5"):
        suites.make(name)


@pytest.mark.skipif(not _has_qt(), reason="the Qt 5 libraries are not installed")
def test_a_task_is_one_level_and_the_goal_pays_ten() -> None:
    suite = suites.make("procgen_maze8")
    assert isinstance(suite, HostSuite)
    spec = suite.spec
    assert spec.task_names == tuple(f"maze_{k}" for k in range(8))
    assert (spec.observation_shape, spec.num_actions) == ((3, 64, 64), 15)
    pool = suite.make_pool(2, 0, 1)
    rng = np.random.default_rng(0)
    rows = [pool.reset(0)]
    levels: list[set[int]] = [set() for _ in range(8)]
    receive = [task_pool.recv for task_pool in pool._pools[0]]
    for k, task_pool in enumerate(pool._pools[0]):

        def recv(k=k):
            raw = receive[k]()
            levels[k] |= set(raw["info:level_seed"].tolist())
            return raw

        task_pool.recv = recv
    for _ in range(300):
        pool.send(0, rng.integers(0, 15, (8, 2)))
        rows.append(pool.recv(0))
    pool.close()
    assert levels == [{k} for k in range(8)]
    first, reward, success, discount = (
        np.stack([getattr(row, name) for row in rows])
        for name in ("first", "reward", "success", "discount")
    )
    # The layouts differ, and each is the same in all environments.
    image = rows[0].observation
    assert (image[:, 0] == image[:, 1]).all()
    assert len({image[k, 0].tobytes() for k in range(8)}) == 8
    # Level 7 is solved by anybody.
    assert success[:, 7].any() and set(np.unique(reward)) == {0.0, 10.0}
    np.testing.assert_array_equal(success, reward == 10.0)
    np.testing.assert_array_equal(discount == 0.0, success)
    assert first[1:][success[:-1]].all()
