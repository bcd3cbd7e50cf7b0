"""What `experiments.episodic` begins with on each suite: games of pixels take larger tables."""

from typing import Any

SMALL_GAMES = "small_games"
ATARI, ATARI42 = "envpool:", "atari42:"

# The published number of keys is a million an action, which a CPU would look through for a second
# a step; k and epsilon are the published ones.
_ON_ATARI: dict[str, Any] = {
    "run": {"num_envs_per_task": 8, "steps_of_a_task": 400_000, "eval_episodes": 4},
    "mfec": {"capacity": 50_000, "eval_epsilon": 0.005},
}

# Any flag or override wins over these; a suite is found by what its name begins with.
PRESETS: dict[str, dict[str, Any]] = {
    SMALL_GAMES: {
        "run": {"num_envs_per_task": 8, "steps_of_a_task": 50_000},
        "mfec": {"capacity": 5_000},
    },
    **dict.fromkeys((ATARI, ATARI42), _ON_ATARI),
    "": {"run": {"num_envs_per_task": 8, "steps_of_a_task": 50_000}, "mfec": {}},
}


def preset_of(suite: str) -> dict[str, Any]:
    """The row of `PRESETS` for a suite's name."""
    return next(row for start, row in PRESETS.items() if suite.startswith(start))
