"""Tasks that differ in shape as one suite."""

from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import runs
from mtrl_jax import evaluate, record
from mtrl_jax.benchmark import cells, regime
from mtrl_jax.envs import functional, pad, suites
from mtrl_jax.envs.check import check_suite
from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.envs.permute import permutation
from mtrl_jax.envs.pool import environment_seeds
from mtrl_jax.types import EnvSpec, FunctionalSuite
from tests.machinery import tiny

CONTROL = "gymnasium:CartPole-v1,Acrobot-v1:processes=0"


def own_seeds(seed, suite, num_envs):
    """Of a suite's one task, as `PaddedPool` gives them."""
    return environment_seeds(int(environment_seeds(seed, suite, 1)[0]), 0, num_envs).tolist()


# ------------------------------------------------------------------------------- on the host


def test_rows_of_gymnasium_are_those_of_a_hand_loop():
    suite = suites.make(CONTROL, pad=True)
    assert suite.spec.task_names == ("CartPole-v1", "Acrobot-v1")
    assert suite.spec.observation_shape == (6,) and suite.spec.num_actions == 3
    np.testing.assert_array_equal(suite.spec.action_mask.sum(1), [2, 3])
    np.testing.assert_array_equal(suite.spec.observation_mask.sum(1), [4, 6])
    check_suite(suite)
    pool, rng = suite.make_pool(2, 3), np.random.default_rng(0)
    row = pool.reset(0)
    envs = [[gymnasium.make(name) for _ in range(2)] for name in suite.spec.task_names]
    ended = np.zeros((2, 2), bool)
    for k, e in np.ndindex(2, 2):
        seen, _ = envs[k][e].reset(seed=own_seeds(3, k, 2)[e])
        np.testing.assert_array_equal(row.observation[k, e, : len(seen)], seen)
        assert not row.observation[k, e, len(seen) :].any()
    for _ in range(60):
        action = rng.integers(0, [[2], [3]], (2, 2))
        pool.send(0, action)
        row = pool.recv(0)
        np.testing.assert_array_equal(row.first, ended)
        for k, e in np.ndindex(2, 2):
            if ended[k, e]:
                (seen, _), reward, ends = envs[k][e].reset(), 0.0, (False, False)
            else:
                seen, reward, *ends, _ = envs[k][e].step(action[k, e])
            ended[k, e] = any(ends)
            np.testing.assert_array_equal(row.observation[k, e, : len(seen)], np.float32(seen))
            assert not row.observation[k, e, len(seen) :].any()
            assert (row.reward[k, e], row.discount[k, e]) == (reward, 1.0 - ends[0])
    # What no agent chooses: Acrobot's third action in CartPole is its first.
    pool.send(0, np.full((2, 2), 2))
    assert np.isfinite(pool.recv(0).observation).all()
    with pytest.raises(ValueError, match=r"action must be in \[0, 3\)"):
        pool.send(0, np.full((2, 2), 3))
    pool.close()


def test_rows_of_envpool_are_those_of_its_own_pools():
    import envpool

    names = ("Hopper-v4", "HalfCheetah-v4")
    with pytest.raises(ValueError, match=r"different observations: .*11.* and .*17.*; --pad makes"):
        suites.make("envpool:" + ",".join(names))
    suite = suites.make("envpool:" + ",".join(names), pad=True)
    spec = suite.spec
    assert (spec.observation_shape, spec.action_size) == ((17,), 6)
    np.testing.assert_array_equal(spec.coordinate_mask.sum(1), [3, 6])
    pool, rng = suite.make_pool(2, 5, 1), np.random.default_rng(1)
    theirs = [
        envpool.make(name, env_type="gymnasium", num_envs=2, seed=own_seeds(5, k, 2))
        for k, name in enumerate(names)
    ]
    row = pool.reset(0)
    for k, (env, size) in enumerate(zip(theirs, (11, 17), strict=True)):
        np.testing.assert_array_equal(row.observation[k, :, :size], np.float32(env.reset()[0]))
    for _ in range(5):
        action = rng.uniform(-1, 1, (2, 2, 6)).astype(np.float32)
        pool.send(0, action)
        row = pool.recv(0)
        for k, (env, seen, size) in enumerate(zip(theirs, (11, 17), (3, 6), strict=True)):
            observation, reward, *_ = env.step(action[k, :, :size].astype(np.float64))
            np.testing.assert_array_equal(
                row.observation[k, :, :seen], observation.astype(np.float32)
            )
            np.testing.assert_array_equal(row.reward[k], reward.astype(np.float32))
            assert not row.observation[k, :, seen:].any()
    pool.close()


def test_a_part_keeps_the_shape_and_a_permutation_the_mask():
    suite = suites.make(CONTROL, pad=True)
    part = suite.part([0])
    assert part.spec.task_names == ("CartPole-v1",)
    assert part.spec.observation_shape == (6,) and part.spec.num_actions == 3
    np.testing.assert_array_equal(part.spec.observation_mask.sum(1), [4])
    check_suite(part)
    permuted = suites.make(CONTROL, 4, pad=True)
    table = permutation(4, 2, 3)
    np.testing.assert_array_equal(
        permuted.spec.action_mask, np.take_along_axis(suite.spec.action_mask, table, 1)
    )
    assert record.can_render(suite) and permuted.spec.observation_mask is not None
    # A pool that cannot draw makes one that cannot.
    assert not record.can_render(pad.join([suite, tiny.host_suite()]))


def test_what_goes_together_is_left_alone():
    alone = suites.make("gymnasium:CartPole-v1:processes=0")
    assert pad.join([alone]) is alone
    together = suites.make("small_games:catch,snake", pad=True)
    assert together.spec.task_names == ("catch", "snake")
    assert together.env == suites.make("small_games:catch,snake").env


def test_what_a_run_is_written_down_as_makes_its_suite_again():
    settings = {"suite": CONTROL, "permute_actions": None}
    with pytest.raises(ValueError, match="--pad makes one suite"):
        runs.make_suite(settings)
    again = runs.make_suite({**settings, "pad": True}).spec
    assert again.observation_shape == (6,) and again.num_actions == 3
    # Runs and matrices that are not padded are known by what they were known by before.
    assert "pad" not in cells.values(cells.Settings(CONTROL))
    assert cells.values(cells.Settings(CONTROL, pad=True))["pad"] is True


# ------------------------------------------------------------------------------- JAX functions


class Walk(NamedTuple):
    """Steps among cells, seen as they are; `task` is where it pays."""

    cells: int
    moves: tuple[int, ...]

    def see(self, cell):
        return jax.nn.one_hot(cell, self.cells)

    def reset(self, key, task):
        cell = jax.random.randint(key, (), 0, self.cells)
        return {"cell": cell, "time": jnp.int32(0)}, restart(self.see(cell))

    def step(self, key, state, action, task):
        slips = jax.random.uniform(key) < 0.3
        move = jnp.where(slips, 0, jnp.array(self.moves)[action])
        cell, time = (state["cell"] + move) % self.cells, state["time"] + 1
        row = transition(self.see(cell), jnp.where(cell == task, 1.0, 0.0))
        return {"cell": cell, "time": time}, row, time >= 3

    def render(self, state, task):
        return np.full((8, 8, 3), 10 * self.cells + int(state["cell"]), np.uint8)


def walk(cells, moves, goals):
    spec = EnvSpec(
        task_names=tuple(f"{cells}to{goal}" for goal in goals),
        observation_shape=(cells,),
        observation_dtype=np.float32,
        vocabulary=None,
        num_actions=len(moves),
        action_mask=np.ones((len(goals), len(moves)), bool),
        episode_limit=np.full(len(goals), 3),
        has_success=False,
    )
    return FunctionalSuite(spec, Walk(cells, moves), np.array(goals, np.int32))


SHORT, LONG = walk(3, (-1, 1), (0, 2)), walk(5, (-2, 0, 2), (4,))
BOTH = pad.join([SHORT, LONG])
ORDER = [2, 0, 1]  # the suites' tasks not side by side


def played(suite, tasks=None, steps=8, order=(0, 1, 2)):
    """Rows of a suite, in which each task draws from its own keys; 2 environments each."""
    reset, step = functional.auto_reset_batch(suite.env)
    tasks = suite.tasks if tasks is None else tasks
    keys = jax.random.split(jax.random.key(0), (steps + 1, 3, 2))[:, np.array(order)]
    state, first = reset(keys[0], tasks)

    def one(carry, key):
        state, t = carry
        action = (jnp.arange(2)[None] + t + jnp.array(order)[:, None]) % 2
        state, row = step(key, state, action, tasks)
        return (state, t + 1), row

    _, rows = jax.lax.scan(one, (state, jnp.int32(0)), keys[1:])
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rows)


@pytest.mark.slow
def test_a_joined_functional_suite_plays_what_its_suites_play():
    check_suite(BOTH)
    with tiny.quick_compiles():
        together = jax.jit(lambda: played(BOTH))()
        given = jax.jit(lambda tasks: played(BOTH, tasks))(jax.tree.map(jnp.asarray, BOTH.tasks))
        part = regime.subset(BOTH, ORDER)
        moved = jax.jit(lambda: played(part, order=ORDER))()
        apart = [
            jax.jit(lambda suite=suite, at=at: played(suite, order=at))()
            for suite, at in ((SHORT, [0, 1]), (LONG, [2]))
        ]
    assert BOTH.spec.observation_shape == (5,) and BOTH.spec.num_actions == 3
    np.testing.assert_array_equal(BOTH.spec.observation_mask.sum(1), [3, 3, 5])
    np.testing.assert_array_equal(BOTH.spec.action_mask.sum(1), [2, 2, 3])
    for alone, width, at in zip(apart, (3, 5), ([0, 1], [2]), strict=True):
        seen = together.observation[:, np.array(at)]
        np.testing.assert_array_equal(seen[..., :width], alone.observation)
        assert not np.any(seen[..., width:])
        for ours, theirs in zip(together[1:], alone[1:], strict=True):
            np.testing.assert_array_equal(ours[:, np.array(at)], theirs)
    assert np.asarray(together.first).sum() == 3 * 2 * 3  # and began anew twice
    # Tasks that a program is given play the same, and so does a part in another order.
    tiny.assert_trees_equal(given, together)
    check_suite(part)
    np.testing.assert_array_equal(part.spec.observation_mask.sum(1), [5, 3, 3])
    tiny.assert_trees_equal(moved, jax.tree.map(lambda x: x[:, np.array(ORDER)], together))
    check_suite(regime.random_games(BOTH, [0, 2]))


def test_a_joined_functional_suite_is_drawn_task_by_task():
    assert record.can_render(BOTH)
    agent = evaluate.random_agent(BOTH.spec)
    episodes = record.play(BOTH, agent, (), jax.random.key(0), max_actions=2)
    assert [episode.frames[0].max() // 10 for episode in episodes] == [3, 3, 5]


# ------------------------------------------------------------------------------- what is refused

VECTOR = LONG.spec
REFUSED = {
    "none": (lambda: [], "at least one; got none"),
    "no suite": (lambda: [SHORT, 3], "at least one; got FunctionalSuite, int"),
    "both kinds": (lambda: [SHORT, tiny.host_suite()], "got both"),
    "a name twice": (lambda: [SHORT, SHORT], "names must differ in one suite; got '3to0' twice"),
    "dtypes": (
        lambda: [SHORT, told(observation_dtype=np.uint8)],
        "3to0 and 5to4 cannot be padded to one shape: observations are float32 and uint8",
    ),
    "vocabularies": (
        lambda: [
            told(observation_dtype=np.uint8, vocabulary=np.full(5, 2), task_names=("a",)),
            told(observation_dtype=np.uint8, vocabulary=np.full(5, 3)),
        ],
        "a and 5to4 cannot .*: observations are classes of two vocabularies",
    ),
    "pictures": (
        lambda: [told(observation_shape=(3, 40, 40)), walk(9, (0, 1), (1,))],
        r"observations \[3, 40, 40\] and \[9\] are no vectors",
    ),
    "kinds of actions": (
        lambda: [SHORT, told(num_actions=0, action_size=2, action_mask=np.ones((1, 0), bool))],
        "the actions of one are discrete, those of the other are not",
    ),
}


def told(**fields):
    return LONG._replace(spec=VECTOR._replace(**fields))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_padded(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        pad.join(make())


def test_refusals_of_suites_name_the_remedy_where_it_helps(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="different action spaces: 3 and 2 actions; --pad makes"):
        suites.make(CONTROL)
    with pytest.raises(ValueError, match=r"float32 \[2\] and float32 \[3\]$"):
        suites.make("gymnasium:MountainCar-v0,Pendulum-v1:processes=0")
    with pytest.raises(ValueError, match="MountainCar-v0 and Pendulum-v1 cannot be padded"):
        suites.make("gymnasium:MountainCar-v0,Pendulum-v1:processes=0", pad=True)
    with pytest.raises(ValueError, match="CartPoll-v1 cannot be made"):
        suites.make("gymnasium:CartPoll-v1,Acrobot-v1:processes=0", pad=True)
    (tmp_path / "several_walks.py").write_text(
        "from tests.machinery.test_pad import LONG, SHORT\n"
        "def make(): return [SHORT, LONG]\n"
        "def wrong(): return [SHORT, 3]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert suites.make("several_walks:make", pad=True).spec.num_tasks == 3
    with pytest.raises(ValueError, match=r"must return .*; got a list \(--pad makes one suite"):
        suites.make("several_walks:make")
    with pytest.raises(
        ValueError, match="must be a FunctionalSuite or a HostSuite; got <class 'int"
    ):
        suites.make("several_walks:wrong", pad=True)
