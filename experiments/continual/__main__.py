r"""One agent meets tasks one after the other: what it forgets, and what helps.

    python -m experiments.continual                                     # four small games
    python -m experiments.continual --sequence=small_games:catch,snake --method=ewc,packnet
    python -m experiments.continual --told=false --method=finetune,online_ewc

A table has a row for each method (PPO in all of them): final performance, forgetting and forward
transfer as in Continual World, with intervals over seeds; figures have the curves of every task
over the whole sequence. `reset`, a fresh network for each task, is always among them: it is the
scale. The same command goes on where it was stopped; with other methods it adds their rows.
"""

from absl import flags

from mtrl_jax import ranges, workdir
from mtrl_jax.algorithms import continual, ppo
from mtrl_jax.networks import multitask

from ..common import binary, given, run_flags
from ..common.override import override
from . import plan, report, run

USED = (
    *("workdir", "seed", "num_seeds", "pad", "total_env_steps", "num_envs_per_task"),
    *("num_devices", "log_every", "eval_every", "checkpoint_every", "keep", "writers"),
    *("eval_episodes", "early_episodes", "config_overrides"),
)
STEPS, EVALUATIONS, ENVS, EPISODES = 40_000, 4, 8, 16  # of a task
_SEQUENCE = flags.DEFINE_string(
    "sequence",
    "small_games:cross,catch,rain,pong",
    "Tasks in the order in which they are met, as a suite; see --list_suites of other binaries.",
)
_METHOD = flags.DEFINE_list("method", list(plan.METHODS), "Rows of the table.")
_TOLD = flags.DEFINE_bool(
    "told", True, "Whether the agent knows which task it is at, and so where tasks change."
)
_NETWORK = flags.DEFINE_string(
    "network",
    None,
    f"What tasks share: one of {', '.join(multitask.NETWORKS)}, or module:class. "
    "(default: multihead; onehot, which then knows one task, where it is not told)",
)
_METHODS = flags.DEFINE_list(
    "method_overrides",
    [],
    "Fields of algorithms.continual.Config as name=value, separated by commas: ewc=100,decay=.5.",
)


def main() -> None:
    run_flags.start()
    run_flags.allow(*USED)
    methods = given.names(_METHOD, plan.METHODS)
    methods = [plan.REFERENCE, *(name for name in methods if name != plan.REFERENCE)]
    suite = plan.suite_of(_SEQUENCE.value, bool(run_flags.pad()))
    numbers = ppo.Config(
        network=_NETWORK.value or ("multihead" if _TOLD.value else "onehot"),
        hidden=(64, 64),
        activation="relu",
        unroll_length=32,
        epochs=8,
        minibatches=4,
        target_kl=0.0,
        discount=0.97,
        lambda_=0.95,
        learning_rate=2e-3,
        entropy_cost=1e-2,
    )
    numbers = override(numbers, run_flags.overrides())
    for pair in _METHODS.value:
        if pair.partition("=")[0] in ("method", "told"):
            raise ValueError("--method_overrides: method and told are flags of their own")
    config = override(continual.Config(told=_TOLD.value), _METHODS.value)
    total = STEPS * suite.spec.num_tasks
    each = run_flags.part_of(total, suite.spec.num_tasks * EVALUATIONS)
    defaults = {"total_env_steps": total, "num_envs_per_task": ENVS, "eval_every": each}
    defaults["eval_episodes"] = EPISODES
    run_config = run_flags.run_config(defaults, suite.spec)
    ranges.check(run_config)
    name = f"{_SEQUENCE.value}-{'told' if _TOLD.value else 'untold'}-seed{run_config.seed}"
    folder = run_flags.workdir("continual", name)
    named = {"sequence": _SEQUENCE.value, **run_flags.pad()}
    planned = plan.make(suite, run_config, numbers, config, folder, methods, named)
    if not workdir.check(folder, planned.settings, plan.FREE):
        workdir.create(folder, planned.settings)
    run_flags.explain(run_config, defaults)
    found = {method: run.learn(planned, method) for method in methods}
    report.show(planned, found, plan.scored(planned))


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.FLAGS.set_default("num_seeds", 3)
    flags.FLAGS.set_default("writers", "")
    binary.main(main)
