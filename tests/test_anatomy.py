"""Each cause of forgetting is planted, and the report finds it."""

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor, nn

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.controllers.controller import Cache, Controller
from stillknows.agents.controllers.tokenizer import END, WordTokenizer
from stillknows.agents.episode import live
from stillknows.agents.examinations.anatomy import CAUSES, Dissector, cause, dissect
from stillknows.agents.examinations.arms import ARMS, Shuffled, chosen, set_aside
from stillknows.agents.examinations.examine import Result, examine
from stillknows.agents.examinations.inquiry import Inquiry
from stillknows.agents.examinations.trace import Ledger, Share, names
from stillknows.agents.remembering import Remembering
from stillknows.agents.reports.log import SCHEMA, LifetimeLog, read
from stillknows.agents.reports.report import write_report
from stillknows.envs.tasks import Task, make
from stillknows.envs.text import Answer, Story, StoryTask
from stillknows.memory.interface import ADD, UPDATE, Decision, Features, Read, one_hot
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest, WriteNothing
from stillknows.memory.slots import Slots, SlotsState

PEOPLE = tuple(f"person{number}" for number in range(6))
PLACES = tuple(f"place{number}" for number in range(6))
WORDS = (*PEOPLE, *PLACES, "went", "to", "where", "is", "?", ".", "nowhere", "now")


class Homes(StoryTask):
    """Everybody goes somewhere, then one is asked for; `carried` asks for it an episode later.

    Args:
        carried: whether the fact was told in the training episode of the same number.
        hopeless: whether what is asked for was not told at all.
    """

    def __init__(self, carried: bool = False, hopeless: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.carried, self.hopeless = carried, hopeless

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return WORDS

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        if self.carried:  # the training episode e told it, and this one does not
            who, where = PEOPLE[episode % 6], PLACES[episode % 6]
            answer = Answer(where, ((episode, 0),), carried=True)
            sentences = ("now .", f"where is {who} ?")
            return Story(episode + 100, sentences, sentences, (None, answer))
        asked = key % 4  # of the first four: room for five people and one, who is not asked for
        lines = [f"{who} went to {PLACES[(n + key) % 6]} ." for n, who in enumerate(PEOPLE)]
        target = "went" if self.hopeless else PLACES[(asked + key) % 6]
        question = f"now where is {PEOPLE[asked]} ?"
        answers = (*[None] * len(lines), Answer(target, ((episode, asked),)))
        return Story(episode, (*lines, question), (*lines, question), answers)


class Told(Homes):
    """Training: one fact an episode, asked for at once."""

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        who, where = PEOPLE[episode % 6], PLACES[episode % 6]
        sentences = (f"{who} went to {where} .", f"where is {who} ?")
        return Story(episode, sentences, sentences, (None, Answer(where, ((episode, 0),))))


for _id, _class in (("Homes-v0", Homes), ("Told-v0", Told)):
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=_class)
HERE = Task("here", "Homes-v0", {}, {})
EARLIER = Task("earlier", "Told-v0", {}, {})
LATER = Task("earlier", "Homes-v0", {}, {"carried": True})
HOPELESS = Task("hopeless", "Homes-v0", {}, {"hopeless": True})


class Oracle(Controller):
    """Hears sentences as bags of words; says the word that the soft token is most like."""

    def __init__(self, vocabulary: int, otherwise: int) -> None:
        super().__init__(vocabulary)
        self.otherwise = otherwise  # what it says if nothing comes to mind
        self.weight = nn.Parameter(torch.eye(vocabulary))

    def encode(self, tokens_BL: Tensor, own_BL: Tensor | None = None) -> tuple[Tensor, Cache]:
        bags_BLV = nn.functional.one_hot(tokens_BL, self.width).float() * (tokens_BL > 0)[..., None]
        return bags_BLV.sum(dim=1) @ self.weight, []

    def answer_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor
    ) -> Tensor:
        logits_BSV = torch.zeros(len(fused_BD), 1 + answer_BA.shape[1], self.width)
        logits_BSV[:, 0] = 20 * fused_BD
        logits_BSV[:, 0, self.otherwise] += 10.0
        logits_BSV[:, 1:, END] = 50.0
        return logits_BSV


class Lookup(Slots):
    """Slots that are read by the people in them: who is asked for is found."""

    def __init__(self, slots: int, word_size: int, people: Tensor) -> None:
        super().__init__(slots, word_size, hops=1, heads=1, recency=(0.0,))
        self.register_buffer("people", people)
        self.scrambled = False

    def read(self, state: SlotsState, query_BW: Tensor) -> tuple[SlotsState, Read]:
        people_BNW = state.values_BNW * self.people
        asked_BW = query_BW * self.people
        if self.scrambled:
            asked_BW = asked_BW[:, torch.cat([self.people.nonzero()[:, 0]]).roll(1).new_tensor(
                _cycle(self.people)
            )]  # fmt: skip
        scores_BN = 20 * (people_BNW * asked_BW[:, None]).sum(dim=2)
        filled_BN = state.birth_BN >= 0
        weights_BN = scores_BN.masked_fill(~filled_BN, -1e9).softmax(dim=1) * filled_BN
        slots_BN = torch.arange(self.slots).expand_as(weights_BN)
        values_B1W = weights_BN[:, None] @ state.values_BNW
        return state, Read(values_B1W, slots_BN[:, None], weights_BN[:, None])


def _cycle(people: Tensor) -> list[int]:
    """Return every place, those of people moved on by one."""
    at = people.nonzero()[:, 0].tolist()
    moved = dict(zip(at, [*at[1:], at[0]], strict=True))
    return [moved.get(place, place) for place in range(len(people))]


class Places(nn.Module):
    """The fuse: the places of what was read."""

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.places = nn.Parameter(places)

    def forward(self, seen: Tensor, read: Tensor | None, recalled: Tensor | None) -> Tensor:
        none = torch.zeros_like(seen)
        return none if read is None else read[:, 0] * self.places


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


def oracle(slots: int = 6, entries: int = 6, **parts: Any) -> MemoryAgent:
    """Return an agent that knows what to do, with room for all; it was not trained."""
    tokenizer = WordTokenizer(WORDS)
    size = len(tokenizer)
    marks = {name: torch.zeros(size) for name in ("people", "places")}
    marks["people"][[tokenizer.ids[word] for word in PEOPLE]] = 1
    marks["places"][[tokenizer.ids[word] for word in PLACES]] = 1
    policy = parts.pop("episodic_policy", EvictOldest())
    store = NEC(entries, size, size, policy, story_shape=(8, 12), neighbours=2)
    agent = MemoryAgent(
        tokenizer,
        Oracle(size, tokenizer.ids["nowhere"]),
        Lookup(slots, size, marks["people"]),
        parts.pop("working_policy", EvictOldest()),
        store,
        Places(marks["places"]),
        **parts,
    )
    assert agent.trust is not None
    agent.trust.bias.data.fill_(-16.0)  # what is recalled is believed
    agent.trust.weight.data[0, 0] = -4.0  # if it is this very question
    return agent


def train(agent: MemoryAgent, task: Task, episodes: int, log: LifetimeLog | None = None) -> None:
    """Let the store remember so many episodes, and log its decisions as a life does."""
    remembering = Remembering(agent)
    for first in range(episodes):
        envs = make(task, 1, task.train)
        live(agent, envs, remembering, task=0, seed=first, options={"episode": first})
    written, heard = remembering.written(), remembering.names()
    if log is not None:
        log.append(
            "update",
            experience=0,
            task=0,
            actions="".join("saum"[each.action] for each in written),
            written=[each.entry for each in written],
            evicted=[each.evicted for each in written],
            names=names(written, heard),
        )


def write_examination(
    log: LifetimeLog, task: Task, number: int, after: int, arm: str, result: Result
) -> None:
    place = {"after": after, "task": number, "name": task.name, "arm": arm}
    log.append("examination", **place, **result._asdict())


def settings(number: int) -> dict[str, Any]:
    return {"number": number, "episodes": 12, "rows": 5, "seed": 0, "whole": True}


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


class Others(Told):
    """Episodes about the same people, whose questions are asked in other words."""

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        story = super().tell(key, episode, options)
        sentences = (story.sentences[0], story.sentences[1].replace("where", "to where"))
        return story._replace(sentences=sentences)


if "Others-v0" not in gymnasium.registry:
    gymnasium.register("Others-v0", entry_point=Others)
HERE_AGAIN = Task("others", "Others-v0", {}, {})


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


# --- Arms --------------------------------------------------------------------------------------


def accuracy(agent: MemoryAgent, task: Task, arm: str) -> float:
    return examine(agent, task, arm=arm, **settings(0)).accuracy


def test_arms_change_what_they_say(tmp_path: Path) -> None:
    agent = oracle()
    train(agent, EARLIER, 6)
    here = {arm: accuracy(agent, HERE, arm) for arm in ARMS}
    assert here["agent"] == here["clairvoyant"] == here["shuffled_working"] == 1.0
    assert here["no_working"] == here["empty_working"] == here["no_story"] == here["no_memory"] == 0
    assert here["frozen_working"] == 1.0  # room for all
    carried = {arm: accuracy(agent, LATER, arm) for arm in ARMS}
    with set_aside(agent, working_policy=WriteNothing()):
        told = [f"clairvoyant{what}" for what in ("", "_working", "_store")]
        assert [accuracy(agent, HERE, arm) for arm in told] == [1, 1, 0]
    empty = oracle()  # with nothing in its store
    train(empty, HERE_AGAIN, 1)
    assert [accuracy(empty, LATER, arm) for arm in told] == [1, 0, 1]
    assert carried["agent"] == carried["no_working"] == carried["clairvoyant"] == 1.0
    assert carried["no_recall"] == carried["no_memory"] == carried["shuffled_store"] == 0.0
    agent.working_memory.slots = 2
    small = {arm: accuracy(agent, HERE, arm) for arm in ("agent", "frozen_working", "clairvoyant")}
    frozen = examine(agent, HERE, arm="frozen_working", **settings(0))
    assert small["agent"] == 0.0  # the last two of six are kept, and asked for are the first four
    assert 0 < small["frozen_working"] < 1
    assert small["clairvoyant"] == 1.0
    first_two = [episode for episode, right in zip(frozen.episodes, frozen.correct, strict=True)
                 if right]  # fmt: skip
    assert len(first_two) == sum(frozen.correct)


def test_shuffled_sentences_are_the_same_in_another_order() -> None:
    torch.manual_seed(0)
    plain = Slots(8, 4, hops=1, heads=1, recency=(0.0,))
    shuffled, keys = Shuffled(plain), torch.tensor([3, 4])
    items_BTW = torch.randn(2, 7, 4)
    present_BT = torch.ones(2, 7, dtype=torch.bool)
    present_BT[1, 4:6] = False
    state = shuffled.initial_state(2, "cpu", keys)
    with torch.no_grad():
        after, read = shuffled.sequence(state, items_BTW, present_BT, EvictOldest())
        again, _ = shuffled.sequence(state, items_BTW, present_BT, EvictOldest())
        _, alone = plain.read(after, items_BTW[:, -1])
    assert torch.equal(after.values_BNW, again.values_BNW)
    for row, count in ((0, 6), (1, 4)):
        held, told = after.values_BNW[row, :count].tolist(), items_BTW[row, :count].tolist()
        assert sorted(held) == sorted(told)
        assert held != told
        assert int(after.step_B[row]) == count
    torch.testing.assert_close(read.values_BRW, alone.values_BRW)  # the question is the same


def test_misleading_entries_are_near_and_believed_where_the_right_one_is_away() -> None:
    agent = oracle(entries=12)
    train(agent, EARLIER, 6)
    store = agent.episodic_memory
    assert store is not None
    before = {name: column.clone() for name, column in store.columns.items()}
    assert accuracy(agent, LATER, "misleading") == 1.0  # its own key is nearer
    with ARMS["misleading"].change(agent):
        more = agent.episodic_memory
        assert more is not None
        assert len(more) == 12
        keys, answers = more.columns["keys_ND"], more.columns["answers_NA"]
        assert (keys[:6] * keys[6:]).sum(dim=1).min() > 0.9
        assert not (answers[:6] == answers[6:]).all(dim=1).any()
        assert sorted(answers[:6].tolist()) == sorted(answers[6:].tolist())
    assert agent.episodic_memory is store
    assert all(torch.equal(column, before[name]) for name, column in store.columns.items())


def test_arms_that_cannot_be_are_left_away_or_refused() -> None:
    agent = oracle()
    names = ["no_recall", "agent", "clairvoyant", "no_recall", "empty_working"]
    assert chosen(names, agent) == ["agent", "no_recall", "clairvoyant", "empty_working"]
    agent.recall = False
    agent.working_memory = None
    assert chosen(names, agent) == ["agent", "clairvoyant"]
    with pytest.raises(ValueError, match="no arm 'no_recal'"):
        chosen(["no_recal"], agent)
