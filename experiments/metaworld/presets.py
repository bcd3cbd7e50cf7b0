"""What `experiments.metaworld` uses, by algorithm and --preset."""

from typing import Any

# Any flag or override wins over these.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("ppo", "laptop"): {
        "run": {
            "total_env_steps": 3_000_000,
            "num_envs_per_task": 20,
            "stagger": True,
            "eval_every": 1_000_000,
            "eval_episodes": 10,
        },
        # What did best in docs/results/metaworld_tuning.jsonl, for as long as half an hour allows.
        "config": {
            "unroll_length": 100,
            "epochs": 10,
            "minibatches": 10,
            "clip": 0.2,
            "lambda_": 0.97,
            "initial_std": 0.7,
            "target_kl": 0.0,
            "overlap": False,
            "final_learning_rate": 0.1,
        },
    },
    ("ppo", "paper"): {
        "run": {
            "total_env_steps": 20_000_000,
            "num_envs_per_task": 20,
            "eval_every": 1_000_000,
            "eval_episodes": 50,
        },
        "config": {
            "hidden": (400, 400, 400),
            "unroll_length": 512,
            "epochs": 16,
            "minibatches": 32,
            "learning_rate": 3e-4,
            "entropy_cost": 5e-3,
        },
    },
    ("sac", "laptop"): {
        "run": {
            "total_env_steps": 400_000,
            "num_envs_per_task": 2,
            "eval_every": 250_000,
            "eval_episodes": 10,
        },
        # Of docs/results/metaworld_tuning.jsonl; BUILD_NOTES.md says why rewards are not scaled.
        "config": {
            "hidden": (128, 128),
            "capacity": 50_000,
            "batch_size": 64,
            "warmup": 1_000,
            "statistics": "task",
            "updates_per_step": 0.5,
            "learning_rate": 1e-3,
            "temperature": 0.1,
            "temperature_learning_rate": 1e-3,
        },
    },
    ("sac", "paper"): {
        "run": {
            "total_env_steps": 20_000_000,
            "num_envs_per_task": 2,
            "eval_every": 1_000_000,
            "eval_episodes": 50,
        },
        "config": {"hidden": (400, 400, 400), "layer_norm": False},
    },
}
