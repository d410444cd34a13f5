"""What deciding costs: a policy's share of an agent's step, and learning from a million operations.

    python benchmarks/policy_cost.py --log 1000000

An agent with some slots hears stories and answers, each policy in turn, in one
process, interleaved; then it learns from some. What a policy takes (`decide`, and what it notes of
contents before) is set against all the rest of the same time, medians and quartiles of the batches
after some that do not count: of the agent's steps alone; of these and the environment's, and of
training, where the lessons of the policy itself count neither as the one nor as the other, but
stand beside it. Then a log of so many operations is written, and the small policy learns from it.
One thread, CPU clock.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hydra.utils
import torch
from tqdm import tqdm, trange

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.examinations.examine import examine
from stillknows.agents.reports.report import table
from stillknows.agents.teaching.offline_learning import learn_offline
from stillknows.agents.teaching.operations import Operations, record
from stillknows.agents.teaching.trial import Trial, stories_of
from stillknows.envs.tasks import Task, make
from stillknows.memory.policies.offline import OfflinePolicy
from stillknows.memory.policies.rules import EvictUniformly

POLICIES = (
    *("evict_oldest", "evict_idle", "evict_rare", "evict_read", "evict_uniformly", "reservoir"),
    *("novelty", "evict_alike", "merge_alike", "offline", "retention", "actor", "critic"),
)

HEAD = (
    *("policy", "µs a decision of 32 rows", "added to the agent's step alone"),
    *("to a step with its environment", "to a training step", "lessons add to training"),
)


class Cost(NamedTuple):
    """Seconds of a batch of stories.

    Attributes:
        spent: in all.
        stepped: in the agent's steps.
        decided: by the policy in these.
        taught: in lessons of the policy.
        decisions: how many there were in the steps.
    """

    spent: float
    stepped: float
    decided: float
    taught: float
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
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._time(self.agent.working_policy, "decide", "decided")
        if hasattr(self.agent.working_policy, "note"):
            self._time(self.agent.working_policy, "note", "noted")
        self._time(self.agent, "step", "stepped")
        if self.learner.teacher is not None:
            self._time(self.learner.teacher, "update", "taught")

    def _time(self, owner: Any, name: str, what: str) -> None:
        """Count the time of a method; that of lessons apart from all that happens in them."""
        method = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            if self.in_lesson:
                return method(*given, **named)
            self.in_lesson = what == "taught"
            begun = time.process_time()
            try:
                return method(*given, **named)
            finally:
                self.seconds[what] += time.process_time() - begun
                self.calls[what] += 1
                self.in_lesson = False

        self.in_lesson = False
        setattr(owner, name, timed)

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
        self.seconds.clear()
        self.calls.clear()
        begun = time.process_time()
        run()
        spent, seconds = time.process_time() - begun, self.seconds
        decided = seconds["decided"] + seconds["noted"]
        return Cost(spent, seconds["stepped"], decided, seconds["taught"], self.calls["decided"])


def shares(rounds: int, warm: int, slots: int, sentences: int, names: Sequence[str]) -> str:
    """Return a table of what a decision costs, policy by policy."""
    lives = {name: Life(name, slots, sentences) for name in names}
    found: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for number in trange(rounds + warm, disable=None):
        for name, life in lives.items():
            costs = {"examined": life.examine(number), "trained": life.train(number)}
            for how, cost in costs.items():
                if number >= warm:
                    found[name, how].append(cost)
    return table(
        HEAD, [[name, *_row(found[name, "examined"], found[name, "trained"])] for name in names]
    )


def _row(examined: Sequence[Cost], trained: Sequence[Cost]) -> list[str]:
    """Return the columns of `HEAD`, as shares in percent of the rest."""
    each = statistics.median(1e6 * cost.decided / cost.decisions for cost in examined)
    alone = [cost.decided / (cost.stepped - cost.decided) for cost in examined]
    lived = [cost.decided / (cost.spent - cost.decided) for cost in examined]
    learned = [cost.decided / (cost.spent - cost.taught - cost.decided) for cost in trained]
    taught = [cost.taught / (cost.spent - cost.taught) for cost in trained]
    return [f"{each:.0f}", *map(_middle, (alone, lived, learned, taught))]


def _middle(values: Sequence[float]) -> str:
    low, middle, high = (100 * value for value in statistics.quantiles(values, n=4))
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
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--log", type=int, default=1_000_000, help="operations; 0: none")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(shares(given.rounds, given.warm, given.slots, given.sentences, given.policies) + "\n")
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
