"""One HTML page that needs no other file: tables, text, and figures as inlined PNG."""

import base64
import html
import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.intervals import Interval

__all__ = ["Section", "cell", "png", "render", "write"]

_STYLE = (
    "body{font:15px/1.45 sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .7em;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    "img{max-width:100%}p{max-width:48em}"
)
_DPI = 110
NO_END = "..."


class Section(NamedTuple):
    """A heading, a paragraph, and whatever of the rest there is.

    Attributes:
      title: heading.
      text: one paragraph, plain.
      header, rows: of a table, plain text.
      figures: file name without an ending to a PNG, from `png`.
    """

    title: str
    text: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figures: dict[str, bytes] = {}  # noqa: RUF012  (never changed)


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


def render(title: str, sections: Sequence[Section]) -> str:
    """The page; equal input, equal text."""
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>"
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts.append(f"<p>{html.escape(section.text)}</p>")
        if section.rows:
            lines = [("th", section.header), *(("td", row) for row in section.rows)]
            parts.append("<table>")
            for tag, row in lines:
                cells = "".join(f"<{tag}>{html.escape(str(x))}</{tag}>" for x in row)
                parts.append(f"<tr>{cells}</tr>")
            parts.append("</table>")
        for name, picture in section.figures.items():
            data = base64.b64encode(picture).decode()
            alt = html.escape(f"{section.title}: {name}")
            parts.append(f'<p><img alt="{alt}" src="data:image/png;base64,{data}"></p>')
    return "\n".join([*parts, "</body></html>", ""])


def write(out: pathlib.Path, title: str, sections: Sequence[Section]) -> list[pathlib.Path]:
    """The page at `out`, and every figure beside it in `<out>_figures/`; returns what was
    written."""
    folder = out.with_name(out.stem + "_figures")
    folder.mkdir(parents=True, exist_ok=True)
    written = [out]
    for section in sections:
        for name, picture in section.figures.items():
            path = folder / f"{name}.png"
            path.write_bytes(picture)
            written.append(path)
    out.write_text(render(title, sections))
    return written


def png(figure: Any) -> bytes:
    """A matplotlib figure as a file; equal figures, equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
