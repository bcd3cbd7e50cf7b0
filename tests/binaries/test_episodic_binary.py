"""The episodic binary: trains on a small game, goes on, is scored and recorded."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.beta_vae import run as run_vae
from experiments.common import agents
from experiments.episodic import presets
from mtrl_jax import checkpoint, workdir
from mtrl_jax.algorithms import mfec
from mtrl_jax.envs import suites
from mtrl_jax.networks import autoencoder
from tests.machinery import commands, tiny

PER_DISPATCH = 10 * 4 * 1 * 2  # updates, T, K, E
TINY = (
    "--suite=small_games:cliff",
    "--num_envs_per_task=2",
    "--eval_every=1000000",
    "--eval_episodes=1",
    "--log_every=80",
)
NUMBERS = {
    "mfec": "unroll_length=4,capacity=64,dim=4,neighbours=3",
    "nec": "unroll_length=4,capacity=64,dim=4,neighbours=3,hidden=4,replay_size=64,min_replay=16,"
    "batch_size=4",
}


def run(*args, module="experiments.episodic"):
    code, out, err = commands.finish(commands.start(args, 1, module))
    assert code == 0, err
    return out


@pytest.mark.slow  # four commands each
@pytest.mark.parametrize("algorithm", ["mfec", "nec"])
def test_a_run_is_reported_continued_and_recorded(tmp_path, algorithm):
    args = (*TINY, f"--workdir={tmp_path}", f"--algorithm={algorithm}", "--num_seeds=2")
    args = (*args, f"--config_overrides={NUMBERS[algorithm]}")
    out = run(*args, f"--total_env_steps={PER_DISPATCH}")
    assert f"best actions, policies after {PER_DISPATCH} environment steps:" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results[algorithm]["env_steps"] == PER_DISPATCH
    # The same command with more steps goes on from there, tables included.
    run(*args, f"--total_env_steps={2 * PER_DISPATCH}")
    assert commands.checkpoints(tmp_path) == [PER_DISPATCH, 2 * PER_DISPATCH]
    rows = [row for row in commands.rows(tmp_path) if "task/cliff/memory/keys" in row]
    before, after = rows[0]["task/cliff/memory/keys"], rows[-1]["task/cliff/memory/keys"]
    assert all(a > b > 0 for a, b in zip(after, before, strict=True))
    run(f"--workdir={tmp_path}", "--episodes=1", module="experiments.evaluate")
    assert len(list((tmp_path / "gifs").glob("*.gif"))) == 1


@pytest.mark.parametrize(
    ("suite", "row"),
    [("small_games:catch", "small_games"), ("atari42:Pong-v5", "atari42:"), ("rooms", "")],
)
def test_every_suite_has_a_preset(suite, row):
    assert presets.preset_of(suite) is presets.PRESETS[row]


@pytest.mark.slow  # three whole programs
def test_algorithms_are_compared_after_equal_steps(tmp_path):
    numbers = [f"{name}.{pair}" for name, own in NUMBERS.items() for pair in own.split(",")]
    numbers += ["dqn.hidden=4", "dqn.replay_size=64", "dqn.min_replay=16", "dqn.unroll_length=4"]
    args = (
        "--suite=small_games:cliff",
        "--num_envs_per_task=64",
        "--num_seeds=2",
        "--eval_episodes=1",
        f"--workdir={tmp_path}",
        f"--config_overrides={','.join(numbers)}",
    )
    run(*args, "--points=1", module="experiments.episodic.compare")
    out = run(*args, "--points=1,2561", module="experiments.episodic.compare")
    rows = [json.loads(x) for x in (tmp_path / "comparison.jsonl").read_text().splitlines()]
    found = [(row["algorithm"], row["steps_of_a_game"], len(row["cliff"])) for row in rows]
    assert found == [(name, n, 2) for name in ("mfec", "nec", "dqn") for n in (2_560, 5_120)]
    assert "Mean return over 1 games, 2 seeds" in out and (tmp_path / "comparison.png").exists()


@pytest.mark.slow
def test_keys_are_what_a_beta_vae_has_learnt_to_see(tmp_path):
    """As a run leaves it, but that it has learnt nothing."""
    seen = run_vae.Config(suite="rooms:split=vision", num_latents=3, steps=1)
    workdir.create(tmp_path, {"binary": "beta_vae", **dataclasses.asdict(seen)})
    spec = suites.make("rooms").spec
    config = mfec.Config(embedding=str(tmp_path))
    with pytest.raises(ValueError, match="has not learnt to see yet"):
        agents.embedding_of(spec, config)
    state = jax.jit(run_vae._vae(seen, (32, 32, 3)).init)(jax.random.key(0))
    with checkpoint.open_manager(tmp_path / "checkpoints") as manager:
        checkpoint.save(manager, 1, state, {})
    embedding = agents.embedding_of(spec, config)
    params = embedding.init(jax.random.key(1))
    tiny.assert_trees_equal(params, state.params["encoder"])
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    nets = run_vae.encoder_of(seen, (32, 32, 3))
    out = nets.encoder.apply({"params": params}, autoencoder.pixels(jnp.asarray(images)))
    np.testing.assert_allclose(embedding.apply(params, jnp.asarray(images)), out[:, :3], rtol=1e-5)
    assert embedding.dim == 3
    for other, message in (("rooms:size=64", "sees images of"), ("small_games:catch", "sees")):
        with pytest.raises(ValueError, match=message):
            agents.embedding_of(suites.make(other).spec, config)
