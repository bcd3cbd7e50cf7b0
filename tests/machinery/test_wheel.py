"""A wheel holds every package of the checkout, and trains without the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.machinery import commands

SOURCES = ("mtrl_jax", "experiments", "pyproject.toml", "docs/package.md", "LICENSE")


def pip(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """Built from a copy, since a build leaves folders of its own; without the network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (commands.ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(commands.ROOT / name, source / name, ignore=ignore)
        else:
            (source / name).parent.mkdir(exist_ok=True)
            shutil.copy(commands.ROOT / name, source / name)
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, source)
    return next(out.glob("*.whl"))


def test_every_file_is_inside_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    library = {f.relative_to(commands.ROOT) for f in (commands.ROOT / "mtrl_jax").rglob("*.py")}
    binaries = {f.relative_to(commands.ROOT) for f in (commands.ROOT / "experiments").rglob("*.py")}
    wanted = {str(f) for f in library} | {f"mtrl_jax/{f}" for f in binaries}
    assert inside == wanted | {"mtrl_jax/py.typed"}


def test_its_page_needs_no_repository(wheel):
    """No pictures, no links that lead into the checkout; what it shows is what the README shows."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        page = archive.read(name).decode().partition("\n\n")[2]
    assert page.startswith("# mtrl_jax") and "![" not in page and "](" not in page
    code = page.partition("```python")[2].partition("```")[0]
    assert code.strip() and code in (commands.ROOT / "README.md").read_text()


def test_it_trains_alone(wheel, tmp_path):
    installed, away = tmp_path / "installed", tmp_path / "away"
    away.mkdir()
    pip("install", "-q", "--no-deps", "--no-index", "--target", installed, wheel)
    environment = commands.environment(1) | {"PYTHONPATH": str(installed)}
    # The extra jaxenvs has no envpool, and mazes are made without.
    (installed / "envpool.py").write_text("raise ImportError('envpool is not here')\n")

    def python(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=environment,
            cwd=away,
            capture_output=True,
            text=True,
            timeout=300,
        )

    mtrl = installed / "bin" / "mtrl"
    helped = python(mtrl, "distral", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "    mtrl distral --suite=maze8" in helped.stdout
    assert "experiments" not in helped.stdout and str(installed) not in helped.stdout

    tiny = [flag.replace("--num_devices=0", "--num_devices=1") for flag in commands.TINY]
    trained = python(mtrl, "distral", *tiny, f"--total_env_steps={commands.PER_DISPATCH}")
    assert trained.returncode == 0, trained.stderr
    folder = pathlib.Path("runs", "distral", "maze8-a3c_multitask-seed0")
    assert commands.rows(away / folder) and commands.checkpoints(away / folder)
    assert f"to evaluate      mtrl evaluate --workdir={folder}" in trained.stdout

    slim = python(mtrl, "distral", "--workdir=elsewhere")
    assert slim.returncode == 2 and slim.stderr.count("\n") == 1 and slim.stdout == ""
    assert "needs envpool, which comes with the extra rl" in slim.stderr

    where = "import mtrl_jax.experiments.distral.run as m, mtrl_jax.train as n; print(m, n)"
    found = python("-c", where)
    assert found.stdout.count(str(installed)) == 2, found.stdout + found.stderr
    assert os.listdir(away) == ["runs"]
