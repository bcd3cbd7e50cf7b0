"""What a network of a user's own must take and give: accepted, or refused in one sentence."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.algorithms import actor_critic, actor_q, dqn, ppo, q_network, sac
from mtrl_jax.networks import contract, multitask
from tests.machinery import own_networks, pages
from tests.maths import network_table
from tests.probes import probe_envs

K, SIZE = 2, 4
PATH = "tests.machinery.own_networks:"


def make(name: str, **options):
    return multitask.make(PATH + name, K, (8,), SIZE, task_names=("a", "b"), **options)


@pytest.mark.parametrize("name", network_table.NETWORKS)
def test_those_that_are_there_keep_to_it(name):
    contract.check(network_table.make(name), name, network_table.K, network_table.SIZE)


def test_fields_are_set_where_they_are():
    options = {"out_scale": 0.01, "activation": "tanh", "layer_norm": True}
    full = make("Full:spread=2.", **options)
    assert (full.num_tasks, full.hidden, full.size) == (K, (8,), SIZE)
    assert {name: getattr(full, name) for name in options} == options
    assert full.task_names == ("a", "b") and full.spread == 2
    assert isinstance(make("Bare", **options), own_networks.Bare)
    assert make("made:wide=True").hidden == (64,)


def test_its_tasks_share_and_own_what_it_says():
    net = make("Full")
    shared, own = multitask.init(net, jax.random.key(0), 5)
    assert set(own) == {"gate", "out_kernel", "out_bias"} and "dense0" in shared
    x = jnp.ones((K, 3, 5))
    y = multitask.by_task(net, shared, own, x)

    def of_task(k, y=y):
        grad = jax.grad(lambda own: multitask.by_task(net, shared, own, x)[k].sum())(own)
        return [np.abs(leaf[1 - k]).max() for leaf in jax.tree.leaves(grad)]

    assert y.shape == (K, 3, SIZE) and of_task(0) == of_task(1) == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nameless", "must have the fields num_tasks, hidden, size; it lacks num_tasks, hidden"),
        ("Bare:spread=1", "takes num_tasks, hidden, size, .*; got spread"),
        ("Bare:size=3", "has no option size: it is not yours to set"),
        ("Bare:name=x", "has no option name"),
        ("OneArgument", r"__call__\(x, task\) is given float32 \[B, F\] and one .*; TypeError"),
        ("Narrow", r"must return floats \[B, size\] = \[3, 4\]; got float32 \[3, 3\]"),
        ("Pair", "got a tuple"),
        ("Whole", r"must return floats \[B, size\] = \[3, 4\]; got int32 \[3, 4\]"),
        ("Statistics", "collections params .* and task .*; init made .*batch_stats"),
        ("Looks", "one traced int32; TracerIntegerConversionError"),
        ("Draws", "InvalidRngError"),
        ("Counts", r"must have parameters of floats; \['params'\]\['count'\] is int32"),
        ("forgets", "must keep num_tasks = 2 as a field; it has 7"),
        ("nothing", "must be a flax.linen module, with init and apply; got a"),
        ("Missing", "has no attribute 'Missing'"),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(ValueError, match=f"^network .{re.escape(PATH)}.*{message}"):
        make(name)


def test_it_is_tried_on_as_many_inputs_as_it_will_get():
    with pytest.raises(ValueError, match="reshape"):
        make("Image")
    make("Image", num_inputs=6)
    spec = probe_envs.PROBES["action_matters"]().spec._replace(observation_shape=(6,))
    q_network.make(spec, PATH + "Image", "auto", (8,))
    actor_critic.make(spec, PATH + "Image", (8,), state_std=False, limit=0.0)
    critic = spec._replace(action_size=2, num_actions=0, observation_shape=(6,))
    with pytest.raises(ValueError, match="reshape"):  # the critic reads the action beside
        actor_q.make(critic, PATH + "Image", (8,), num_critics=2, layer_norm=False, limit=0.0)


@pytest.mark.parametrize("module", [dqn, ppo, sac])
def test_algorithms_take_it_and_refuse_a_wrong_one_when_they_are_made(module):
    spec = probe_envs.PROBES["action_matters"]().spec
    if module is sac:
        spec = spec._replace(action_size=2, num_actions=0)
    agent = module.agent(spec, module.Config(network=PATH + "Full:spread=.25", hidden=(8,)))
    state = jax.eval_shape(agent.init, jax.random.key(0))
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)}
    assert any("gate" in name for name in names)
    with pytest.raises(ValueError, match="must return floats"):
        module.agent(spec, module.Config(network=PATH + "Narrow"))


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_the_guide_has_the_same_table():
    guide = (pages.DOCS / "networks.md").read_text(encoding="utf-8")
    assert contract.__doc__ and len(rows(contract.__doc__)) > 10
    assert rows(contract.__doc__) == [line for line in rows(guide) if line in contract.__doc__]
