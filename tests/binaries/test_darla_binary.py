"""DARLA at its smallest: its stages go on by themselves, and what is frozen stays to the bit.

The rooms stand here as images of one colour each: what is asked is who sees what, not how much.
"""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.beta_vae import frames
from experiments.beta_vae import run as see
from experiments.beta_vae.train import encode, vae_nets
from experiments.darla import plan, report, stages, vision
from mtrl_jax import engines, learner
from mtrl_jax.benchmark import regime
from mtrl_jax.envs import encoded, rooms
from mtrl_jax.envs.functional import restart, transition
from mtrl_jax.networks import autoencoder, torsos
from mtrl_jax.types import FunctionalSuite
from tests.machinery import tiny

ROOMS = rooms.rooms("all").spec.task_names
RUN = engines.RunConfig(
    total_env_steps=32,
    num_envs_per_task=4,
    updates_per_dispatch=1,
    eval_episodes=2,
    num_seeds=2,
    writers=(),
)
WHERE = plan.Where(0, 32)
SEEING = {"num_latents": 3, "num_frames": 64, "steps": 2, "denoising_steps": 2}


class Colour(NamedTuple):
    """Two actions in a room whose image is its number, of which the second is worth 1."""

    def reset(self, key, task):
        return jnp.int32(0), restart(self.observe(task))

    def step(self, key, state, action, task):
        reward = (action == 1).astype(jnp.float32)
        return state + 1, transition(self.observe(task), reward), state + 1 >= 2

    def observe(self, task):
        return jnp.broadcast_to((60 * task).astype(jnp.uint8), (3, 32, 32))


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.fixture
def asked_for(monkeypatch):
    """Makes rooms of colours; the splits that were asked for, in order."""
    splits = []

    def colours(where, split):
        spec = rooms.rooms(split, where.fold).spec
        splits.append(split)
        spec = spec._replace(
            num_actions=2,
            action_mask=np.ones((spec.num_tasks, 2), bool),
            episode_limit=np.full(spec.num_tasks, 2),
        )
        numbers = jnp.array([ROOMS.index(name) for name in spec.task_names])
        return FunctionalSuite(spec, Colour(), numbers)

    monkeypatch.setattr(plan, "suite", colours)
    for module in (see, see.report):
        monkeypatch.setattr(module, "image_suite", lambda name: colours(WHERE, "vision"))
    monkeypatch.setattr(frames, "ENVS", 4)
    monkeypatch.setattr(frames, "STEPS", 3)
    monkeypatch.setattr(see, "HELD_OUT", 8)
    monkeypatch.setattr(vision, "SOURCE_FRAMES", 24)  # as many of each room
    monkeypatch.setattr(vision, "AT_ONCE", 12)
    return splits


def ask(folder, kind="beta_vae", policy="dqn", **changes):
    numbers = ["hidden=4", "min_replay=1", "replay_size=64", "batch_size=2", "unroll_length=4"]
    seeing = SEEING if vision.VISIONS[kind].objective else {}
    asked = plan.Asked(kind, policy, WHERE, folder, RUN, numbers, seeing)
    return plan.make(asked._replace(**changes))


def every(folder):
    """What a directory holds, but for locks and times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"]
    return {path: path.read_bytes() for path in files}


@pytest.mark.slow  # all three stages, twice
def test_stages_go_on_and_what_is_frozen_stays_to_the_bit(tmp_path, asked_for, monkeypatch, capsys):
    planned = ask(tmp_path)
    transfer, begun, moments, scaled_by = stages._transfer, len(asked_for), vision.moments, []

    def recorded(nets, params, suite, seed):
        scaled_by.append(suite.spec.task_names)
        return moments(nets, params, suite, seed)

    monkeypatch.setattr(vision, "moments", recorded)

    def killed(*args):
        raise MemoryError

    monkeypatch.setattr(stages, "_transfer", killed)
    with pytest.raises(MemoryError):
        stages.run(planned)
    assert set(asked_for[begun:]) == {"vision", "source"}  # learning meets no target
    assert scaled_by == [("A1", "B2")]  # those of the source
    before = every(tmp_path)
    monkeypatch.setattr(stages, "_transfer", transfer)
    monkeypatch.setattr(stages.runs, "learn", killed)  # nothing is left to learn
    planned = ask(tmp_path)
    seen = stages.frozen_encoder(planned)
    step, policy, agent = stages.act(planned, seen)
    held = jax.tree.map(np.array, (seen[1], policy))
    found = stages.score(planned, seen, agent, policy)
    tiny.assert_trees_equal(held, (seen[1], policy))
    stages.run(planned)
    after = every(tmp_path)
    assert {path: after[path] for path in before} == before
    scores = json.loads((tmp_path / stages.SCORES).read_text())
    assert scores["target"] == {"B1": found["B1"]} and scores["step"] == step == 32
    assert scores["source"] == {name: found[name] for name in ("A1", "B2")}
    report.show([planned])
    said = capsys.readouterr().out
    assert "beta_vae dqn" in said and "target (B1)" in said
    assert (tmp_path / "transfer" / "plots" / "transfer.png").stat().st_size > 3000


def test_a_policy_reads_scaled_means_of_the_source_split(asked_for):
    nets = vae_nets((32, 32, 3), 3, "pixels")
    params = autoencoder.init(nets, jax.random.key(0), (32, 32, 3))["encoder"]
    source = plan.suite(WHERE, "source")
    frozen = vision.moments(nets, params, source, 0)
    images = [jnp.full((1, 32, 32, 3), 60 * n / 255.0) for n in range(4)]
    codes = np.stack([np.asarray(encode(nets, params, x))[0] for x in images])
    own = codes[[ROOMS.index(name) for name in source.spec.task_names]]
    np.testing.assert_allclose(frozen.mean, own.mean(0), rtol=1e-4, atol=1e-5)
    std = own.std(0)
    np.testing.assert_allclose(frozen.std, np.maximum(std, 0.1 * std.max()), rtol=1e-3)
    look = vision.encode_observation(nets)
    suite = encoded.encoded(plan.suite(WHERE, "target"), look, frozen)
    _, row = suite.env.reset(jax.random.key(0), jax.tree.map(lambda x: x[0], suite.tasks))
    want = (codes[ROOMS.index("B1")] - frozen.mean) / frozen.std
    np.testing.assert_allclose(row.observation, want, rtol=1e-3, atol=1e-4)
    assert suite.spec.observation_shape == (3,) and suite.spec.observation_dtype == np.float32
    with pytest.raises(ValueError, match="std must be above 0 and finite"):
        encoded.encoded(source, look, frozen._replace(std=0.0 * frozen.std))
    with pytest.raises(ValueError, match=r"mean must have shape \[Z\], of a code"):
        encoded.encoded(source, look, frozen._replace(mean=frozen.mean[:2]))


@pytest.mark.parametrize("policy", plan.POLICIES)
def test_every_policy_is_told_one_stream_and_nothing_of_the_encoder(policy):
    nets = vae_nets((32, 32, 3), 3, "pixels")
    spec = plan.told(regime.stream_spec(plan.suite(WHERE, "source").spec), nets)
    assert spec.task_names == (regime.STREAM,) and spec.observation_shape == (3,)
    module, config, _ = plan.POLICIES[policy]
    state = jax.eval_shape(module.agent(spec, config).init, jax.random.key(0))
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)}
    assert not any("conv0" in name for name in names)  # F is no part of what learns


class Fresh(NamedTuple):
    params: learner.Params
    target: learner.Params
    steps: int


def test_a_finetuned_network_begins_with_what_a_frozen_encoder_says():
    nets, rng = vae_nets((32, 32, 3), torsos.NUM_LATENTS, "features"), np.random.default_rng(0)
    params = autoencoder.init(nets, jax.random.key(0), (32, 32, 3))["encoder"]
    mean, std = rng.normal(size=32).astype("f"), rng.uniform(0.5, 2.0, 32).astype("f")
    torso = vision.as_torso(encoded.Encoder(params, mean, std))
    spec = regime.stream_spec(rooms.rooms("source").spec)
    shown = jnp.asarray(rng.integers(0, 256, (4, 3, 32, 32)), jnp.uint8)
    chosen = torsos.choose(spec, "encoder")
    want = (np.asarray(encode(nets, params, autoencoder.pixels(shown))) - mean) / std
    np.testing.assert_allclose(chosen.apply({"params": torso}, shown), want, rtol=1e-4, atol=1e-5)

    shapes = jax.eval_shape(chosen.init, jax.random.key(0), shown)["params"]
    blank = jax.tree.map(lambda x: np.zeros((2, *x.shape), np.float32), shapes)  # of two seeds
    own = learner.Params({"torso": blank, "head": np.ones(2)}, np.ones(2))
    begun = stages._begin(torso, Fresh(own, own, 7))
    for found in (begun.params, begun.target):
        each = jax.tree.map(lambda x: np.stack([x, x]), torso)
        tiny.assert_trees_equal(found.shared["torso"], each)
        assert found.shared["head"].all() and found.task.all() and begun.steps == 7


def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path):
    config = see.Config(suite="rooms:split=vision:fold=0:size=32", objective="pixels", **SEEING)
    other = tmp_path / "see"
    other.mkdir()

    def of(**changes):
        settings = see.settings_of(config) | changes
        (other / "config.json").write_text(json.dumps(settings))
        return str(other)

    run = tmp_path / "run"
    cases = [
        ("beta_vae", of(), {}, "has not learnt to see yet"),
        ("darla", of(), {}, "has learnt by pixels; --vision=darla needs one that has by features"),
        ("beta_vae", of(), SEEING, "--num_latents means nothing with --see"),
        ("pixels", of(), {}, "--see means nothing with --vision=pixels"),
        ("random", None, {"beta": 1.0}, "--beta means nothing with --vision=random"),
        ("darla", None, {"beta": -1.0}, "beta must not be negative"),
        ("finetuned", None, {"num_latents": 3}, "needs an encoder of 32 latents; got 3"),
        ("darla", str(tmp_path / "none"), {}, "is not a readable run configuration"),
    ]
    for kind, borrow, seeing, words in cases:
        with pytest.raises(ValueError, match=words):
            ask(run, kind, borrow=borrow, seeing=seeing)
    with pytest.raises(ValueError, match="network can begin with an encoder, dqn, nec; got ppo"):
        ask(run, "finetuned", "ppo", seeing={})
    for name in ("fold=1:size=32", "fold=0:size=64"):
        borrow = of(suite=f"rooms:split=vision:{name}")
        with pytest.raises(ValueError, match=rf"has seen .*{name}; needed is .*fold=0:size=32"):
            ask(run, borrow=borrow, seeing={})
    of(binary="dqn")
    with pytest.raises(ValueError, match=r"--see: .* holds no run of beta_vae"):
        ask(run, borrow=str(other), seeing={})
    assert not run.exists()


def test_a_ratio_is_of_means_and_needs_a_score_above_0():
    source, target = np.array([2.0, 1.0, 3.0]), np.array([1.0, 1.0, 1.0])
    value, low, high = report.ratio(source, target)
    assert value == pytest.approx(0.5) and low < 0.5 < high
    assert report.ratio(-source, target) is None
    assert np.isnan(report.ratio(source[:1], target[:1]).low)
