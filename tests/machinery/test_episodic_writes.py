"""Writing episodic tables, against a plain Python dictionary; targets, against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import episodic, returns
from mtrl_jax.episodic import tables
from tests.machinery import tiny
from tests.machinery.episodic_tables import D, M, N, contents, filled, read, toucher, writer


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


# ------------------------------------------------------------------------------------------- writes


class Dictionary:
    """The definition: put all of a batch in, then throw out what was used least recently."""

    def __init__(self, rule):
        self.rule, self.value, self.time, self.clock = rule, {}, {}, 0

    def touch(self, keys):
        for key in keys:
            self.clock += 1
            self.time[key] = self.clock

    def write(self, keys, values, valid):
        for key, value, ok in zip(keys, values, valid, strict=True):
            self.clock += 1
            if not ok:
                continue
            key = key.tobytes()
            if key in self.value:
                old = self.value[key]
                value = (
                    max(old, value) if self.rule == "max" else old + np.float32(0.5) * (value - old)
                )
            self.value[key], self.time[key] = value, self.clock
        while len(self.value) > N:
            oldest = min(self.value, key=self.time.__getitem__)
            del self.value[oldest], self.time[oldest]


def _episodes(rule, episodes, start=0, seed=0):
    """Episodes of random length whose keys come back, each followed by reads that count as use."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(40, D)).astype(np.float32)
    table, plain = episodic.init(N, D), Dictionary(rule)
    table = table._replace(clock=jnp.int32(start))
    hits = evictions = 0
    for episode in range(episodes):
        keys = states[rng.integers(0, rng.choice([6, 20, 40]), M)]
        values = rng.normal(size=M).astype(np.float32)
        valid = np.arange(M) < rng.integers(0, rng.choice([3, M + 1]))
        valid &= rng.random(M) < 0.9
        before = set(plain.value)
        table = writer(rule)(table, keys, values, valid)
        plain.write(keys, values, valid)
        hits += len(before & {k.tobytes() for k in keys[valid]})
        evictions += len(before - set(plain.value))
        index = rng.integers(0, N, 3)
        there = np.asarray(tables.filled(table))[index]
        table = toucher(table, index, there)
        stored = np.asarray(table.keys)
        # A tick goes by for what is not valid, too.
        for i, ok in zip(index, there, strict=True):
            plain.touch([stored[i].tobytes()] if ok else [])
            plain.clock += not ok
        assert contents(table) == plain.value, episode
    assert hits > episodes and evictions > episodes / 2


@pytest.mark.parametrize("rule", ["max", "towards"])
def test_writes_and_evictions_are_a_dictionarys_to_the_bit(rule):
    _episodes(rule, 250)


def test_the_clock_may_go_round():
    _episodes("max", 120, start=2**31 - 2000, seed=1)


@pytest.mark.slow
def test_ten_thousand_episodes():
    _episodes("max", 10_000, seed=2)


def test_what_was_used_last_before_the_clock_went_round_is_thrown_out_first():
    """Ages above 2^30 ticks are one age, and stay above all others."""
    table = filled(np.arange(3 * N, dtype=np.float32).reshape(N, 3), np.arange(N, dtype="f"), N)
    others = np.delete(np.arange(N), 7)
    for _ in range(7):  # of an eighth of the clock's range each
        table = table._replace(clock=table.clock + np.int32(2**29))
        for i in range(0, N - 1, 3):
            table = toucher(table, others[i : i + 3], np.ones(3, bool))
    forgotten = float(table.values[7])
    table = writer()(table, np.full((M, D), 99, "f"), np.full(M, 99, "f"), np.arange(M) == 0)
    left = set(map(float, contents(table).values()))
    assert left == {*map(float, range(N)), 99.0} - {forgotten}


def test_the_same_episode_again_changes_nothing_and_values_never_fall():
    rng = np.random.default_rng(3)
    keys, valid = rng.normal(size=(M, D)).astype(np.float32), np.arange(M) < 10
    table = writer()(episodic.init(N, D), keys, rng.normal(size=M).astype(np.float32), valid)
    stored = contents(table)
    values = np.float32([stored.get(key.tobytes(), 0.0) for key in keys])
    again = writer()(table, keys, values, valid)
    for name in ("keys", "values", "half_norms", "hashes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    for seed in range(5):
        before = contents(table)
        more = np.random.default_rng(seed).normal(size=M).astype(np.float32)
        table = writer()(table, keys, more, valid)
        assert all(contents(table)[key] >= value for key, value in before.items())


def test_tables_of_tasks_and_actions_by_vmap_equal_one_after_the_other():
    k, a, rng = 2, 3, np.random.default_rng(4)
    keys = rng.integers(0, 3, (k, M, D)).astype(np.float32)
    values, action = rng.normal(size=(k, M)).astype(np.float32), rng.integers(0, a, (k, M))

    def one_task(tables, keys, values, action):
        valid = action[None] == jnp.arange(a)[:, None]
        return jax.vmap(episodic.write_max, (0, None, None, 0))(tables, keys, values, valid)

    def look(tables, query):
        def one(table):
            found = episodic.nearest(table, query, 4)
            return episodic.mean_value(table, query, found), episodic.touch(
                table, found.slot, found.valid
            )

        return jax.vmap(one)(tables)

    @jax.jit
    def both(tables, keys, values, action):
        tables = jax.vmap(one_task)(tables, keys, values, action)
        return jax.vmap(look)(tables, keys[:, :5])

    got, tables = both(episodic.init(N, D, (k, a)), keys, values, action)
    assert got.shape == (k, a, 5)
    for i in range(k):
        for j in range(a):
            table = writer()(episodic.init(N, D), keys[i], values[i], action[i] == j)
            found, value = read(table, keys[i, :5], 4)
            np.testing.assert_allclose(got[i, j], value, rtol=1e-6)
            table = toucher(table, found.slot, found.valid)
            jax.tree.map(
                lambda x, y, i=i, j=j: np.testing.assert_array_equal(x[i, j], y), tables, table
            )


def test_a_donated_table_is_not_copied():
    table = episodic.init(20_000, 8)
    args = table, jnp.zeros((4, 8)), jnp.zeros(4), jnp.ones(4, bool)
    memory = jax.jit(episodic.write_max, donate_argnums=0).lower(*args).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= episodic.nbytes(20_000, 8)
    assert memory.temp_size_in_bytes < episodic.nbytes(20_000, 8)


# ------------------------------------------------------------------------------------------ targets


def test_targets_are_a_loops():
    """NEC's of n steps with the table's best value behind them, MFEC's of the whole episode."""
    rng = np.random.default_rng(5)
    t, gamma = 9, 0.9
    r, v = rng.normal(size=t).astype(np.float32), rng.normal(size=t + 1).astype(np.float32)
    discount = np.full(t, gamma, np.float32)
    discount[-1] = 0.0  # the episode ends for good, and nothing is bootstrapped there
    valid = np.ones(t, bool)
    for n in (1, 3, 100):
        want = []
        for i in range(t):
            steps = min(n, t - i)
            g = sum(gamma**j * r[i + j] for j in range(steps))
            want.append(g + (gamma**steps * v[i + steps] if i + steps < t else 0.0))
        got = returns.n_step_returns(r, discount, v, valid, n)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    whole = returns.discounted_returns(r, discount, np.zeros(t + 1, np.float32), valid)
    np.testing.assert_allclose(got, whole, rtol=1e-5)
