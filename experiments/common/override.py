"""Fields of a frozen dataclass from text, for `--config_overrides`."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from mtrl_jax import ranges

__all__ = ["override"]


def override(config: Any, pairs: Sequence[str]) -> Any:
    """Applies `name=value` pairs to a frozen dataclass, converting by the type of the field.

    Raises:
      ValueError: naming the field, what came and what is known or allowed.
    """
    hints = typing.get_type_hints(type(config))
    given = [pair.partition("=")[0] for pair in pairs]
    for n, pair in enumerate(pairs):
        name, equals, text = pair.partition("=")
        if not equals or name not in hints:
            raise ValueError(
                f"--config_overrides: {pair!r} is not name=value of one of {', '.join(hints)}"
            )
        if name in given[:n]:
            raise ValueError(f"--config_overrides: {name} is given twice")
        try:
            value = _parse(hints[name], text)
        except ValueError as error:
            raise ValueError(
                f"--config_overrides: {name} takes {hints[name]}; got {text!r}"
            ) from error
        config = dataclasses.replace(config, **{name: value})
    ranges.check(config)
    return config


def _parse(kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "1", "false", "0"):
            raise ValueError(text)
        return text.lower() in ("true", "1")
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(inner(part) for part in text.split("x") if part)
    return kind(text.replace("_", "")) if kind in (int, float) else kind(text)
