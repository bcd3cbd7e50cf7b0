"""Every number of every configuration is held against its range before anything compiles or is
written: the table has all that a binary is told, the cases are generated from the fields' types."""

import dataclasses
import math
import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.override import override
from experiments.distral import grid, tabular_run
from experiments.morph import run as morph_run
from experiments.morph.train import Config as MorphConfig
from experiments.supervised import run as supervised
from mtrl_jax import engines, ranges, replay, returns
from mtrl_jax.algorithms import distill, distral, dqn, ppo, sac
from mtrl_jax.benchmark import cells
from tests.machinery import tiny

SUITE = tiny.suite()
SPEC = SUITE.spec


def _continuous():
    return SPEC._replace(num_actions=0, action_size=2, action_mask=np.ones((2, 0), bool))


def _nowhere(fn):
    """`fn(config, folder)` must leave no folder behind."""

    def call(config):
        folder = pathlib.Path("must-not-be-made")
        try:
            fn(config, folder)
        finally:
            assert not folder.exists()

    return call


# What refuses, and a configuration that it takes.
TABLE = {
    "run": (lambda c: engines.check(c, SUITE), tiny.RUN),
    "dqn": (lambda c: dqn.check(SPEC, c), dqn.Config()),
    "distral": (lambda c: distral.check(SPEC, c), distral.Config(task_cost_scales=(1.0, 2.0))),
    "ppo": (lambda c: ppo.check(SPEC, c), ppo.Config()),
    "sac": (lambda c: sac.check(_continuous(), c), sac.Config()),
    "distill": (lambda c: distill.check_numbers(SPEC, c), distill.Config()),
    "benchmark": (lambda c: cells.check(c, 12), cells.Settings("small_games")),
    "morph": (_nowhere(morph_run.run), MorphConfig()),
    "supervised": (_nowhere(supervised.run), supervised.Config()),
    "tabular": (tabular_run.run, tabular_run.Config()),
}
TAKES = [name for name in TABLE if name not in ("morph", "supervised", "tabular")]  # those train


def _limits(kind):
    """The type below `Annotated` and its range."""
    base, *notes = typing.get_args(kind) if hasattr(kind, "__metadata__") else (kind,)
    return base, next((n for n in notes if isinstance(n, ranges.Range)), ranges.Range())


def _bad(kind):
    """Values that a field of this type must not take."""
    base, limits = _limits(kind)
    if base not in (int, float):
        return []
    found = [math.nan, math.inf, -math.inf, True, "1", None]
    found += [1.5, np.float32(2)] if base is int else []
    step = 1 if base is int else 1e-3
    if limits.low > -math.inf:
        found += [limits.low if limits.open_low else limits.low - step, limits.low - 7 * step]
    if limits.high < math.inf:
        found += [limits.high if limits.open_high else limits.high + step]
    return found


def _cases():
    for name, (_, config) in TABLE.items():
        hints = typing.get_type_hints(type(config), include_extras=True)
        for field, kind in hints.items():
            if typing.get_origin(kind) is tuple:
                for value in _bad(typing.get_args(kind)[0]):
                    yield name, field, (value,)
            for value in _bad(kind):
                yield name, field, value


CASES = list(_cases())


@pytest.fixture(autouse=True, scope="module")
def _nothing_compiles():
    """Compilations while this module ran, which must be none."""
    seen = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **kwargs: seen.append(event) if "backend_compile" in event else None
    )
    yield seen


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch, _nothing_compiles):
    monkeypatch.chdir(tmp_path)
    del _nothing_compiles[:]
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TABLE)
def test_bad_numbers_are_refused_by_name(name, _nothing_compiles):
    check, config = TABLE[name]
    mine = [(field, value) for case, field, value in CASES if case == name]
    assert len(mine) > 30
    for field, value in mine:
        with pytest.raises(ValueError, match=rf"^{field} must ") as caught:
            check(dataclasses.replace(config, **{field: value}))
        assert "\n" not in str(caught.value) and "got " in str(caught.value)
    assert _nothing_compiles == []


@pytest.mark.parametrize("name", TAKES)
def test_good_numbers_pass(name):
    check, config = TABLE[name]
    check(config)
    ranges.check(config)


@pytest.mark.parametrize("name", TABLE)
def test_every_number_has_a_range_or_a_reason(name):
    free = {"num_devices", "alpha", "target_entropy", "reward_scale"}
    hints = typing.get_type_hints(type(TABLE[name][1]), include_extras=True)
    bare = {field for field, kind in hints.items() if kind in (int, float)}
    assert bare <= free


def test_the_grid_of_robustness_is_asked_number_by_number():
    for rate, cost in ((math.nan, 0.1), (1e-3, math.inf), (1e-3, 0.0)):
        with pytest.raises(
            ValueError, match=r"^(learning_rate|entropy_cost) must be (finite and )?above 0"
        ):
            grid.check(SUITE, distral.Config(), grid.Grid([rate], [cost], [0]))


def test_traced_numbers_pass_and_arrays_count_as_numbers():
    def traced(rate):
        distral.check(SPEC, distral.Config(learning_rate=rate))
        return rate

    jax.eval_shape(traced, jnp.float32(1))
    distral.check(SPEC, distral.Config(learning_rate=np.float32(1e-3)))
    distral.check(SPEC, distral.Config(learning_rate=np.array(1e-3), unroll_length=np.int32(3)))
    with pytest.raises(ValueError, match="learning_rate must be above 0; got nan"):
        distral.check(SPEC, distral.Config(learning_rate=np.array(np.nan)))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["learning_rate=nan"], "learning_rate must be above 0; got nan"),
        (["learning_rate=1e400"], "learning_rate must be finite and above 0; got inf"),
        (["unroll_length=0"], "unroll_length must be at least 1; got 0"),
        (["hidden=8x0"], "hidden must be at least 1; got 0"),
        (["n_step=2", "n_step=3"], "--config_overrides: n_step is given twice"),
        (["n_step=2.0"], "n_step takes"),
    ],
)
def test_overrides_are_held_against_the_ranges(pairs, message):
    with pytest.raises(ValueError, match=message):
        override(dqn.Config(), pairs)


ITEM = jax.ShapeDtypeStruct((), np.float32)


@pytest.mark.parametrize("value", [None, True, 1.0, math.nan, "2", 0, -1])
def test_counts_of_library_functions(value):
    row = np.ones(3, np.float32)
    for call, name in (
        (lambda: replay.init(ITEM, value, 4), "num_tasks"),
        (lambda: replay.init(ITEM, 1, value), "capacity"),
        (lambda: returns.n_step_transitions(row, row, row > 0, value), "n"),
    ):
        with pytest.raises(ValueError, match=rf"^{name} must be (at least 1|an integer); got"):
            call()
