"""Examinations leave no trace, and every trespass is named."""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.examinations.arms import ARMS
from stillknows.agents.examinations.examine import Examiner, examine
from stillknows.agents.examinations.guard import Sealed, TrespassError, note, untouched
from stillknows.agents.remembering import Marked
from stillknows.agents.thought import Thought
from stillknows.envs.tasks import Task, make
from stillknows.memory.policies.rules import EvictOldest

TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")


def lived(*options: str) -> tuple[MemoryAgent, Any, list[Task]]:
    """Return an agent that has learned a little, its optimiser, and the tasks."""
    config = compose_config([*TINY, *options])
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(1)
    live(agent, make(tasks[0], 8, tasks[0].train), learner, task=0, seed=0)
    learner.update()
    return agent, learner.optimizer, tasks


@pytest.fixture(scope="module")
def agent_and_optimizer() -> tuple[MemoryAgent, Any]:
    agent, optimizer, _ = lived()
    policy = store(agent).policy
    policy.best, policy.counts, policy.last = float("nan"), {"reads": 0}, [0, 1]
    policy.inside = {"counts": [{"reads": 0}], "sums": {"both": [torch.zeros(2), np.zeros(2)]}}
    policy.inside["itself"] = policy.inside
    policy.recent, policy.pairs = deque([1, 2], maxlen=2), {(1, 2)}
    return agent, optimizer


def store(agent: MemoryAgent) -> Any:
    assert agent.episodic_memory is not None
    return agent.episodic_memory


@torch.no_grad()
def move_a_weight(agent: MemoryAgent, optimizer: Any) -> None:
    next(agent.controller.parameters()).add_(1e-3)


def replace_a_weight(agent: MemoryAgent, optimizer: Any) -> None:
    weight = next(agent.controller.parameters())
    weight.data = weight.data.clone()


def move_a_statistic(agent: MemoryAgent, optimizer: Any) -> None:
    agent.working_memory.recency.mul_(1.0)


def move_the_policy(agent: MemoryAgent, optimizer: Any) -> None:
    with torch.no_grad():
        next(agent.working_policy.parameters()).add_(1)


def move_the_optimizer(agent: MemoryAgent, optimizer: Any) -> None:
    part = optimizer.parts[0]
    next(v for v in next(iter(part.state.values())).values() if v.dim()).zero_()


def set_a_rate(agent: MemoryAgent, optimizer: Any) -> None:
    optimizer.param_groups[0]["lr"] += 1e-9


def count_a_candidate(agent: MemoryAgent, optimizer: Any) -> None:
    store(agent).seen += 1


def use_an_entry(agent: MemoryAgent, optimizer: Any) -> None:
    store(agent).touch(torch.tensor([0]), torch.tensor([1.0]))


def count_in_the_policy(agent: MemoryAgent, optimizer: Any) -> None:
    store(agent).policy.counts["reads"] += 1


def note_in_the_policy(agent: MemoryAgent, optimizer: Any) -> None:
    store(agent).policy.last[0] += 1


def count_inside(agent: MemoryAgent, optimizer: Any) -> None:
    store(agent).policy.inside["counts"][0]["reads"] += 1


def add_inside(agent: MemoryAgent, optimizer: Any) -> None:
    store(agent).policy.inside["sums"]["both"][0].add_(1)


def add_to_an_array_inside(agent: MemoryAgent, optimizer: Any) -> None:
    store(agent).policy.inside["sums"]["both"][1][0] += 1


def go_on_in_the_policy(agent: MemoryAgent, optimizer: Any) -> None:
    store(agent).policy.recent.append(store(agent).policy.recent[-1] + 1)


def replace_a_pair(agent: MemoryAgent, optimizer: Any) -> None:
    first, second = store(agent).policy.pairs.pop()
    store(agent).policy.pairs.add((second, first))


def teach_the_policy(agent: MemoryAgent, optimizer: Any) -> None:
    policy = store(agent).policy
    policy.explore += 0.5


PLANTED = [
    (move_a_weight, "the weights or statistics controller"),
    (replace_a_weight, "the weights or statistics controller"),
    (move_a_statistic, "working_memory.recency"),
    (move_the_policy, "working_policy"),
    (move_the_optimizer, r"the optimiser \(0\): state"),
    (set_a_rate, r"the optimiser \(0\): group 0 lr"),
    (count_a_candidate, "the store: seen"),
    (use_an_entry, "the store: columns uses_N"),
    (teach_the_policy, "the store's policy: "),
    (count_in_the_policy, "the store's policy: counts reads"),
    (note_in_the_policy, "the store's policy: last"),
    (count_inside, "the store's policy: inside counts 0 reads"),
    (add_inside, "the store's policy: inside sums both 0"),
    (add_to_an_array_inside, "the store's policy: inside sums both 1"),
    (go_on_in_the_policy, "the store's policy: recent"),
    (replace_a_pair, "the store's policy: pairs"),
    (lambda *_: random.random(), "Python's random state"),
    (lambda *_: np.random.random(), "NumPy's random state"),
    (lambda *_: torch.rand(1), "PyTorch's random state"),
]


@pytest.mark.parametrize(("plant", "named"), PLANTED)
def test_a_trespass_is_named(
    plant: Callable[..., Any], named: str, agent_and_optimizer: tuple[MemoryAgent, Any]
) -> None:
    with pytest.raises(TrespassError, match=f"An examination changed .*{named}"):  # noqa: SIM117
        with untouched(*agent_and_optimizer):
            plant(*agent_and_optimizer)
    with untouched(*agent_and_optimizer, whole=True):
        pass


def add_anew(policy: Any, times: int) -> None:
    for _ in range(times):
        policy.sums = policy.sums + 1


def test_a_tensor_that_takes_the_place_of_one_that_was_let_go_is_seen(
    agent_and_optimizer: tuple[MemoryAgent, Any],
) -> None:
    agent, _ = agent_and_optimizer
    policy = store(agent).policy
    for times in range(1, 13):  # every third or so had the address of the first
        policy.sums = torch.zeros(1000)
        with pytest.raises(TrespassError, match="the store's policy: sums"), untouched(agent):
            add_anew(policy, times)


def test_what_is_written_past_the_counters_is_seen_in_the_whole(
    agent_and_optimizer: tuple[MemoryAgent, Any],
) -> None:
    agent, _ = agent_and_optimizer
    weight = next(agent.controller.parameters())
    with untouched(agent):
        weight.data.add_(1.0)
    with pytest.raises(TrespassError, match="controller"), untouched(agent, whole=True):
        weight.data.sub_(1.0)


def test_content_that_comes_back_is_no_trespass_for_one_that_adapts() -> None:
    agent, optimizer, tasks = lived("adaptation=local", "working_memory=memory_network")
    before = note(agent, optimizer, whole=True)
    assert before == note(agent, optimizer, whole=True)
    examine(agent, tasks[0], number=0, episodes=2, rows=2, seed=0, optimizer=optimizer)
    assert before == note(agent, optimizer, whole=True)


@pytest.mark.parametrize("memory", ["slots", "dnc"])
def test_no_arm_leaves_a_trace(memory: str) -> None:
    agent, optimizer, tasks = lived(f"working_memory={memory}")
    before = note(agent, optimizer, whole=True)
    for arm in ARMS:
        ask = {"number": 0, "episodes": 2, "rows": 2, "seed": 0, "options": {"lived": 8}}
        result = examine(agent, tasks[0], arm=arm, optimizer=optimizer, whole=True, **ask)
        assert len(result.correct) == 6
    assert before == note(agent, optimizer, whole=True)
    assert agent.training


class Curious(Examiner):
    """Wants to know which task it is."""

    def mark(self, thought: Thought, marked: Marked) -> None:
        super().mark(thought, marked)
        self.task = torch.full((2,), marked.task)


class Spy(EvictOldest):
    """A policy that looks where the entries of the store came from."""

    leaves_first = None

    def __init__(self, store: Any) -> None:
        super().__init__()
        self.looked: Callable[[], Any] = lambda: store.provenance("task")

    def decide(self, features: Any) -> Any:
        self.looked()
        return super().decide(features)


def test_whoever_reads_the_task_is_stopped() -> None:
    agent, _, tasks = lived()
    ask: dict[str, Any] = {"number": 0, "episodes": 2, "rows": 2, "seed": 0}
    with pytest.raises(TrespassError, match="task's identity was read"):
        examine(agent, tasks[0], examiner=Curious(agent), **ask)
    agent.working_policy = Spy(store(agent))
    with pytest.raises(TrespassError, match="task's identity was read"):
        examine(agent, tasks[0], **ask)
    assert store(agent).provenance("task").max() == 0  # afterwards it may be read
    for use in (int, str, bool, hash, lambda it: it == 0, lambda it: [1, 2][it], lambda it: it + 1):
        with pytest.raises(TrespassError):
            use(Sealed())


def test_an_examination_that_writes_is_stopped_and_the_agent_is_as_before() -> None:
    agent, optimizer, tasks = lived()

    class Trespasser(Examiner):
        def mark(self, thought: Thought, marked: Marked) -> None:
            super().mark(thought, marked)
            set_a_rate(agent, optimizer)

    ask: dict[str, Any] = {"number": 0, "episodes": 2, "rows": 2, "seed": 0}
    with pytest.raises(TrespassError, match="group 0 lr"):
        examine(agent, tasks[0], examiner=Trespasser(agent), optimizer=optimizer, **ask)
    assert agent.training
    assert not store(agent)._frozen
