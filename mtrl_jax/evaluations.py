"""The evaluations of a run: of which policies, on how many episodes, and what is told meanwhile."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mtrl_jax import engines, evaluate
from mtrl_jax.engines import RunConfig
from mtrl_jax.types import Agent, ArrayTree, FunctionalSuite, HostSuite, Timestep

__all__ = ["Best", "Evaluation", "OnProgress", "Teller", "make", "seeds_scorer"]

# (steps done, steps in all, row): the latest log row; after an evaluation its row, once; and while
# one goes on, {"eval/ended": how many episodes are over, "eval/episodes": of how many}.
OnProgress = Callable[[int, int, dict[str, Any]], None]

TELL_EVERY = 0.2  # seconds, while episodes are being played


class Evaluation(NamedTuple):
    """What to evaluate on instead of the training suite, by an agent of that suite's K tasks that
    reads the same policy."""

    suite: FunctionalSuite | HostSuite
    agent: Agent


class Teller:
    """Calls `on_progress` from wherever a run stands, until nobody reads any more.

    Attributes:
      step, total: environment steps done, and in all.
      closed: what `on_progress` raised when its reader had gone; it is not called again.
    """

    def __init__(self, on_progress: OnProgress):
        self.step, self.total = 0, 0
        self.closed: BrokenPipeError | None = None
        self._fn, self._last = on_progress, -np.inf

    def __call__(self, row: dict[str, Any]) -> None:
        if self.closed is not None:
            return
        try:
            self._fn(self.step, self.total, row)
        except BrokenPipeError as error:
            self.closed = error

    def episodes(self, ended: int, episodes: int) -> None:
        """While an evaluation goes on, a few times a second."""
        now = time.monotonic()
        if now - self._last >= TELL_EVERY or ended in (0, episodes):
            self._last = now
            self({"eval/ended": ended, "eval/episodes": episodes})


class Best:
    """Which evaluation behind the start had the highest score; the first of equal ones.

    Attributes:
      metric: `eval/<policy>/<return or success>`, the mean over tasks (and seeds); "": none.
      step, value: of that evaluation; None before there was one.
    """

    def __init__(self, metric: str, task_names: Sequence[str]):
        self.metric = metric
        self.step: int | None = None
        self.value: float | None = None
        policy, _, quantity = metric.rpartition("/")
        self._keys = [f"{policy}/{task}/{quantity}" for task in task_names]

    def take(self, step: int, row: dict[str, Any]) -> bool:
        """Whether this row of an evaluation is better than all before."""
        if not self.metric or step == 0:
            return False
        value = float(np.mean([row[key] for key in self._keys]))
        if self.value is not None and not value > self.value:
            return False
        self.step, self.value = step, value
        return True

    def saved(self) -> dict[str, Any] | None:
        """What a checkpoint is to hold of it, as JSON."""
        if self.step is None:
            return None
        return {"metric": self.metric, "step": self.step, "value": self.value}

    def load(self, saved: dict[str, Any] | None, steps: Collection[int]) -> None:
        """Goes on from what `saved` gave, if it is of this metric and its checkpoint is there."""
        if saved and saved["metric"] == self.metric and saved["step"] in steps:
            self.step, self.value = saved["step"], saved["value"]


def make(
    config: RunConfig, evaluation: Evaluation, tell: Teller, name: str
) -> Callable[[ArrayTree, int], dict[str, Any]]:
    """`(state, step) -> row` of scores of every policy of the agent: `eval/<policy>/<task>/...`,
    and `eval/episodes`, how many of every task each of them played.

    Those before the end of the run (`tell.total`) play `config.early_episodes`, if that is not 0.

    Args:
      config: of the run.
      evaluation: what is played, by whom.
      tell: is told of episodes that end, and of the row.
      name: of the suite.

    The function raises ValueError where the fresh agent's episodes show that they may be longer
    than the suite says.
    """
    suite, agent = evaluation

    def on_row(timestep: Timestep, alive: np.ndarray) -> None:
        tell.episodes(alive.size - int(alive.sum()), alive.size)

    def scorer(distilled: bool, episodes: int) -> Callable[..., evaluate.Score]:
        if isinstance(suite, HostSuite):
            return evaluate.host_scorer(suite, agent, episodes, distilled=distilled, on_row=on_row)
        fn = evaluate.functional_scorer(suite, agent, episodes, distilled=distilled)
        return seeds_scorer(config, suite, fn)

    kinds = {"task_policy": False, "distilled_policy": True}
    scorers = {
        (kind, episodes): scorer(distilled, episodes)
        for kind, distilled in kinds.items()
        for episodes in {config.eval_episodes, config.early_episodes or config.eval_episodes}
        if agent.has_distilled or not distilled
    }

    def run(state: ArrayTree, step: int) -> dict[str, Any]:
        def key_at(key):
            return jax.random.fold_in(engines.stream(key, "eval"), step)

        last = step >= tell.total
        episodes = config.eval_episodes if last else config.early_episodes or config.eval_episodes
        keys = engines.over_seeds(config, key_at)(engines.root_key(config))
        row: dict[str, Any] = {"eval/episodes": episodes}
        for (kind, count), score in scorers.items():
            if count != episodes:
                continue
            tell.episodes(0, suite.spec.num_tasks * episodes)
            found = jax.device_get(score(agent.policy_params(state), keys))
            if step == 0:
                evaluate.check_limit(suite.spec, found, name)
            for key, value in evaluate.summary(suite.spec, found).items():
                row[f"eval/{kind}/{key}"] = value
        tell(row)
        return row

    return run


def seeds_scorer(
    config: RunConfig, suite: FunctionalSuite, fn: Callable[..., evaluate.Score]
) -> Callable[..., evaluate.Score]:
    """`(policy, key) -> Score` of all seeds, of an `evaluate.functional_scorer`."""
    data, with_data = engines.split_tasks(suite)

    def score(policy: ArrayTree, key: Any, data: list[jax.Array]) -> evaluate.Score:
        return fn(policy, key, with_data(data).tasks)

    program = jax.jit(engines.over_seeds(config, score, in_axes=(0, 0, None)))
    return lambda policy, key: program(policy, key, data)
