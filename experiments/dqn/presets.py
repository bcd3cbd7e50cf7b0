"""What `experiments.dqn` and the teachers of `experiments.distill` use."""

from typing import Any

ON_SMALL_GAMES: dict[str, Any] = {
    "replay_ratio": 4.0,
    "n_step": 5,
    "unroll_length": 16,
    "discount": 0.97,
    "epsilon": 0.05,
    "epsilon_steps": 30_000,
}

# The published numbers but for Adam, three-step double targets and
# the size of the replay, which takes 56 KB for each transition of 84 x 84 pixels: 1.1 GB a game.
ON_ATARI: dict[str, Any] = {
    "run": {"num_envs_per_task": 16, "steps_of_a_task": 1_000_000, "eval_episodes": 4},
    "config": {
        "hidden": (512,),
        "learning_rate": 1e-4,
        "reward_clip": 1.0,
        "replay_size": 20_000,
        "min_replay": 5_000,
        "epsilon": 0.01,
        "epsilon_steps": 100_000,
        "eval_epsilon": 0.01,
        "target_period": 2_000,
    },
}

SMALL_GAMES = "small_games"
ATARI, ATARI42 = "envpool:", "atari42:"

# Any flag or override wins over these; a suite is found by what its name begins with.
PRESETS: dict[str, dict[str, Any]] = {
    SMALL_GAMES: {
        "run": {"num_envs_per_task": 8, "steps_of_a_task": 150_000},
        "config": ON_SMALL_GAMES,
    },
    **dict.fromkeys((ATARI, ATARI42), ON_ATARI),
    "": {"run": {"num_envs_per_task": 8, "steps_of_a_task": 200_000}, "config": {}},
}


def preset_of(suite: str) -> dict[str, Any]:
    """The row of `PRESETS` for a suite's name."""
    return next(row for start, row in PRESETS.items() if suite.startswith(start))
