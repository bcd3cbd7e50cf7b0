"""Exported as ONNX a policy acts as the agent does, in a runtime that knows no jax."""

import sys

import jax
import numpy as np
import pytest

from mtrl_jax import export, rollout, serve
from tests.machinery import tiny
from tests.machinery.exported_policies import AGENTS, STEPS, K, learnt, rows_of


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.mark.parametrize("name", ["ppo-likeliest", "distral-likeliest"])
def test_onnx_acts_as_the_agent_does(name):
    pytest.importorskip("jax2onnx", reason="python -m pip install jax2onnx onnxruntime")
    runtime = pytest.importorskip("onnxruntime", reason="python -m pip install onnxruntime")
    spec, agent, envs, greedy = AGENTS[name]
    found = export.onnx_models(spec, agent, learnt(name), rows=envs, greedy=greedy)
    assert list(found) == [f"{policy}.onnx" for policy in serve.POLICIES[: 1 + agent.has_distilled]]
    session = runtime.InferenceSession(found["task_policy.onnx"])
    act, actor = jax.jit(rollout.acting(agent, greedy=greedy)), agent.init_actor(envs)
    memory, outputs = jax.tree.leaves(actor), [x.name for x in session.get_outputs()]
    assert outputs == ["action", *(f"next_memory/{n}" for n in range(len(memory)))]
    for t in range(STEPS):
        row = rows_of(spec, envs, t)
        given = {"observation": row.observation, "reward": row.reward, "first": row.first}
        given |= {f"memory/{n}": np.asarray(x) for n, x in enumerate(memory)}
        read = {x.name for x in session.get_inputs()}
        action, *memory = session.run(None, {n: x for n, x in given.items() if n in read})
        want, _, actor = act(
            learnt(name), actor, row, jax.random.split(jax.random.key(0), (K, envs))
        )
        np.testing.assert_allclose(action, want, atol=1e-5)


def test_onnx_of_what_draws_is_refused(monkeypatch):
    spec, agent, _, _ = AGENTS["ppo"]
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match="ONNX needs jax2onnx"):
        export.onnx_models(spec, agent, learnt("ppo"), greedy=True)
    monkeypatch.setitem(sys.modules, "jax2onnx", object())
    with pytest.raises(ValueError, match="onnx must be left out of a policy that draws"):
        export.onnx_models(spec, agent, learnt("ppo"), greedy=False)
