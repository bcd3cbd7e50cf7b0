"""Docstrings as Markdown, for the API reference.

Docstrings are plain text, read in `help()` first. Here an indented block becomes a block of
equations (`equations`), a code span with a relation an equation in the line, a block behind "::" is
kept as it is (code, or a table), and characters that Markdown would take for its own are escaped.
docs/equations.md says it to authors.
"""

import ast
import re
import textwrap

__all__ = ["arguments", "to_markdown"]

_EMPHASIS = re.compile(r"(^|[\s(])\*([^\s*\[\]][^*\[\]]*?)(?<=[\w.?!])\*(?![\w*])")
_EQUATION = re.compile(r"`[^`]*( (=|:=|<=|>=|<|>|~|in) |\bsum_)[^`]*`$")  # a span that is one
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
    prose: list[str] = []
    at, in_section = 0, False
    while at < len(lines):
        line = lines[at]
        after_blank = at == 0 or not lines[at - 1].strip()
        if line.strip() and not line.startswith(" "):
            in_section = bool(_SECTION.match(line))
        if line.startswith("    ") and after_blank and not in_section:
            end = _end_of_block(lines, at)
            block = textwrap.dedent("\n".join(lines[at:end])).rstrip()
            out += _escape(prose)
            out += _fence(out, block)
            prose, at = [], end
        else:
            prose.append(line)
            at += 1
    return "\n".join(out + _escape(prose))


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


def _escape(lines: list[str]) -> list[str]:
    """Escapes what Markdown would read as emphasis, a link or a tag, outside of code spans.

    `*A title*` stays emphasis, `[K, *param]` and `a * b` have no such thing.
    """
    parts = re.split(r"(`+[^`]+`+)", "\n".join(lines))
    for i in range(0, len(parts), 2):
        text = re.sub(r"<(?=\S)", "&lt;", parts[i])
        text = _EMPHASIS.sub("\\1•\\2•", text)
        star = r"(?<=[^\s*])\*|(?<=\S )\*"  # not a list's, or an argument's
        text = re.sub(star, r"\\*", text)
        text = text.replace("•", "*")
        parts[i] = text.replace("](", "]&#40;").replace("~", "&#126;")
    for i in range(1, len(parts), 2):
        if _EQUATION.match(parts[i]):
            # The lines of a section count, so its breaks stay where they are: behind the span.
            breaks = re.findall(r"\n *", parts[i])
            parts[i] = "`#!maths " + re.sub(r"\n *", " ", parts[i][1:]) + "".join(breaks)
    return "".join(parts).split("\n")
