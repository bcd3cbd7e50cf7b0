"""Fixed mazes of Procgen (Cobbe et al. 2020, arXiv 1912.01588) through envpool.

A task is one level of the maze game in its memory mode: the same map in every episode, of which a
close-up around the agent is seen. The goal, worth 10, ends the episode. Start and goal are fixed
with the level, so that a task is easier than a maze of DeepMind Lab, whose objects are redrawn.
Levels differ much in difficulty: uniform actions solve the 7 in 28 steps, the 0, 1, 2 and 5 never.
"""

from mtrl_jax.envs.envpool_spec import describe
from mtrl_jax.envs.pool import suite_of
from mtrl_jax.types import HostSuite

__all__ = ["MAZE_LEVELS", "procgen_mazes"]

ENV_ID = "MazeMemory-v0"
MAZE_LEVELS = tuple(range(8))


def procgen_mazes(levels: tuple[int, ...] = MAZE_LEVELS) -> HostSuite:
    """One task for each level seed; observations uint8 `[3, 64, 64]`, 15 actions.

    Raises:
      ImportError: envpool or the Qt 5 libraries are not installed.
    """
    game = describe(ENV_ID)
    tasks = [
        game._replace(
            name=f"maze_{level}",
            options=game.options | {"num_levels": 1, "start_level": level},
        )
        for level in levels
    ]
    return suite_of(tasks)
