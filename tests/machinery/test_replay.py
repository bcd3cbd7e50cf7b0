"""Replay rings against lists: what is kept, what is drawn, how often, and how much memory."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mtrl_jax import memory, replay

K, CAPACITY = 2, 7


class Item(NamedTuple):
    frame: jax.Array
    number: jax.Array


SPEC = Item(jax.ShapeDtypeStruct((2, 3), jnp.uint8), jax.ShapeDtypeStruct((), jnp.int32))


def make(numbers: np.ndarray) -> Item:
    """Items that can be told apart, `numbers` `[K, N]`."""
    numbers = np.asarray(numbers, np.int32)
    frame = np.broadcast_to((numbers % 251)[..., None, None], (*numbers.shape, 2, 3))
    return Item(jnp.asarray(frame.astype(np.uint8)), jnp.asarray(numbers))


class Lists:
    """The definition: a list a task, cut to its newest entries."""

    def __init__(self) -> None:
        self.kept: list[list[int]] = [[] for _ in range(K)]

    def add(self, numbers: np.ndarray, valid: np.ndarray) -> None:
        for kept, row, ok in zip(self.kept, numbers, valid, strict=True):
            kept.extend(row[ok].tolist())
            del kept[:-CAPACITY]


def contents(state: replay.ReplayState, k: int) -> list[int]:
    return np.asarray(state.items.number)[k, : int(state.stored[k])].tolist()


@functools.cache
def adder():
    return jax.jit(replay.add, donate_argnums=0)


@pytest.mark.parametrize("n", [1, 3, 7, 10, 16])
def test_the_newest_valid_items_are_kept(n):
    """Around the ring several times; N above the capacity; some calls without a valid item."""
    rng = np.random.default_rng(n)
    state, lists, number = replay.init(SPEC, K, CAPACITY), Lists(), 0
    for call in range(12):
        numbers = number + np.arange(K * n).reshape(K, n)
        number += K * n
        valid = rng.random((K, n)) < (0.0, 0.4, 1.0)[call % 3]
        state = adder()(state, make(numbers), jnp.asarray(valid))
        lists.add(numbers, valid)
        assert replay.size(state).tolist() == [len(kept) for kept in lists.kept]
        for k, kept in enumerate(lists.kept):
            assert sorted(contents(state, k)) == kept, call
    # An item's leaves stay together, with their dtypes.
    assert state.items.frame.dtype == jnp.uint8
    np.testing.assert_array_equal(
        state.items.frame[:, :, 1, 2], np.asarray(state.items.number) % 251
    )


def test_order_of_overwriting_is_oldest_first():
    state = replay.init(SPEC, K, CAPACITY)
    rows = np.arange(K * 5).reshape(K, 5)
    for call in range(3):
        state = adder()(state, make(rows + 100 * call), None)
    # 15 items a task in 7 slots: slot i holds the newest item whose number in line is i modulo 7.
    line = np.concatenate([rows + 100 * call for call in range(3)], axis=1)
    expected = np.stack([line[:, 14], *(line[:, i] for i in range(8, 14))], axis=1)
    np.testing.assert_array_equal(state.items.number, expected)


def test_draws_are_uniform_over_what_is_stored_and_each_task_has_its_batch():
    state = replay.init(SPEC, K, CAPACITY)
    valid = jnp.array([[True] * 5, [True, False, True, True, False]])
    state = adder()(state, make(np.arange(10).reshape(K, 5)), valid)
    batch = jax.jit(replay.sample, static_argnums=2)(state, jax.random.key(0), 6000)
    assert batch.number.shape == (K, 6000) and batch.frame.shape == (K, 6000, 2, 3)
    assert batch.frame.dtype == jnp.uint8
    for drawn, members in zip(np.asarray(batch.number), ([0, 1, 2, 3, 4], [5, 7, 8]), strict=True):
        values, counts = np.unique(drawn, return_counts=True)
        assert values.tolist() == members
        assert stats.chisquare(counts).pvalue > 1e-3
    # Draws are independent, over the batch, the tasks, and the keys.
    first, second = np.asarray(replay.indices(state, jax.random.key(1), 3000)) % 3
    pairs = np.histogram2d(first, second, bins=3)[0]
    assert stats.chi2_contingency(pairs).pvalue > 1e-3
    again = replay.sample(state, jax.random.key(0), 6000)
    np.testing.assert_array_equal(again.number, batch.number)
    other = replay.sample(state, jax.random.key(2), 6000)
    assert (np.asarray(other.number) != np.asarray(batch.number)).any()


def test_a_ring_that_wrapped_is_drawn_from_everywhere():
    state = replay.init(SPEC, K, CAPACITY)
    for call in range(3):
        state = adder()(state, make(np.arange(K * 5).reshape(K, 5) + 100 * call), None)
    drawn = replay.sample(state, jax.random.key(3), 500).number
    assert [len(np.unique(row)) for row in np.asarray(drawn)] == [CAPACITY] * K


def test_seeds_by_vmap_inside_a_scan_equal_one_after_the_other():
    def run(key):
        def one(state, t):
            numbers = jnp.arange(K * 3, dtype=jnp.int32).reshape(K, 3) + 10 * t
            valid = jax.random.bernoulli(jax.random.fold_in(key, t), 0.6, (K, 3))
            frame = jnp.zeros((K, 3, 2, 3), jnp.uint8)
            state = replay.add(state, Item(frame, numbers), valid)
            return state, replay.sample(state, jax.random.fold_in(key, 100 + t), 4).number

        return jax.lax.scan(one, replay.init(SPEC, K, CAPACITY), jnp.arange(9))

    keys = jax.random.split(jax.random.key(4), 3)
    together = jax.jit(jax.vmap(run))(keys)
    alone = jax.tree.map(lambda *x: jnp.stack(x), *map(jax.jit(run), keys))
    jax.tree.map(np.testing.assert_array_equal, together, alone)


def test_a_donated_state_is_not_copied():
    state = replay.init(SPEC, K, 10_000)
    items = make(np.zeros((K, 3)))
    memory = adder().lower(state, items, None).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= replay.nbytes(SPEC, K, 10_000)
    assert memory.temp_size_in_bytes < 10_000


@pytest.mark.parametrize(
    ("shape", "capacity", "row"),
    [
        ((8, 8), 20_000, 128),  # a small game: two boards a row
        ((148,), 20_000, 32 * 148),  # MiniGrid
        ((39,), 100_000, 100 * 39),  # Meta-World: no number of them fills its tiles, this nearly
        ((4, 84, 84), 1_000, 2 * 28_224),
        ((), 100_000, 6250),
        ((64,), 10_007, 64),  # a prime: nothing lies side by side
        ((0,), 8, 0),
    ],
)
def test_rows_fill_whole_tiles(shape, capacity, row):
    spec = jax.ShapeDtypeStruct(shape, jnp.uint8)
    (ring,) = jax.tree.leaves(jax.eval_shape(lambda: replay.init(spec, 3, capacity)).rows)
    assert ring.shape[2] == row
    assert ring.size == 3 * capacity * math.prod(shape)


@pytest.mark.parametrize("capacity", [12, 13])  # several items a row, or all or one
@pytest.mark.parametrize("form", ["cpu", "default"])
def test_any_item_comes_back_as_it_went_in(form, capacity, monkeypatch):
    """In the form that a CPU is given, and in that of everything else."""
    monkeypatch.setattr(replay.lax, "platform_dependent", lambda *x, **forms: forms[form](*x))
    rng = np.random.default_rng(0)
    spec = {
        "pixels": np.zeros((3, 32), np.int8),
        "flag": np.zeros((), bool),
        "half": (np.zeros((260,), jnp.bfloat16), np.zeros((2, 1), np.float16)),
        "nothing": np.zeros((0, 3), np.float32),
        "phase": np.zeros((5,), np.complex64),
    }
    items = jax.tree.map(lambda x: rng.integers(0, 2**7, (2, 20, *x.shape)).astype(x.dtype), spec)
    index = rng.integers(0, capacity, (2, 30))

    @jax.jit
    def there_and_back(items, index):
        state = replay.init(spec, 2, capacity)
        for a, b in ((0, 9), (9, 20)):  # around the end of the ring
            state = replay.add(state, jax.tree.map(lambda x, a=a, b=b: x[:, a:b], items))
        return replay.take(state, index), state.items

    taken, whole = there_and_back(items, index)
    newest = np.array([max(range(slot, 20, capacity)) for slot in range(capacity)])
    task = np.arange(2)[:, None]
    for x, y, z in zip(*map(jax.tree.leaves, (items, taken, whole)), strict=True):
        assert x.dtype == y.dtype == z.dtype
        np.testing.assert_array_equal(y, x[task, newest[index]])
        np.testing.assert_array_equal(z, x[:, newest])


def test_bytes_and_the_sentence_about_memory():
    assert replay.nbytes(SPEC, K, CAPACITY) == K * CAPACITY * (6 + 4)
    state = replay.init(SPEC, K, CAPACITY)
    assert replay.nbytes(SPEC, K, CAPACITY) == sum(x.nbytes for x in jax.tree.leaves(state.items))
    replay.check_memory(SPEC, K, CAPACITY, free=140)
    with pytest.raises(ValueError, match=r"3 copies needs 0\.00 GiB .* at most 2 items fit"):
        replay.check_memory(SPEC, K, CAPACITY, copies=3, free=139)
    frames = jax.ShapeDtypeStruct((84, 84, 4), jnp.uint8)
    with pytest.raises(ValueError, match=r"needs 26285\.65 GiB of memory"):
        replay.check_memory(frames, 10**3, 10**6)
    free = memory.free_bytes()
    assert free is not None and 2**20 < free < 2**50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: replay.init(SPEC, 0, 1), "num_tasks must be at least 1; got 0"),
        (lambda s: replay.init(SPEC, 1, 0), "capacity must be at least 1; got 0"),
        (lambda s: replay.init({}, 1, 1), "at least one leaf"),
        (lambda s: replay.add(s, make(np.zeros((3, 2)))), r"items\.frame must be uint8 of shape"),
        (
            lambda s: replay.add(s, make(np.zeros((2, 2)))._replace(number=jnp.zeros((2, 2)))),
            r"items\.number must be int32 .* got float32",
        ),
        (lambda s: replay.add(s, (1, 2)), "structure of the rings"),
        (lambda s: replay.add(s, make(np.zeros((2, 2))), jnp.ones((2, 3), bool)), "valid must"),
        (lambda s: replay.add(s, make(np.zeros((2, 2))), jnp.ones((2, 2))), "must be bool"),
        (lambda s: replay.sample(s, jax.random.key(0), 0), "batch_size must be at least 1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(replay.init(SPEC, K, CAPACITY))
