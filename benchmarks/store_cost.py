"""What it costs to keep a memory on disk: time of a life with SQLite and PostgreSQL beside tensors.

    python benchmarks/store_cost.py --rounds 30

The same agent lives and learns batch by batch, once for each store, in one process, interleaved;
every round is a batch of episodes, its update and now and then a rekey. Ratios are of the round's
time beside that with tensors, of medians, with quartiles of the rounds, after some that do not
count; by the processor's clock of this process and by the wall's, which also knows the disk and the
server. PostgreSQL is there if libpq's variables (PGHOST ...) lead to a server; all lives have to
give the same losses, or the benchmark fails.
"""

import argparse
import statistics
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hydra.utils
import torch
from omegaconf import DictConfig
from tqdm import trange

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.persistence.memory_places import kept_memory
from stillknows.agents.reports.report import table
from stillknows.envs.tasks import make

_CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}


class Life:
    """An agent that lives with its memory in one store."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        torch.manual_seed(0)
        tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
        self.agent, self.task = build_agent(config, tasks), tasks[0]
        self.env = make(self.task, config.rows, self.task.train)
        self.learner = hydra.utils.instantiate(config.learner, self.agent, seed=0)
        self.learner.begin(10_000)

    def round(self, number: int) -> float:
        """Live a batch of stories and learn from it; return the loss."""
        options = {"episode": self.config.rows * number}
        live(self.agent, self.env, self.learner, task=0, seed=number, options=options)
        loss: float = self.learner.update().loss
        return loss


@contextmanager
def lives(stores: list[str], options: list[str]) -> Iterator[dict[str, Life]]:
    """Give a life for each store, with a memory that is new."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        found = {}
        for store in stores:
            config = compose_config([*options, f"episodic_memory.store={store}"])
            found[store] = Life(config)
            folder = Path(name) / uuid.uuid4().hex / store
            stack.enter_context(kept_memory(found[store].agent.episodic_memory, config, folder))
        yield found


def ratios(stores: list[str], options: list[str], rounds: int, warm: int) -> str:
    """Return a table of the times of rounds beside those with tensors."""
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    with lives(stores, options) as found:
        for number in trange(rounds + warm, disable=None):
            losses = set()
            order = stores[number % len(stores) :] + stores[: number % len(stores)]
            for store in order:
                begun = {name: clock() for name, clock in _CLOCKS.items()}
                losses.add(found[store].round(number))
                for name, clock in _CLOCKS.items():
                    if number >= warm:
                        spent[store, name].append(clock() - begun[name])
            if len(losses) > 1:
                raise SystemExit(f"The lives differ in round {number}: {losses}.")
    rows = []
    for store in stores:
        cells = [f"{1e3 * statistics.median(spent[store, 'processor']):.0f}"]
        for name in _CLOCKS:
            pairs = zip(spent[store, name], spent["tensor", name], strict=True)
            low, middle, high = statistics.quantiles([mine / other for mine, other in pairs], n=4)
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        rows.append([store, *cells])
    return table(["store", "ms a round (processor)", "ratio (processor)", "ratio (wall)"], rows)


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--stores", nargs="+", default=["tensor", "sqlite", "postgres"])
    parser.add_argument("options", nargs="*", metavar="name=value", help="of stillknows train")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(ratios(given.stores, given.options, given.rounds, given.warm))
    print(f"torch {torch.__version__}, one thread")


if __name__ == "__main__":
    main()
