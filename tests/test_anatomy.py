"""Each cause of forgetting is planted, and the report finds it."""

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from homes import (
    EARLIER,
    HERE,
    HERE_AGAIN,
    LATER,
    PEOPLE,
    PLACES,
    Homes,
    oracle,
    settings,
    train,
)

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examinations.anatomy import CAUSES, Dissector, cause, dissect
from stillknows.agents.examinations.examine import Result, examine
from stillknows.agents.examinations.inquiry import Inquiry
from stillknows.agents.examinations.trace import Ledger, Share
from stillknows.agents.reports.log import SCHEMA, LifetimeLog, read
from stillknows.agents.reports.report import write_report
from stillknows.envs.tasks import Task
from stillknows.envs.text import Answer, Story
from stillknows.memory.interface import ADD, UPDATE, Decision, Features, one_hot
from stillknows.memory.policies.rules import EvictOldest, EvictUniformly, WriteNothing

HOPELESS = Task("hopeless", "Homes-v0", {}, {"hopeless": True})


class OverwriteFirst:
    """Writes everything into the first slot."""

    def decide(self, features: Features) -> Decision:
        rows, slots = features.filled_BN.shape
        known_B = features.filled_BN[:, 0]
        first_BN = one_hot(torch.zeros(rows, dtype=torch.int64), slots)
        return Decision(
            one_hot(torch.where(known_B, UPDATE, ADD), 4),
            first_BN,
            torch.zeros(rows, slots),
            torch.zeros(rows),
        )


def write_examination(
    log: LifetimeLog, task: Task, number: int, after: int, arm: str, result: Result
) -> None:
    place = {"after": after, "task": number, "name": task.name, "arm": arm}
    log.append("examination", **place, **result._asdict())


def lived(
    folder: Path,
    agent: MemoryAgent,
    tasks: list[Task],
    plant: Callable[[MemoryAgent, LifetimeLog], Any] = lambda agent, log: None,
) -> list[dict[str, Any]]:
    """Live: train, examine, let something happen, examine for the last time."""
    log = LifetimeLog(folder)
    head = {"schema": SCHEMA, "name": "ours", "seed": 0, "sources": [""] * len(tasks)}
    log.append("lifetime", **head, tasks=[t.name for t in tasks], protocol="identity hidden")
    log.append("update", experience=0, task=0, actions="", written=[], evicted=[], names=[])
    if tasks[0] is LATER:
        train(agent, EARLIER, 6, log)
    for number, task in enumerate(tasks):
        write_examination(log, task, number, 0, "agent", examine(agent, task, **settings(number)))
        write_examination(log, task, number, 1, "agent", examine(agent, task, **settings(number)))
    log.append(
        "update", experience=1, task=len(tasks) - 1, actions="", written=[], evicted=[], names=[]
    )
    plant(agent, log)
    inquiry = Inquiry(agent, folder, 1, ["agent", "clairvoyant"], False, [])
    for number, task in enumerate(tasks):
        for arm, ask in inquiry.rounds(log, task, settings(number), 2, lambda: None):
            write_examination(log, task, number, 2, arm, ask())
    log.append("end")
    log.close()
    return read(folder)


def table(text: str) -> dict[str, dict[str, str]]:
    """Return the table of causes: by where the fact was told, the cells by column."""
    lines = text.split("## Where forgetting comes from")[1].splitlines()
    head, _, *rows = [line for line in lines if line.startswith("|")]
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    found = {}
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) == len(columns):
            found[cells[1]] = dict(zip(columns, cells, strict=True))
    return found


def counts(row: dict[str, str]) -> dict[str, int]:
    found = {name: re.search(r"\((\d+)\)$", cell) for name, cell in row.items()}
    return {name: int(match[1]) for name, match in found.items() if match and int(match[1])}


def scramble(agent: MemoryAgent, log: LifetimeLog) -> None:
    agent.working_memory.scrambled = True


def damage(agent: MemoryAgent, log: LifetimeLog) -> None:
    places = agent.fuse.places.data
    places.copy_(torch.zeros_like(places))


@pytest.mark.parametrize(
    ("plant", "expected", "mended"),
    [
        (lambda agent, log: setattr(agent, "working_policy", WriteNothing()), "never written", 1.0),
        (lambda agent, log: setattr(agent.working_memory, "slots", 1), "evicted", 1.0),
        (lambda agent, log: setattr(agent, "working_policy", OverwriteFirst()), "overwritten", 1.0),
        (scramble, "not retrieved", 1.0),
        (damage, "misread", 0.0),
    ],
)
def test_what_was_planted_in_the_working_memory_is_found(
    plant: Callable[[MemoryAgent, LifetimeLog], Any], expected: str, mended: float, tmp_path: Path
) -> None:
    events = lived(tmp_path, oracle(), [HERE, HOPELESS], plant)
    exams = [e for e in events if e["event"] == "examination" and e["arm"] == "agent"]
    assert [sum(e["correct"]) for e in exams] == [12, 12, 0, 0, 0, 0]
    text = write_report([tmp_path], tmp_path)
    row = table(text)["this episode"]
    assert counts(row) == {expected: 12, "never learned": 12}  # the second task was not trained
    assert row["asked"] == "24"
    assert row["mended"] == f"{mended:.2f}"
    assert (tmp_path / "anatomy.png").stat().st_size > 5000
    assert "](anatomy.png)" in text
    told = [e for e in events if e.get("arm") == "clairvoyant"]
    assert sum(told[0]["correct"]) == 12 * mended  # the arm forces every read
    assert sum(told[1]["correct"]) == 0


def small_store(agent: MemoryAgent, log: LifetimeLog) -> None:
    """Six other questions come, and the first in is the first out."""
    train(agent, HERE_AGAIN, 6, log)


class UpdateOldest:
    """Lets every question update the entry that is the oldest, once there is no room."""

    needs_similarity = needs_noise = False

    def decide(self, features: Features) -> Decision:
        rows, slots = features.filled_BN.shape
        full_B = features.filled_BN.all(dim=1)
        free_B = (~features.filled_BN).float().argmax(dim=1)
        slot_B = torch.where(full_B, features.idle_BN.argmax(dim=1), free_B)
        action_B4 = one_hot(torch.where(full_B, UPDATE, ADD), 4)
        return Decision(
            action_B4, one_hot(slot_B, slots), torch.zeros(rows, slots), torch.zeros(rows)
        )


def scramble_keys(agent: MemoryAgent, log: LifetimeLog) -> None:
    assert agent.episodic_memory is not None
    agent.episodic_memory.columns["keys_ND"].copy_(
        agent.episodic_memory.columns["keys_ND"].roll(2, dims=0)
    )


def distrust(agent: MemoryAgent, log: LifetimeLog) -> None:
    assert agent.trust is not None
    agent.trust.bias.data.fill_(-50.0)


@pytest.mark.parametrize(
    ("plant", "policy", "expected", "mended"),
    [
        (small_store, EvictOldest, "evicted", 1.0),
        (small_store, UpdateOldest, "overwritten", 1.0),
        (scramble_keys, EvictOldest, "not retrieved", 1.0),
        (distrust, EvictOldest, "misread", 0.0),
    ],
)
def test_what_was_planted_in_the_store_is_found(
    plant: Callable[[MemoryAgent, LifetimeLog], Any],
    policy: type,
    expected: str,
    mended: float,
    tmp_path: Path,
) -> None:
    agent = oracle(episodic_policy=policy())
    events = lived(tmp_path, agent, [LATER], plant)
    exams = [e for e in events if e["event"] == "examination" and e["arm"] == "agent"]
    assert [sum(e["correct"]) for e in exams] == [12, 12, 0]
    row = table(write_report([tmp_path], tmp_path))["an earlier episode"]
    assert counts(row) == {expected: 12}
    assert row["mended"] == f"{mended:.2f}"
    told = [e for e in events if e.get("arm") == "clairvoyant"]
    assert sum(told[0]["correct"]) == 12 * mended


def test_what_was_never_offered_to_the_store_was_never_written(tmp_path: Path) -> None:
    agent = oracle()
    with closing(LifetimeLog(tmp_path)) as log:
        train(agent, EARLIER, 3, log)  # of six people
    events = list(log_events(tmp_path))
    dissector = Dissector(agent, Ledger(events))
    result = dissect(dissector, LATER, **settings(0))
    assert sum(result.correct) == 6
    assert {f.cause for f in dissector.findings} == {"n"}
    assert all(f.mended for f in dissector.findings)
    assert sorted(f.episode % 100 % 6 for f in dissector.findings) == [3, 3, 4, 4, 5, 5]


def log_events(folder: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_first_broken_link_is_the_cause() -> None:
    assert [cause(fates, True, True) for fates in ("hn", "he", "ho", "hh")] == list("neor")
    assert cause("eon", False, False) == "n"
    assert cause("oe", False, False) == "e"
    assert cause("h?", True, True) == "?"
    assert cause("", True, True) == "?"
    assert cause("h", True, False) == "m"
    assert cause("h", False, False) == "r"
    assert not Share(0.0, 0.0).enough
    assert Share(0.25, 0.25).enough
    assert not Share(0.2, 0.25).enough
    assert set("neorm?") == set(CAUSES)


def test_watching_changes_no_answer_and_finds_the_same_in_any_batch() -> None:
    found = []
    for rows in (1, 4, 12):
        agent = oracle(slots=3)
        plain = examine(agent, HERE, **{**settings(0), "rows": rows})
        dissector = Dissector(agent, Ledger([]))
        watched = dissect(dissector, HERE, **{**settings(0), "rows": rows})
        assert plain == watched
        found.append(
            {(f.episode, f.step): (f.cause, f.fates, f.mended) for f in dissector.findings}
        )
    assert found[0] == found[1] == found[2]
    assert {cause for cause, *_ in found[0].values()} == {"e"}
    assert len(found[0]) > 3


def test_what_attention_still_reaches_counts_as_held() -> None:
    agent = oracle(context=4, working_policy=WriteNothing())  # the question and three sentences
    dissector = Dissector(agent, Ledger([]))
    dissect(dissector, HERE, **settings(0))
    fates = {f.supports[0][1]: f.fates for f in dissector.findings}
    assert fates == {0: "n", 1: "n", 2: "n", 3: "h"}


class EitherWay(Homes):
    """What the agent says is right, though it is not the answer that is named."""

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        story = super().tell(key, episode, options)
        named = story.answers[-1]
        assert named is not None
        verify = named.target.__eq__
        answer = named._replace(target="went", verify=verify)
        return story._replace(answers=(*story.answers[:-1], answer))


def test_an_answer_that_is_as_right_as_the_one_named_mends() -> None:
    if "EitherWay-v0" not in gymnasium.registry:
        gymnasium.register("EitherWay-v0", entry_point=EitherWay)
    task = Task("either", "EitherWay-v0", {}, {})
    agent = oracle()
    assert examine(agent, task, **settings(0)).accuracy == 1.0
    agent.working_policy = WriteNothing()
    dissector = Dissector(agent, Ledger([]))
    assert dissect(dissector, task, **settings(0)).accuracy == 0.0
    assert all(finding.mended for finding in dissector.findings)
    assert examine(agent, task, arm="clairvoyant", **settings(0)).accuracy == 1.0


class Uneven(Homes):
    """Two in three episodes go on: somebody moves, and a second question asks where to."""

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        story = super().tell(key, episode, options)
        if not episode % 3:
            return story
        who, where, step = PEOPLE[key % 4], PLACES[key % 5], len(story.sentences)
        more = (f"{who} went to {where} .", *["now ."] * (episode % 3), f"now where is {who} ?")
        answers = (*[None] * (len(more) - 1), Answer(where, ((episode, step),)))
        told = (*story.sentences, *more)
        return Story(episode, told, told, (*story.answers, *answers))


def test_rows_that_ask_at_other_times_than_others_are_followed_apart() -> None:
    if "Uneven-v0" not in gymnasium.registry:
        gymnasium.register("Uneven-v0", entry_point=Uneven)
    task, found = Task("uneven", "Uneven-v0", {}, {}), []
    for rows in (1, 4, 12):
        agent = oracle(slots=3, working_policy=EvictUniformly())
        agent.working_memory.scrambled = True
        dissector = Dissector(agent, Ledger([]))
        dissect(dissector, task, **{**settings(0), "rows": rows})
        shares = {(f.episode, f.step): (round(f.share.got, 4), f.fates) for f in dissector.findings}
        found.append(shares)
    assert found[0] == found[1] == found[2]
    assert {fates for _, fates in found[0].values()} == {"e", "h"}
    assert len({episode for episode, step in found[0] if step > 6}) > 2  # second questions too


class OfManyAnswers(Homes):
    """One question of the life, whose answer another episode told each time."""

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        answer = Answer(PLACES[episode % 6], ((episode, 0),), carried=True)
        sentences = ("now .", f"where is {PEOPLE[0]} ?")
        return Story(episode + 100, sentences, sentences, (None, answer))


def test_a_question_with_other_answers_beside_it_is_forced_its_own() -> None:
    if "OfManyAnswers-v0" not in gymnasium.registry:
        gymnasium.register("OfManyAnswers-v0", entry_point=OfManyAnswers)
    task = Task("many", "OfManyAnswers-v0", {}, {})
    for rows in (1, 5, 12):
        agent = oracle()
        train(agent, EARLIER, 6)
        asked = {**settings(0), "rows": rows}
        dissector = Dissector(agent, Ledger([]))
        assert sum(dissect(dissector, task, **asked).correct) == 2  # what the store holds
        assert sum(f.mended for f in dissector.findings) == 10
        assert examine(agent, task, arm="clairvoyant", **asked).accuracy == 1.0
