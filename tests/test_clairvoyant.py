"""The best that could have been kept: against trying everything, and against other rules."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.agents.teaching.clairvoyant import (
    Clairvoyant,
    Expecting,
    Keeping,
    Need,
    Trace,
    best_keeping,
    expected_needs,
    trace_of,
)
from stillknows.envs.recall import KeyValueRecall
from stillknows.envs.stories import continuations, make_dials, write_story
from stillknows.envs.text import Story
from stillknows.memory.policies.rules import EvictIdle, EvictOldest, EvictUniformly
from stillknows.memory.slots import Slots

DIALS = make_dials(
    {"task": "where_person", "people": 3, "places": 4, "sentences": 12, "distractors": 0.4}
)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    items = draw(st.integers(1, 7))
    needs = []
    for after in sorted(draw(st.lists(st.integers(1, items), max_size=5))):
        some = draw(st.frozensets(st.integers(0, after - 1), min_size=1, max_size=3))
        needs.append(Need(after, some))
    return Trace(items, tuple(needs))


def tried(trace: Trace, capacity: int) -> int:
    """Return the most needs that any sequence of decisions meets: all of them are tried."""

    def after(offered: int, held: frozenset[int]) -> int:
        met = sum(need.after == offered and need.items <= held for need in trace.needs)
        if offered == trace.items:
            return met
        pool = held | {offered}
        sizes = range(min(capacity, len(pool)) + 1)
        kept = (frozenset(some) for size in sizes for some in combinations(sorted(pool), size))
        return met + max(after(offered + 1, some) for some in kept)

    return after(0, frozenset())


@settings(max_examples=150, deadline=None)
@given(trace=traces(), capacity=st.integers(1, 3))
def test_no_other_decisions_meet_more(trace: Trace, capacity: int) -> None:
    assert best_keeping(trace, capacity).met == tried(trace, capacity)


def met_by(policy: object, trace: Trace, capacity: int) -> int:
    """Return how many needs a policy meets in real slots."""
    memory = Slots(capacity, 4, hops=1, heads=1, recency=(0.0,))
    state, met = memory.initial_state(1), 0
    items = torch.randn(1, trace.items, 4, generator=torch.Generator().manual_seed(0))
    for offered in range(trace.items + 1):
        held = set(state.birth_BN[0].tolist()) - {-1}
        met += sum(need.after == offered and need.items <= held for need in trace.needs)
        if offered < trace.items:
            here = torch.ones(1, 1, dtype=torch.bool)
            state = memory.write(state, items[:, offered : offered + 1], here, policy)
    return met


@settings(max_examples=80, deadline=None)
@given(trace=traces(), capacity=st.integers(1, 4))
def test_the_policy_does_what_was_planned_and_no_rule_does_better(
    trace: Trace, capacity: int
) -> None:
    plan = best_keeping(trace, capacity)
    assert met_by(Clairvoyant([plan]), trace, capacity) == plan.met
    for rule in (EvictOldest(), EvictIdle(), EvictUniformly()):
        assert met_by(rule, trace, capacity) <= plan.met


def test_to_leave_what_is_needed_last_is_not_best_where_nothing_comes_back() -> None:
    # One slot: Belady's rule keeps item 1, whose need is nearer, and loses both of item 0.
    trace = Trace(3, (Need(2, frozenset({1})), Need(3, frozenset({0})), Need(3, frozenset({0}))))
    assert best_keeping(trace, 1) == Keeping(2, (3, 0, 0))


def test_a_story_becomes_a_trace() -> None:
    env = KeyValueRecall(facts=2, updates=1, distance=1)
    story = env.tell(5, 7, {})
    trace = trace_of(story)
    assert trace.items == 4
    assert [need.after for need in trace.needs] == [4, 4]
    for need, answer in zip(trace.needs, story.answers[4:], strict=True):
        assert answer is not None
        assert need.items == {step for _, step in answer.supports}
    assert best_keeping(trace, 1).met == 1
    assert best_keeping(trace, 2).met == 2


def ways(story: Story, told: int, count: int = 40) -> list[Story]:
    return continuations(story.episode, story.episode, DIALS, told, range(count))


def test_a_story_goes_on_in_other_ways_from_where_it_is() -> None:
    story = write_story(3, 3, DIALS)
    statements = [s for s, a in zip(story.sentences, story.answers, strict=True) if a is None]
    for told in (1, 4, len(statements) - 1):
        others = ways(story, told)
        for other in others:
            said = [s for s, a in zip(other.sentences, other.answers, strict=True) if a is None]
            assert said[:told] == statements[:told]
        assert len({other.sentences for other in others}) > 10
    last = [
        {way.sentences[-1] for way in ways(write_story(key, key, DIALS), 12)} for key in range(8)
    ]
    assert any(len(questions) > 1 for questions in last)  # nor is the last question known yet


def test_what_is_needed_is_counted_over_futures_and_knows_nothing_of_this_one() -> None:
    story = write_story(3, 3, DIALS)
    expected = expected_needs([story], ways)[0]
    trace = trace_of(story)
    for told in range(1, trace.items + 1):
        count = [0.0] * trace.items
        for way in ways(story, told):
            for need in trace_of(way).needs:
                for item in need.items:
                    count[item] += (need.after >= told and item < told) / 40
        assert expected[told].tolist() == pytest.approx(count, abs=1e-5)


def test_who_knows_the_odds_lies_between_the_rules_and_who_knows_all() -> None:
    stories = [write_story(n, n, DIALS) for n in range(40)]
    policy = Expecting(expected_needs(stories, ways))
    by = {"rule": 0, "odds": 0, "all": 0}
    for row, story in enumerate(stories):
        trace = trace_of(story)
        odds = Expecting(policy.expected_BTT[row : row + 1])
        by["rule"] += met_by(EvictOldest(), trace, 2)
        by["odds"] += met_by(odds, trace, 2)
        by["all"] += best_keeping(trace, 2).met
    assert by["rule"] + 10 < by["odds"] <= by["all"]


@pytest.mark.parametrize(
    "policy", [Expecting(torch.zeros(1, 9, 8)), Clairvoyant([Keeping(0, (0,) * 8)])]
)
def test_what_nobody_needs_is_kept_while_there_is_room_and_the_oldest_leaves(
    policy: Expecting | Clairvoyant,
) -> None:
    memory = Slots(slots=3, word_size=8, hops=1, heads=1, recency=(0.0,))
    state, items_18W = memory.initial_state(1), torch.eye(8)[None]
    first = memory.write(state, items_18W[:, :3], torch.ones(1, 3, dtype=torch.bool), policy)
    assert sorted(first.birth_BN[0].tolist()) == [0, 1, 2]
    last = memory.write(state, items_18W, torch.ones(1, 8, dtype=torch.bool), policy)
    kept = [5, 6, 7] if isinstance(policy, Expecting) else [0, 1, 2]
    assert sorted(last.birth_BN[0].tolist()) == kept


def test_without_a_slot_there_is_no_plan() -> None:
    with pytest.raises(ValueError, match="should be a whole number, at least 1"):
        best_keeping(Trace(1, ()), 0)
