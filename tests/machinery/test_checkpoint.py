"""Checkpoints come back to the bit, the newest two stay, and damaged ones are refused."""

import gc
import pathlib
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import checkpoint
from tests.machinery import tiny
from tests.machinery.test_workdir import snapshot


def tree(scale=1.0):
    return {
        "state": tiny.ToyState(
            params=(jnp.float32([0.1, -0.0, np.inf]) * scale, {}),
            opt_state=(jnp.int32(7), jnp.bfloat16([1.5, 2.5])),
            updates=jax.random.key(3),
        ),
        "loop": {"done": np.array([True, False]), "image": np.arange(6, dtype=np.uint8)},
    }


def save(folder, *steps):
    with checkpoint.open_manager(folder) as manager:
        for step in steps:
            checkpoint.save(manager, step, tree(step), {"window": {"a": [step]}})


def restore(folder, target=None, **kwargs):
    with checkpoint.open_manager(folder, **kwargs) as manager:
        return checkpoint.restore_latest(manager, checkpoint.abstract(target or tree()))


def test_everything_comes_back_to_the_bit(tmp_path):
    assert restore(tmp_path) is None
    save(tmp_path, 1, 5)
    step, got, meta = restore(tmp_path)
    assert step == 5 and meta["window"] == {"a": [5]}
    tiny.assert_trees_equal(got, tree(5))
    assert np.signbit(got["state"].params[0][1])
    assert type(got["state"]) is tiny.ToyState


def test_the_newest_two_are_kept(tmp_path):
    save(tmp_path, 1, 5, 9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["5", "9"]


def test_any_that_was_kept_can_be_asked_for(tmp_path):
    with checkpoint.open_manager(tmp_path, keep=3) as manager:
        for step in (1, 5, 9, 12):
            checkpoint.save(manager, step, tree(step), {})
    with checkpoint.open_manager(tmp_path, read_only=True) as manager:
        got, _ = checkpoint.restore_step(manager, 9, checkpoint.abstract(tree()))
        tiny.assert_trees_equal(got, tree(9))
        with pytest.raises(ValueError, match=r"step must be .* one of 5, 9, 12; got 1$"):
            checkpoint.restore_step(manager, 1, checkpoint.abstract(tree()))
        for path in (tmp_path / "5" / "state").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
        with pytest.raises(ValueError, match=r"checkpoint .*5 cannot be restored"):
            checkpoint.restore_step(manager, 5, checkpoint.abstract(tree()))


def test_an_unfinished_write_is_not_a_checkpoint(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()  # what a killed process leaves
    assert restore(tmp_path)[0] == 1
    save(tmp_path, 5)
    assert restore(tmp_path)[0] == 5


def test_a_step_is_written_once(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(RuntimeError, match="checkpoint 4 was not written"):
        save(tmp_path, 4)


def test_a_look_into_a_run_changes_nothing(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()  # being written by somebody else
    before = snapshot(tmp_path)
    assert restore(tmp_path, read_only=True)[0] == 1
    assert snapshot(tmp_path) == before


def _change(value, path=("loop", "image")):
    target = tree()
    target[path[0]][path[1]] = value
    return target


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (_change(np.arange(7, dtype=np.uint8)), "image.*saved uint8.*6.*expected uint8.*7"),
        (_change(np.arange(6, dtype=np.float32)), "image.*saved uint8.*expected float32"),
        ({**tree(), "more": jnp.zeros(2)}, "1 leaves, first .*more.*saved None"),
        ({"state": tree()["state"]}, "2 leaves, first .*loop"),
    ],
    ids=["shape", "dtype", "more", "less"],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, target, message):
    # Orbax would cast the dtype silently.
    save(tmp_path, 5)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=f"checkpoint .*5 cannot be restored: .*{message}"):
        restore(tmp_path, target)
    assert snapshot(tmp_path) == before


def _cut(folder):
    data = [p for p in (folder / "5" / "state").rglob("*") if p.is_file()]
    for path in data:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _remove(folder):
    for path in (folder / "5" / "state").rglob("*"):
        if path.is_file():
            path.unlink()


def _no_meta(folder):
    for path in (folder / "5" / "meta").rglob("*"):
        path.unlink()


@pytest.fixture
def _left_behind():
    """Orbax leaves coroutines behind that were reading when another failed."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    yield
    gc.collect()
    sys.unraisablehook = hook


LEFT_BEHIND = pytest.mark.usefixtures("_left_behind")
DAMAGES = pytest.mark.parametrize("damage", [_cut, _remove, _no_meta], ids=lambda f: f.__name__)


@LEFT_BEHIND
@DAMAGES
def test_a_damaged_checkpoint_is_refused_in_one_line_and_nothing_is_lost(
    tmp_path: pathlib.Path, damage
):
    save(tmp_path, 5)
    damage(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint .*5 cannot be restored") as caught:
        restore(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert snapshot(tmp_path) == before


@LEFT_BEHIND
@DAMAGES
def test_the_checkpoint_before_a_damaged_one_counts_and_the_warning_names_both(tmp_path, damage):
    folder = tmp_path / "checkpoints"
    save(folder, 1, 5)
    damage(folder)
    before = snapshot(tmp_path)
    with pytest.warns(UserWarning, match=r"checkpoint .*5 cannot be restored: .*checkpoint 1 inst"):
        step, got, _ = restore(folder, read_only=True)
    assert step == 1 and snapshot(tmp_path) == before
    tiny.assert_trees_equal(got, tree(1))
    # The run that goes on may write step 5 again, and what was damaged can still be looked at.
    with checkpoint.open_manager(folder) as manager, pytest.warns(UserWarning):
        target = checkpoint.abstract(tree())
        assert checkpoint.restore_latest(manager, target, repair=True)[0] == 1
        checkpoint.save(manager, 5, tree(5), {"window": {}})
    assert restore(folder)[0] == 5
    assert [p.name for p in (tmp_path / "damaged").iterdir()] == ["5-0"]


def _random_damage(rng, path):
    """A flipped bit, a cut or a missing file, and what undoes it."""
    whole = path.read_bytes()
    kind = rng.choice(["flip", "flip", "cut", "remove"]) if whole else "remove"
    if kind == "flip":
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
    elif kind == "cut":
        path.write_bytes(whole[: rng.integers(len(whole))])
    else:
        path.unlink()
    return lambda: path.write_bytes(whole)


@LEFT_BEHIND
@pytest.mark.parametrize("damages", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_damage_is_silent(damages, tmp_path):
    rng = np.random.default_rng(0)
    save(tmp_path, 1, 5)
    files = sorted(p for p in (tmp_path / "5").rglob("*") if p.is_file())
    sizes = np.array([p.stat().st_size for p in files], float)
    target, whole, seen = checkpoint.abstract(tree()), tree(5), 0
    with checkpoint.open_manager(tmp_path, read_only=True) as manager:
        for n in range(damages):
            chances = sizes / sizes.sum() if n % 2 else np.full(len(files), 1 / len(files))
            undo = _random_damage(rng, files[rng.choice(len(files), p=chances)])
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step, got, meta = checkpoint.restore_latest(manager, target)
            undo()
            if step == 1:
                assert any("cannot be restored" in str(w.message) for w in caught)
                seen += 1
            else:  # bytes that say nothing of the run, a date for instance
                assert meta["window"] == {"a": [5]}
                tiny.assert_trees_equal(got, whole)
    assert seen > damages / 4
