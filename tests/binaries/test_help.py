"""`mtrl` lists every binary, and each says in its help what it is and takes."""

import os
import pathlib
import subprocess
import sys

import pytest

import experiments.__main__ as mtrl
from tests.machinery import commands

FOLDER = commands.ROOT / "experiments"

# One process that has imported what is slow to import, and a fork of it for each binary.
_EVERY = """
import os, runpy, sys
import matplotlib, mtrl_jax.benchmark.hosted, mtrl_jax.sweep, optax
folder, package, names = sys.argv[1], sys.argv[2], sys.argv[3:]
for name in names:
    if not (pid := os.fork()):
        for number, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{name}.{kind}", os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["binary", "--help"]
        runpy.run_module(f"{package}.{name}", run_name="__main__", alter_sys=True)
        os._exit(9)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(name, code, flush=True)
"""


@pytest.fixture(scope="module")
def helps(tmp_path_factory) -> tuple[dict[str, int], pathlib.Path]:
    """Exit code of `--help` of every binary, and where its output lies."""
    folder = tmp_path_factory.mktemp("help")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _EVERY, folder, "experiments", *mtrl.BINARIES],
        env=commands.environment(1),
        cwd=commands.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    pairs = [line.split() for line in done.stdout.splitlines()]
    return {name: int(code) for name, code in pairs}, folder


@pytest.mark.parametrize("name", mtrl.BINARIES)
def test_help_is_no_failure_and_helps(name, helps):
    codes, folder = helps
    out, err = ((folder / f"{name}.{kind}").read_text() for kind in ("out", "err"))
    assert codes[name] == 0 and err == ""
    assert out.startswith(mtrl.summary(name)) and f"python -m experiments.{name}" in out
    _, _, flags = out.partition("\nFlags:\n")
    assert "--workdir:" in flags or "--runs:" in flags


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
