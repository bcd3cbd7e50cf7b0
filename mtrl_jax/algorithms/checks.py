"""What every algorithm asks of its numbers before anything compiles: one sentence that names the
field, what came and what is allowed. Traced values have no value yet and pass."""

from collections.abc import Collection
from typing import Any

import jax

from mtrl_jax import surgery

__all__ = [
    "above_0",
    "between",
    "not_negative",
    "one_of",
    "surgery_without_losses",
    "unit_interval",
]

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


def one_of(config: Any, **allowed: Collection[str]) -> None:
    """Raises ValueError unless each field named is among its allowed values."""
    for name, values in allowed.items():
        if getattr(config, name) not in values:
            raise ValueError(
                f"{name} must be one of {', '.join(values)}; got {getattr(config, name)!r}"
            )


def above_0(config: Any, *names: str) -> None:
    """Raises ValueError unless each field named is above 0 (NaN is not)."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, jax.core.Tracer) and not value > 0:
            raise ValueError(f"{name} must be above 0; got {value}")


def between(config: Any, low: float, high: float, *names: str) -> None:
    """Raises ValueError unless each field named lies in (low, high)."""
    for name in names:
        if not low < getattr(config, name) < high:
            raise ValueError(f"{name} must lie in ({low}, {high}); got {getattr(config, name)}")


def not_negative(config: Any, *names: str) -> None:
    """Raises ValueError unless each field named is 0 or more."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must not be negative; got {getattr(config, name)}")


def unit_interval(config: Any, *names: str) -> None:
    """Raises ValueError unless each field named lies in [0, 1]."""
    for name in names:
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1]; got {getattr(config, name)}")


def surgery_without_losses(config: Any, why: str) -> None:
    """Raises ValueError for an unknown `surgery`, or one that follows the size of positive losses,
    which `why` says are not there."""
    one_of(config, surgery=surgery.METHODS)
    if config.surgery in _FOLLOW_LOSSES:
        raise ValueError(
            f"surgery {config.surgery!r} follows the size of positive losses, {why}; any of "
            f"{', '.join(m for m in surgery.METHODS if m not in _FOLLOW_LOSSES)} works"
        )
