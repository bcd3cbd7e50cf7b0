"""The three stages of a run, each of which does what is left of it.

see/            as a run of `experiments.beta_vae`; not where nothing is learnt, nor with --see
encoder.npz     mean and standard deviation of the latents on the source split, and whose they are
act/            a run of training, in a stream of source rooms that says nothing of which it is
transfer/       scores.json and plots/transfer.png
"""

import functools
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from mtrl_jax import engines, evaluate, evaluations, learner, workdir
from mtrl_jax.benchmark import regime
from mtrl_jax.envs import encoded
from mtrl_jax.networks import autoencoder
from mtrl_jax.networks.autoencoder import Autoencoder
from mtrl_jax.types import Agent, ArrayTree, FunctionalSuite

from ..beta_vae import run as see
from ..common import runs
from . import plan, vision
from .plan import POLICIES, Plan
from .vision import VISIONS

__all__ = ["SCORES", "act", "frozen_encoder", "run", "score", "scores_of", "source_stream"]

Seen = tuple[Autoencoder, encoded.Encoder] | None
SCORES = "transfer/scores.json"
ENCODER = "encoder.npz"
NETWORKS = ("params", "target")  # of a state of DQN or NEC


def run(planned: Plan) -> None:
    """All three."""
    folder = planned.asked.folder
    with workdir.locked(folder):
        workdir.check(folder, planned.settings)
        workdir.create(folder, planned.settings)
        if planned.see is not None and planned.asked.borrow is None:
            see.run(planned.see, planned.see_folder)
        seen = frozen_encoder(planned)
        step, policy, agent = act(planned, seen)
        _transfer(planned, seen, agent, policy, step)


# --------------------------------------------------------------------------------------- seeing


def frozen_encoder(planned: Plan) -> Seen:
    """Networks and the frozen encoder in front of the rooms, or at the beginning of a policy that
    sees images; None where there is none."""
    asked, where = planned.asked, planned.asked.where
    nets = plan.networks(planned.see, VISIONS[asked.vision], where)
    if nets is None:
        return None
    if planned.see is None:
        key = jax.random.key(asked.seed)
        params = jax.device_get(autoencoder.init(nets, key, plan.shape(where))["encoder"])
    else:
        params = plan.restored(planned)
    path, mine = asked.folder / ENCODER, vision.digest(params)
    if not path.exists():
        found = vision.moments(nets, params, plan.suite(where, "source"), asked.seed)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, mean=found.mean, std=found.std, digest=mine)
        os.replace(temporary, path)
    with np.load(path, allow_pickle=False) as file:
        mean, std, theirs = file["mean"], file["std"], str(file["digest"])
    if theirs != mine:
        raise ValueError(f"workdir: {path} is of another encoder than that of {planned.see_folder}")
    return nets, encoded.Encoder(jax.tree.map(jax.numpy.asarray, params), mean, std)


def _look(planned: Plan, suite: FunctionalSuite, seen: Seen) -> FunctionalSuite:
    if seen is None or not VISIONS[planned.asked.vision].frozen:
        return suite
    nets, frozen = seen
    return encoded.encoded(suite, vision.encode_observation(nets), frozen)


# --------------------------------------------------------------------------------------- acting


def source_stream(planned: Plan, seen: Seen) -> FunctionalSuite:
    """What the policy learns in: source rooms one after the other, as it sees them."""
    rooms = plan.suite(planned.asked.where, "source")
    return _look(planned, regime.random_games(rooms, range(rooms.spec.num_tasks)), seen)


def act(planned: Plan, seen: Seen) -> tuple[int, ArrayTree, Agent]:
    """Learns what is left; step, policies `[S, ...]`, and the agent."""
    asked, stream = planned.asked, source_stream(planned, seen)
    folder = asked.folder / "act"
    num_updates, scheduled = runs.schedule(folder, 1, asked.run, planned.config)
    settings = {**planned.settings, **scheduled, "suite": "rooms:split=source"}
    if seen is not None:
        settings["encoder"] = vision.digest(seen[1].params)
    agent = POLICIES[asked.policy].module.agent(
        stream.spec, planned.config, num_updates, learner.across(1)
    )
    title = f"{asked.vision} {asked.policy}"
    if not runs.finished(folder, settings, asked.run, stream, agent.unroll_length):
        begin = None
        if seen is not None and not VISIONS[asked.vision].frozen:
            begin = functools.partial(_begin, vision.as_torso(seen[1]))
        runs.learn(title, stream, agent, asked.run, settings, folder, begin)
    step, state = runs.restore(folder, asked.run, stream, agent)
    return step, agent.policy_params(state), agent


def _begin(torso: ArrayTree, fresh: Any) -> Any:
    """A fresh state of S seeds whose Q-networks see with `torso`."""

    def put(params: learner.Params) -> learner.Params:
        was: Any = params.shared
        seeds = jax.tree.map(lambda x, new: np.broadcast_to(new, x.shape), was["torso"], torso)
        return params._replace(shared={**was, "torso": seeds})

    networks = {name: put(getattr(fresh, name)) for name in NETWORKS if hasattr(fresh, name)}
    return fresh._replace(**networks)


# --------------------------------------------------------------------------------------- transfer


def score(planned: Plan, seen: Seen, agent: Agent, policy: ArrayTree) -> dict[str, list[float]]:
    """Mean returns in all rooms of source and target, by name, one for each of S policies. Nothing
    learns: policy, encoder and scales are only read."""
    run, (suite, names) = planned.asked.run, _rooms(planned)
    agent, suite = regime.blind(agent, len(names)), _look(planned, suite, seen)
    fn = evaluate.functional_scorer(suite, agent, run.eval_episodes)
    stream = engines.over_seeds(run, lambda key: engines.stream(key, "eval"))
    found = evaluations.seeds_scorer(run, suite, fn)(policy, stream(engines.root_key(run)))
    means = np.asarray(found.episode_return).mean(-1).reshape(-1, len(names))
    return {name: means[:, k].tolist() for k, name in enumerate(names)}


def _rooms(planned: Plan) -> tuple[FunctionalSuite, tuple[str, ...]]:
    """Those of source and target side by side, under the rules of the stream, and their names."""
    rooms, where = plan.suite(planned.asked.where, "all"), planned.asked.where
    names = tuple(
        name for split in ("source", "target") for name in plan.suite(where, split).spec.task_names
    )
    return regime.each_game(rooms, [rooms.spec.task_names.index(name) for name in names]), names


def _transfer(planned: Plan, seen: Seen, agent: Agent, policy: ArrayTree, step: int) -> None:
    asked, path = planned.asked, planned.asked.folder / SCORES
    found: dict[str, Any] = {"step": step, "episodes": asked.run.eval_episodes}
    if path.exists() and found.items() <= scores_of(asked.folder).items():
        return
    suite, names = _rooms(planned)
    chance = evaluate.functional_scorer(
        suite, evaluate.random_agent(suite.spec), asked.run.eval_episodes
    )
    drawn = chance((), engines.stream(jax.random.key(asked.run.seed), "eval"))
    random = dict(zip(names, np.asarray(drawn.episode_return).mean(-1).tolist(), strict=True))
    policies = score(planned, seen, agent, policy)
    for split in ("source", "target"):
        own = plan.suite(asked.where, split).spec.task_names
        found[split] = {name: policies[name] for name in own}
        found[f"random/{split}"] = float(np.mean([random[name] for name in own]))
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(temporary, path)


def scores_of(folder: pathlib.Path) -> dict[str, Any]:
    """What a finished run has written."""
    return json.loads((folder / SCORES).read_text())
