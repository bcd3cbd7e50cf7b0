"""Learning to see, at its smallest: what a run leaves, that it goes on, and that J stays."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.beta_vae import frames, report, run, train
from mtrl_jax.envs import rooms
from mtrl_jax.networks import autoencoder
from tests.machinery import tiny

SHAPE = (32, 32, 3)
NUMBERS = {"num_latents": 3, "steps": 4, "denoising_steps": 4, "batch_size": 2}


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Forty images of the rooms, and their factors."""
    images, factors = rooms.frames(jax.random.key(0), rooms.conjunctions("all"), 40)
    path = tmp_path_factory.mktemp("images") / "frames.npz"
    np.savez(
        path, images=np.moveaxis(np.asarray(images), 1, -1), factors=np.asarray(factors)[:, :4]
    )
    return str(path)


@pytest.mark.slow  # three times two networks; that of DARLA is quicker
def test_a_run_on_a_file_goes_on_where_it_was_killed(file, tmp_path, monkeypatch):
    config = run.Config(suite="", images=file, objective="features", **NUMBERS)
    monkeypatch.setattr(run, "LOG_EVERY", 2)
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 2)
    run.run(config, tmp_path / "whole")
    save, killed = run.checkpoint.save, []

    def dies(manager, step, state, meta):
        if not killed and "denoising" not in str(manager.directory):
            killed.append(step)
            raise MemoryError  # before anything is written
        save(manager, step, state, meta)

    monkeypatch.setattr(run.checkpoint, "save", dies)
    with pytest.raises(MemoryError):
        run.run(config, tmp_path / "killed")
    assert killed == [2] and not (tmp_path / "killed" / report.LATENTS).exists()
    with pytest.raises(ValueError, match="has not learnt to see yet: it has no checkpoint 4"):
        run.restore(tmp_path / "killed", config, SHAPE)
    run.run(config, tmp_path / "killed")
    for denoising in (False, True):
        both = [
            run.restore(tmp_path / n, config, SHAPE, denoising=denoising)
            for n in ("whole", "killed")
        ]
        tiny.assert_trees_equal(*both)
    found = [json.loads((tmp_path / n / report.LATENTS).read_text()) for n in ("whole", "killed")]
    assert found[0] == found[1] and len(found[0]["kl"]) == 3 and 0 <= found[0]["mig"] <= 1
    names = {path.name for path in (tmp_path / "killed" / "plots").iterdir()}
    assert names == {"reconstructions.png", "traversals.png"}
    with pytest.raises(ValueError, match=r"seed=0, this one has 1"):
        run.run(dataclasses.replace(config, seed=1), tmp_path / "whole")


def test_a_damaged_encoder_is_refused_and_nothing_is_written(file, tmp_path):
    config = run.Config(suite="", images=file, objective="denoising", **NUMBERS)
    run.run(config, tmp_path)
    assert {"mig"} == json.loads((tmp_path / report.LATENTS).read_text()).keys()
    folder = tmp_path / "denoising" / "checkpoints" / "4"
    _lent(config, tmp_path)
    for path in (folder / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 255
            path.write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"checkpoint .*4 cannot be restored"):
        run.run(config, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def _lent(config, whole):
    """A run that would learn the same autoencoder takes it, times of its steps and all."""
    times = (whole / "denoising" / "metrics.jsonl").read_text()
    for seed, same in ((config.seed, True), (config.seed + 1, False)):
        folder = whole.with_name(f"lent{seed}")
        run.run(dataclasses.replace(config, seed=seed), folder, judges=[whole])
        assert ((folder / "denoising" / "metrics.jsonl").read_text() == times) is same
        assert not (folder / "denoising.tmp").exists()


def test_nothing_moves_the_judge():
    nets = train.denoiser_nets(SHAPE)
    images = rooms.frames(jax.random.key(0), rooms.conjunctions("vision"), 4)[0]
    images = jnp.moveaxis(images, 1, -1)
    params = autoencoder.init(nets, jax.random.key(1), SHAPE)["encoder"]
    judge, floats = train.judge(SHAPE, params, images), images / jnp.float32(255.0)
    seen = judge.scale * train.encode(nets, params, floats)
    np.testing.assert_allclose(np.asarray(seen).var(0).mean(), 1.0, rtol=1e-4)

    def error(judge, decoded):
        key = jax.random.key(2)
        return train.reconstruction("features", judge, decoded, floats, key).sum()

    decoded = jnp.zeros((4, 32, 32, 6))
    value, (of_judge, of_decoded) = jax.jit(jax.value_and_grad(error, (0, 1)))(judge, decoded)
    assert float(value) > 0 and np.asarray(of_decoded).any(axis=(1, 2, 3)).all()
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(of_judge))


@pytest.mark.slow
def test_a_random_policy_meets_every_task_alike(monkeypatch):
    monkeypatch.setattr(frames, "ENVS", 8)
    monkeypatch.setattr(frames, "STEPS", 5)
    suite = rooms.rooms("vision")
    images = np.asarray(frames.of_suite(suite, 200, 0))
    assert images.shape == (200, *SHAPE) and images.dtype == np.uint8
    assert not np.array_equal(images, np.asarray(frames.of_suite(suite, 200, 1)))
    corner = images[:, 0, 0].astype(int)  # a wall: red in A, green in B, whatever the light
    assert 40 < (corner[:, 0] < corner[:, 1]).sum() < 100  # a third of the tasks has palette B


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": np.zeros((30, 32, 32, 3), np.uint8)}, "got nothing of that name"),
        ({"images": np.zeros((30, 32, 32, 3), np.float32)}, r"got float32\[30, 32, 32, 3\]"),
        ({"images": np.zeros((30, 3, 32, 32), np.uint8)}, "multiples of 16"),
        ({"images": np.array([None] * 30)}, "cannot be read as .npz: Object arrays"),
        (
            {"images": np.zeros((30, 32, 32, 3), np.uint8), "factors": np.zeros((30, 2))},
            "a factor is the same in all held-out images",
        ),
        (
            {"images": np.zeros((30, 32, 32, 3), np.uint8), "factors": np.zeros(30)},
            r"must hold finite factors \[30, F\]; got float64\[30\]",
        ),
    ],
)
def test_what_are_no_images_is_refused(arrays, words, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    config = run.Config(suite="", images=str(tmp_path / "x.npz"), **NUMBERS)
    with pytest.raises(ValueError, match=words):
        run.run(config, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


class _Eye:
    """Of the networks what `report.scores` asks for: colours of the wall, and where the agent is
    (the only thing that is bright in all colours)."""

    num_latents = 5

    class encoder:
        @staticmethod
        def apply(variables, images):
            white = 1.0 / (1.0 + jnp.exp(40.0 * (0.6 - images.min(-1))))
            total, at = white.sum((1, 2)), jnp.arange(images.shape[1], dtype=jnp.float32)
            down = jnp.einsum("bij,i->b", white, at) / total
            right = jnp.einsum("bij,j->b", white, at) / total
            codes = jnp.concatenate([images[:, 0, 0], jnp.stack([down, right], 1)], 1)
            return variables["params"] * codes


@pytest.mark.slow  # programs that draw rooms, for a score that nothing else hangs on
def test_scores_of_the_rooms_tell_what_sees_from_what_does_not(monkeypatch):
    monkeypatch.setattr(report, "POINTS", {"pairs": 8, "train": 192, "test": 128})
    monkeypatch.setattr(report, "MIG_IMAGES", 512)
    sees, blind = (report.scores(rooms.Rooms(32), _Eye, jnp.float32(x), 0) for x in (1.0, 0.0))
    assert blind["mig"] == 0.0 and 0.1 < sees["mig"] < 1.0
    assert blind["beta_vae_score"] < 0.3 < 0.6 < sees["beta_vae_score"]
