"""Arms of an examination say what their change does, on the same episodes."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from homes import EARLIER, HERE, HERE_AGAIN, LATER, PEOPLE, PLACES, oracle, settings, train

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examinations.arms import ARMS, Shuffled, chosen, set_aside
from stillknows.agents.examinations.examine import examine
from stillknows.envs.tasks import Task
from stillknows.memory.names import Census, Holding, Names
from stillknows.memory.policies.rules import EvictOldest, WriteNothing
from stillknows.memory.slots import Slots

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


class Heard(NamedTuple):
    """The items in their order, and nothing else: no key, and no clock."""

    items_BNW: torch.Tensor


class Hears:
    """A working memory of the least that there has to be."""

    word_size = reads = 1

    def sequence(self, state: Heard, items_BTW: torch.Tensor, *_: Any) -> tuple[Heard, Any]:
        return Heard(torch.cat([state.items_BNW, items_BTW], dim=1)), None


def test_a_memory_that_keeps_neither_key_nor_clock_is_told_in_another_order() -> None:
    items_BTW = torch.arange(7.0).expand(2, -1)[..., None]
    here_BT = torch.ones(2, 7, dtype=torch.bool)
    nothing = Heard(items_BTW[:, :0])
    orders = [Shuffled(Hears()).sequence(nothing, items_BTW, here_BT, EvictOldest())[0].items_BNW
              for _ in range(2)]  # fmt: skip
    assert torch.equal(*orders)
    for row_T in orders[0][..., 0].tolist():
        assert sorted(row_T) == list(range(7))
        assert row_T[:6] != list(range(6))
        assert row_T[6] == 6  # the question


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


@pytest.mark.parametrize("deleted", [[0], [1, 4], [0, 1, 2, 3, 4]])
def test_what_was_deleted_is_no_other_entry(deleted: list[int]) -> None:
    agent = oracle(entries=12)
    train(agent, EARLIER, 6)
    store: Any = agent.episodic_memory
    store.delete(deleted)
    held = store.columns["filled_N"].nonzero()[:, 0]
    alone = len(held) == 1
    keys, answers = store.columns["keys_ND"][held], store.columns["answers_NA"][held]
    for arm in ("shuffled_store", "misleading"):
        with ARMS[arm].change(agent):
            changed: Any = agent.episodic_memory
            assert len(changed) == len(held) * (1 + (arm == "misleading"))
            near = changed.columns["filled_N"].nonzero()[:, 0][-len(held) :]
            others = changed.columns["answers_NA"][near]
            assert (changed.columns["keys_ND"][near] * keys).sum(dim=1).min() > 0.9
            assert sorted(others.tolist()) == sorted(answers.tolist())
            assert (others == answers).all(dim=1).any() == alone
        assert agent.episodic_memory is store


def test_arms_that_cannot_be_are_left_away_or_refused() -> None:
    agent = oracle()
    names = ["no_recall", "agent", "clairvoyant", "no_recall", "empty_working"]
    assert chosen(names, agent) == ["agent", "no_recall", "clairvoyant", "empty_working"]
    agent.recall = False
    agent.working_memory = None
    assert chosen(names, agent) == ["agent", "clairvoyant"]
    with pytest.raises(ValueError, match="no arm 'no_recal'"):
        chosen(["no_recal"], agent)


def test_a_store_that_holds_nothing_misleads_nobody() -> None:
    assert accuracy(oracle(), LATER, "misleading") == accuracy(oracle(), LATER, "agent") == 0.0


def test_misleading_entries_beyond_the_room_count_the_namesakes_of_their_question() -> None:
    found = []
    for counted in (False, True):  # as on a GPU, by slots
        agent = oracle()
        train(agent, EARLIER, 6)
        store: Any = agent.episodic_memory
        if counted:
            held = enumerate(store.provenance("hash").tolist())
            holdings = [(name, slot, Holding(slot, ())) for slot, name in held]
            store.names = Names(holdings, Census(store.capacity, torch.device("cpu")))
        with ARMS["misleading"].change(agent):
            assert agent.episodic_memory is not None
            recall = agent.episodic_memory.recall(store.columns["keys_ND"][:6])
        assert (recall.slots_BK >= 6).any()
        found.append(recall.namesakes_BK.tolist())
    assert found[0] == found[1] == [[1, 1]] * 6


def test_a_shuffled_store_tells_no_right_answer_in_the_text_of_a_question() -> None:
    agent = oracle(retrieve=1)
    train(agent, EARLIER, 6)
    for number, who in enumerate(PEOPLE):
        for arm, right in (("agent", True), ("shuffled_store", False)):
            with ARMS[arm].change(agent), torch.no_grad():
                state = agent.initial_state(1)
                _, _, thought = agent.step([f"where is {who} ?"], [True], state)
            assert thought is not None
            told = agent.tokenizer.decode(thought.text_BL[0].tolist())
            assert (f"where is {who} ? {PLACES[number]}" in told) == right
