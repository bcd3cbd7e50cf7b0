"""One HTML page that needs no other file: text, tables, and figures as SVG, for wide screens and
telephones."""

import html
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.intervals import Interval

__all__ = ["Bold", "Section", "best_in_bold", "cell", "png", "render", "svg", "write"]

# What is wider than the screen scrolls by itself; a number and its interval stay on one line.
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:78em;margin:2em auto;padding:0 1em;color:#222}"
    "h1,h2{line-height:1.2}h2{margin-top:2em;border-top:1px solid #ddd;padding-top:.7em}"
    "p,ul{max-width:48em}nav ul{columns:16em;padding-left:1.2em}.facts{color:#555;font-size:.9em}"
    "code{overflow-wrap:anywhere}.wide{overflow-x:auto;margin:1em 0}"
    "table{border-collapse:collapse}td,th{padding:.25em .8em;text-align:right;white-space:nowrap;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left;padding-left:0}"
    "tr:hover td{background:#f4f4f4}.number{white-space:nowrap}svg{width:100%;height:auto}"
)
_DPI = 110
NO_END = "..."
_NUMBER = re.compile(r"-?[\d.]+ \[[^\]]*\]")


class Bold(str):
    """Text of a cell that stands out."""

    __slots__ = ()


class Section(NamedTuple):
    """A heading, a paragraph, and whatever of the rest there is.

    Attributes:
      title: heading.
      text: one paragraph, plain.
      points: sentences, a list.
      header, rows: of a table, plain text, or `Bold`.
      figures: file name without an ending to a figure of matplotlib.
    """

    title: str
    text: str
    points: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figures: dict[str, Any] = {}  # noqa: RUF012  (never changed)


def cell(value: Any, digits: int = 2) -> str:
    """A number, an interval with its ends (dots for one that is infinite), or a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, Interval):
        shown, low, high = (cell(float(x), digits) for x in value)
        if np.isnan(value.low):  # of a single run
            return shown
        return shown + (f" [{low}, {high}]" if low + high != NO_END * 2 else " (no bounds)")
    if np.isinf(value):
        return NO_END
    return f"{round(float(value), digits) + 0.0:.{digits}f}"  # no -0.00


def best_in_bold(
    rows: Sequence[Sequence[Interval | None]], less_is_better: Sequence[bool]
) -> list[list[str]]:
    """Cells of a table in which the best of each column stands out, and all that equal it; not one
    of which nothing is known, its interval being without bounds.

    Args:
      rows: of one table, or of those of its lines that compete.
      less_is_better: for each column.
    """
    shown = [[cell(value) for value in row] for row in rows]
    for column, less in enumerate(less_is_better):
        values = [_competes(row[column]) for row in rows]
        if np.isfinite(values).sum() < 2:
            continue
        best = np.nanmin(values) if less else np.nanmax(values)
        for line, value in zip(shown, values, strict=True):
            if np.isclose(value, best, rtol=0, atol=1e-9):
                line[column] = Bold(line[column])
    return shown


def _competes(value: Interval | None) -> float:
    if value is None or (np.isinf(value.low) and np.isinf(value.high)):
        return np.nan
    return float(value.value)


def render(title: str, sections: Sequence[Section], facts: Sequence[str] = ()) -> str:
    """The page; equal input, equal text.

    Args:
      title: of the page.
      sections: in their order; the table of contents has them all.
      facts: what the page is made of, by whom and when, a line each; what stands in backquotes is
        a command.
    """
    anchors = _anchors([section.title for section in sections])
    entries = "".join(
        f'<li><a href="#{anchor}">{html.escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        *(f'<p class="facts">{_code(fact)}</p>' for fact in facts),
        f"<nav><ul>{entries}</ul></nav>",
    ]
    for anchor, section in zip(anchors, sections, strict=True):
        parts += [f'<h2 id="{anchor}">{html.escape(section.title)}</h2>', *_body(section)]
    return "\n".join([*parts, "</body></html>", ""])


def _body(section: Section) -> list[str]:
    parts = [f"<p>{_text(section.text)}</p>"] if section.text else []
    if section.points:
        points = "".join(f"<li>{_text(point)}</li>" for point in section.points)
        parts.append(f"<ul>{points}</ul>")
    if section.rows:
        lines = [("th", section.header), *(("td", row) for row in section.rows)]
        parts.append('<div class="wide"><table>')
        for tag, row in lines:
            cells = "".join(f"<{tag}>{_cell(x)}</{tag}>" for x in row)
            parts.append(f"<tr>{cells}</tr>")
        parts.append("</table></div>")
    for name, figure in section.figures.items():
        parts.append(f'<div class="wide">{svg(figure, name, section.title)}</div>')
    return parts


def _cell(text: str) -> str:
    shown = html.escape(str(text))
    return f"<strong>{shown}</strong>" if isinstance(text, Bold) else shown


def _text(text: str) -> str:
    """Prose, in which a number is not separated from its interval."""
    return _NUMBER.sub(r'<span class="number">\g<0></span>', html.escape(text))


def _code(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _anchors(titles: Sequence[str]) -> list[str]:
    """An id for each title, none twice."""
    found: list[str] = []
    for title in titles:
        anchor = re.sub(r"\W+", "-", title.lower()).strip("-")
        found.append(f"{anchor}-{found.count(anchor) + 1}" if anchor in found else anchor)
    return found


def write(
    out: pathlib.Path, title: str, sections: Sequence[Section], facts: Sequence[str] = ()
) -> list[pathlib.Path]:
    """The page at `out`, and every figure as PNG beside it in `<out>_figures/`; returns what was
    written."""
    folder = out.with_name(out.stem + "_figures")
    folder.mkdir(parents=True, exist_ok=True)
    written = [out]
    for section in sections:
        for name, figure in section.figures.items():
            path = folder / f"{name}.png"
            path.write_bytes(png(figure))
            written.append(path)
    out.write_text(render(title, sections, facts))
    return written


def png(figure: Any) -> bytes:
    """A matplotlib figure as a file; equal figures, equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Any, name: str, title: str) -> str:
    """A matplotlib figure as an element of a page; equal figures, equal text.

    It is as wide as the page and not much narrower than it was made, so that its text can be read.

    Args:
      figure: of matplotlib.
      name: begins all ids inside, which are to be unique on the page.
      title: read out to those who do not see it.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    wide = 0.85 * 72 * figure.get_figwidth()
    label = html.escape(f"{title}: {name.replace('_', ' ')}")
    head = f'<svg role="img" aria-label="{label}" style="min-width:{wide:.0f}px"'
    return _without_sizes(text).replace("<svg", head, 1)


def _without_sizes(text: str) -> str:
    """The first tag of an SVG without its width and height, which are the page's to say."""
    tag, rest = text[: text.index(">")], text[text.index(">") :]
    return re.sub(r' (width|height|version)="[^"]*"', "", tag) + rest
