"""What the pages of the documentation hold: Python to run, commands, links."""

import pathlib
import re
import sys
from typing import Any

import jax

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"


def texts() -> dict[str, str]:
    """Every page by its path in the repository: docs/ and the top folder."""
    paths = sorted(DOCS.rglob("*.md")) + sorted(ROOT.glob("*.md"))
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def file_of(block: str) -> str:
    """The file that a block is, by its first line, as in `# corridor.py`; or ""."""
    found = re.match(r"# (\w+\.py)\n", block)
    return found.group(1) if found else ""


def shell_commands(text: str) -> list[list[str]]:
    """The `python -m` commands of a page's bash blocks, as arguments of Python."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [line.split("  #")[0].split() for line in lines]
    return [command[1:] for command in commands if command[:2] == ["python", "-m"]]


def run(text: str) -> dict[str, Any]:
    """The page's Python, block after block in one namespace, which is returned. A block that is a
    file is written to the current directory, from where others import it."""
    names: dict[str, Any] = {"__name__": "page"}
    before = set(sys.modules)
    sys.path.insert(0, "")
    try:
        with jax.numpy_rank_promotion("allow"):  # pages are written as users write
            for block in python_blocks(text):
                if file_of(block):
                    pathlib.Path(file_of(block)).write_text(block)
                else:
                    exec(block, names)
    finally:
        sys.path.remove("")
        for block in filter(file_of, python_blocks(text)):
            if (module := file_of(block).removesuffix(".py")) not in before:
                sys.modules.pop(module, None)
    return names
