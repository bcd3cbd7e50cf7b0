"""How far it is from a command to a step of the optimiser, counted in files.

Functions that run in `python -m experiments.distral` until `learner.gradient_step` first calls the
optimiser are traced. A file in which one ran is on the road, or in a side room with a reason why
nobody who follows the training has to open it.
"""

import subprocess
import sys

import pytest

from tests.machinery import commands

MAX_ROAD = 16
# In the order in which a reader meets them.
ROAD = (
    "experiments/distral/__main__.py",
    "experiments/common/run_flags.py",
    "experiments/distral/run.py",
    "experiments/common/agents.py",
    "experiments/common/runs.py",
    "mtrl_jax/train.py",
    "mtrl_jax/engines.py",
    "mtrl_jax/envs/maze.py",
    "mtrl_jax/rollout.py",
    "mtrl_jax/algorithms/distral.py",
    "mtrl_jax/networks/columns.py",
    "mtrl_jax/distributions.py",
    "mtrl_jax/losses/distral/objective.py",
    "mtrl_jax/losses/distral/loss.py",
    "mtrl_jax/returns.py",
    "mtrl_jax/learner.py",
)
SIDE_ROOMS = {
    "experiments/common/beginning.py": "--begin_from; without it nothing",
    "experiments/common/binary.py": "flags are parsed, errors become sentences",
    "experiments/common/compile_cache.py": "where compiled programs are kept",
    "experiments/common/given.py": "lists and numbers of flags, looked at before anything runs",
    "experiments/common/override.py": "--config_overrides",
    "experiments/common/progress.py": "the progress bar",
    "experiments/common/proportion.py": "how long evaluations are beside training",
    "experiments/common/task_flags.py": "flags of weights and of what is frozen, here not given",
    "mtrl_jax/_checks.py": "argument checks",
    "mtrl_jax/algorithms/checks.py": "numbers that several algorithms share, looked at",
    "mtrl_jax/by_name.py": "options of what is named, and what users bring by name",
    "mtrl_jax/checkpoint.py": "saving and restoring",
    "mtrl_jax/curriculum.py": "weights of tasks; here none",
    "mtrl_jax/dispatch.py": "a scan of the road's next two files: rollout.unroll, agent.update",
    "mtrl_jax/envs/check.py": "whether a suite is what its spec says",
    "mtrl_jax/envs/functional.py": "many environments as one; each is as maze.py has it",
    "mtrl_jax/envs/suites.py": "the table of suites by name",
    "mtrl_jax/evaluate.py": "evaluation, which learns nothing",
    "mtrl_jax/evaluations.py": "when a run evaluates, and what it tells meanwhile",
    "mtrl_jax/freeze.py": "which parameters stay as they are; here none",
    "mtrl_jax/losses/distral/table1.py": "the coefficients of each algorithm by name",
    "mtrl_jax/memory.py": "programs of earlier runs are given back",
    "mtrl_jax/metrics.py": "what is logged",
    "mtrl_jax/pace.py": "how many dispatches are on their way; one, on a CPU",
    "mtrl_jax/ranges.py": "what numbers may be",
    "mtrl_jax/processes.py": "several processes; one does nothing there",
    "mtrl_jax/surgery/checks.py": "argument checks",
    "mtrl_jax/surgery/diagnostics.py": "what surgery tells, for the log",
    "mtrl_jax/surgery/dtypes.py": "the dtype in which surgery adds up",
    "mtrl_jax/surgery/memory.py": "what a method remembers of gradients; here nothing",
    "mtrl_jax/surgery/method.py": "the record that a method of surgery is",
    "mtrl_jax/surgery/parts.py": "which parameters surgery sees; here all",
    "mtrl_jax/surgery/state.py": "the record of surgery's state",
    "mtrl_jax/surgery/sum.py": "the tasks' gradients are added up",
    "mtrl_jax/surgery/transform.py": "a method as a transform of optax; here a sum",
    "mtrl_jax/types.py": "the records that pass between the others",
    "mtrl_jax/workdir.py": "whose run a directory is",
    "mtrl_jax/writers.py": "where metrics go",
}

_TRACE = """
import os, runpy, sys
root, module = sys.argv[1] + os.sep, sys.argv[2]
OF_A_FUNCTION, NOT_ITS_OWN = 1, ("<dictcomp>", "<listcomp>", "<setcomp>", "<genexpr>")
files = {}

def watch(frame, event, _):
    if event != "call":
        return
    code, caller = frame.f_code, frame.f_back
    if code.co_name.startswith("update") and caller.f_code.co_name == "gradient_step":
        print("ROAD", *files, flush=True)
        os._exit(0)
    if code.co_flags & OF_A_FUNCTION and code.co_name not in NOT_ITS_OWN:
        if code.co_filename.startswith(root):
            files[code.co_filename.removeprefix(root)] = None

sys.argv = [module, *sys.argv[3:]]
sys.setprofile(watch)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> list[str]:
    """Files of the project in which a function ran, in the order of the first that did."""
    arguments = (
        "--suite=maze8",
        "--noalone",
        "--num_envs_per_task=2",
        "--total_env_steps=64",
        "--config_overrides=hidden=4,unroll_length=2",
        f"--workdir={tmp_path_factory.mktemp('road') / 'run'}",
    )
    program = ("-c", _TRACE, str(commands.ROOT), "experiments.distral")
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        env=commands.environment(1),
        cwd=commands.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    word, *files = done.stdout.splitlines()[-1].split()
    assert word == "ROAD", done.stdout
    ours = ("experiments/", "mtrl_jax/")
    return [file for file in files if file.startswith(ours)]


def test_the_road_is_short_and_all_of_it_is_walked(traced):
    assert len(ROAD) == len(set(ROAD)) <= MAX_ROAD
    assert set(ROAD) - set(traced) == set()


def test_every_other_file_on_the_way_has_a_reason(traced):
    assert set(ROAD) & set(SIDE_ROOMS) == set()
    assert set(traced) - set(ROAD) - set(SIDE_ROOMS) == set(), "put each into one of the tables"
    assert set(SIDE_ROOMS) - set(traced) == set(), "nobody passes these any more"
    assert all(SIDE_ROOMS.values())
