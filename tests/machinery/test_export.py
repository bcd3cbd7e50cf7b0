"""Exported policies beside the agents that they are of, to the bit, and with jax alone."""

import functools
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import evaluate, export, rollout, serve
from tests.machinery import pages, tiny
from tests.machinery.exported_policies import AGENTS, STEPS, VECTOR, K, learnt, rows_of

pytest.importorskip("flatbuffers", reason="python -m pip install flatbuffers")


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Any:
    """The exported policy of an agent by its name, made once."""

    @functools.cache
    def make(name: str) -> pathlib.Path:
        spec, agent, _, greedy = AGENTS[name]
        folder = tmp_path_factory.mktemp("policies") / name
        return export.write(folder, spec, agent, learnt(name), step=7, greedy=greedy)

    return make


def flat(x: Any) -> Any:
    """`[K, E, ...]` to rows of which one task follows another."""
    return np.asarray(x).swapaxes(0, 1).reshape(-1, *np.shape(x)[2:])


POLICIES = [
    (name, policy)
    for name, (_, agent, *_) in AGENTS.items()
    for policy in serve.POLICIES[: 1 + agent.has_distilled]
]


@pytest.mark.parametrize(("name", "policy"), POLICIES)
def test_it_acts_as_the_agent_does_to_the_bit(name, policy, folders):
    spec, agent, envs, greedy = AGENTS[name]
    served = serve.load(folders(name), policy)
    act = jax.jit(rollout.acting(agent, distilled=policy == "distilled_policy", greedy=greedy))
    number = flat(np.arange(K * envs).reshape(envs, K).T)  # a row's number, which its key has
    tasks = flat(np.repeat(np.arange(K)[:, None], envs, axis=1))
    memory, actor, seen = None, agent.init_actor(envs), []
    for t in range(STEPS):
        row, key = rows_of(spec, envs, t), jax.random.fold_in(jax.random.key(3), t)
        keys = jax.vmap(lambda n, key=key: jax.random.fold_in(key, n))(number)
        keys = keys.reshape(envs, K).T
        want, _, actor = act(learnt(name), actor, row, keys)
        action, memory = served.act(
            flat(row.observation),
            tasks,
            memory,
            key,
            reward=flat(row.reward),
            first=flat(row.first),
        )
        assert action.dtype == spec.action_dtype
        np.testing.assert_array_equal(action, flat(want))
        for have, leaf in zip(memory, jax.tree.leaves(actor), strict=True):
            np.testing.assert_array_equal(have, flat(leaf))
        seen.append(np.asarray(action))
    assert len(np.unique(seen)) > 1


def test_rows_of_any_tasks_in_any_order(folders):
    """Twelve rows of one call, dealt out unevenly, are the rows of calls of their own."""
    served = serve.load(folders("ppo-likeliest"))
    names = ["pull", "reach", "pull", "pull", "reach", "pull"]
    observation = np.random.default_rng(0).normal(size=(6, 5))  # float64, as gymnasium has it
    together, memory = served.act(observation, names)
    assert memory == () and served.task_names == VECTOR.task_names
    for n, name in enumerate(names):
        for task in (name, VECTOR.task_names.index(name)):
            alone, _ = served.act(observation[n : n + 1], task)
            np.testing.assert_allclose(alone[0], together[n], rtol=1e-5)
    inside = jax.jit(lambda x: served.act(x, names)[0])(observation.astype(np.float32))
    np.testing.assert_allclose(inside, together, rtol=1e-5)


def test_of_a_padded_run_each_task_gives_and_gets_what_is_its_own(folders):
    spec, agent, envs, greedy = AGENTS["ppo-padded"]
    served = serve.load(folders("ppo-padded"))
    about = served.description
    assert about["observation"]["own_shape"] == {"reach": [5], "push": [3], "pull": [3]}
    assert about["action"]["own_shape"] == {"reach": [2], "push": [1], "pull": [1]}
    act = jax.jit(rollout.acting(agent, greedy=greedy))
    row, key = rows_of(spec, envs, 0), jax.random.key(3)
    seen = row.observation * spec.observation_mask[:, None]
    number = np.arange(envs)  # a call's rows are of one task
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(number)
    keys = jnp.stack([keys] * K)
    want, *_ = act(learnt("ppo-padded"), (), row._replace(observation=seen), keys)
    for k, (task, size, width) in enumerate([("reach", 5, 2), ("push", 3, 1), ("pull", 3, 1)]):
        for own in (seen[k, :, :size], seen[k, :, :size].reshape(envs, 1, size), seen[k]):
            action, _ = served.act(own, task, None, key)
            assert action.shape == (envs, width)
            np.testing.assert_array_equal(action, want[k, :, :width])
    inside = jax.jit(lambda x: served.act(x, "push", None, key)[0])(seen[1, :, :3])
    np.testing.assert_allclose(inside, want[1, :, :1], rtol=1e-5)
    both, _ = served.act(seen[1, :, :3], ["push", "pull"], None, key)  # of one shape
    assert both.shape == (2, 1)
    np.testing.assert_allclose(both[0], want[1, 0, :1], rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"float32 \[B, 3\], as the task has it, or padded \[B, 5\]; .*\[2, 4\]"
    ):
        served.act(seen[1, :, :4], "push", None, key)
    with pytest.raises(ValueError, match=r"must be float32 \[B, 5\]; got float32 \[2, 3\]"):
        served.act(seen[1, :, :3], ["reach", "push"], None, key)


def test_the_description_says_what_is_needed(folders):
    read = {name: json.loads((folders(name) / "policy.json").read_text()) for name in AGENTS}
    one = read["distral-lstm"]
    assert one["schema"] == serve.SCHEMA and one["step"] == 7
    assert one["tasks"] == ["reach", "push", "pull"]
    assert one["platforms"] == ["cpu", "cuda", "tpu"]
    assert one["observation"]["shape"] == [3, 2] and one["observation"]["dtype"] == "uint8"
    assert one["action"]["allowed"] == {"reach": [0, 1, 2, 3], "push": [0, 1, 3], "pull": [1, 2]}
    assert one["policies"] == list(serve.POLICIES) and one["actions"] == "drawn"
    four = {"shape": [4], "dtype": "float32"}
    assert one["memory"] == [{"shape": [], "dtype": "int32"}, *[four] * 4]
    everything = ["observation", "reward", "first", "memory", "key"]
    assert one["reads"] == dict.fromkeys(serve.POLICIES, everything)
    assert read["ppo-likeliest"]["reads"] == {"task_policy": ["observation"]}
    assert read["ppo-likeliest"]["actions"] == read["dqn"]["actions"] == "likeliest"
    assert read["sac"]["reads"] == {"task_policy": ["observation", "key"]}
    assert read["sac"]["action"] == {"kind": "continuous", "size": 2, "low": -1.0, "high": 1.0}
    assert read["ppo"]["memory"] == []


_ACT = """
import sys
import jax, numpy
from mtrl_jax import serve
policy = serve.load(sys.argv[1], "distilled_policy")
observation = numpy.arange(18, dtype=numpy.uint8).reshape(3, 3, 2) % 6
action, memory = policy.act(observation, ["pull", "push", "pull"], None, jax.random.key(5))
action, memory = policy.act(observation, 2, memory, jax.random.key(6), reward=numpy.ones(3))
print(*action, *memory[1].ravel().tolist())
print(*sorted(name for name in sys.modules if name.startswith("mtrl_jax")))
"""
WITH_JAX = ("jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum")  # pip install jax


def test_jax_is_all_that_it_needs(folders, tmp_path):
    """In a process that sees no other library."""
    for name in (*WITH_JAX, "flatbuffers", "mtrl_jax"):
        path = pathlib.Path(importlib.util.find_spec(name).origin).parent
        for folder in (path, path.with_name(f"{name}.libs")):
            if folder.exists():
                (tmp_path / folder.name).symlink_to(folder)
    done = subprocess.run(
        [sys.executable, "-S", "-c", _ACT, folders("distral-lstm")],
        # Compiled as here: what is compared is equal to the bit.
        env=os.environ | {"PYTHONPATH": str(tmp_path), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    acted, modules = done.stdout.splitlines()
    policy = serve.load(folders("distral-lstm"), "distilled_policy")
    observation = np.arange(18, dtype=np.uint8).reshape(3, 3, 2) % 6
    _, memory = policy.act(observation, ["pull", "push", "pull"], None, jax.random.key(5))
    action, memory = policy.act(observation, 2, memory, jax.random.key(6), reward=np.ones(3))
    assert acted.split() == [*map(str, action), *map(str, memory[1].ravel().tolist())]
    assert modules.split() == ["mtrl_jax", "mtrl_jax.serve"]


X, KEY = np.zeros((2, 5), np.float32), jax.random.key(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"observation": np.zeros((2, 4))},
            r"observation must be float32 \[B, 5\]; got .*\[2, 4\]",
        ),
        ({"observation": np.zeros(5)}, r"observation must be float32 \[B, 5\]; got float64 \[5\]"),
        ({"observation": np.zeros((0, 5))}, "at least one row"),
        ({"observation": X + np.nan}, "observation must be finite"),
        ({"observation": None}, "observation must be float32"),
        ({"observation": X + 1j}, "observation must be float32"),
        (
            {"task": "walk"},
            "task must be one of reach, push, pull, or a number below 3; got 'walk'",
        ),
        ({"task": 3}, "number below 3; got 3"),
        ({"task": -1}, "number below 3; got -1"),
        ({"task": True}, "number below 3; got True"),
        ({"task": None}, "number below 3; got None"),
        ({"task": [0, 1.0]}, "number below 3"),
        ({"task": ["reach"]}, "one for each of 2 rows; got 1"),
        ({"key": None}, "key must be given"),
        ({"key": 0}, "key must be one key of threefry2x32"),
        ({"key": jax.random.split(KEY)}, "key must be one key"),
        ({"key": jax.random.key(0, impl="rbg")}, "key must be one key of threefry2x32"),
        ({"memory": ()}, "memory must hold 1 arrays; got 0"),
        ({"memory": (np.zeros(3, np.int32),)}, r"memory\[0\] must be int32 \[B = 2, ...\]"),
        ({"memory": (np.zeros(2, np.int32),)}, "reward must be given"),
        ({"first": np.array([True, False])}, "memory must be what the last call returned"),
        ({"first": [1, 1]}, "first must be bool"),
        ({"first": np.ones(3, bool)}, r"first must be bool \[2\]"),
        ({"reward": np.ones((2, 1))}, r"reward must be float32 \[2\]"),
        ({"reward": np.full(2, np.inf)}, "reward must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message, folders):
    policy = serve.load(folders("distral"))
    with pytest.raises(ValueError, match=message):
        policy.act(**{"observation": X, "task": 0, "key": KEY, **arguments})


def test_a_traced_task_is_refused(folders):
    policy = serve.load(folders("distral"))
    with pytest.raises(ValueError, match="task must be known while compiling"):
        jax.jit(lambda task: policy.act(X, task, None, KEY))(1)


def test_what_is_no_policy_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="holds no exported policy"):
        serve.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"policy must be one of task_policy in .*; got 'd"):
        serve.load(folders("ppo"), "distilled_policy")
    other = tmp_path / "other"
    shutil.copytree(folders("ppo"), other)
    shutil.copy(folders("ppo-continuous") / "numbers.npz", other)
    with pytest.raises(ValueError, match=r"numbers.npz in .*other does not belong to task_policy"):
        serve.load(other)
    (other / "task_policy.jaxexport").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"the policy in .*other cannot be read"):
        serve.load(other)
    text = (other / "policy.json").read_text()
    (other / "policy.json").write_text(text.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ValueError, match="of schema 2, this version reads 1"):
        serve.load(other)


def test_a_folder_is_replaced_only_where_it_is_an_export(folders, tmp_path):
    spec, agent, _, _ = AGENTS["ppo-likeliest"]
    folder = tmp_path / "policy"
    shutil.copytree(folders("distral"), folder)
    export.write(folder, spec, agent, learnt("ppo-likeliest"), step=8)
    assert serve.load(folder).description["step"] == 8
    assert not (folder / "distilled_policy.jaxexport").exists()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(notes.txt\)"):
        export.write(folder, spec, agent, learnt("ppo-likeliest"), step=8)
    with pytest.raises(ValueError, match="step"):
        export.write(tmp_path / "new", spec, agent, learnt("ppo-likeliest"), step=-1)
    with pytest.raises(ValueError, match="only draws"):
        random = evaluate.random_agent(spec)
        export.write(tmp_path / "new", spec, random, (), step=0, greedy=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_page_runs_and_its_policies_act(tmp_path, monkeypatch):
    """One episode of each task in the `metaworld` package has its 500 actions, and some reward."""
    pytest.importorskip("metaworld", reason="python -m pip install metaworld")
    monkeypatch.chdir(tmp_path)
    text = (pages.DOCS / "serving.md").read_text(encoding="utf-8")
    with tiny.quick_compiles():
        names = pages.run(text)
    assert set(names["returns"]) == {"reach", "window-open"}
    assert all(0 < value < 5_000 for value in names["returns"].values())
