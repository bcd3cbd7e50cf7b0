"""The guides that begin with an empty file: their files, their Python and their commands."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.machinery import commands, pages

GUIDES = ("environments.md", "networks.md", "libraries.md", "curricula.md")


def left(folder: pathlib.Path) -> list[str]:
    """What a command leaves for its reader to look at."""
    kinds = ("*.png", "*.gif", "*.html", "evaluation.json", "results.json", "results.jsonl")
    return sorted(str(p.relative_to(folder)) for kind in kinds for p in folder.rglob(kind))


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.slow
def test_commands_of_a_guide_run_with_its_files(guide, tmp_path):
    run(guide, tmp_path, lambda arguments: "experiments.benchmark" not in arguments)


@pytest.mark.slow
def test_a_benchmark_of_the_guides_environment(tmp_path):
    run("environments.md", tmp_path, lambda arguments: "experiments.benchmark" in arguments)


def run(guide, tmp_path, which):
    """The commands that are wanted, beside the guide's files."""
    text = (pages.DOCS / guide).read_text(encoding="utf-8")
    for block in filter(pages.file_of, pages.python_blocks(text)):
        (tmp_path / pages.file_of(block)).write_text(block)
    listed = [arguments for arguments in pages.shell_commands(text) if which(arguments)]
    assert listed
    for arguments in listed:
        before = left(tmp_path)
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**commands.environment(1), "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert left(tmp_path) != before, arguments
