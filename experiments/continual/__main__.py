r"""One agent meets tasks one after the other: what it forgets, and what helps.

    python -m experiments.continual                                     # four small games
    python -m experiments.continual --sequence=small_games:catch,snake --method=ewc,packnet
    python -m experiments.continual --algorithm=dqn --sequence=small_games --method=ewc,reservoir
    python -m experiments.continual --algorithm=sac --sequence=cw10
    python -m experiments.continual --told=false --method=finetune,online_ewc

A table has a row for each method: final performance, forgetting and forward transfer as in
Continual World, with intervals over seeds; figures have the curves of every task over the whole
sequence. `reset`, a fresh network for each task, is always among them: it is the scale. The same
command goes on where it was stopped; with other methods it adds their rows.

What a method is about, by algorithm (what has no meaning is refused):

                          ppo                 dqn                        sac
    actions               any                 discrete                   continuous
    l2, ewc, online_ewc,  the policy          the Q-network; log pi and  the policy
      mas, distill                              outputs by q_policy
    packnet               the policy          the Q-network              the policy
    progressive (told,    policy and value    the Q-network              policy and critics
      no images)
    reservoir, a_gem      what the policy     transitions, learnt from   what the policy
                            said                again                      said
    where a task begins   optimisers anew     + replay emptied, epsilon  + replay emptied,
      (told)                                    from 1, target = online    warmup
"""

from absl import flags

from mtrl_jax import ranges, workdir
from mtrl_jax.algorithms import continual
from mtrl_jax.networks import multitask

from ..common import binary, given, run_flags
from ..common.override import override
from . import columns, plan, presets, report, run, sequence

USED = (
    *("workdir", "seed", "num_seeds", "pad", "total_env_steps", "num_envs_per_task"),
    *("num_devices", "log_every", "eval_every", "checkpoint_every", "keep", "writers"),
    *("eval_episodes", "early_episodes", "config_overrides"),
)
STEPS, EVALUATIONS = 40_000, 4  # of a task
_ALGORITHM = flags.DEFINE_enum(
    "algorithm",
    "ppo",
    list(presets.ALGORITHMS),
    "What learns: dqn of discrete actions, sac of continuous ones, ppo of either.",
)
_SEQUENCE = flags.DEFINE_string(
    "sequence",
    "small_games:cross,catch,rain,pong",
    "Tasks in the order in which they are met, as a suite; see --list_suites of other binaries.",
)
_METHOD = flags.DEFINE_list("method", list(sequence.METHODS), "Rows of the table.")
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
    methods = given.names(_METHOD, sequence.METHODS)
    methods = [sequence.REFERENCE, *(name for name in methods if name != sequence.REFERENCE)]
    suite = sequence.suite_of(_SEQUENCE.value, bool(run_flags.pad()))
    n, total = suite.spec.num_tasks, STEPS * suite.spec.num_tasks
    each = run_flags.part_of(total, n * EVALUATIONS)
    defaults = {"total_env_steps": total, "eval_every": each, **presets.run_of(_ALGORITHM.value)}
    run_config = run_flags.run_config(defaults, suite.spec)
    ranges.check(run_config)
    network = _NETWORK.value or ("multihead" if _TOLD.value else "onehot")
    steps = run_config.total_env_steps // n
    numbers = presets.numbers_of(_ALGORITHM.value, _SEQUENCE.value, network, steps)
    numbers = override(numbers, run_flags.overrides())
    for pair in _METHODS.value:
        if pair.partition("=")[0] in ("method", "told"):
            raise ValueError("--method_overrides: method and told are flags of their own")
    config = override(continual.Config(told=_TOLD.value), _METHODS.value)
    told = "told" if _TOLD.value else "untold"
    name = f"{_SEQUENCE.value}-{_ALGORITHM.value}-{told}-seed{run_config.seed}"
    folder = run_flags.workdir("continual", name)
    named = {"sequence": _SEQUENCE.value, **run_flags.pad()}
    learnt = (_ALGORITHM.value, numbers, config)
    planned = plan.make(suite, run_config, *learnt, folder, methods, named)
    if not workdir.check(folder, planned.settings, sequence.FREE):
        workdir.create(folder, planned.settings)
    run_flags.explain(run_config, defaults)
    found = {method: run.learn(planned, method) for method in methods}
    others = (name for name in sequence.METHODS if name not in found)  # trained at another time
    found |= {name: blocks for name in others if (blocks := run.finished(planned, name))}
    report.show(planned, found, plan.scored(planned))
    if columns.METHOD in found:
        columns.show(planned, found[columns.METHOD])


if __name__ == "__main__":
    flags.adopt_module_key_flags(run_flags)
    flags.FLAGS.set_default("num_seeds", 3)
    flags.FLAGS.set_default("writers", "")
    binary.main(main)
