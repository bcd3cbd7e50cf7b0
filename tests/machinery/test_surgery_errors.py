"""Wrong input fails while tracing, with a sentence that names the leaf."""

import jax
import jax.numpy as jnp
import pytest

from mtrl_jax import surgery

PARAMS = {"torso": {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}, "head": jnp.zeros(5)}
GOOD = jax.tree.map(lambda x: jnp.ones((4, *x.shape)), PARAMS)


def with_leaf(name, value):
    return {"torso": {**GOOD["torso"], name: value}, "head": GOOD["head"]}


CASES = {
    "summed already": (
        with_leaf("w", jnp.ones((3, 2))),
        r"\['torso'\]\['w'\] has the shape \(3, 2\) of the parameter itself.*task axis is missing",
    ),
    "scalar": (with_leaf("b", jnp.float32(1)), r"\['torso'\]\['b'\] is a scalar.*task axis"),
    "another number of tasks": (
        with_leaf("b", jnp.ones((3, 2))),
        r"\['torso'\]\['b'\] has shape \(3, 2\).*not the task axis of 4",
    ),
    "task axis last": (
        with_leaf("w", jnp.ones((3, 2, 4))),
        r"\['torso'\]\['w'\] has shape \(3, 2, 4\); expected \[K, \*param\] = \(4, 3, 2\)",
    ),
    "two task axes": (
        with_leaf("b", jnp.ones((4, 4, 2))),
        r"\['torso'\]\['b'\] has shape \(4, 4, 2\); expected \[K, \*param\] = \(4, 2\)",
    ),
    "integers": (
        with_leaf("w", jnp.ones((4, 3, 2), jnp.int32)),
        r"\['torso'\]\['w'\] must be of a real floating type, got int32",
    ),
    "complex": (
        with_leaf("w", jnp.ones((4, 3, 2), jnp.complex64)),
        r"\['torso'\]\['w'\] must be of a real floating type, got complex64",
    ),
    "parameters": (PARAMS, r"\['head'\] has the shape \(5,\) of the parameter itself"),
    "another tree": ({"torso": GOOD["torso"]}, r"same kind of tree; they differ at \['head'\]"),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_gradients(case):
    grads, message = CASES[case]
    tx = surgery.pcgrad(num_tasks=4)
    state = tx.init(PARAMS)
    for update in (tx.update, jax.jit(tx.update)):
        with pytest.raises(ValueError, match=message):
            update(grads, state, PARAMS)


def test_without_params_the_task_axis_is_still_checked():
    tx = surgery.pcgrad(num_tasks=4)
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=r"\['torso'\]\['b'\] has shape \(3, 2\).*axis of 4"):
        tx.update(with_leaf("b", jnp.ones((3, 2))), state)
    with pytest.raises(ValueError, match=r"\['head'\] has shape \(5,\).*axis of 4 \(num_tasks=4\)"):
        tx.update(PARAMS, state)
    jax.eval_shape(tx.update, GOOD, state)


@pytest.mark.parametrize(
    "name",
    [
        "gradnorm",
        "famo",
        "uncertainty_weighting",
        "dwa",
        "imtl_l",
        "stch",
        "go4align",
        "db_mtl",
        "moco",
    ],
)
def test_missing_or_wrong_losses(name):
    tx = surgery.METHODS[name](num_tasks=4)
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=rf"surgery\.{name} weights tasks by their losses.*\[4\]"):
        tx.update(GOOD, state, PARAMS)
    with pytest.raises(ValueError, match=r"task_losses must be 4 floating.*got shape \(3,\)"):
        tx.update(GOOD, state, PARAMS, task_losses=jnp.ones(3))
    with pytest.raises(ValueError, match=r"task_losses must be 4 floating.*int32"):
        tx.update(GOOD, state, PARAMS, task_losses=jnp.ones(4, jnp.int32))


def test_curvature_needs_parameters_and_losses():
    tx = surgery.pcgrad(num_tasks=4, diagnostics="curvature")
    state = tx.init(PARAMS)
    with pytest.raises(
        ValueError, match=r"with diagnostics='curvature' weights tasks by their losses"
    ):
        tx.update(GOOD, state, PARAMS)
    with pytest.raises(ValueError, match="curvature' needs the parameters"):
        tx.update(GOOD, state, task_losses=jnp.ones(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: surgery.pcgrad(num_tasks=2, reduction="max"),
            "reduction must be one of 'sum', 'm",
        ),
        (lambda: surgery.pcgrad(num_tasks=2, order="sorted"), "order must be one of 'independent'"),
        (
            lambda: surgery.pcgrad(num_tasks=2, scope="layer"),
            "scope must be one of 'global', 'leaf",
        ),
        (lambda: surgery.pcgrad(num_tasks=2, diagnostics="all"), "diagnostics must be one of True"),
        (lambda: surgery.cagrad(num_tasks=2, c=-1.0), r"c must be positive or zero, got -1\.0"),
        (lambda: surgery.fairgrad(num_tasks=2, alpha=0.0), "alpha must be positive, got 0"),
        (lambda: surgery.nash_mtl(num_tasks=2, max_norm=0.0), "max_norm must be positive"),
        (lambda: surgery.aligned_mtl(num_tasks=2, scale="max"), "scale must be one of 'min'"),
        (lambda: surgery.gradient_cosine(num_tasks=2, gate=0.5), "gate must be one of 'soft'"),
        (lambda: surgery.dwa(num_tasks=2, temperature=0.0), "temperature must be positive"),
        (lambda: surgery.pcgrad(num_tasks=0).init(PARAMS), "num_tasks must be a positive integer"),
        (
            lambda: surgery.pcgrad(num_tasks=2.5).init(PARAMS),
            "num_tasks must be a positive integer",
        ),
        (
            lambda: surgery.pcgrad(num_tasks=2, mask={"torso": True}).init(PARAMS),
            "mask must be a prefix of the tree",
        ),
        (
            lambda: surgery.pcgrad(num_tasks=2, mask={"torso": True, "head": 1.0}).init(PARAMS),
            r"mask must hold booleans, got 1\.0 at \['head'\]",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
