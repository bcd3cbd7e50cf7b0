"""Multi-task reinforcement learning in JAX.

Nothing is imported here, so that ``import mtrl_jax.surgery`` or ``import mtrl_jax.losses`` costs
only jax, optax, chex and numpy. See README.md for the map of the package.
"""

__version__ = "0.2.0"
