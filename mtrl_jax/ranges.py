"""What a number may be, stated once: in the type of the field that holds it::

    @dataclasses.dataclass(frozen=True)
    class Config:
        unroll_length: Count = 20
        discount: Unit = 0.99
        learning_rate: Positive = 5e-4
        loss: Annotated[str, OneOf(("kl", "mse"))] = "kl"

`check(config)` holds each value against its field: not-a-number and infinity are in no range, True
is no integer. Traced values (`sweep.py`) have no value yet and pass.
"""

import math
import typing
from collections.abc import Collection
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

__all__ = [
    "Count",
    "CountOr0",
    "NotNegative",
    "OneOf",
    "Positive",
    "Range",
    "Seed",
    "Steps",
    "StepsOr0",
    "Unit",
    "check",
    "check_value",
]


class Range(NamedTuple):
    """Finite numbers from `low` to `high`, either excluded where it is open."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is in it; NaN and infinity are not."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below


class OneOf(NamedTuple):
    """The words that a text may be."""

    values: Collection[str]


Count = Annotated[int, Range(1, 2**31 - 1)]
CountOr0 = Annotated[int, Range(0, 2**31 - 1)]
Steps = Annotated[int, Range(1)]  # of a whole run
StepsOr0 = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**31 - 1)]
Positive = Annotated[float, Range(0, open_low=True)]
NotNegative = Annotated[float, Range(0)]
Unit = Annotated[float, Range(0, 1)]

_WHAT = {bool: "be True or False", int: "be an integer", float: "be a number", str: "be text"}
_KINDS: dict[type, tuple[type, ...]] = {
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (int, float, np.integer, np.floating),
    str: (str,),
}


def check(config: Any) -> None:
    """Holds each field of a dataclass or NamedTuple against its type.

    Args:
      config: with fields of types bool, int, float, str, tuples of one of them, or `Annotated` with
        a `Range` or `OneOf`. Fields of other types are not looked at; a bare int or float is any
        finite one.

    Raises:
      ValueError: naming the first field that is wrong, what came and what is allowed.
    """
    for name, kind in typing.get_type_hints(type(config), include_extras=True).items():
        check_value(name, getattr(config, name), kind)


def check_value(name: str, value: Any, kind: Any) -> None:
    """`check` of one value, by the name that the caller knows it by.

    Args:
      name: for the message.
      value: what came.
      kind: a type as of a field, such as `Positive`.

    Raises:
      ValueError: in one sentence.
    """
    base: Any = kind
    notes: list[Any] = []
    if typing.get_origin(kind) is Annotated:
        base, *notes = typing.get_args(kind)
    if typing.get_origin(base) is tuple:
        if not isinstance(value, tuple | list):
            raise ValueError(f"{name} must be a tuple; got {value!r}")
        for item in value:
            check_value(name, item, typing.get_args(base)[0])
        return
    if base not in _KINDS or isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0:
        value = value.item()
    kinds: Any = _KINDS[base]
    if not isinstance(value, kinds) or (base is not bool and isinstance(value, bool)):
        raise ValueError(f"{name} must {_WHAT[base]}; got {value!r}")
    for note in notes if base is str else ():
        if value not in note.values:
            raise ValueError(f"{name} must be one of {', '.join(note.values)}; got {value!r}")
    if base in (int, float):
        limits = notes[0] if notes else Range()
        if not limits.holds(value):
            raise ValueError(f"{name} must {_allowed(limits, value, base)}; got {value}")


def _allowed(limits: Range, value: float, base: type) -> str:
    """The end of "learning_rate must ..."."""
    low, high, open_low, open_high = limits
    if low == -math.inf and high == math.inf:
        return "be finite"
    if base is float and -math.inf < low and high < math.inf:
        return f"lie in {'[('[open_low]}{low}, {high}{'])'[open_high]}"
    if value > high:
        return f"be at most {high}"
    finite = "be finite and " if value == math.inf else ""
    if open_low:
        return f"{finite or 'be '}above {low:g}"
    if low == 0:
        return f"{finite}not negative" if finite else "not be negative"
    return f"{finite or 'be '}at least {low:g}"
