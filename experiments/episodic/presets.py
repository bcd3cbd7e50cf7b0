"""What `experiments.episodic` begins with on each suite: games of pixels take larger tables."""

from typing import Any

SMALL_GAMES = "small_games"
ATARI, ATARI42 = "envpool:", "atari42:"

# The published number of keys is a million an action, which a CPU would look through for a second
# a step; k and epsilon of MFEC are the published ones.
_ON_ATARI: dict[str, Any] = {
    "run": {"num_envs_per_task": 8, "steps_of_a_task": 400_000, "eval_episodes": 4},
    "mfec": {"capacity": 50_000, "eval_epsilon": 0.005},
    "nec": {
        "hidden": (512,),
        "dim": 64,
        "capacity": 50_000,
        "n_step": 32,
        "unroll_length": 64,
        "replay_size": 20_000,
        "min_replay": 5_000,
        "epsilon": 0.01,
        "epsilon_steps": 50_000,
        "eval_epsilon": 0.005,
        "learning_rate": 1e-4,
    },
}

# Any flag or override wins over these; a suite is found by what its name begins with.
PRESETS: dict[str, dict[str, Any]] = {
    SMALL_GAMES: {
        "run": {"num_envs_per_task": 8, "steps_of_a_task": 50_000},
        "mfec": {"capacity": 5_000},
        "nec": {"capacity": 5_000, "discount": 0.97},
    },
    **dict.fromkeys((ATARI, ATARI42), _ON_ATARI),
    "": {"run": {"num_envs_per_task": 8, "steps_of_a_task": 50_000}, "mfec": {}, "nec": {}},
}


def preset_of(suite: str) -> dict[str, Any]:
    """The row of `PRESETS` for a suite's name."""
    return next(row for start, row in PRESETS.items() if suite.startswith(start))
