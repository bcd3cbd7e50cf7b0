"""Docstrings as Markdown, for the API reference.

Docstrings are plain text, read in `help()` first. Here an indented block becomes a block of
equations (`equations`), one behind "::" is kept as it is (code, or a table), and characters that
Markdown would take for its own are escaped. docs/equations.md says it to authors.
"""

import ast
import re
import textwrap

__all__ = ["arguments", "to_markdown"]

_SECTION = re.compile(r"(Args|Arguments|Attributes|Returns|Raises|Yields|Examples?):$")


def arguments(docstring: str) -> list[str]:
    """Names in the section "Args", of which a line may have several."""
    section = re.search(r"^Args:\n((?:  .*\n?|\n)*)", docstring, flags=re.MULTILINE)
    lines = re.findall(r"^  (\S[^:\n]*):", section[1] if section else "", flags=re.MULTILINE)
    return [name.strip() for line in lines for name in line.split(",")]


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
        bullet = re.match(r"\s*\*+ ?" if i == 0 else "", parts[i])
        start = bullet.end() if bullet else 0  # a list's own star, or an argument's
        text = parts[i][:start] + parts[i][start:].replace("*", r"\*")
        text = re.sub(r"<(?=\S)", "&lt;", text)
        parts[i] = text.replace("](", "]&#40;").replace("~", "&#126;")
    return "".join(parts)
