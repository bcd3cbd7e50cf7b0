"""Losses as pure functions of arrays, one paper family a module; loads only jax and NumPy."""

from mtrl_jax.losses import distillation, distral, ppo, q_learning, representation, sac

__all__ = ["distillation", "distral", "ppo", "q_learning", "representation", "sac"]
