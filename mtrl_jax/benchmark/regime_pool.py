"""The stream of random games on host environments, which cannot change their game.

Each stream plays one environment of its own and puts it aside when its next episode has begun; the
next game is drawn, and an environment of it taken from those put aside, or made. So every stream
draws by itself, as on a functional suite, nothing is stepped that nobody plays, and at most E
environments of a game are ever made (fewer in practice: they are handed on). The price is a pool
of one environment, with a thread, for each, and the time to make it when it is first asked for.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from mtrl_jax.benchmark import regime
from mtrl_jax.types import EnvSpec, HostSuite, Pool, Timestep

__all__ = ["RandomGamesPool", "part", "random_games"]


def part(suite: HostSuite, indices: Sequence[int]) -> HostSuite:
    """Some tasks of a host suite as a suite.

    Raises:
      ValueError: for a suite whose tasks cannot be made one by one.
    """
    if suite.part is None:
        raise ValueError(
            "suite must hold tasks that can be made one by one (HostSuite.part); "
            f"{suite.spec.task_names[indices[0]]} cannot"
        )
    return suite.part(indices)


def random_games(suite: HostSuite, indices: Sequence[int]) -> HostSuite:
    """The stream of the games `indices` of a host suite.

    Raises:
      ValueError: as `part`.
    """
    makers = tuple(part(suite, [i]).make_pool for i in indices)
    mask = np.asarray(suite.spec.action_mask)[list(indices)]
    told = regime.stream_spec(suite.spec)
    return HostSuite(told, functools.partial(RandomGamesPool, told, makers, mask))


class RandomGamesPool:
    """One task of E streams; see `mtrl_jax.types.Pool` for the protocol."""

    def __init__(
        self,
        spec: EnvSpec,
        makers: Sequence[Callable[..., Pool]],
        mask: np.ndarray,
        num_envs: int,
        seed: int,
        num_groups: int = 1,
    ) -> None:
        """Makes nothing yet.

        Args:
          spec: from `regime.stream_spec`.
          makers: of N games, `(num_envs, seed, num_groups) -> Pool` of one task.
          mask: bool `[N, A]`; what a game does not have is action 0.
          num_envs: E.
          seed: of the draws and of the environments.
          num_groups: a divisor of E.

        Raises:
          ValueError: if `num_groups` does not divide `num_envs`.
        """
        if num_envs < 1 or num_envs % num_groups:
            raise ValueError(f"num_groups must divide num_envs = {num_envs}, got {num_groups}")
        self.spec = spec
        self.num_groups = num_groups
        self._makers = tuple(makers)
        self._mask = mask
        self._seed = seed
        self._size = num_envs // num_groups
        self._draws = [np.random.default_rng([seed, e]) for e in range(num_envs)]
        self._made = [0] * len(makers)
        self._aside: list[list[tuple[Pool, Timestep]]] = [[] for _ in makers]
        self._playing: list[tuple[int, Pool] | None] = [None] * num_envs

    def reset(self, group: int) -> Timestep:
        """First rows, each of a game drawn; leaves `[1, E / G, ...]`."""
        return _side_by_side([self._next_game(e) for e in self._streams(group)])

    def send(self, group: int, action: np.ndarray) -> None:
        """Starts a step with actions `[1, E / G, ...]`.

        Raises:
          ValueError: for actions of another shape, dtype or range.
        """
        spec, action = self.spec, np.asarray(action)
        if action.shape != (1, self._size, *spec.action_shape):
            raise ValueError(
                f"action must have shape {(1, self._size, *spec.action_shape)}, got {action.shape}"
            )
        if not spec.action_size and not (
            action.dtype.kind in "iu" and 0 <= action.min() and action.max() < spec.num_actions
        ):
            raise ValueError(
                f"action must be an integer in [0, {spec.num_actions}), got {action.dtype} in "
                f"[{action.min()}, {action.max()}]"
            )
        for e, a in zip(self._streams(group), action[0], strict=True):
            game, pool = self._current(e)
            if not spec.action_size and not self._mask[game, a]:
                a = np.zeros_like(a)
            pool.send(0, a[None, None])

    def recv(self, group: int) -> Timestep:
        """Waits for what `send` started; a stream whose episode is over begins another game."""
        rows = []
        for e in self._streams(group):
            game, pool = self._current(e)
            row = pool.recv(0)
            if row.first[0, 0]:  # of the same game, for whoever plays it next
                self._aside[game].append((pool, row))
                row = self._next_game(e)
            rows.append(row)
        return _side_by_side(rows)

    def close(self) -> None:
        """Closes what is being played and what was put aside."""
        for pools in self._aside:
            for pool, _ in pools:
                pool.close()
        for playing in self._playing:
            if playing is not None:
                playing[1].close()
        self._playing = [None] * len(self._playing)
        self._aside = [[] for _ in self._makers]

    def _streams(self, group: int) -> range:
        return range(group * self._size, (group + 1) * self._size)

    def _current(self, e: int) -> tuple[int, Pool]:
        playing = self._playing[e]
        if playing is None:
            raise ValueError("reset must come before send and recv")
        return playing

    def _next_game(self, e: int) -> Timestep:
        game = int(self._draws[e].integers(len(self._makers)))
        if self._aside[game]:
            pool, row = self._aside[game].pop()
        else:
            number, self._made[game] = self._made[game], self._made[game] + 1
            sequence = np.random.SeedSequence([self._seed, game, number])
            pool = self._makers[game](1, int(sequence.generate_state(1)[0] >> 2), 1)
            row = pool.reset(0)
        self._playing[e] = (game, pool)
        return row


def _side_by_side(rows: list[Timestep]) -> Timestep:
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *rows)
