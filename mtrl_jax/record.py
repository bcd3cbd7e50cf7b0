"""One episode of every task as pictures, words below them, and pictures as a GIF."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import by_name, rollout
from mtrl_jax.envs import functional
from mtrl_jax.types import Agent, ArrayTree, FunctionalSuite, HostSuite, Key, Timestep

__all__ = ["MAX_ACTIONS", "Episode", "can_render", "captioned", "outcome", "play", "write_gif"]

MAX_ACTIONS = 500  # of a recording; an Atari episode can be many times as long
LEAST_WIDTH = 240  # pixels of a picture with a caption; smaller ones are enlarged


class Episode(NamedTuple):
    """What was seen of one episode, and what came of it.

    Attributes:
      frames: uint8 `[H, W, 3]`, one picture a row: the reset row and one for each action.
      episode_return: sum of the rewards so far.
      success: whether the environment said that the task was solved.
      finished: whether the episode ended; else it was cut.
    """

    frames: list[np.ndarray]
    episode_return: float
    success: bool
    finished: bool


def can_render(suite: FunctionalSuite | HostSuite) -> bool:
    """Whether `play` works; environments need not know how to draw themselves."""
    if isinstance(suite, HostSuite):
        return by_name.accepts(suite.make_pool, "render")
    return hasattr(suite.env, "render")


def play(
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    policy: ArrayTree,
    key: Key,
    *,
    distilled: bool = False,
    greedy: bool | None = None,
    max_actions: int = MAX_ACTIONS,
) -> list[Episode]:
    """Plays one episode of every task and draws each of its rows.

    Args:
      suite: of either kind; a functional one needs `env.render(state, task)`, a host one a
        `make_pool(num_envs, seed, num_groups, render=True)` whose pool has `render(group)`.
      agent: who acts.
      policy: `agent.policy_params(state)`.
      key: of the episode; nothing else is random.
      distilled: ask for the shared policy instead of the task's own.
      greedy: likeliest or drawn actions; by default as the agent's scores.
      max_actions: where a longer episode is cut.

    Returns:
      K episodes.

    Raises:
      ValueError: if the suite cannot draw, or `max_actions` is not positive.
    """
    if max_actions < 1:
        raise ValueError(f"max_actions must be at least 1; got {max_actions}")
    if not can_render(suite):
        raise ValueError("suite must have environments with a render function; this one has none")
    reset_key, act_key = jax.random.split(key)
    env_index = rollout.env_indices(suite.spec.num_tasks, 1)
    act = rollout.act_at(rollout.acting(agent, distilled=distilled, greedy=greedy))
    if isinstance(suite, FunctionalSuite):
        pool: Any = _FunctionalPool(suite, reset_key)
    else:
        pool = suite.make_pool(1, int(jax.random.randint(reset_key, (), 0, 2**30)), 1, render=True)
    try:
        timestep = pool.reset(0)
        actor = rollout.host_actor(agent.init_actor, 1)
        frames = [[picture] for picture in pool.render(0)]
        running = np.ones(len(frames), bool)
        returns, success = np.zeros(len(frames)), np.zeros(len(frames), bool)
        for t in range(max_actions):
            action, _, actor = act(policy, actor, timestep, act_key, t, env_index)
            pool.send(0, np.asarray(action))
            timestep = pool.recv(0)
            running &= ~np.asarray(timestep.first)[:, 0]
            if not running.any():
                break
            returns += np.where(running, np.asarray(timestep.reward)[:, 0], 0.0)
            success |= running & np.asarray(timestep.success)[:, 0]
            for k, picture in enumerate(pool.render(0)):
                if running[k]:
                    frames[k].append(picture)
    finally:
        pool.close()
    return [
        Episode(own, float(total), bool(solved), not going)
        for own, total, solved, going in zip(frames, returns, success, running, strict=True)
    ]


def outcome(episode: Episode, *, has_success: bool) -> str:
    """What came of an episode, in words; `has_success` as of the suite."""
    count = len(episode.frames) - 1
    actions = f"{count} action{'s' * (count != 1)}"
    if not episode.finished:
        solved = "solved, " if has_success and episode.success else ""
        return f"{solved}cut after {actions}, return so far {episode.episode_return:.2f}"
    how = ("solved" if episode.success else "not solved") if has_success else "over"
    return f"{how} after {actions}, return {episode.episode_return:.2f}"


def captioned(frames: Sequence[np.ndarray], lines: Sequence[str]) -> list[np.ndarray]:
    """Pictures with words on a strip below, broken where they are too long; small pictures are
    enlarged by a whole number first, so that there is room.

    Args:
      frames: uint8 `[H, W, 3]` of one size.
      lines: of text.

    Returns:
      uint8 `[H', W', 3]`, as many.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = -(-LEAST_WIDTH // frames[0].shape[1])
    big = [frame.repeat(scale, 0).repeat(scale, 1) for frame in frames]
    width = big[0].shape[1]
    font = ImageFont.load_default(12)
    broken: list[str] = []
    for line in lines:
        broken.append("")
        for word in line.split():
            longer = f"{broken[-1]} {word}".strip()
            if font.getlength(longer) <= width - 8 or not broken[-1]:
                broken[-1] = longer
            else:
                broken.append(word)
    strip = Image.new("RGB", (width, 16 * len(broken) + 6), (32, 32, 32))
    drawing = ImageDraw.Draw(strip)
    for n, line in enumerate(broken):
        drawing.text((4, 2 + 16 * n), line, fill=(240, 240, 240), font=font)
    below = np.asarray(strip)
    return [np.concatenate([frame, below]) for frame in big]


class _FunctionalPool:
    """A functional suite with one environment a task, seen as a pool of one group that can draw."""

    def __init__(self, suite: FunctionalSuite, key: Key):
        reset, step = functional.auto_reset_batch(suite.env)
        index = jnp.asarray(rollout.env_indices(suite.spec.num_tasks, 1))
        self._suite, self._t = suite, 0
        self._reset = jax.jit(lambda: reset(rollout.step_keys(key, 0, index), suite.tasks))
        self._step = jax.jit(
            lambda t, state, action: step(
                rollout.step_keys(key, t, index), state, action, suite.tasks
            )
        )

    def reset(self, group: int) -> Timestep:
        self._state, timestep = self._reset()
        return timestep

    def send(self, group: int, action: np.ndarray) -> None:
        self._t += 1
        self._state, self._timestep = self._step(self._t, self._state, action)

    def recv(self, group: int) -> Timestep:
        return self._timestep

    def render(self, group: int) -> list[np.ndarray]:
        env: Any = self._suite.env
        states, tasks = jax.device_get((self._state.env, self._suite.tasks))

        def take(tree, *index):
            return jax.tree.map(lambda x: x[index], tree)

        return [
            env.render(take(states, k, 0), take(tasks, k))
            for k in range(self._suite.spec.num_tasks)
        ]

    def close(self) -> None:
        pass


def write_gif(frames: Sequence[np.ndarray], path: pathlib.Path, *, fps: float = 10.0) -> None:
    """Writes an endless GIF, the last picture shown for a second longer; folders are made.

    Args:
      frames: uint8 `[H, W, 3]` of one size.
      path: the file.
      fps: pictures a second; the format rounds it to hundredths of a second a picture.

    Raises:
      ValueError: if there is no picture, or they are not uint8 `[H, W, 3]` of one size.
    """
    from PIL import Image

    shapes = {(frame.dtype.name, frame.shape) for frame in frames}
    if len(shapes) != 1 or not all(d == "uint8" and s[2:] == (3,) for d, s in shapes):
        raise ValueError(f"frames must be uint8 [H, W, 3] of one size; got {sorted(shapes)}")
    # One palette, or colours flicker; from the whole episode, or what comes late has no colour.
    some = [frames[n] for n in np.linspace(0, len(frames) - 1, 16).astype(int)]
    palette = Image.fromarray(np.concatenate(some)).quantize(255)
    pictures = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    milliseconds = [round(100 / fps) * 10] * len(pictures)
    milliseconds[-1] += 1000
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
