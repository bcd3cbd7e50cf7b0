"""Whoever follows CONTRIBUTING.md to the letter ends with tests that pass."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
# What the recipes touch and their commands read.
COPIED = ("mtrl_jax", "experiments", "tests", "docs", "pyproject.toml", "CHANGELOG.md")
# Recipes, and the fewest tests that their commands are to run.
RECIPES = {"A method of surgery": 12, "An algorithm": 2, "A suite": 7}


class Block(NamedTuple):
    """Code of a step, with what its first line says of it.

    Attributes:
      text: without that line.
      file: in the repository; "" for commands.
      how: "below" or "in place of" a line, "" for a new file.
      line: how that line begins.
    """

    text: str
    file: str = ""
    how: str = ""
    line: str = ""


def steps_of(recipe: str) -> list[list[Block]]:
    """Blocks by step."""
    section = re.search(rf"^## {recipe}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert section, recipe
    numbers = re.findall(r"^\*\*Step (\d)\.\*\*", section[1], re.MULTILINE)
    assert numbers == list("12345")
    parts = re.split(r"^\*\*Step \d\.\*\*", section[1], flags=re.MULTILINE)[1:]
    return [list(_blocks(part)) for part in parts]


def _blocks(text: str) -> Iterator[Block]:
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if language == "bash":
            yield Block(code)
            continue
        first, _, rest = code.partition("\n")
        found = re.fullmatch(r"# ([\w./]+)(?:, (below|in place of) (.+))?", first)
        assert found, first
        yield Block(rest, found[1], found[2] or "", found[3] or "")


def apply(block: Block, root: pathlib.Path) -> None:
    """Does what a reader does with a block."""
    path = root / block.file
    if not block.how:
        assert not path.exists(), f"{block.file} is to be a new file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        return
    lines = path.read_text().splitlines(keepends=True)
    at = [n for n, line in enumerate(lines) if line.strip().startswith(block.line)]
    assert len(at) == 1, f"{block.file}: {len(at)} lines begin with {block.line}"
    kept = lines[at[0]] if block.how == "below" else ""
    lines[at[0]] = kept + block.text
    path.write_text("".join(lines))


def copy(root: pathlib.Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.png", "*.gif", "*.jsonl")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=ignore)
        else:
            shutil.copy(source, root / name)


def follow(root: pathlib.Path, steps: list[list[Block]]) -> subprocess.CompletedProcess[str]:
    """Applies steps in a copy of the checkout and runs their commands, until one fails."""
    copy(root)
    commands = ""
    for block in (block for step in steps for block in step):
        if block.file:
            apply(block, root)
        else:
            commands += block.text
    # `python` and the package of the commands: this interpreter, and the copy.
    folder = str(pathlib.Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": folder + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": str(root),
        "JAX_PLATFORMS": "cpu",
    }
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        ["bash", "-euc", commands],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )


def passed(output: str) -> int:
    return sum(int(n) for n in re.findall(r"^(\d+) passed", output, re.MULTILINE))


@pytest.mark.parametrize(
    "recipe", [pytest.param(r, marks=[pytest.mark.slow] * (r == "An algorithm")) for r in RECIPES]
)
def test_five_steps_end_with_tests_that_pass(recipe: str, tmp_path: pathlib.Path) -> None:
    steps = steps_of(recipe)
    assert all(steps)
    result = follow(tmp_path, steps)
    assert result.returncode == 0, result.stdout
    assert passed(result.stdout) >= RECIPES[recipe], result.stdout


@pytest.mark.parametrize("left_out", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_step_left_out_is_noticed(left_out: int, tmp_path: pathlib.Path) -> None:
    steps = steps_of("A method of surgery")
    result = follow(tmp_path, steps[: left_out - 1] + steps[left_out:])
    assert result.returncode == 1, result.stdout
    assert re.search(r"^FAILED|^\d+ failed", result.stdout, re.MULTILINE), result.stdout
