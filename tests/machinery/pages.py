"""What the pages of the documentation hold: Python to run, commands, links."""

import pathlib
import re
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


def run(text: str) -> dict[str, Any]:
    """The page's Python, block after block in one namespace, which is returned."""
    names: dict[str, Any] = {"__name__": "page"}
    with jax.numpy_rank_promotion("allow"):  # pages are written as users write
        for block in python_blocks(text):
            exec(block, names)
    return names
