"""Lives of every kind that can be cut."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.reports import log as logs

SMALL = (
    "debug=tiny",
    "rows=4",
    "stream.episodes=20",
    "stream.exam_episodes=4",
    "stream.tasks.tasks=[where_person,where_object]",
    "stream.tasks.sentences=6",
    "stream.tasks.questions=2",
    "stream.tasks.lag=0",
    "checkpoint.every=3",
    "checkpoint.seconds=0",
)
_EWC = "stillknows.agents.baselines.penalties.EWC"
EWC = f"plugins=[{{_target_: {_EWC}, ewc_lambda: 100.0, batches: 2}}]"
PLUGINS = ",".join(
    f"{{_target_: stillknows.agents.baselines.{each}}}"
    for each in (
        "penalties.SI, c: 1.0",
        "penalties.MAS, lambda_reg: 1.0, batches: 2",
        "penalties.LwF",
        "gradient_memory.AGEM, patterns: 6, sample: 3",
        "gradient_memory.GEM, patterns: 6",
        "clear.CLEAR",
        "packnet.PackNet",
        "shrink_and_perturb.ShrinkAndPerturb",
    )
)
COSINE = "{_target_: torch.optim.lr_scheduler.CosineAnnealingLR, _partial_: true}"
SGD = "{_target_: torch.optim.SGD, _partial_: true, lr: 0.1, momentum: 0.9}"
STORE = "episodic_memory.bytes=40000"
CONFIGURATIONS = {
    "everything": [STORE, "learner.rekey_every=4", "learner.accumulate=2"],
    "baselines": [STORE, "arm=replay", f"plugins=[{PLUGINS}]"],
    "ewc": ["arm=none", EWC, f"learner.schedule={COSINE}"],
    "sqlite": [
        STORE,
        "learner.rekey_every=4",
        "episodic_memory.store=sqlite",
        "episodic_memory.past=3",
        "log.part=1500",
    ],
    "actor": [
        STORE,
        "working_policy=actor",
        "working_memory.slots=3",
        "operations=2",
        "operations_keep=3",
    ],
    "critic": ["arm=none", "working_policy=critic", "working_memory.slots=3", "learner.horizon=4"],
    "sgd": [
        STORE,
        "episodic_policy=reservoir",
        "working_policy=evict_uniformly",
        f"learner.optimizer={SGD}",
    ],
}


class Death(Exception):  # noqa: N818 (it is no error)
    """The end of a process, played in one."""


@lru_cache
def configured(name: str, *options: str) -> DictConfig:
    return compose_config([*SMALL, *CONFIGURATIONS[name], *options])


def live(config: DictConfig, folder: Path, die_after: int = 10**9) -> bool:
    """Live on until the log has so many events; return whether the life has ended."""
    append = logs.LifetimeLog.append

    def dying(self: logs.LifetimeLog, event: str, **fields: Any) -> logs.Event:
        record = append(self, event, **fields)
        if self._place["events"] >= die_after:
            raise Death
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs.LifetimeLog, "append", dying)
        try:
            live_lifetime(config, folder, lambda *_: None, resume=True)
        except Death:
            return False
    return True


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what gives the folder of a life that was never cut."""
    folders: dict[str, Path] = {}

    def lived(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            live(configured(name), folders[name])
        return folders[name]

    return lived
