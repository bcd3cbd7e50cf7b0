"""What flags hold, looked at before anything runs: lists, numbers, and files that are to come."""

import math
import os
import pathlib
import tempfile
from collections.abc import Collection
from typing import Any

__all__ = ["check_folder", "names", "numbers", "out"]

PICTURES = (".png", ".pdf", ".svg")


def names(flag: Any, known: Collection[str] = ()) -> list[str]:
    """The values of a list flag: one or more of those `known` (any, if none are), each once.

    Raises:
      ValueError: if it holds something else.
    """
    given = [text.strip() for text in flag.value]
    some = f"--{flag.name} must be some of {', '.join(known)}" if known else ""
    some = some or f"--{flag.name} must hold at least one name"
    if not given or not all(given) or (known and not set(given) <= set(known)):
        raise ValueError(f"{some}; got {','.join(given)!r}")
    twice = [text for n, text in enumerate(given) if text in given[:n]]
    if twice:
        raise ValueError(f"--{flag.name} must name each once; got {twice[0]!r} twice")
    return given


def numbers(flag: Any, *, distinct: bool = True) -> list[float]:
    """The values of a list flag as finite numbers, of which there is at least one; none is twice
    there, if they are to be `distinct`.

    Raises:
      ValueError: if it holds something else.
    """
    try:
        given = [float(text) for text in flag.value]
    except ValueError:
        given = []
    if not given or not all(map(math.isfinite, given)):
        raise ValueError(f"--{flag.name} must hold finite numbers; got {','.join(flag.value)!r}")
    if distinct and len(set(given)) != len(given):
        raise ValueError(f"--{flag.name} must hold each number once; got {','.join(flag.value)}")
    return given


def out(path: pathlib.Path, kinds: Collection[str] = PICTURES) -> pathlib.Path:
    """`path`, which --out or its default names, if it can be written, now rather than at the end.

    Raises:
      ValueError: for another kind of file, or a place where none can be made.
    """
    if path.suffix not in kinds:
        raise ValueError(f"--out must end in {' or '.join(kinds)}; got {path}")
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"--out: {path} cannot be written: it is there and no file to write to")
    check_folder("out", path.parent)
    return path


def check_folder(flag: str, folder: pathlib.Path) -> None:
    """Raises ValueError unless files can be made in `folder`, which may have to be made itself."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):  # it has no name, or only for this moment
            pass
    except OSError as error:
        raise ValueError(f"--{flag}: {folder} cannot be written: {error.strerror}") from error
