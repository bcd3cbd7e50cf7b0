"""Dispatches launched ahead: how many, where it ends, that numbers do not depend on it, and that a
row of metrics is all that comes from the device."""

import jax
import pytest
from jax._src.array import ArrayImpl

from mtrl_jax import engines, metrics, train
from mtrl_jax.pace import Pace
from tests.machinery import tiny

PER_UPDATE = tiny.T * tiny.K * tiny.E
DISPATCH = 5 * PER_UPDATE


class Clockwork:
    """An engine whose device takes `seconds` a dispatch, and the clock by which it does."""

    def __init__(self, seconds, most_ahead=64):
        self.now, self.seconds, self.most_ahead = 0.0, seconds, most_ahead
        self.told = []

    def launch(self, carry, update):
        self.told.append(update)
        return carry + 1, f"of {carry}"

    def read(self, pending):
        self.now += self.seconds
        return pending


def counts(engine, due=lambda previous, step: False, calls=12):
    """Dispatches between two readings."""
    go_on = Pace(engine, 2, 10, due, lambda: engine.now)
    carry, step, found = 0, 0, []
    for _ in range(calls):
        carry, made = go_on(carry, step)
        assert [at for at, _ in made] == list(range(step + 10, made[-1][0] + 1, 10))
        assert [one for _, one in made] == [f"of {step // 10 + n}" for n in range(len(made))]
        step = made[-1][0]
        found.append(len(made))
    assert engine.told == list(range(0, step // 2, 5))
    return found


def test_a_seconds_worth_is_launched_ahead_once_it_is_known_how_long_one_takes():
    assert counts(Clockwork(1 / 16), calls=7) == [1, 2, 4, 8, 16, 16, 16]
    assert counts(Clockwork(0.001), calls=9)[-3:] == [64] * 3
    assert counts(Clockwork(0.001, most_ahead=1), calls=4) == [1] * 4
    assert counts(Clockwork(3.0), calls=4) == [1] * 4


def test_nothing_is_launched_behind_a_dispatch_after_which_something_is_due():
    def due(previous, step):
        return step // 70 > previous // 70

    found, step = counts(Clockwork(0.01), due), 0
    assert max(found) == 7
    for n in found:
        assert not any(due(at, at + 10) for at in range(step, step + 10 * (n - 1), 10))
        step += 10 * n


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with tiny.quick_compiles():
        yield


def trained(folder, counted):
    """A run of eight dispatches with four checkpoints: state, rows, steps of the checkpoints."""
    suite = tiny.suite()
    config = tiny.run_config(total_env_steps=8 * DISPATCH, log_every=4 * DISPATCH, keep=9)
    seen = []
    result = train.run(
        config,
        suite,
        tiny.toy_agent(suite.spec),
        folder,
        {},
        lambda step, *_: seen.append(step),
    )
    counted.append(len(set(seen)))
    every = metrics.read_jsonl(folder / "metrics.jsonl")
    saved = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in every]
    return result.state, rows, saved


def test_a_run_that_is_launched_ahead_is_the_same_run(tmp_path, monkeypatch):
    counted = []
    state, rows, saved = trained(tmp_path / "each", counted)
    assert saved == [n * DISPATCH for n in (2, 4, 6, 8)]
    make = engines.make
    monkeypatch.setattr(engines, "make", lambda *a: make(*a)._replace(most_ahead=64))
    again = trained(tmp_path / "ahead", counted)
    tiny.assert_trees_equal(again[0], state)
    assert again[1:] == (rows, saved)
    assert counted[1] < counted[0]


def test_a_row_of_metrics_is_all_that_comes_to_the_host(monkeypatch):
    suite = tiny.suite()
    engine = engines.make(tiny.run_config(), suite, tiny.toy_agent(suite.spec))
    carry, first = engine.advance(engine.start(), 0)
    fetched, value = [], ArrayImpl._value

    def counting(self):
        fetched.append(self.nbytes)
        return value.fget(self)

    with monkeypatch.context() as patch:
        patch.setattr(ArrayImpl, "_value", property(counting))
        pending = []
        for n in range(1, 4):
            carry, one = engine.launch(carry, 5 * n)
            pending.append(one)
        assert not fetched
        for one in pending:
            engine.read(one)
    assert len(fetched) == 3 * len(first)
    assert sum(fetched) == 3 * sum(x.nbytes for x in first.values())
    with pytest.raises(AssertionError), monkeypatch.context() as patch:  # it would be seen
        patch.setattr(ArrayImpl, "_value", property(counting))
        fetched.clear()
        jax.device_get(engine.state(carry))
        assert not fetched
