"""Key-value recall: every answer by reading the story again, and three ways to be told it."""

import re
from typing import Any

import gymnasium
import hydra.utils
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import episodes_of
from stillknows.envs.recall import (
    ID,
    PEOPLE,
    KeyValueRecall,
    KeyValueRecallVectorEnv,
    recall_tasks,
    stress_tasks,
)
from stillknows.envs.text import story_of

STORIES = st.builds(
    lambda key, facts, share, distance: (
        key,
        {"facts": facts, "updates": int(share * min(facts, 20 - facts)), "distance": distance},
    ),
    st.integers(0, 2**62),
    st.integers(1, 20),
    st.floats(0, 1),
    st.integers(0, 40),
)


@settings(max_examples=60)
@given(STORIES)
def test_the_last_code_told_is_the_answer_and_the_distance_holds(drawn):
    key, dials = drawn
    task = KeyValueRecall(**dials)
    story = task.tell(key, 7, {})
    codes, where, told, questions, last_fact = {}, {}, set(), 0, 0
    for step, (sentence, answer) in enumerate(zip(story.sentences, story.answers, strict=True)):
        words = sentence.split()
        assert set(words) <= set(task.vocabulary)
        if words[:3] == ["the", "code", "of"]:
            assert answer is None
            assert words[5] not in told  # no code twice
            told.add(words[5])
            codes[words[3]], where[words[3]], last_fact = words[5], step, step
        elif words[-1] == "?":
            if not questions:
                assert step - last_fact == dials["distance"] + 1
            questions += 1
            assert answer.target == codes[words[5]]
            assert answer.supports == ((7, where[words[5]]),)
            assert not answer.carried
        else:
            assert answer is None
            assert words[2] == "a"
    assert questions == len(codes) == dials["facts"]
    assert len(story.sentences) == 2 * dials["facts"] + dials["updates"] + dials["distance"]


@given(
    key=st.integers(0, 10**6),
    strains=st.fixed_dictionaries(
        {
            "facts": st.integers(4, 6),
            "updates": st.integers(0, 4),
            "expiring": st.integers(0, 4),
            "forgotten": st.integers(0, 4),
            "rumours": st.integers(0, 4),
            "distance": st.integers(0, 3),
        }
    ),
)
def test_what_strains_a_memory_is_told_and_counts(key, strains):
    task = KeyValueRecall(**strains)
    story = task.tell(key, 3, {})
    now, today, asked = {}, set(), 0
    rumours = forgotten = 0
    for step, (sentence, answer) in enumerate(zip(story.sentences, story.answers, strict=True)):
        words = sentence.split()
        assert set(words) <= set(task.vocabulary)
        if words[0] == "forget":
            now[words[4]] = ("none", (step,))
            today.discard(words[4])
            forgotten += 1
        elif words[0] == "rumour":
            rumours += 1
            assert words[7] != now[words[5]][0]
        elif words[0] == "today":
            now[words[4]] = (words[6], (step,))
            today.add(words[4])
        elif words[:2] == ["the", "code"]:
            now[words[3]] = (words[5], (step,))
            today.discard(words[3])
        elif sentence == "a new day begins .":
            now.update({p: ("none", (*now[p][1], step)) for p in today})
        elif words[-1] == "?":
            target, steps = now[words[5]]
            assert answer.target == target
            assert target in task.vocabulary
            assert answer.supports == tuple((3, each) for each in steps)
            asked += 1
    assert asked == strains["facts"]
    assert (rumours, forgotten) == (strains["rumours"], strains["forgotten"])


def test_a_task_without_strains_says_no_word_of_them():
    assert "rumour" not in KeyValueRecall().vocabulary
    assert "rumour" in KeyValueRecall(forgotten=1).vocabulary


def test_distances_are_drawn_by_their_order_of_magnitude():
    task = KeyValueRecall(facts=1, distance=99, shortest=0)
    lengths = np.array([len(task.tell(key, 0, {}).sentences) - 2 for key in range(2000)])
    assert lengths.min() == 0
    assert lengths.max() == 99
    assert np.mean(lengths < 9) == pytest.approx(np.log(10) / np.log(101), abs=0.04)


def test_it_is_an_environment_and_a_batch_tells_the_same():
    env = gymnasium.make(ID, distance=5, facts=3)
    check_env(env.unwrapped, skip_render_check=True)
    batch = gymnasium.make_vec(ID, num_envs=3, distance=5, facts=3)
    assert isinstance(batch.unwrapped, KeyValueRecallVectorEnv)
    observations, _ = batch.reset(seed=4)
    told = [[text] for text in observations]
    for _ in range(11):
        observations, _, ended, _, _ = batch.step([""] * 3)
        for row, text in zip(told, observations, strict=True):
            row.append(text)
    assert ended.all()
    for row in range(3):
        alone = KeyValueRecall(first_episode=row, stride=3, distance=5, facts=3)
        text, _ = alone.reset(seed=4 + row)
        mine = [text]
        for _ in range(len(told[row]) - 1):
            text, reward, over, _, info = alone.step("amber")
            mine.append(text)
            assert reward == float(info.get("target") == "amber")
        assert over
        assert mine == told[row]


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"facts": 0}, "choose 1 to 20"),
        ({"updates": 5}, "choose 0 to facts=4"),
        ({"rumours": 5}, "rumours=5: choose 0 to facts=4"),
        ({"facts": 18, "updates": 3}, "none is told twice; choose at most updates=2"),
        ({"facts": 20, "rumours": 1}, "that nobody has; choose at most facts=19"),
        ({"distance": 3, "shortest": 4}, "shortest is not the longer"),
        ({"distanz": 3}, "Did you mean 'distance'"),
        ({"lasting": 5}, "lasting=5: choose 0 to facts=4"),
        ({"carry": 0.5}, "raise lasting to at least 1"),
        ({"lasting": 1, "lifetime_facts": 100, "carry": 1.5}, "carry is a share, 0 to 1"),
        ({"lasting": 1, "lifetime_facts": 100, "rumours": 1}, "leave updates, expiring"),
        ({"lasting": 1, "lifetime_facts": 65}, "a multiple of lasting=1 from 66"),
        ({"lasting": 2, "lifetime_facts": 151}, "a multiple of lasting=2 from 132"),
        ({"lasting": 1, "lifetime_facts": 577}, "to 576"),
        ({"split": "test"}, "split='test' is neither train nor exam"),
        ({"facts": 2.5}, "facts=2.5 is not a whole number"),
        ({"distance": "far"}, "distance='far' is not a whole number"),
        ({"shortest": 1.5}, "shortest=1.5 is not a whole number"),
        ({"lasting": 1, "lifetime_facts": 9, "lag": -3}, "lag=-3: choose 0 or more"),
        ({"lasting": 1, "lifetime_facts": 66, "life": -1}, "life=-1: choose 0 to"),
        ({"lasting": 1, "lifetime_facts": 66, "life": 10**20}, "life=1.*: choose 0 to"),
    ],
)
def test_a_dial_that_is_wrong_is_one_sentence(dials, words):
    with pytest.raises(ValueError, match=words):
        KeyValueRecall(**dials)


def test_a_stream_has_one_training_and_an_examination_a_distance():
    config = compose_config(["stream=recall", "stream.tasks.distances=[4,400]"])
    assert config.stream.joint
    assert episodes_of(config) == [6400, 6400]
    near, far = recall_tasks([4, 400], trained=16, facts=2)
    assert near.train == far.train == {"facts": 2, "distance": 16, "shortest": 0}
    assert (near.exam["distance"], far.exam["distance"]) == (4, 400)
    assert far.name == "recall_400"


def test_the_stress_stream_strains_in_every_way_and_returns():
    config = compose_config(["stream=stress"])
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    assert [task.name for task in tasks][::5] == ["contradictions", "contradictions_again"]
    assert len(episodes_of(config)) == len(tasks) == 6
    said = {task.name: KeyValueRecall(**task.train).tell(1, 0, {}).sentences for task in tasks}
    assert sum("forget" in text for text in said["deletions"]) == 2
    assert "a new day begins ." in said["expiry"]
    assert sum("rumour" in text for text in said["rumours"]) == 4
    idle = [text for text in said["distractors_90"] if " a " in text]
    assert len(idle) / (len(said["distractors_90"]) - 4) == 0.9
    assert said["contradictions"] == said["contradictions_again"]
    with pytest.raises(ValueError, match="Did you mean 'rumours'"):
        stress_tasks(["rumors"])


def test_examinations_of_the_stress_stream_tell_no_code_of_the_life() -> None:
    (task,) = stress_tasks(["distractors_50"], lasting=1, carry=1.0, lifetime_facts=66)
    told = KeyValueRecall(**task.exam).tell(3, 500, {"lived": 300, "task_start": 0})
    assert not LASTING.findall(" ".join(told.sentences))
    answers = [answer for answer in told.answers if answer is not None]
    assert all(answer.carried and 234 <= answer.supports[0][0] < 300 for answer in answers)


def test_each_distance_may_have_its_own_training() -> None:
    near, far = recall_tasks([4, 400], trained=[2, 16])
    assert (near.train["distance"], far.train["distance"]) == (2, 16)
    with pytest.raises(ValueError, match=r"trained=\[2\] for distances=\[4, 400\]: give one"):
        recall_tasks([4, 400], trained=[2])
    for trained in (None, 2.5):
        with pytest.raises(ValueError, match=f"distance={trained} is not a whole number"):
            recall_tasks([4], trained=trained)


def test_a_stream_says_itself_what_it_trains_and_examines_with() -> None:
    with pytest.raises(ValueError, match="leave distance out"):
        recall_tasks([4], 4, distance=9)
    with pytest.raises(ValueError, match="leave split out"):
        recall_tasks([4], 4, split="exam")
    with pytest.raises(ValueError, match="leave split out"):
        stress_tasks(["expiry"], split="exam")


LIFE = {"lasting": 1, "carry": 0.4, "lifetime_facts": 30, "lag": 4, "life": 7, "distance": 2}
LASTING = re.compile(r"the code of (the \w+ \w+) is (\w+) \.")


def test_codes_of_a_life_are_told_in_turns_and_asked_for_later() -> None:
    task = KeyValueRecall(**LIFE)
    told, last, carried, questions = {}, {}, 0, 0
    for episode in range(300):
        story = task.tell(1000 + episode, episode, {"task_start": 20})
        assert set(" ".join(story.sentences).split()) <= set(task.vocabulary)
        ((person, code),) = LASTING.findall(" ".join(story.sentences))
        assert LASTING.fullmatch(story.sentences[0])  # told first
        assert told.setdefault(person, code) == code  # and holds
        for answer, text in zip(story.answers, story.sentences, strict=True):
            if answer is None:
                continue
            questions += episode >= 25
            asked = text.removeprefix("what is the code of ").removesuffix(" ?")
            if answer.carried:
                carried += 1
                ((where, step),) = answer.supports
                assert answer.target == told[asked]
                assert 20 <= where < episode - LIFE["lag"]
                assert (last[asked], step) == (where, 0)  # not told again since
                assert asked != person  # nor now
            elif asked == person:
                assert (answer.target, answer.supports) == (code, ((episode, 0),))
            else:
                assert asked in PEOPLE
        last[person] = episode
    assert len(told) == LIFE["lifetime_facts"]
    assert carried / questions == pytest.approx(0.4, abs=0.04)


def test_another_life_has_other_codes_of_the_same_people() -> None:
    lives = []
    for life in (7, 8):
        task = KeyValueRecall(**{**LIFE, "life": life})
        told = " ".join(task.tell(0, episode, {}).sentences[0] for episode in range(30))
        lives.append(dict(LASTING.findall(told)))
    assert list(lives[0]) == list(lives[1])
    assert sum(lives[0][person] == lives[1][person] for person in lives[0]) < 10  # 1.5 by chance
    assert len(set(lives[0].values())) > 10


@given(key=st.integers(0, 2**62), each=st.integers(1, 4), first=st.integers(0, 50))
def test_an_examination_tells_no_lasting_code_and_asks_for_those_that_were_lived(key, each, first):
    dials = {**LIFE, "lasting": each, "lifetime_facts": 60, "carry": 1.0}
    lived = {"task_start": first, "lived": first + 1}
    told = KeyValueRecall(**dials).tell(key, first, {}).sentences[:each]
    story = KeyValueRecall(**dials, split="exam").tell(key, 3, lived)
    assert not LASTING.findall(" ".join(story.sentences))
    answers = [answer for answer in story.answers if answer]
    questions = [text for text in story.sentences if text.endswith("?")]
    assert len(set(questions)) == each  # none twice while there are others
    for text, answer in zip(questions, answers, strict=True):
        assert answer.carried
        ((where, step),) = answer.supports
        assert where == first
        asked = text.removeprefix("what is ").removesuffix(" ?")
        assert told[step] == f"{asked} is {answer.target} ."
    before = KeyValueRecall(**dials, split="exam").tell(key, 3, {"task_start": first, "lived": 0})
    assert not any(answer.carried for answer in before.answers if answer)  # nothing was lived


@given(key=st.integers(0, 2**62), lasting=st.integers(1, 4))
def test_lasting_codes_change_nothing_else_of_a_story(key, lasting):
    plain = KeyValueRecall(distance=9).tell(key, 5, {})
    life = {"lasting": lasting, "lifetime_facts": 60, "lag": 4}
    with_life = KeyValueRecall(distance=9, **life).tell(key, 5, {})
    differing = [
        step
        for step, (one, other) in enumerate(zip(plain.sentences, with_life.sentences, strict=True))
        if one != other
    ]
    assert differing[:lasting] == list(range(lasting))
    assert len(differing) == 2 * lasting
    assert all(step >= 4 + 9 for step in differing[lasting:])


def test_rows_of_a_life_side_by_side_tell_what_each_tells_alone() -> None:
    task = KeyValueRecall(**LIFE)
    keys, episodes, place = np.arange(40) * 77, np.arange(100, 140), {"task_start": 90}
    sheet = task.tell_rows(keys, episodes, place)
    for row in range(40):
        assert story_of(sheet, row) == task.tell(int(keys[row]), int(episodes[row]), place)


@pytest.mark.parametrize(
    "dials", [{"shortest": 0, "distance": 60}, {**LIFE, "distance": 60, "shortest": 0}]
)
def test_how_far_others_are_asked_changes_nothing_of_a_story(dials: dict[str, Any]) -> None:
    task, keys, place = KeyValueRecall(**dials), np.arange(9) * 77, {"task_start": 90}
    sheet = task.tell_rows(keys, keys + 100, place)
    assert len(set(sheet.lengths_B.tolist())) > 3
    for row, key in enumerate(keys.tolist()):
        assert story_of(sheet, row) == task.tell(key, key + 100, place)


def test_a_stream_of_lives_examines_without_telling() -> None:
    near, far = recall_tasks([4, 400], trained=16, lasting=1, carry=0.5, lifetime_facts=100)
    assert (near.train.get("split", "train"), near.exam["split"]) == ("train", "exam")
    assert far.exam["carry"] == 0.5
    config = compose_config(["stream=recall", "seed=5"])
    assert config.stream.tasks.life == 5
