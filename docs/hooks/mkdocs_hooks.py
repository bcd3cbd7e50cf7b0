"""What MkDocs does not do by itself: equations in fences, pages of other folders, last checks.

The build fails on an equation that does not follow the notation, on a public name without an entry
in the API reference, and on a page that would make its reader fetch something from elsewhere.
"""

import ast
import pathlib
import re
import sys
from html import escape
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from equations import EquationError, inline, to_mathml
from notebook_pages import markdown

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Files of other folders that are pages too; links between them and docs/ are rewritten.
PAGES = {
    "BUILD_NOTES.md": "design/notes.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    **{f"notebooks/{p.name}": f"notebooks/{p.stem}.md" for p in ROOT.glob("notebooks/*.ipynb")},
}

_wrong_equations: list[str] = []


def maths(source: str, *args: Any, **kwargs: Any) -> str:
    """A fence of equations."""
    try:
        return f'<div class="maths" tabindex="0">{to_mathml(source)}</div>'
    except EquationError as error:
        _wrong_equations.append(str(error))
        return f"<pre>{escape(source)}</pre>"


def maths_in_line(source: str, *args: Any, **kwargs: Any) -> str:
    """A code span of a docstring that is an equation (`docstrings`)."""
    try:
        return inline(source)
    except EquationError as error:
        _wrong_equations.append(str(error))
        return f"<code>{escape(source)}</code>"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    _wrong_equations.clear()
    config.nav = _nav(config.nav or [])
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "maths", "class": "maths", "format": maths}]
    spans = config.mdx_configs.setdefault("pymdownx.inlinehilite", {})
    spans["custom_inline"] = [{"name": "maths", "class": "maths", "format": maths_in_line}]
    return config


def _nav(entries: list[Any]) -> list[Any]:
    """The navigation: of a folder all its pages, of the top folder the pages that exist."""
    absent = {page for source, page in PAGES.items() if not (ROOT / source).exists()}
    out: list[Any] = []
    for entry in entries:
        title, target = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(target, list):
            out.append({title: _nav(target)})
        elif target.endswith("/"):
            out.append({title: sorted(f"{target}{p.name}" for p in (DOCS / target).glob("*.md"))})
        elif target not in absent:
            out.append(entry)
    return out


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        if (ROOT / source).exists():
            text, folder = (ROOT / source).read_text(encoding="utf-8"), ""
            if source.endswith(".ipynb"):
                text, pictures = markdown(text, pathlib.Path(page).stem)
                folder = source
                for name, data in pictures.items():
                    files.append(File.generated(config, f"notebooks/{name}", content=data))
            files.append(File.generated(config, page, content=_relink(text, folder, page)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = page.file.src_uri
    if source in PAGES.values():
        return markdown
    return _relink(markdown, "docs/" + source, source)


def _relink(text: str, source: str, page: str) -> str:
    """Links of a file of the repository, as they must be on its page.

    Args:
      text: Markdown.
      source: path of the file in the repository; "" for one of the top folder.
      page: path of the page in the site.
    """
    folder = pathlib.PurePosixPath(source).parent

    def relink(found: re.Match[str]) -> str:
        target, anchor = found[2], found[3] or ""
        path = _normal(folder / target)
        if path in PAGES and (ROOT / path).exists():
            path = "docs/" + PAGES[path]
        elif path in ("README.md", "docs"):
            path = "docs/index.md"
        elif (ROOT / path / "README.md").exists():
            path += "/README.md"
        if not path.startswith("docs/"):
            return found[0]
        up = "../" * (len(pathlib.PurePosixPath(page).parts) - 1)
        return f"{found[1]}({up}{path.removeprefix('docs/')}{anchor})"

    return re.sub(r"(\]) ?\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", relink, text)


def _normal(path: pathlib.PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part not in (".", ".."):
            parts.append(part)
    return "/".join(parts)


def on_post_build(config: MkDocsConfig) -> None:
    wrong = sorted(set(_wrong_equations))
    built = {path: path.read_text(encoding="utf-8") for path in _pages(config.site_dir)}
    found = set(re.findall(r'id="(mtrl_jax\.[\w.]+)"', "".join(built.values())))
    if wrong:
        raise PluginError("equations that cannot be shown:\n  " + "\n  ".join(wrong))
    absent = missing(found)
    if absent:
        raise PluginError("public names without an entry in docs/reference: " + ", ".join(absent))
    for path, text in built.items():
        outside = fetched(text)
        if outside:
            raise PluginError(f"{path} would fetch {', '.join(outside)}")


def _pages(folder: str) -> list[pathlib.Path]:
    return sorted(pathlib.Path(folder).rglob("*.html"))


def fetched(page: str) -> list[str]:
    """Addresses that a browser would ask for when it shows the page; links are no such thing."""
    found = re.findall(
        r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?(//[^\"'> ]+)", page
    )
    for tag in re.findall(r"<link\b[^>]*>", page):
        if not re.search(r"rel=[\"']?(canonical|next|prev|alternate)", tag):
            found += re.findall(r"href=[\"']?(?:https?:)?(//[^\"'> ]+)", tag)
    return found


def missing(documented: set[str]) -> list[str]:
    """Functions and classes in an `__all__` of the package for which no page has an entry.

    A function without a docstring has none.
    """
    modules = {_module(path): ast.parse(path.read_text("utf-8")) for path in _sources()}
    have = {_origin(modules, *name.rpartition(".")[::2]) for name in documented - set(modules)}
    defined = {
        f"{module}.{node.name}"
        for module, tree in modules.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    wanted = {
        _origin(modules, module, name)
        for module, tree in modules.items()
        for name in _exported(tree)
    }
    return sorted(wanted & defined - have)


def _sources() -> list[pathlib.Path]:
    return [p for p in (ROOT / "mtrl_jax").rglob("*.py") if p.name != "_checks.py"]


def _module(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _exported(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [ast.literal_eval(item) for item in getattr(node.value, "elts", [])]
    return []


def _origin(modules: dict[str, ast.Module], module: str, name: str) -> str:
    """Where a name that a module may only import is defined."""
    for node in modules[module].body if module in modules else []:
        if isinstance(node, ast.ImportFrom) and node.module and node.module != module:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module in modules:
                    return _origin(modules, node.module, alias.name)
    return f"{module}.{name}"
