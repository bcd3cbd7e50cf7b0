"""What a suite needs to show something on two CPU cores; any flag or override wins over it."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "minigrid_ladder": {
        "run": {"total_env_steps": 1_000_000, "num_envs_per_task": 16},
        "config": {
            "entropy_cost": 1e-3,
            "lambda_": 0.95,
            "unroll_length": 10,
            "learning_rate": 1e-3,
            "hidden": (64, 64),
        },
    },
    "minigrid_nav4": {
        "run": {"total_env_steps": 1_000_000, "num_envs_per_task": 16},
        "config": {
            "entropy_cost": 1e-3,
            "lambda_": 0.95,
            "unroll_length": 10,
            "learning_rate": 1e-3,
            "hidden": (64, 64),
        },
    },
    "maze8": {
        "run": {"total_env_steps": 4_000_000, "num_envs_per_task": 32},
        "config": {
            "entropy_cost": 1e-2,
            "lambda_": 0.95,
            "learning_rate": 1e-3,
            "hidden": (64, 64),
        },
    },
    # Throughput and reward scales were looked at; nothing was tuned for the final score.
    **{
        suite: {
            "run": {"total_env_steps": total, "num_envs_per_task": 4, "eval_episodes": 8},
            "config": {
                "entropy_cost": 1e-3,
                "lambda_": 0.95,
                "unroll_length": 10,
                "learning_rate": 1e-3,
            },
        }
        for suite, total in (("doom_tag8_small", 400_000), ("doom_tag8", 150_000))
    },
    "": {"run": {"total_env_steps": 2_000_000, "num_envs_per_task": 16}, "config": {}},
}
