"""What the pages say holds: their Python runs, their commands, flags and links exist."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from pages import DOCS, ROOT, python_blocks, run, texts

from tests.machinery import tiny

TEXTS = texts()
# Its blocks add what they name: test_contributing.py does as they say.
TEXTS["CONTRIBUTING.md"] = re.sub(
    r"^```.*?^```$", "", TEXTS["CONTRIBUTING.md"], flags=re.DOTALL | re.MULTILINE
)
# Records of what was: commands may have other names since.
OF_THEIR_TIME = ("CHANGELOG.md", "docs/log/")
# Everything in docs/ runs as it stands.
WITH_PYTHON = [
    name for name, text in TEXTS.items() if name.startswith("docs/") and python_blocks(text)
]
WITH_PYTHON.remove("docs/package.md")  # its block is the README's: test_wheel.py
# In test_surgery_docs, test_export, and below.
ASKED_MORE = ("docs/surgery.md", "docs/serving.md", "docs/environments.md")
COMMAND = re.compile(r"(?:python -m )?\b((?:experiments|timings)(?:\.\w+)+)((?:\\\n|[^\n`])*)")


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.mark.parametrize("page", sorted(set(WITH_PYTHON) - set(ASKED_MORE)))
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(TEXTS[page])


def test_pages_with_python_are_found():
    assert {"docs/index.md", "docs/environments.md", "docs/distral.md"} <= set(WITH_PYTHON)


@pytest.mark.slow
def test_agents_of_the_corridor_solve_it(tmp_path, monkeypatch):
    """A page that trains must have something to show: .97 is the best return."""
    monkeypatch.chdir(tmp_path)
    returns = run(TEXTS["docs/environments.md"])["returns"]
    assert set(returns) == {"distral", "ppo", "dqn"}
    assert all(min(scores) > 0.85 for scores in returns.values()), returns


def exists(module: str) -> bool:
    """Whether `python -m module` finds a file."""
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def flags_of(modules: list[str]) -> dict[str, set[str]]:
    """The flags in each module's --help."""
    listing = subprocess.run(
        [sys.executable, "-W", "ignore", pathlib.Path(__file__).parent / "list_flags.py", *modules],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return {name: set(flags) for name, flags in map(json.loads, listing.stdout.splitlines())}


def commands() -> list[tuple[str, str, tuple[str, ...]]]:
    """(page, module, flags) of every command."""
    found = []
    for page, text in TEXTS.items():
        if not page.startswith(OF_THEIR_TIME):
            for module, rest in COMMAND.findall(text):
                flags = re.findall(r"(?<=\s)--(\w+)", rest.split("#")[0])
                found.append((page, module, tuple(flags)))
    return found


def test_commands_exist_and_have_their_flags():
    found = commands()
    assert len(found) > 60
    assert [(page, module) for page, module, _ in found if not exists(module)] == []
    known = flags_of(sorted({module for _, module, _ in found}))
    wrong = [
        f"{page}: {module} --{flag}"
        for page, module, flags in found
        for flag in flags
        if not known[module] & {flag, flag.removeprefix("no")}
    ]
    assert wrong == []


def anchors(text: str) -> set[str]:
    """Of a page's headings, as a reader of the repository or of the site gets them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[\s]", "-", re.sub(r"[^\w\s-]", "", title.lower())) for title in titles}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    wrong = []
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)", TEXTS[page]):
        path = (ROOT / page).parent / target if target else ROOT / page
        if not path.exists():
            wrong.append(target)
        elif anchor and path.suffix == ".md" and not anchor.startswith("mtrl_jax."):
            if anchor not in anchors(path.read_text(encoding="utf-8")):
                wrong.append(f"{target}#{anchor}")
    assert wrong == []


def test_tests_and_files_that_pages_name_exist():
    there = {path.name for path in (ROOT / "tests").rglob("*.py")}
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
    wrong = []
    for page, text in TEXTS.items():
        if not page.startswith(OF_THEIR_TIME):
            named = re.findall(r"`[^`]*?\b(test_\w+(?:\.py)?)", text)
            wrong += [f"{page}: {name}" for name in named if not there & {name, f"{name}.py"}]
            paths = re.findall(r"`((?:mtrl_jax|experiments|timings|docs|tests)/[\w./]+)`", text)
            wrong += [f"{page}: {path}" for path in paths if not (ROOT / path).exists()]
    assert wrong == []


def test_pictures_are_shown_somewhere():
    """A picture that no page shows has no reader."""
    shown = set(re.findall(r"img/([\w.]+)", "".join(TEXTS.values())))
    pictures = {path.name for path in (DOCS / "img").iterdir() if path.suffix in (".png", ".gif")}
    assert pictures - shown == set()


def test_the_reference_has_every_module_once():
    """The build checks names (docs/hooks/mkdocs_hooks.py); modules move, and this is quicker."""
    shown = re.findall(r"^::: (\S+)", "".join(TEXTS.values()), flags=re.MULTILINE)
    public = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "mtrl_jax").rglob("*.py")
        if not re.search(r"(^|/)_(?!_)", str(path.relative_to(ROOT)))
    }
    packages_of_names_only = {name for name in public if is_index(name)}
    assert set(shown) - public == set()
    assert public - packages_of_names_only - set(shown) == set()
    assert len(shown) == len(set(shown))


def is_index(module: str) -> bool:
    """Whether a module is a package's `__init__`, whose names stand with the files they are of."""
    return (ROOT.joinpath(*module.split(".")) / "__init__.py").exists()
