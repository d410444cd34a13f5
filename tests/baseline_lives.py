"""Short lives of a baseline, looked into."""

import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import (
    episodes_of,
    exam_episodes_of,
    inquiry_of,
    live_lifetime,
)
from stillknows.agents.reports import log as logs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Avalanche's imports
    from avalanche.core import BaseSGDPlugin

    from stillknows.agents.strategy import Lifetime, Position
    from stillknows.envs.streams import make_benchmark


TINY = ("debug=tiny", "stream.episodes=24", "stream.exam_episodes=8")
NONE = ("arm=none", "working_policy=evict_oldest")


def live(folder: Path, *overrides: str) -> list[logs.Event]:
    live_lifetime(compose_config([*TINY, *overrides]), folder, lambda *_: None)
    return logs.read(folder)


class Life:
    """A tiny life with plugins, an experience at a time."""

    def __init__(self, folder: Path, *plugins: BaseSGDPlugin, overrides: Any = NONE) -> None:
        config = compose_config([*TINY, *overrides])
        torch.manual_seed(config.seed)
        tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
        self.agent = build_agent(config, tasks)
        learner = hydra.utils.instantiate(config.learner, self.agent, seed=0)
        self.log = logs.LifetimeLog(folder)
        self.strategy = Lifetime(
            agent=self.agent,
            learner=learner,
            inquiry=inquiry_of(config, self.agent, folder, tasks),
            log=self.log,
            rows=config.rows,
            exam_episodes=exam_episodes_of(config, tasks),
            seed=0,
            plugins=plugins,
        )
        benchmark = make_benchmark(tasks, episodes_of(config))
        self.experiences = iter(benchmark.train_stream)

    def train(self, experiences: int = 1) -> None:
        for _ in range(experiences):
            self.experience = next(self.experiences)
            self.strategy.position = Position()
            self.strategy.train(self.experience, eval_streams=[])

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        named = self.agent.named_parameters()
        return {n: p.detach().clone() for n, p in named if p.requires_grad}


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Any]:
    lives: list[Life] = []

    def begin(*plugins: BaseSGDPlugin, overrides: Any = NONE) -> Life:
        lives.append(Life(tmp_path / str(len(lives)), *plugins, overrides=overrides))
        return lives[-1]

    yield begin
    for life in lives:
        with closing(life.log):
            pass


class Losses(BaseSGDPlugin):  # type: ignore[misc]
    """Keeps the loss before and after what stands between two of these."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def before_backward(self, strategy: Lifetime, **_: Any) -> None:
        self.losses.append(float(strategy.loss))
