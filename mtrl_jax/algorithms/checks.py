"""What several algorithms ask of more than one number (`ranges.check` asks each by itself)."""

from typing import Annotated, Any

from mtrl_jax import curriculum, surgery
from mtrl_jax.ranges import OneOf
from mtrl_jax.types import EnvSpec

__all__ = ["Surgery", "surgery_without_losses", "task_weights"]

Surgery = Annotated[str, OneOf(surgery.METHODS)]

# These follow the size of the tasks' losses.
_FOLLOW_LOSSES = (
    "dwa",
    "famo",
    "gradnorm",
    "uncertainty_weighting",
    "imtl_l",
    "stch",
    "go4align",
    "db_mtl",
    "moco",
)


def surgery_without_losses(config: Any, why: str) -> None:
    """Raises ValueError for a `surgery` that follows the size of positive losses, which `why` says
    are not there."""
    if config.surgery in _FOLLOW_LOSSES:
        raise ValueError(
            f"surgery {config.surgery!r} follows the size of positive losses, {why}; any of "
            f"{', '.join(m for m in surgery.METHODS if m not in _FOLLOW_LOSSES)} works"
        )


def task_weights(spec: EnvSpec, config: Any) -> curriculum.Plan:
    """Where the weights of the tasks' losses come from, by `config.task_weights` and `.curriculum`.

    Raises:
      ValueError: as `curriculum.make`, and for either where every task learns by itself.
    """
    for name in ("task_weights", "curriculum"):
        if getattr(config, "separate", False) and getattr(config, name):
            raise ValueError(f"{name} must be left out where every task learns by itself")
    return curriculum.make(spec, config.task_weights, config.curriculum)
