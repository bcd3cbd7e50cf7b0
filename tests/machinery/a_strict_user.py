"""What a user writes, for `mypy --strict` in test_surgery_api.py; not run."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import surgery

Params = dict[str, jax.Array]
Factory = Callable[..., optax.GradientTransformationExtraArgs]


def choose(name: str) -> optax.GradientTransformation:
    factory: Factory = surgery.METHODS[name]
    return optax.chain(factory(num_tasks=2, seed=0), optax.adam(1e-3))


def main() -> jax.Array:
    params: Params = {"w": jnp.zeros(2)}
    tx = surgery.pcgrad(num_tasks=2, order="fixed", scope="leaf", mask={"w": True})
    plain: optax.GradientTransformationExtraArgs = surgery.sum(2, diagnostics=True)
    state = tx.init(params)
    _, state = tx.update({"w": jnp.ones((2, 2))}, state, params, present=jnp.ones(2, bool))
    weights: jax.Array = surgery.mgda_weights(jnp.eye(2))
    found: surgery.Diagnostics = surgery.diagnostics(plain.init(params))
    return found.converged & (weights.sum() > 0)


surgery.pcgrad(num_tasks=2, order="sorted")  # error: arg-type
surgery.upgrad(num_tasks=2, scope="layer")  # error: arg-type
surgery.mgda(num_tasks=2, sead=1)  # error: call-arg
surgery.cagrad(num_tasks=2, rescale="cubic")  # error: arg-type
