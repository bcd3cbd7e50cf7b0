"""What several algorithms ask of more than one number (`ranges.check` asks each by itself)."""

from typing import Annotated, Any

from mtrl_jax import surgery
from mtrl_jax.ranges import OneOf

__all__ = ["Surgery", "surgery_without_losses"]

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
