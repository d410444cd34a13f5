"""Codes asked for in later episodes: exact distances, stores that hold them and that let go."""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.thought import identity
from stillknows.memory.policies.rules import EvictOldest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def module(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


later_episodes = module("later_episodes")


def believing(entries: int) -> MemoryAgent:
    """Return an agent that has learned nothing and believes its store; the oldest leave that."""
    settings = ["working_memory=none", "controller.width=16", "episodic_memory.neighbours=2"]
    life = ["stream.tasks.lasting=1", "stream.tasks.carry=0.3", "stream.tasks.lifetime_facts=100"]
    config = compose_config(["arm=recall", "stream=recall", *settings, *life])
    torch.manual_seed(0)
    agent = build_agent(config, hydra.utils.instantiate(config.stream.tasks, _convert_="all"))
    store, trust = agent.episodic_memory, agent.trust
    assert store is not None
    assert trust is not None
    torch.nn.init.constant_(trust.bias, 20.0)
    agent.episodic_memory = type(store)(
        entries, 16, 16, EvictOldest(), story_shape=(1, 12), neighbours=2, key=9
    )
    return agent.eval()


class Heard:
    """Hears all that an agent hears, and tells what is asked in examinations."""

    def __init__(self, agent: MemoryAgent) -> None:
        self.agent, self.step = agent, agent.step
        self.life: list[str] = []
        self.exams: list[list[str]] = []
        self.before: list[int] = []  # sentences of the life before each of them
        self.held, self.known = set[int](), list[set[int]]()  # names of the store, at each of them
        object.__setattr__(agent, "step", self)

    def __call__(self, observations: Any, asked: Any, state: Any) -> Any:
        store: Any = self.agent.episodic_memory
        if not store._frozen:
            self.life.extend(observations)
        elif state.story == ((),):
            self.exams.append(list(observations))
            self.before.append(len(self.life))
            self.known.append(self.held)
        else:
            self.exams[-1].extend(observations)
        return self.step(observations, asked, state)


def test_codes_are_asked_for_after_exactly_so_many_sentences_of_the_life() -> None:
    agent = believing(4000)
    heard = Heard(agent)
    asked = later_episodes.LaterEpisodes(agent, 3, (10, 30, 100, 333), stories=3).run()
    assert len(asked) == 12
    assert len(heard.exams) == 24  # each with its recall off and on
    told = {text.split(" is ")[0]: at for at, text in enumerate(heard.life) if " is " in text}
    for number, each in enumerate(asked):
        for examined in (2 * number, 2 * number + 1):
            exam, before = heard.exams[examined], heard.before[examined]
            first = next(at for at, text in enumerate(exam) if text.endswith("?"))
            questions = [text.removeprefix("what is ").removesuffix(" ?") for text in exam[first:]]
            last = max(told[question] for question in questions)
            assert before + first - last - 1 == each.distance
            assert len(set(questions)) == 4
            assert not any(text.startswith(question) for question in questions for text in exam)
            assert sum(text.startswith(questions[0]) for text in heard.life) == 1
    assert all(each.correct == [1, 1, 1, 1] for each in asked)  # the store returns what it holds
    assert sum(sum(each.without) for each in asked) <= 4  # and nothing else knows


def test_a_store_that_is_too_small_lets_go_of_what_a_plain_queue_lets_go_of() -> None:
    agent = believing(entries := 12)
    store: Any = agent.episodic_memory
    heard, remember, queue = Heard(agent), store.remember, list[tuple[int, Any]]()

    def note(candidates: Any) -> Any:
        (name,), (answer,) = candidates.hash_B.tolist(), candidates.answers_BA.tolist()
        if {words for other, words in queue if other == name} != {tuple(answer)}:
            queue.append((name, tuple(answer)))  # a fact that holds stays where it is
        del queue[:-entries]
        heard.held = {name for name, _ in queue}
        return remember(candidates)

    store.remember = note
    asked = later_episodes.LaterEpisodes(agent, 3, (10, 60, 100, 600), stories=4).run()
    right = {True: list[int](), False: list[int]()}
    for number, each in enumerate(asked):
        exam, held = heard.exams[2 * number + 1], heard.known[2 * number + 1]
        questions = [text for text in exam if text.endswith("?")]
        for question, mark in zip(questions, each.correct, strict=True):
            right[identity(question) in held].append(mark)
    assert len(right[True]) > 20
    assert all(right[True])
    assert len(right[False]) > 20
    assert sum(right[False]) < 0.2 * len(right[False])
    far = [mark for each in asked if each.distance == 600 for mark in each.correct]
    assert sum(far) <= 3


def test_being_asked_leaves_no_trace_in_the_life() -> None:
    lives = []
    for distances in ((400,), (10, 50, 100, 400)):
        agent = believing(40)
        life = later_episodes.LaterEpisodes(agent, 1, distances, stories=2)
        last = [each for each in life.run() if each.distance == 400]
        lives.append((last, life.heard, agent.episodic_memory.snapshot()))
    (few, heard, kept), (many, heard_too, kept_too) = lives
    assert heard == heard_too
    assert [each.correct for each in few] == [each.correct for each in many]
    for name, column in kept["columns"].items():
        assert torch.equal(column, kept_too["columns"][name]), name


def test_what_cannot_be_asked_for_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = believing(40)
    with pytest.raises(ValueError, match="another episode takes 8 or more"):
        later_episodes.LaterEpisodes(agent, 0, (7,), stories=1)
    monkeypatch.setattr(later_episodes, "MOST_FACTS", 108)  # the rest are 4 stories in between
    with pytest.raises(ValueError, match="and they end before the last question"):
        later_episodes.LaterEpisodes(agent, 0, (200,), stories=1).run()


def test_tables_of_a_page_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "later_episodes", later_episodes)
    bench = module("long_context")
    lives = {
        "a": [{d: bench.Point(d / 1e4, 2.0, 0.5) for d in bench.DISTANCES}] * 3,
        "b": [{10: bench.Point(0.25, 1.0)}, {10: bench.Point(0.75, 1.0), 30: bench.Point(1.0)}],
        "c": [{10: bench.Point(0.125)}],
    }
    tables = [bench.gathered(lives, which) for which in range(3)]
    assert [list(rows) for rows in tables] == [["a", "b", "c"], ["a", "b"], ["a"]]
    count, (only,) = tables[0]["b"]  # as far as both got
    assert (count, only.mean) == (2, 0.5)
    assert only.high - 0.5 == pytest.approx(
        12.706 * 0.25, rel=1e-3
    )  # t of 1, error 0.354 / 2 ** 0.5
    page = "Words.\n\n" + "\n\n".join(map(bench.show, tables)) + "\n\n| x | y |\n| 1 | 2 |\n"
    for rows, again in zip(tables, bench.of_page(page), strict=True):
        assert list(rows) == list(again)
        for name, (lives_of, intervals) in rows.items():
            assert again[name][0] == lives_of
            for mine, its in zip(intervals, again[name][1], strict=True):
                assert its[:3] == pytest.approx(mine[:3], abs=5e-4, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none working_memory=none agent.context=64", "transformer, alone"),
        ("none working_memory.slots=16 controller=longformer", "longformer, with 16 slots"),
        ("none working_memory=sparse_slots", "transformer, 16 read of all"),
        (
            "recall working_memory.slots=16 controller=transformer_xl",
            "transformer-xl, with 16 slots and the store",
        ),
    ],
)
def test_arms_are_called(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "later_episodes", later_episodes)
    assert module("long_context").label(name) == words


def test_an_emptied_store_is_one_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "later_episodes", later_episodes)
    agent = believing(40)
    later_episodes.LaterEpisodes(agent, 3, (10,), stories=2).run()
    store: Any = agent.episodic_memory
    small = module("long_context").emptied(store, 5)
    assert (len(store), len(small), small.capacity) == (8, 0, 5)
    per_entry = store.nbytes / store.capacity
    assert small.nbytes == 5 * per_entry
    for name in (
        "policy",
        "key",
        "neighbours",
        "delta",
        "identity",
        "answer_length",
        "story_shape",
    ):
        assert getattr(small, name) == getattr(store, name), name
