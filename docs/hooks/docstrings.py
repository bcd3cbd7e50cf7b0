"""Docstrings as Markdown: a griffe extension of the API reference.

Docstrings are plain text, read in `help()` first. Here an indented block becomes a block of
equations (`equations`), one behind "::" is kept as it is (code, or a table), and characters that
Markdown would take for its own are escaped. docs/equations.md says it to authors.
"""

import ast
import re
import textwrap
from typing import Any

from griffe import Extension, Object

__all__ = ["DocstringMarkdown", "to_markdown"]

_SECTION = re.compile(r"(Args|Arguments|Attributes|Returns|Raises|Yields|Examples?):$")


class DocstringMarkdown(Extension):
    """Rewrites each docstring once, when griffe has read its object."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(docstring: str) -> str:
    """The docstring with its indented blocks as fences, and with prose that Markdown leaves alone.

    Sections (Args, Returns, ...) keep their lines, since griffe reads them.
    """
    lines = docstring.split("\n")
    out: list[str] = []
    at, in_section = 0, False
    while at < len(lines):
        line = lines[at]
        after_blank = not out or not out[-1].strip()
        if line.strip() and not line.startswith(" "):
            in_section = bool(_SECTION.match(line))
        if line.startswith("    ") and after_blank and not in_section:
            end = _end_of_block(lines, at)
            block = textwrap.dedent("\n".join(lines[at:end])).rstrip()
            out.extend(_fence(out, block))
            at = end
        else:
            out.append(_escape(line))
            at += 1
    return "\n".join(out)


def _end_of_block(lines: list[str], start: int) -> int:
    end = start
    while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
        end += 1
    return end


def _fence(before: list[str], block: str) -> list[str]:
    """Literal behind "::" (which is shown as ":"), otherwise equations."""
    last = next((i for i in reversed(range(len(before))) if before[i].strip()), None)
    kind = "maths"
    if last is not None and before[last].endswith("::"):
        before[last] = before[last][:-1]
        kind = "python" if _is_python(block) else "text"
    return [f"```{kind}", *block.split("\n"), "```", ""]


def _is_python(block: str) -> bool:
    try:
        ast.parse(block)
    except SyntaxError:
        return False
    return True


def _escape(line: str) -> str:
    """Escapes what Markdown would read as emphasis, a link or a tag, outside of code spans."""
    parts = re.split(r"(`+[^`]+`+)", line)
    for i in range(0, len(parts), 2):
        text = re.sub(r"(?<!^)(?<!^ )(?<!^  )\*", r"\\*", parts[i])  # not a list's own star
        text = re.sub(r"<(?=\S)", "&lt;", text)
        parts[i] = text.replace("](", "]&#40;").replace("~", "&#126;")
    return "".join(parts)
