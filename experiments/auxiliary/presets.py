"""What a suite needs to show something on two CPU cores; any flag or override wins over it.

Nothing here was tuned for a score. Of suites given with options the part before the colon counts.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "rooms": {
        "run": {"total_env_steps": 400_000, "num_envs_per_task": 16, "eval_episodes": 64},
        "config": {
            "entropy_cost": 1e-2,
            "lambda_": 0.95,
            "learning_rate": 1e-3,
            "hidden": (128,),
        },
    },
    # Atari, Doom, Procgen: throughput was not looked at.
    "": {
        "run": {"total_env_steps": 1_000_000, "num_envs_per_task": 8, "eval_episodes": 8},
        "config": {"entropy_cost": 1e-2, "lambda_": 0.95, "learning_rate": 5e-4},
    },
}
