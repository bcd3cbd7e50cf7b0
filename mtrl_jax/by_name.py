"""What a user brings, by name: `module:function`, and values for its arguments.

One grammar wherever a command names something of a user's own (a suite, a network, an agent), and
for the options of what is named without a module::

    my_pkg.corridor:make_suite                        function or class, in an importable module
    my_pkg.corridor:make_suite:length=7:slip=.1       called with length=7 and slip=0.1
    ml10:goal=hidden                                  an option of something that is known already

A value is read as a Python literal (`7`, `.1`, `True`, `(64,64)`, `'text'`) and stays text where it
is none. A module is importable that lies in the current directory or is installed.
"""

import ast
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["accepts", "call", "check_options", "load", "parse"]

_OPTION = re.compile(r":(?=[A-Za-z_]\w*=)")


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """What comes before the options, and the options by name.

    Raises:
      ValueError: for an option that is given twice.
    """
    head, *pairs = _OPTION.split(text)
    options: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name in options:
            raise ValueError(f"{text!r} gives {name} twice")
        try:
            options[name] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            options[name] = value
    return head, options


def load(path: str, what: str) -> Callable[..., Any]:
    """The function or class that `module:function` names.

    Args:
      path: without options.
      what: it is to make, in one word, for messages: "suite", "network", "agent".

    Raises:
      ValueError: if there is no such module or function, or it is of Python's own library.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name) or ":" in name:
        raise ValueError(
            f"{what} {path!r} is not module:function with arguments behind it as :name=value"
        )
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"{what} {path!r} is a function of Python itself, which has no {what}s")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{what} {path!r} cannot be loaded: {error}{_looked(error)}") from error
    except Exception as error:
        raise ValueError(f"{what} {path!r} cannot be loaded: {_sentence(error)}") from error
    if not callable(found):
        raise ValueError(f"{what} {path!r} is not a function")
    return found


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether `function` takes an argument of that name (also one that is made for any name)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of C, whose signature nobody knows
        return True
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(p.kind is p.VAR_KEYWORD or (p.kind in named and p.name == name) for p in parameters)


def check_options(
    text: str, what: str, function: Callable[..., Any], options: dict[str, Any], given: int = 0
) -> None:
    """Raises ValueError unless `function` can be called with these options.

    Args:
      text: as the user wrote it, for the message.
      what: as of `load`.
      function: of `load`, or of a table.
      options: by name.
      given: how many arguments come from elsewhere, in front, which are no options.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    plain = [p for p in signature.parameters.values() if p.kind not in kinds]
    takes = [p.name for p in plain[given:] if p.kind is not p.POSITIONAL_ONLY]
    known = f"takes {', '.join(takes)}" if takes else "takes no options"
    for name in options:
        if not accepts(function, name) or name in [p.name for p in plain[:given]]:
            raise ValueError(f"{what} {text!r} {known}; got {name}")
    lacking = [p.name for p in plain[given:] if p.default is p.empty and p.name not in options]
    if lacking:
        raise ValueError(f"{what} {text!r} needs a value for {lacking[0]}, as :{lacking[0]}=...")


def call(text: str, what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """`function(*args, **options)`; what goes wrong in it is told in one sentence.

    Raises:
      ValueError: as `check_options`, or if `function` raises anything, with the place.
    """
    check_options(text, what, function, options, len(args))
    try:
        return function(*args, **options)
    except ImportError:  # of a library that is not installed: no bad input
        raise
    except Exception as error:
        raise ValueError(f"{what} {text!r} cannot be made: {_sentence(error)}") from error


def _looked(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return " in the current directory or among what is installed"
    return ""


def _sentence(error: Exception) -> str:
    """The kind of an error, what it says, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
