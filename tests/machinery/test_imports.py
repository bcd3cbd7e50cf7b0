"""Imports go one way, and the maths is light to import: from the source and from `sys.modules`."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Lowest first. A unit (file or folder of `mtrl_jax`) may import from lower layers and from itself.
LAYERS = (
    {"types", "_checks", "by_name", "memory", "ranges", "serve", "surgery"},
    {
        "returns",
        "distributions",
        "normalisers",
        "networks",
        "envs",
        "learner",
        "processes",
        "checkpoint",
        "intervals",
        "metrics",
        "workdir",
        "writers",
        "curriculum",
    },
    {"losses", "rollout", "plots", "replay", "episodic", "freeze", "packnet", "recorded"},
    {"continual", "dispatch"},
    {"algorithms", "engines", "evaluate", "export", "record", "begin"},
    {"evaluations", "pace", "sweep"},
    {"train"},
    {"benchmark"},
)
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}

# What a lower rank would allow and the design does not.
_LEARNING = {
    "algorithms",
    "losses",
    "returns",
    "distributions",
    "normalisers",
    "networks",
    "surgery",
    "curriculum",
    "freeze",
}
FORBIDDEN = {
    "surgery": set(RANK),  # usable in a project that has none of the rest
    "serve": set(RANK),  # goes where jax alone is
    "types": set(RANK),
    "envs": _LEARNING | {"learner", "checkpoint", "metrics", "workdir"},
    # The learner applies surgery to the tasks' gradients and sees no loss and no environment.
    "learner": _LEARNING - {"surgery"} | {"envs", "checkpoint", "metrics", "workdir"},
    "networks": _LEARNING | {"envs", "learner"},
    "losses": {"networks", "envs", "learner", "checkpoint", "metrics", "workdir", "surgery"},
    "checkpoint": _LEARNING | {"envs", "learner"},
    "metrics": _LEARNING | {"envs", "learner"},
    "writers": _LEARNING | {"envs", "learner"},
    "rollout": _LEARNING | {"learner"},
    "engines": _LEARNING,
    "evaluate": _LEARNING,
    "export": _LEARNING,
    "record": _LEARNING,
}

# Libraries that a unit may import when it is imported itself (a function that draws may import its
# plotting library); units not listed may use all of the package's dependencies.
LIBRARIES = {
    "surgery": {"jax", "optax", "numpy"},
    "serve": {"jax", "numpy"},
    "types": {"jax", "numpy"},
    "_checks": {"jax", "numpy", "chex"},
    "by_name": set(),
    "ranges": {"jax", "numpy"},
    "returns": {"jax", "numpy", "chex"},
    "distributions": {"jax", "numpy", "chex"},
    "losses": {"jax", "numpy", "chex", "optax"},
}


def _imports(path):
    """(line, absolute module name, whether at the top level) of every import in a file."""
    tree = ast.parse(path.read_text())
    within = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the module's whole name"
            names = [node.module]
            if node.module == "mtrl_jax":
                names += [f"mtrl_jax.{alias.name}" for alias in node.names]
        yield from ((node.lineno, name, id(node) not in within) for name in names)


def _violations(files, root):
    """Sentences, one for each import that goes the wrong way; `root` holds `mtrl_jax`."""
    for path in files:
        unit = path.relative_to(root / "mtrl_jax").parts[0].removesuffix(".py")
        if unit == "__init__":
            continue
        if unit not in RANK:
            yield f"{path}: mtrl_jax.{unit} has no layer in LAYERS"
            continue
        for line, name, at_top in _imports(path):
            library, *rest = name.split(".")
            where = f"{path}:{line}: {name}"
            if library in ("experiments", "tests", "timings"):
                yield f"{where} stands above the library"
            elif library == "mtrl_jax" and rest:
                other = rest[0]
                if other == unit:
                    continue
                if RANK.get(other, len(LAYERS)) >= RANK[unit] or other in FORBIDDEN.get(unit, ()):
                    yield f"{where} may not be imported by {unit}"
            elif library != "mtrl_jax" and library not in sys.stdlib_module_names:
                if at_top and library not in LIBRARIES.get(unit, {library}):
                    yield f"{where} is not among the libraries of {unit}"


def test_imports_go_one_way():
    files = sorted((ROOT / "mtrl_jax").rglob("*.py"))
    assert len(files) > 20
    assert list(_violations(files, ROOT)) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("losses/x.py", "from mtrl_jax.algorithms import distral"),
        ("losses/x.py", "from mtrl_jax import learner"),
        ("losses/x.py", "import flax.linen as nn"),
        ("surgery/x.py", "def f():\n    from mtrl_jax.types import Array"),
        ("surgery/x.py", "import chex"),
        ("surgery/x.py", "if True:\n    import flax"),
        ("envs/x.py", "import mtrl_jax.losses.distral"),
        ("learner.py", "from mtrl_jax.envs.maze import maze8"),
        ("train.py", "from experiments import common"),
        ("types.py", "from mtrl_jax import _checks"),
        ("newcomer.py", ""),
    ],
)
def test_the_walk_sees_wrong_imports(tmp_path, file, source):
    path = tmp_path / "mtrl_jax" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert len(list(_violations([path], tmp_path))) == 1


# What names the device axis or acts over it. `surgery` has an axis of sharded parameters.
_DEVICE_AXIS = {
    "axis_name",
    "pmap",
    "shard_map",
    "AXIS",
    *("psum", "pmean", "pmax", "pmin", "ppermute", "pshuffle", "psum_scatter", "pcast", "pvary"),
    *("all_gather", "all_to_all", "axis_index", "axis_size"),
}


def _of_the_device_axis(path):
    """Sentences, one for each place in a file that knows of the device axis."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = {getattr(node, field, None) for field in ("id", "attr", "arg", "name")}
        module = getattr(getattr(node, "value", None), "id", None)
        if names & _DEVICE_AXIS and (module, *names - {None}) != ("learner", "pmap"):
            yield f"{path}:{node.lineno}: {', '.join(names & _DEVICE_AXIS)}"


def test_the_device_axis_stands_in_the_learner_alone():
    files = [p for folder in ("mtrl_jax", "experiments") for p in (ROOT / folder).rglob("*.py")]
    surgery = ROOT / "mtrl_jax" / "surgery"
    rest = [p for p in files if p != ROOT / "mtrl_jax/learner.py" and surgery not in p.parents]
    assert len(rest) > 100
    assert [sentence for path in rest for sentence in _of_the_device_axis(path)] == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def update(state, axis_name): ...", 1),
        ("x = jax.lax.pmean(x, 'device')", 1),
        ("from jax.lax import psum", 1),
        ("f = jax.vmap(f, axis_name='device')", 1),
        ("x = total(x, learner.AXIS)", 1),
        ("f = jax.pmap(f)", 1),
        ("f = learner.pmap(f, devices)", 0),
        ("x = collectives.mean(jax.lax.pow(x, 2.0))", 0),
    ],
)
def test_the_walk_sees_the_device_axis(tmp_path, source, count):
    path = tmp_path / "x.py"
    path.write_text(source)
    assert len(list(_of_the_device_axis(path))) == count


_SHOW_LOADED = """
import importlib, sys
for name in {allowed!r}:
    importlib.import_module(name)
before = set(sys.modules)
importlib.import_module({module!r})
print("\\n".join(set(sys.modules) - before))
"""


@pytest.mark.parametrize(
    ("module", "allowed", "own"),
    [
        (
            "mtrl_jax.losses",
            ("jax", "optax", "chex", "numpy"),
            {"types", "_checks", "ranges", "returns", "distributions", "losses"},
        ),
        ("mtrl_jax.surgery", ("jax", "optax", "numpy"), {"surgery"}),
    ],
)
def test_importing_the_maths_loads_nothing_else(module, allowed, own):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    loaded = subprocess.run(
        [sys.executable, "-c", _SHOW_LOADED.format(module=module, allowed=allowed)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=ROOT,
    ).stdout.split()
    ours = {name.split(".")[1] for name in loaded if name.startswith("mtrl_jax.")}
    assert module in loaded
    assert ours <= own
    # Parts of the allowed libraries and of Python that they had not needed until now are fine.
    known = {*allowed, "jaxlib", "mtrl_jax"} | sys.stdlib_module_names
    assert {name.split(".")[0] for name in loaded} - known == set()
