"""What a user brings by name: the grammar, and each way to get it wrong in one sentence."""

import pathlib
import subprocess
import sys

import pytest

from mtrl_jax import by_name
from mtrl_jax.envs import suites
from tests.machinery import commands

_MODULE = """
from tests.probes.probe_envs import PROBES

def make_suite(name, length: int = 3, /, slip=0.0, **more):
    return name, length, slip, more

def probe(which="truncation", reward=1):
    assert reward < 5, "too much"
    return PROBES[which]()

def shapes():
    suite = PROBES["truncation"]()
    return suite._replace(spec=suite.spec._replace(observation_shape=(7, 7)))

def number():
    return 3

def careless(spec, *, size):
    return spec, size

nothing = 3
"""


@pytest.fixture
def module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own in the current directory."""
    (tmp_path / "their_own.py").write_text(_MODULE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "their_own"
    sys.modules.pop("their_own", None)


@pytest.mark.parametrize(
    ("text", "head", "options"),
    [
        ("maze8", "maze8", {}),
        ("a.b:make", "a.b:make", {}),
        ("a:f:length=7:slip=.1", "a:f", {"length": 7, "slip": 0.1}),
        ("ml10:goal=hidden", "ml10", {"goal": "hidden"}),
        ("a:f:x=True:y=None:z=-1e-3", "a:f", {"x": True, "y": None, "z": -1e-3}),
        ("a:f:sizes=(64, 64):who='b: c'", "a:f", {"sizes": (64, 64), "who": "b: c"}),
        ("a:f:url=http://x:map={1: 2}", "a:f", {"url": "http://x", "map": {1: 2}}),
        ("gymnasium:my_mod:Env-v0,B-v1:n=1", "gymnasium:my_mod:Env-v0,B-v1", {"n": 1}),
        ("a:f:empty=", "a:f", {"empty": ""}),
        ("a:f:true=true", "a:f", {"true": "true"}),
    ],
)
def test_the_grammar(text, head, options):
    assert by_name.parse(text) == (head, options)


def test_arguments_reach_the_function(module):
    function = by_name.load(f"{module}:careless", "agent")
    assert by_name.call("x", "agent", function, 1, size=2) == (1, 2)
    assert suites.make(f"{module}:probe:which=constant_reward").spec.num_tasks > 0
    permuted = suites.make(f"{module}:probe", permute_actions=1)
    assert permuted.spec.num_actions == suites.make(f"{module}:probe").spec.num_actions


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("their_own:probe:size=3", r"suite 'their_own:probe:size=3' takes which, reward; got size"),
        ("their_own:number:n=1", "takes no options; got n"),
        ("their_own:careless", "needs a value for spec, as :spec=..."),
        ("their_own:probe:which=1:which=2", "gives which twice"),
        ("their_own:number", "must return a FunctionalSuite or a HostSuite; got a int"),
        ("their_own:shapes", "suite their_own:shapes: its spec says observation float32.*7, 7"),
        ("their_own:nothing", "'their_own:nothing' is not a function"),
        ("their_own:no_such", "cannot be loaded: module 'their_own' has no attribute 'no_such'"),
        ("their_own:probe:3", r"is not module:function with arguments behind it as :name=value"),
        ("their_own:probe:reward=7", r"cannot be made: AssertionError: too much \(.*, line 8\)"),
        ("broken:make", r"cannot be loaded: ZeroDivisionError: .*broken.py, line 1"),
        ("no_such_module:f", "No module named 'no_such_module' in the current directory or among"),
        ("envpol:Pong-v5", r"cannot be loaded: .* \(did you mean envpool:\?\)"),
        ("os:getcwd", "a function of Python itself, which has no suites"),
        ("maze8:size=3", "suite 'maze8:size=3' takes no options; got size"),
        ("small_games:catch:size=3", "takes no options; got size"),
        ("metaworld:reach:goal=secret", "goal must be one of visible, hidden; got 'secret'"),
        ("mt10:gaol=hidden", "suite 'mt10:gaol=hidden' takes goal; got gaol"),
    ],
)
def test_what_is_refused(name, sentence, module):
    with pytest.raises(ValueError, match=sentence):
        suites.make(name)


@pytest.mark.parametrize(("flags", "found"), [((), True), (("-P",), False)])
def test_the_console_script_finds_modules_of_the_current_directory(flags, found, tmp_path):
    """As `python -m` does, unless Python is told not to."""
    script, here = tmp_path / "bin" / "mtrl", tmp_path / "here"
    for folder in (script.parent, here):
        folder.mkdir()
    script.write_text("from experiments.__main__ import main\nmain()\n")
    (here / "mine.py").write_text("def make():\n    raise ValueError('here I am')\n")
    done = subprocess.run(
        [sys.executable, *flags, script, "distral", "--suite=mine:make"],
        env=commands.environment(1),
        cwd=here,
        capture_output=True,
        text=True,
        timeout=120,
    )
    sentence = "cannot be made: ValueError: here I am" if found else "No module named 'mine'"
    assert done.returncode == 2 and sentence in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert [path.name for path in here.iterdir() if path.name != "__pycache__"] == ["mine.py"]
