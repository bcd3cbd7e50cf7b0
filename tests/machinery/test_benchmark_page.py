"""The page of the report: its structure, as a browser sees it."""

import html.parser
import re

import pytest

from mtrl_jax.benchmark import (
    page,
    sections,
)
from tests.machinery import known_agents


@pytest.fixture(scope="module")
def known():
    return known_agents.tables()


class Structure(html.parser.HTMLParser):
    """What a browser would see: tags in their nesting, ids, links, and the text of elements."""

    VOID = ("meta", "br", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.ids, self.links = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), tuple(self.open)))
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key in ("href", "src")]
        self.links += re.findall(r"url\(([^)]*)\)", dict(attrs).get("clip-path", ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and data.strip() and self.open[-1] != "style":
            self.texts.append((tuple(self.open), data))


@pytest.fixture(scope="module")
def written(known, tmp_path_factory):
    s, rows = known
    out = tmp_path_factory.mktemp("page") / "page.html"
    facts = ["Made on 2026-01-02 with mtrl_jax 9.9 by `report --results=<x>`."]
    return page.write(out, "Title <1>", sections.every(s, rows), facts)


def test_the_page_needs_no_other_file_and_figures_lie_beside_it(written):
    names = {path.stem for path in written[1:]}
    assert names == {
        "transfer_ratio",
        "curves_same",
        "curves_fast",
        "pretraining_same",
        "pretraining_fast",
        "multitask",
        "profiles",
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[1:])
    text = written[0].read_text()
    found = Structure(text)
    assert "http" not in text and "<img" not in text
    # Links lead to places of the page, of which none has the name of another.
    assert len(found.ids) == len(set(found.ids))
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert all(link.startswith("#") for link in found.links)
    # Every agent stands in every table of scores, controls too.
    for section in ("Transfer", "Multi-task", "Aggregates", "Probability of improvement"):
        body = section_of(text, section)
        assert all(name in body for name in ("random", "same", "fast")), section


def section_of(text, title):
    return text.split(f">{title}</h2>")[1].split("<h2")[0]


def test_the_page_says_what_it_is_and_has_a_table_of_contents(written):
    text = written[0].read_text()
    found = Structure(text)
    assert "<h1>Title &lt;1&gt;</h1>" in text and "<title>Title &lt;1&gt;</title>" in text
    assert "Made on 2026-01-02 with mtrl_jax 9.9 by <code>report --results=&lt;x&gt;</code>" in text
    contents = [data for path, data in found.texts if path[-3:] == ("ul", "li", "a")]
    headings = [data for path, data in found.texts if path[-1] == "h2"]
    assert contents == headings and headings[0] == "Verdict" and len(headings) > 6
    assert ("meta", "viewport") in [(tag, attrs.get("name")) for tag, attrs, _ in found.tags]


def test_figures_are_svg_as_wide_as_the_page_and_tables_scroll_by_themselves(written):
    text = written[0].read_text()
    found = Structure(text)
    pictures = [(attrs, path) for tag, attrs, path in found.tags if tag == "svg"]
    assert len(pictures) == len(written) - 1
    for attrs, path in pictures:
        assert "viewbox" in attrs and not {"width", "height"} & set(attrs)
        assert attrs["aria-label"] and path[-1] == "div"
    assert "svg{width:100%" in text and ".wide{overflow-x:auto" in text
    wide = [attrs for tag, attrs, _ in found.tags if tag == "div"]
    tables = [path for tag, _, path in found.tags if tag == "table"]
    assert all(attrs == {"class": "wide"} for attrs in wide)
    assert len(wide) == len(tables) + len(pictures) and all(p[-1] == "div" for p in tables)
    # An interval is on one line, in tables and in prose.
    assert re.search(r"td,th\{[^}]*white-space:nowrap", text)
    assert ".number{white-space:nowrap}" in text
    prose = [(path, data) for path, data in found.texts if {"p", "li"} & set(path)]
    with_interval = [path for path, data in prose if re.search(r"\d \[", data)]
    assert with_interval and all(path[-1] == "span" for path in with_interval)


def test_no_cell_has_what_nobody_can_read(written):
    found = Structure(written[0].read_text())
    cells = [data for path, data in found.texts if {"td", "th"} & set(path)]
    assert len(cells) > 100
    for text in cells:
        assert not re.search(r"\b(inf|nan|None)\b|-0\.0+\b", text), text


def rows_of(text, title):
    """Cells of a section's table as text, the best in stars."""
    body = section_of(text, title).replace("<strong>", "*").replace("</strong>", "*")
    lines = re.findall(r"<tr>(.*?)</tr>", body)
    return [re.findall(r"<td>(.*?)</td>", line) for line in lines[1:]]


def test_tables_are_sorted_and_the_best_is_in_bold(written):
    text = written[0].read_text()
    transfer = rows_of(text, "Transfer")
    assert [line[0] for line in transfer] == ["fast", "same", "random policy"]
    value = f"{known_agents.area(6.0) / known_agents.area(3.0):.2f}"
    assert transfer[0][1].startswith(f"*{value} [") and transfer[0][1].endswith("*")
    assert transfer[1][1].startswith("1.00 [")
    assert transfer[0][6].startswith("0.30") and transfer[1][6].startswith(
        "*0.00"
    )  # less is better
    assert transfer[2][1:] == ["-"] * 6
    multitask = rows_of(text, "Multi-task")
    assert [line[0] for line in multitask[:3]] == ["a, fast", "a, same", "a, random policy"]
    for n, line in enumerate(multitask):
        assert line[1].startswith("*") == (n % 3 == 0)
    aggregates = {line[0]: line for line in rows_of(text, "Aggregates")}
    names = [name for name in aggregates if name.startswith("all games at once")]
    assert names == [f"all games at once, {x}" for x in ("fast", "same", "random policy")]
    assert all(x.startswith("*") for x in aggregates[names[0]][1:5])
    assert not any("*" in x for x in aggregates[names[1]])
    better = rows_of(text, "Probability of improvement")
    assert better[0][0].startswith("all games at once: ") and better[0][1].startswith("*1.00")
    assert all(float(line[1].strip("*").split()[0]) >= 0.5 for line in better)
    ratios = [
        float(x[2].strip("*").split()[0]) for x in rows_of(text, "Transfer ratio of each game")
    ]
    assert ratios == sorted(ratios, reverse=True)
