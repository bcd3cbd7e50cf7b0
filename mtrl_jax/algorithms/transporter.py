"""Transporter networks that imitate an oracle on a tabletop, told a goal or a sequence of them.

Zeng et al. 2020, arXiv 2010.14406 (behaviour cloning of picks and places); Lim et al. 2021, arXiv
2109.07578 (one network for many tasks, conditioned on the next of a sequence of sub-goal images,
tasks drawn with weights). What the network is told, `Config.condition`::

    none        nothing: a black image
    final       the image at the end of the demonstration
    sequence    the first of the demonstration's images that has not been reached yet

Sub-goals are images of a demonstration of the very problem that is to be solved. Whether one is
reached is seen in images too (`follow`): nobody tells the policy its reward. The network, its
demonstrations and its steps are the same whatever it is told.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import ranges
from mtrl_jax.envs import tabletop, tabletop_tasks
from mtrl_jax.envs.tabletop import Action
from mtrl_jax.envs.tabletop_tasks import COMPOSITIONS, NUM_GOALS, Problem
from mtrl_jax.losses import transporter as losses
from mtrl_jax.networks import transporter as networks
from mtrl_jax.ranges import Count, OneOf, Positive, Unit
from mtrl_jax.types import Array, ArrayTree, Key, Metrics

__all__ = [
    "CONDITIONS",
    "SAMPLINGS",
    "Config",
    "Demos",
    "Episode",
    "Following",
    "State",
    "act",
    "collect",
    "follow",
    "init",
    "play",
    "update",
]

CONDITIONS = ("none", "final", "sequence")
SAMPLINGS = ("uniform", "weighted")
K = len(COMPOSITIONS)
SHAPE = (tabletop.SIZE, tabletop.SIZE, 4)
ACTIONS = NUM_GOALS + 3  # of an episode: the oracle needs six
REACHED = 7  # pixels: a cube a pixel aside is unlike in six, a corner turned wrongly in eight


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of one learner.

    Attributes:
      condition: what the network is told.
      sampling: how tasks are drawn, all alike or by their losses.
      num_demos: demonstrations of each composition.
      batch_size: samples of a step.
      learning_rate: of adam, at the start; it falls to 0 as a cosine.
      width: features of hidden layers.
      floor: share of samples that are drawn from all tasks alike, with weights.
      rate: of the running loss that weights follow.
    """

    condition: Annotated[str, OneOf(CONDITIONS)] = "sequence"
    sampling: Annotated[str, OneOf(SAMPLINGS)] = "weighted"
    num_demos: Count = 100
    batch_size: Count = 16
    learning_rate: Positive = 3e-3
    width: Count = 16
    floor: Unit = 0.5
    rate: Unit = 0.02


class State(NamedTuple):
    """Everything learnt: parameters, adam's moments, and each task's running loss `[K]`."""

    params: ArrayTree
    opt_state: ArrayTree
    running: Array


class Demos(NamedTuple):
    """What is imitated, leaves `[K, D, ...]`.

    Attributes:
      images: uint8 `[K, D, 7, 32, 32, 4]`.
      actions: leaves `[K, D, 7, ...]`.
      order: int32 `[K, D, 7]`, quarter turns after which what is picked looks as before.
    """

    images: Array
    actions: Action
    order: Array


class Following(NamedTuple):
    """Where a policy is in a sequence: `number` int32 of the sub-goal that is next, and `unlike`
    int32, in how many pixels the last one differed when it was taken for reached."""

    number: Array
    unlike: Array


class Episode(NamedTuple):
    """What a policy did, T actions.

    Attributes:
      images: uint8 `[T + 1, 32, 32, 4]`.
      goals: uint8 `[T, 32, 32, 4]`, what it was told before each action.
      moved: bool `[T]`, whether something moved.
      done: bool `[6]`, goals at the end.
      success: bool `[2]`, modules at the end.
    """

    images: Array
    goals: Array
    moved: Array
    done: Array
    success: Array


def collect(config: Config, key: Key) -> Demos:
    """The oracle's demonstrations, drawn with `key`."""

    def one(key: Key, composition: Array) -> Demos:
        problem = tabletop_tasks.draw(key, composition)
        found = tabletop_tasks.demonstrate(problem)
        order = jnp.asarray(tabletop.ORDERS)[problem.start.shape]
        return Demos(found.images, found.actions, jnp.append(order, 1))

    keys = jax.random.split(key, (K, config.num_demos))
    return jax.vmap(jax.vmap(one, (0, None)))(keys, jnp.arange(K))


def init(config: Config, key: Key) -> State:
    """Fresh parameters.

    Raises:
      ValueError: naming the field, what came and what is allowed.
    """
    ranges.check(config)
    params = networks.init(_nets(config), key, SHAPE)
    return State(params, optax.scale_by_adam().init(params), jnp.zeros(K))


def update(
    config: Config, state: State, demos: Demos, key: Key, progress: Array
) -> tuple[State, Metrics]:
    """One step on a batch of single actions; `progress` in [0, 1] is the part of all steps that is
    over. Metrics are means over the batch, and `[K]` shares of the tasks."""
    floor = 1.0 if config.sampling == "uniform" else config.floor
    shares = losses.task_shares(state.running, floor)
    for_task, for_demo, for_time = jax.random.split(key, 3)
    b = (config.batch_size,)
    tasks = jax.random.choice(for_task, K, b, p=shares)
    demo = jax.random.randint(for_demo, b, 0, config.num_demos)
    time = jax.random.randint(for_time, b, 0, NUM_GOALS + 1)
    image, goal = demos.images[tasks, demo, time], _told(config, demos.images, tasks, demo, time)
    action, order = jax.tree.map(lambda x: x[tasks, demo, time], (demos.actions, demos.order))

    def loss(params: ArrayTree) -> tuple[Array, tuple[Array, Metrics]]:
        picks, places = _logits(config, params, image, goal, action.pick)
        index = jnp.where(
            action.stop, picks.shape[1] - 1, action.pick[:, 0] * SHAPE[1] + action.pick[:, 1]
        )
        right = (jnp.arange(networks.TURNS)[None] - action.turn[:, None]) % order[:, None] == 0
        pick = jax.vmap(losses.pick_loss)(picks, index)
        place = jnp.where(
            action.stop, 0.0, jax.vmap(losses.place_loss)(places, action.place, right)
        )
        metrics = {
            "loss/pick": pick.mean(),
            "loss/place": place.mean(),
            "accuracy/pick": (picks.argmax(1) == index).mean(),
        }
        return (pick + place).mean(), (pick + place, metrics)

    grads, (each, metrics) = jax.grad(loss, has_aux=True)(state.params)
    moves, opt_state = optax.scale_by_adam().update(grads, state.opt_state)
    rate = config.learning_rate * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    params = jax.tree.map(lambda p, m: p - rate * m, state.params, moves)
    running = losses.running_loss(state.running, each, tasks, config.rate)
    return State(params, opt_state, running), {**metrics, "share": shares}


def act(config: Config, params: ArrayTree, image: Array, goal: Array) -> Action:
    """The likeliest action on uint8 images `[32, 32, 4]`."""
    nets = _nets(config)
    image, goal = (x[None].astype(jnp.float32) / 255.0 for x in (image, goal))
    picks: Any = nets.pick.apply({"params": params["pick"]}, image, goal)
    pixels = SHAPE[0] * SHAPE[1]
    best = picks[0].argmax()
    pick = jnp.stack(jnp.divmod(jnp.minimum(best, pixels - 1), SHAPE[1])).astype(jnp.int32)
    places: Any = nets.place.apply({"params": params["place"]}, image, goal, pick[None])
    turn, pixel = jnp.divmod(places[0].argmax(), pixels)
    place = jnp.stack(jnp.divmod(pixel, SHAPE[1]))
    return Action(best == pixels, pick, place.astype(jnp.int32), turn.astype(jnp.int32))


def follow(following: Following, image: Array, goals: Array) -> Following:
    """Goes on to the next sub-goal where the image shows that this one is reached.

    It is, where image and sub-goal differ in at most 7 pixels more than the last one did when it
    was reached: what was once put down a pixel beside its place stays there.

    Args:
      following: where the policy is.
      image: uint8 `[32, 32, 4]`.
      goals: uint8 `[N, 32, 32, 4]`, sub-goals in their order.
    """
    unlike = (image != goals[following.number]).any(-1).sum()
    reached = unlike <= following.unlike + REACHED
    last = goals.shape[0] - 1
    return Following(
        jnp.where(reached, jnp.minimum(following.number + 1, last), following.number),
        jnp.where(reached & (following.number < last), unlike, following.unlike),
    )


def play(config: Config, params: ArrayTree, problem: Problem) -> Episode:
    """Nine actions of the policy, which sees a demonstration of this very problem if its condition
    says so."""
    goals = tabletop_tasks.demonstrate(problem).images[1:]

    def one(carry: Any, _: None) -> Any:
        table, following = carry
        image = tabletop.render(table)
        following = follow(following, image, goals)
        told = {
            "none": jnp.zeros_like(image),
            "final": goals[-1],
            "sequence": goals[following.number],
        }[config.condition]
        table, moved = tabletop.step(table, act(config, params, image, told))
        return (table, following), (image, told, moved)

    start = (problem.start, Following(jnp.int32(0), jnp.int32(0)))
    (end, _), (images, told, moved) = jax.lax.scan(one, start, None, length=ACTIONS)
    images = jnp.concatenate([images, tabletop.render(end)[None]])
    done = tabletop.done(end, problem.goal)
    return Episode(images, told, moved, done, tabletop_tasks.successes(end, problem.goal))


def _told(config: Config, images: Array, tasks: Array, demo: Array, time: Array) -> Array:
    """Goal images of samples."""
    if config.condition == "none":
        return jnp.zeros((len(tasks), *SHAPE), jnp.uint8)
    if config.condition == "final":
        return images[tasks, demo, NUM_GOALS]
    return images[tasks, demo, jnp.minimum(time + 1, NUM_GOALS)]


def _nets(config: Config) -> networks.Transporter:
    return networks.make(config.width)


def _logits(
    config: Config, params: ArrayTree, image: Array, goal: Array, pick: Array
) -> tuple[Array, Array]:
    """Of uint8 images `[B, 32, 32, 4]`."""
    nets = _nets(config)
    image, goal = (x.astype(jnp.float32) / 255.0 for x in (image, goal))
    picks: Any = nets.pick.apply({"params": params["pick"]}, image, goal)
    places: Any = nets.place.apply({"params": params["place"]}, image, goal, pick)
    return picks, places
