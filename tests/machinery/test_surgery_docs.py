"""The snippets of docs/surgery.md run, in order, and train; what it names exists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import DOCS, python_blocks, run

from mtrl_jax import surgery
from tests.machinery import tiny

PAGE = (DOCS / "surgery.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield


@pytest.fixture(scope="module")
def page():
    assert len(python_blocks(PAGE)) >= 8
    return run(PAGE)


def test_snippets_run_and_every_framework_returns_a_loss_per_task(page):
    assert page["losses"].shape == (page["K"],)
    assert page["params"]["w"].shape == (5, 2) and (page["params"]["w"] != 0).any()
    assert int(page["train_state"].step) == 1
    assert jax.tree.leaves(page["arrays"])[0].shape == (16, 5)  # no task axis left on a leaf


def test_the_hand_written_loop_learns(page):
    params, state = page["params"], page["tx"].init(page["params"])
    seen = []
    with jax.numpy_rank_promotion("allow"):
        for _ in range(200):
            params, state, losses = page["step"](params, state, page["batches"])
            seen.append(float(losses.sum()))
    assert seen[-1] < 0.95 * seen[0]


def test_heads_outside_surgery_get_the_sum(page):
    k = page["K"]
    tx = surgery.pcgrad(num_tasks=k, mask={"torso": True, "heads": False})
    params = page["heads_params"]
    grads = jax.tree.map(
        lambda p: jnp.arange(k * p.size, dtype=p.dtype).reshape(k, *p.shape), params
    )
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["heads"], np.sum(grads["heads"], 0))


def test_every_method_is_named_on_the_page():
    assert [name for name in surgery.METHODS if f"`{name}`" not in PAGE] == []
