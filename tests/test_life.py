"""Facts that hold for a whole life: told once in a while, asked again, carried across episodes."""

import re
from collections import Counter

import pytest

from stillknows.envs.microworld import Microworld
from stillknows.envs.stories import TASKS, make_dials, write_story

LIVING = {"carry": 0.4, "lifetime_facts": 20, "lag": 3}


def stories(count, lived=0, **values):
    dials = make_dials(values)
    return [write_story(key, key, dials, lived) for key in range(count)]


def asked(story):
    """Yield (step, question, answer) of a story."""
    for step, answer in enumerate(story.answers):
        if answer is not None:
            yield step, story.sentences[step], answer


def asks_life(question):
    return any(word in question for word in (" live", "owns", "goats", "gate"))


def fact_told(dials, episode):
    return dials.facts.sentence(dials.facts.told_in(episode)[0]).translate({40: None, 41: None})


@pytest.mark.parametrize("task", sorted(TASKS))
def test_facts_of_the_life_are_told_asked_and_carried(task):
    dials = make_dials({"task": task, "task_start": 100, **LIVING})
    episodes = [write_story(number, 100 + number, dials) for number in range(1500)]
    shares: Counter[str] = Counter()
    for story in episodes:
        number = story.episode
        tellings = [at for at, s in enumerate(story.sentences) if s == fact_told(dials, number)]
        assert tellings == [dials.facts.told_in(number)[1]]
        for _, question, answer in asked(story):
            if not asks_life(question):
                shares["world"] += 1
                continue
            ((told, at),) = answer.supports
            sentence = episodes[told - 100].sentences[at]
            assert set(answer.target.split()) <= set(sentence.split())
            name = re.search(r"the (?:cup of the )?(\w+ \w+) (?:live|keep|\?)", question + " live")
            assert name is not None
            assert name[1] in sentence
            if answer.carried:
                assert number - 20 < told < number - 3
                later = episodes[told - 99 : number - 99]
                assert not any(
                    name[1] in s for each in later for s in each.sentences if s.endswith(".")
                )
                shares["carried"] += 1
            else:
                assert told == number
                shares["fresh"] += 1
    total = sum(shares.values())
    assert shares["carried"] / total == pytest.approx(0.4, abs=0.03)
    assert shares["fresh"] / total == pytest.approx(0.2, abs=0.03)


def test_facts_depend_on_the_life_and_nothing_else():
    lives = [make_dials({"task": "where_person", "life": life, **LIVING}).facts for life in (1, 2)]
    answers = [[facts.answer(fact) for fact in range(200)] for facts in lives]
    assert answers[0] == [lives[0].answer(fact) for fact in range(200)]
    assert answers[0] != answers[1]
    assert max(Counter(answers[0]).values()) < 60
    assert len({lives[0].question(fact) for fact in range(576)}) == 576


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_exam_tells_no_facts_and_asks_for_those_that_were_lived(task):
    values = {"task": task, "split": "exam", "task_start": 10, **LIVING}
    train = make_dials({**values, "split": "train"})
    assert not any(
        answer.carried for story in stories(50, lived=10, **values) for _, _, answer in asked(story)
    )
    questions = 0
    for story in stories(200, lived=17, **values):
        for _, question, answer in asked(story):
            assert answer.carried == asks_life(question)
            if answer.carried:
                questions += 1
                ((told, at),) = answer.supports
                assert 10 <= told < 17
                assert answer.target in write_story(0, told, train).sentences[at]
        facts = [fact_told(train, number) for number in range(10, 30)]
        assert not set(facts) & set(story.sentences)
    assert questions / 600 == pytest.approx(0.4, abs=0.06)


def test_the_options_of_a_reset_hold_for_that_reset_alone():
    values = {**LIVING, "carry": 1.0, "lag": 0, "sentences": 24}
    same, moved = (Microworld("where_person", first_episode=40, **values) for _ in range(2))
    moved.reset(seed=3, options={"episode": 90, "task_start": 7})
    assert moved.tell(5, 45, {}) == same.tell(5, 45, {})
    assert moved.tell(5, 45, {"task_start": 44}) != same.tell(5, 45, {})
