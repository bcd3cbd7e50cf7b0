"""How long, how complex and how wide things may be, and that the linter is told so.

Complexity and arguments are ruff's to count (C901, PLR0913 in pyproject.toml); lines are counted
here.
"""

import ast
import pathlib
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CODE = ("mtrl_jax", "experiments", "timings")
MAX_FUNCTION, MAX_FILE = 80, 400  # lines
RUFF = (sys.executable, "-m", "ruff", "check", "--no-cache")


def _files(root, folders):
    return sorted(path for name in folders for path in (root / name).rglob("*.py"))


def _long_functions(root, folders=CODE):
    """`file:function` of each function with too many lines, decorators not counted."""
    return {
        f"{path.relative_to(root).as_posix()}:{node.name}"
        for path in _files(root, folders)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    }


def _long_files(root, folders=CODE):
    """Names and numbers of lines."""
    lines = {path: len(path.read_text().splitlines()) for path in _files(root, folders)}
    return {p.relative_to(root).as_posix(): n for p, n in lines.items() if n > MAX_FILE}


def _excused(root, folders=(*CODE, "tests")):
    """Where the formatter or the linter's counts are told to look away."""
    words = [f"# {x}" for x in ("fmt: skip", "fmt: off", "noqa: C901", "noqa: PLR0913")]
    found = {p.relative_to(root).as_posix(): p.read_text() for p in _files(root, folders)}
    return {name for name, text in found.items() if any(word in text for word in words)}


def _ruff(path):
    """Codes that ruff finds with the project's settings."""
    command = [*RUFF, "--output-format=concise", f"--config={ROOT / 'pyproject.toml'}", str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout
    return {line.split()[1] for line in out.splitlines() if ".py:" in line}


def test_functions_and_files_are_short_and_nothing_is_excused():
    assert len(_files(ROOT, CODE)) > 100
    assert _long_functions(ROOT) == set()
    assert _long_files(ROOT) == {}
    assert _excused(ROOT) == set()


def _branches(n):
    """A function of complexity n."""
    return "def f(x):\n" + "".join(f"    if x == {i}:\n        return {i}\n" for i in range(n - 1))


@pytest.mark.parametrize(
    ("look", "good", "bad"),
    [
        (_long_functions, "def f():\n" + "    f()\n" * 79, "async def f():\n" + "    f()\n" * 80),
        (_long_files, "f = 0\n" * 400, "f = 0\n" * 401),
        (_excused, "f = 0  # fmt: none\n", "f  = 0  # fmt: " + "skip\n"),
    ],
)
def test_what_is_too_long_or_excused_is_seen(tmp_path, look, good, bad):
    file = tmp_path / "timings" / "x.py"
    file.parent.mkdir()
    file.write_text(good)
    assert not look(tmp_path)
    file.write_text(bad)
    assert len(look(tmp_path)) == 1


@pytest.mark.parametrize(
    ("code", "good", "bad"),
    [
        ("C901", _branches(15), _branches(16)),
        (
            "PLR0913",
            "def f(a, b, c, d, e, g, h, i): ...\n",
            "def f(a, b, c, d, e, g, h, i, j): ...\n",
        ),
    ],
)
def test_ruff_counts_branches_and_arguments(tmp_path, code, good, bad):
    file = tmp_path / "x.py"
    file.write_text(good)
    assert code not in _ruff(file)
    file.write_text(bad)
    assert code in _ruff(file)


def test_exceptions_from_those_counts_are_files_that_need_them():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    counts = [f"--config=lint.mccabe.max-complexity={settings['mccabe']['max-complexity']}"]
    counts += [f"--config=lint.pylint.max-args={settings['pylint']['max-args']}"]
    ignores = settings["per-file-ignores"]
    assert ignores.pop("tests/**") == ["PLR0913"]
    for name, codes in ignores.items():
        for code in {"C901", "PLR0913"} & set(codes):
            command = [*RUFF, "--isolated", f"--select={code}", *counts, str(ROOT / name)]
            assert subprocess.run(command, capture_output=True, check=False).returncode == 1, name
