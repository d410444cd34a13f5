"""What deciding costs: a policy's share of an agent's step, and learning from a million operations.

    python benchmarks/policy_cost.py --log 1000000

An agent with some slots hears stories and answers, each policy in turn, in one
process, interleaved; then it learns from some. The time inside of `decide` is set against all the
rest of the same steps, medians and quartiles of the batches after some that do not count. Then a
log of so many operations is written, and the small policy learns from it. One thread, CPU clock.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import hydra.utils
import torch
from tqdm import tqdm, trange

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.examine import examine
from stillknows.agents.offline_learning import learn_offline
from stillknows.agents.operations import Operations, record
from stillknows.agents.report import table
from stillknows.agents.trial import Trial, stories_of
from stillknows.envs.tasks import Task, make
from stillknows.memory.interface import Decision, Features
from stillknows.memory.offline import OfflinePolicy
from stillknows.memory.rules import EvictUniformly

POLICIES = (
    *("evict_oldest", "evict_idle", "evict_rare", "evict_read", "evict_uniformly", "reservoir"),
    *("novelty", "evict_alike", "merge_alike", "offline", "retention", "actor", "critic"),
)


class Cost(NamedTuple):
    """Seconds of a batch of stories, those inside of `decide`, and how often it was asked."""

    spent: float
    inside: float
    decisions: int


class Life:
    """An agent that lives with one policy."""

    def __init__(self, name: str, slots: int, sentences: int = 24) -> None:
        self.config = config = compose_config(
            [
                *("stream.tasks.tasks=[where_object]", f"working_memory.slots={slots}"),
                *(f"working_policy={name}", f"stream.tasks.sentences={sentences}"),
            ]
        )
        torch.manual_seed(0)
        tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
        self.agent, self.task = build_agent(config, tasks), tasks[0]
        self.env = make(self.task, config.rows, self.task.train)
        self.learner = hydra.utils.instantiate(config.learner, self.agent, seed=0)
        self.learner.begin(10_000)
        self.policy, self.decide = self.agent.working_policy, self.agent.working_policy.decide
        self.policy.decide = self._timed

    def train(self, number: int) -> Cost:
        """Live a batch of stories and learn from it."""

        def run() -> None:
            options = {"episode": self.config.rows * number}
            live(self.agent, self.env, self.learner, task=0, seed=number, options=options)
            self.learner.update()

        return self._spent(run)

    def examine(self, number: int) -> Cost:
        """Hear a batch of stories only to answer."""
        rows = self.config.rows
        settings = {"number": 0, "episodes": rows, "rows": rows, "seed": number}
        return self._spent(lambda: examine(self.agent, self.task, **settings))

    def _spent(self, run: Callable[[], object]) -> Cost:
        self.inside, self.decisions = 0.0, 0
        begun = time.process_time()
        run()
        return Cost(time.process_time() - begun, self.inside, self.decisions)

    def _timed(self, features: Features) -> Decision:
        begun = time.process_time()
        decision: Decision = self.decide(features)
        self.inside += time.process_time() - begun
        self.decisions += 1
        return decision


def shares(rounds: int, warm: int, slots: int, sentences: int) -> str:
    """Return a table of what a decision costs, policy by policy."""
    lives = {name: Life(name, slots, sentences) for name in POLICIES}
    found: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for number in trange(rounds + warm, disable=None):
        for name, life in lives.items():
            costs = {"examined": life.examine(number), "trained": life.train(number)}
            for how, cost in costs.items():
                if number >= warm:
                    found[name, how].append(cost)
    rows = []
    for name in POLICIES:
        each = [1e6 * cost.inside / cost.decisions for cost in found[name, "examined"]]
        added = [
            [100 * cost.inside / (cost.spent - cost.inside) for cost in found[name, how]]
            for how in ("examined", "trained")
        ]
        rows.append([name, f"{statistics.median(each):.0f}", *map(_middle, added)])
    return table(["policy", "µs a decision of 32 rows", "added to a step", "in training"], rows)


def _middle(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.1f} % ({low:.1f} to {high:.1f})"


def log_of(agent: MemoryAgent, task: Task, operations: int, slots: int) -> list[Operations]:
    """Return a log of at least so many operations, in parts of 512 stories."""
    logs, done, first = [], 0, 0
    with tqdm(total=operations, disable=None) as bar:
        while done < operations:
            stories = stories_of(task.id, task.train, range(first, first + 512), first)
            logs.append(record(Trial(agent, stories), EvictUniformly(), slots))
            added = int(logs[-1].present_BT.sum())
            done, first = done + added, first + 512
            bar.update(added)
    return logs


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--sentences", type=int, default=24, help="of a story")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--log", type=int, default=1_000_000, help="operations; 0: none")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(shares(given.rounds, given.warm, given.slots, given.sentences) + "\n")
    if not given.log:
        return
    life = Life("evict_uniformly", given.slots)
    begun = time.process_time()
    logs = log_of(life.agent.eval(), life.task, given.log, slots=8)
    written = time.process_time() - begun
    begun = time.process_time()
    loss = learn_offline(OfflinePolicy(), logs, epochs=1)
    learned = time.process_time() - begun
    count = sum(int(log.present_BT.sum()) for log in logs)
    print(
        f"{count:,} operations: {written:.0f} s to live and log them, {learned:.0f} s to learn "
        f"from them once (cross-entropy {loss:.4f} nats); torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
