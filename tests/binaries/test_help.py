"""`mtrl` lists every binary, and each says in its help what it is and takes."""

import os
import subprocess
import sys

import pytest

import experiments.__main__ as mtrl
from tests.machinery import commands

FOLDER = commands.ROOT / "experiments"


@pytest.fixture(scope="module")
def helps(tmp_path_factory) -> dict[str, commands.Ended]:
    """How `--help` of every binary ended."""
    cases = [(name, "--help") for name in mtrl.BINARIES]
    ended = commands.forked(tmp_path_factory.mktemp("help"), cases)
    return dict(zip(mtrl.BINARIES, ended, strict=True))


@pytest.mark.parametrize("name", mtrl.BINARIES)
def test_help_is_no_failure_and_helps(name, helps):
    code, out, err, left = helps[name]
    assert (code, err, left) == (0, "", [])
    assert out.startswith(mtrl.summary(name)) and f"python -m experiments.{name}" in out
    _, _, flags = out.partition("\nFlags:\n")
    assert "--workdir:" in flags or "--runs:" in flags


@pytest.mark.parametrize(
    ("name", "own", "absent"),
    [
        ("distral", ["--algorithm", "--suite", "--workdir", "--num_seeds"], []),
        ("evaluate", ["--workdir", "--episodes", "--gifs", "--seed"], ["--suite", "--core"]),
        ("export", ["--workdir", "--out", "--step", "--actions"], ["--suite", "--episodes"]),
        ("plot", ["--runs", "--labels", "--metric", "--over", "--out"], ["--suite", "--workdir"]),
    ],
)
def test_help_shows_the_flags_that_count(name, own, absent, helps):
    lines = helps[name].out.splitlines()
    flags = {line.split(":")[0].strip().replace("[no]", "") for line in lines}
    assert set(own) <= flags and not set(absent) & flags


def test_the_list_has_every_binary():
    files = [f for f in FOLDER.rglob("*.py") if 'if __name__ == "__main__":' in f.read_text()]
    parts = [f.relative_to(FOLDER).with_suffix("").parts for f in files]
    names = {".".join(p for p in part if p != "__main__") for part in parts} - {""}
    assert names == set(mtrl.BINARIES)
    assert all(len(mtrl.summary(name)) > 40 for name in mtrl.BINARIES)


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        ([], 0, "  distral.tabular      Tabular Distral", ""),
        (["--help"], 0, "  benchmark.report     Turns", ""),
        (["--version"], 0, "mtrl_jax 0.", ""),
        (["distrl"], 2, "", "error: there is no binary 'distrl'; did you mean distral or distill?"),
        (["x"], 2, "", "error: there is no binary 'x'; mtrl --help lists them"),
    ],
)
def test_mtrl(arguments, code, out, err, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mtrl", *arguments])
    if code:
        with pytest.raises(SystemExit) as ended:
            mtrl.main()
        assert ended.value.code == code
    else:
        mtrl.main()
    shown = capsys.readouterr()
    assert out in shown.out and shown.err.strip() == err


_WITHOUT = """
import sys
sys.modules[{library!r}] = None  # what an import of a library that is not installed meets
sys.argv = ["mtrl", {name!r}]
import experiments.__main__ as mtrl
mtrl.main()
"""


@pytest.mark.parametrize(
    ("name", "library", "extra"), [("distral", "absl", "rl"), ("morph", "flax", "supervised")]
)
def test_without_the_extra_one_sentence_names_it(name, library, extra):
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(library=library, name=name)],
        env={**os.environ, "PYTHONPATH": str(commands.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"mtrl {name} needs {library}" in done.stderr and f"'mtrl_jax[{extra}]'" in done.stderr
