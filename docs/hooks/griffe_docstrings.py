"""What makes griffe, which reads the package for the API reference, use `docstrings`."""

import logging
import pathlib
import sys
from typing import Any

from griffe import Extension, Function, Object

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from docstrings import arguments, to_markdown

_log = logging.getLogger("mkdocs.docstrings")


class DocstringMarkdown(Extension):
    """Rewrites each docstring once, when griffe has read its object.

    An argument in a docstring that its function does not have is a warning, which ends a strict
    build. (griffe's own check does not know `mean, var: ...` for two of them.)
    """

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is None:
            return
        if isinstance(obj, Function):
            known = {parameter.name for parameter in obj.parameters}
            for name in arguments(obj.docstring.value):
                if name.lstrip("*") not in known:
                    _log.warning(f"{obj.path} has no argument {name!r}, but its docstring does")
        obj.docstring.value = to_markdown(obj.docstring.value)
