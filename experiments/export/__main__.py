r"""Writes the policy of a run to a folder that acts elsewhere, where jax is all that there is.

    python -m experiments.export --workdir=runs/distral/minigrid_ladder-kl_ent_2col-seed0
    python -m experiments.export --workdir=runs/... --out=policy --step=4000000 --actions=likeliest

and there, with `pip install jax flatbuffers` and this library:

    policy = mtrl_jax.serve.load("policy")
    action, memory = policy.act(observation, "MiniGrid-DoorKey-8x8-v0", memory, key)

The run is only read, but for the folder, which lies inside it unless --out says otherwise.
"""

import pathlib

import absl.logging
import jax
from absl import flags

from mtrl_jax import export

from ..common import agents, binary, given, policy_flags, runs

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_OUT = flags.DEFINE_string(
    "out", None, "Folder to write: a new one, or an earlier export. (default: WORKDIR/policy)"
)
_OF_SEED = flags.DEFINE_integer(
    "of_seed", 0, "Which of the agents of a run with --num_seeds above 1, counted from 0.", 0
)
_ONNX = flags.DEFINE_integer(
    "onnx",
    0,
    "Also writes each policy as ONNX, for this many rows of each task in one call; of policies "
    "that do not draw (--actions=likeliest), and with jax2onnx installed; 0: not.",
    0,
)


def main() -> None:
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns that it will not write, as asked
    folder = runs.existing(_WORKDIR.value)
    wanted = runs.step_of(policy_flags.step())
    out = folder / "policy" if _OUT.value is None else pathlib.Path(_OUT.value)
    given.check_folder("out", out)
    export.check_folder(out)
    settings, config = runs.read(folder)
    if _OF_SEED.value >= config.num_seeds:
        raise ValueError(
            f"--of_seed must be below the number of seeds, {config.num_seeds}; got {_OF_SEED.value}"
        )
    suite = runs.make_suite(settings)
    agent = agents.make(suite.spec, settings, 1)
    step, state = runs.restore(folder, config, suite, agent, wanted)
    if config.num_seeds > 1:
        state = jax.tree.map(lambda x: x[_OF_SEED.value], state)
    greedy = policy_flags.greedy(agent)
    policy = agent.policy_params(state)
    models = {}
    if _ONNX.value:
        models = export.onnx_models(suite.spec, agent, policy, rows=_ONNX.value, greedy=greedy)
    export.write(out, suite.spec, agent, policy, step=step, greedy=greedy, about=settings)
    for name, data in models.items():
        (out / name).write_bytes(data)
    kind = "likeliest" if greedy else "drawn"
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{folder}: step {step:,}, {suite.spec.num_tasks} tasks of {settings['suite']}")
    print(f"policy  {out} ({kind} actions, {size / 1e6:.1f} MB, for {', '.join(export.PLATFORMS)})")


if __name__ == "__main__":
    flags.adopt_module_key_flags(policy_flags)
    binary.main(main)
