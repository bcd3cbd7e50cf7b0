"""Whole episodes of a restored policy: their scores, means with intervals, and a table."""

import jax
import numpy as np

from mtrl_jax import engines, evaluate, intervals
from mtrl_jax.types import Agent, ArrayTree, EnvSpec, FunctionalSuite, HostSuite

from ..common import progress

BOUNDS = {"success": (0.0, 1.0)}


def scores(
    config: engines.RunConfig,
    suite: FunctionalSuite | HostSuite,
    agent: Agent,
    state: ArrayTree,
    *,
    episodes: int,
    seed: int,
    distilled: bool,
    greedy: bool | None,
) -> evaluate.Score:
    """Scores `[S, K, episodes]` of one policy, with a progress bar where they take long;
    `distilled` and `greedy` as in `rollout.acting`."""
    policy = agent.policy_params(state)
    key = engines.stream(jax.random.key(seed), "eval")
    title = f"{'distilled' if distilled else 'task'} policies"
    score = progress.scorer(title, suite, agent, episodes, distilled=distilled, greedy=greedy)
    if isinstance(suite, FunctionalSuite):
        all_seeds = engines.over_seeds(config, score, in_axes=(0, None))
        result = jax.device_get(jax.jit(all_seeds)(policy, key))
        return result if config.num_seeds > 1 else jax.tree.map(lambda x: x[None], result)

    result = score(policy, key)
    return jax.tree.map(lambda x: np.asarray(x)[None], result)


def summary(spec: EnvSpec, score: evaluate.Score) -> dict[str, dict[str, dict[str, float]]]:
    """Task to quantity to mean, low and high, of which a single episode has no ends.

    95 % intervals: over seeds where there are several, else over the episodes of the one (then of
    success Wilson's).
    """
    fields = {"return": score.episode_return, "success": score.success, "length": score.length}
    if not spec.has_success:
        del fields["success"]
    result: dict[str, dict[str, dict[str, float]]] = {}
    for k, task in enumerate(spec.task_names):
        result[task] = {}
        for name, values in fields.items():
            one = values[:, k].astype(np.float64)
            if len(one) > 1:
                found = intervals.mean(one.mean(-1), unit="agent", bounds=BOUNDS.get(name))
            elif name == "success":
                found = intervals.wilson(one.sum(), one.size, unit="episode")
            else:
                found = intervals.mean(one[0], unit="episode")
            result[task][name] = {"mean": float(one.mean())}
            if not np.isnan(found.low):  # of a single episode
                result[task][name] |= {"low": float(found.low), "high": float(found.high)}
    return result


def table(results: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """Lines of text: a row for each task and policy."""
    lines: list[tuple[str, ...]] = [("task", "policy", "return", "success", "length")]
    for task in next(iter(results.values())):
        for policy, tasks in results.items():
            cells = [tasks[task].get(name) for name in lines[0][2:]]
            shown = [
                "-"
                if cell is None
                else (
                    "{mean:.2f} [{low:.2f}, {high:.2f}]" if "low" in cell else "{mean:.2f}"
                ).format(**cell)
                for cell in cells
            ]
            lines.append((task, policy.removesuffix("_policy"), *shown))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
