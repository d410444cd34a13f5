"""What checkpoints add to a life, at the interval that is usual.

    python benchmarks/checkpoint_cost.py
    python benchmarks/checkpoint_cost.py --rounds 3 --updates 20    # a look

Two lives of the main job side by side in one process, a stretch of updates each in turn: one writes
a checkpoint as often as `configs/train.yaml` says (the default agent with its store of 8 MB, all on
this machine's disk, flushed), the other none. After some that do not count, the ratio of the CPU
times of each stretch is taken; their median and quartiles are printed, and what one checkpoint
costs, the wait for the disk included, over the updates of its interval.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import hydra.utils
import torch
from tqdm import trange

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.persistence.checkpoint import Checkpoints
from stillknows.agents.persistence.keeping import KeptAgent
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.reports.log import LifetimeLog
from stillknows.envs.tasks import make


class Life:
    """The default agent, and how it is trained.

    Args:
        folder: of the log and the checkpoints.
        options: of the configuration.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        config = compose_config(["stream.tasks.tasks=[where_person]", *options])
        torch.manual_seed(0)
        tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
        self.agent, self.rows = build_agent(config, tasks), config.rows
        self.learner: Any = hydra.utils.instantiate(config.learner, self.agent, seed=0)
        self.learner.begin(10_000)
        self.env, self.log = make(tasks[0], self.rows, tasks[0].train), LifetimeLog(folder)
        parts = {"agent": KeptAgent(self.agent), "learner": self.learner, "log": self.log}
        self.checkpoints = Checkpoints(folder, config, parts, Stop())

    def lived(self, updates: int) -> float:
        """Return the seconds of CPU that so many updates and their boundaries take."""
        begun = time.process_time()
        for _ in range(updates):
            number = self.learner.updates
            options = {"episode": self.rows * number}
            live(self.agent, self.env, self.learner, task=0, seed=number, options=options)
            self.log.append("update", loss=self.learner.update().loss)
            self.checkpoints.passed()
        return time.process_time() - begun


def main() -> None:
    """Time both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--updates", type=int, help="of a stretch (the interval)")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        kept, plain = (
            Life(Path(folder) / "kept"),
            Life(Path(folder) / "plain", "checkpoint.every=0"),
        )
        stretch = given.updates or kept.checkpoints.every
        for life in (kept, plain):
            life.lived(10)
            life.checkpoints._boundaries = 0
        ratios = []
        for number in trange(given.rounds, disable=None):
            pair = (kept, plain) if number % 2 else (plain, kept)
            seconds = {life: life.lived(stretch) for life in pair}
            ratios.append(seconds[kept] / seconds[plain])
        costs, waits = [], []
        for _ in range(10):
            begun, clock = time.process_time(), time.perf_counter()
            path = kept.checkpoints.save()
            costs.append(time.process_time() - begun)
            waits.append(time.perf_counter() - clock)
        size = path.stat().st_size / 1e6
    low, middle, high = statistics.quantiles(ratios, n=4)
    an_update = statistics.median(seconds.values()) / stretch
    cost, wait = statistics.median(costs), statistics.median(waits)
    print(f"{given.rounds} stretches of {stretch} updates, torch {torch.__version__}\n")
    print("| | added | quartiles |\n|---|---|---|")
    print(f"| ratio, side by side | {middle - 1:.1%} | {low - 1:.1%} to {high - 1:.1%} |")
    print(f"| one checkpoint over {stretch} updates | {wait / stretch / an_update:.1%} | |\n")
    print(
        f"A checkpoint has {size:.1f} MB and takes {1e3 * wait:.0f} ms ({1e3 * cost:.0f} of CPU),"
    )
    print(f"an update {1e3 * an_update:.0f} ms of CPU.")


if __name__ == "__main__":
    main()
