"""Losses as pure functions of arrays, one paper family a module; loads only jax and NumPy."""

from mtrl_jax.losses import (
    auxiliary,
    continual,
    distillation,
    distral,
    importance,
    iql,
    offline,
    ppo,
    q_learning,
    representation,
    reward_prediction,
    sac,
    sharing,
)

__all__ = [
    "auxiliary",
    "continual",
    "distillation",
    "distral",
    "importance",
    "iql",
    "offline",
    "ppo",
    "q_learning",
    "representation",
    "reward_prediction",
    "sac",
    "sharing",
]
