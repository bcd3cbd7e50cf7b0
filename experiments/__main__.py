"""`mtrl`: every binary under one name.

    mtrl distral --suite=maze8            as `python -m experiments.distral --suite=maze8`
    mtrl distral.compare --help           the flags of one
    mtrl --help                           this list
    mtrl --version

Runs go to `runs/` in the current directory.
"""

import ast
import difflib
import os
import pathlib
import runpy
import sys

from mtrl_jax import __version__

# In the order of the list, with the extra that brings what a binary imports.
BINARIES = {
    "distral": "rl",
    "distral.compare": "rl",
    "distral.robustness": "rl",
    "distral.tabular": "jaxenvs",
    "metaworld": "rl",
    "metaworld.compare": "rl",
    "dqn": "rl",
    "episodic": "rl",
    "episodic.compare": "rl",
    "continual": "jaxenvs",
    "auxiliary": "jaxenvs",
    "distill": "jaxenvs",
    "distill.actor_mimic": "jaxenvs",
    "benchmark": "rl",
    "benchmark.report": "jaxenvs",
    "few_shot": "jaxenvs",
    "transporter": "jaxenvs",
    "offline": "jaxenvs",
    "evaluate": "jaxenvs",
    "export": "jaxenvs",
    "plot": "jaxenvs",
    "supervised": "supervised",
    "morph": "supervised",
    "beta_vae": "jaxenvs",
    "darla": "jaxenvs",
    "darla.study": "jaxenvs",
}


def summary(name: str) -> str:
    """What a binary does: the first line of its docstring; nothing is imported."""
    path = pathlib.Path(__file__).parent.joinpath(*name.split("."))
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main() -> None:
    """The console script."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(f"{__doc__}\nBinaries:")
        for binary in BINARIES:
            print(f"  {binary:20} {summary(binary)}")
    elif name == "--version":
        print(f"mtrl_jax {__version__}")
    elif name in BINARIES:
        _run(name, rest)
    else:
        near = difflib.get_close_matches(name, BINARIES)
        hint = f"did you mean {' or '.join(near)}?" if near else "mtrl --help lists them"
        _fail(f"there is no binary {name!r}; {hint}")


def _run(name: str, arguments: list[str]) -> None:
    sys.argv[1:] = arguments
    if not sys.flags.safe_path:  # as `python -m` does, for what users bring by module:function
        sys.path.insert(0, os.getcwd())
    try:
        runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        extra = f"pip install 'mtrl_jax[{BINARIES[name]}]'"
        _fail(f"mtrl {name} needs {error.name}, which comes with {extra}")


def _fail(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
