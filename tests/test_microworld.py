"""The microworld: stories that hold, answers that follow from their supports, facts for a life."""

import re
from collections import Counter

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from witness import Reader, Witness

from stillknows.envs import MICROWORLD, world
from stillknows.envs.microworld import Microworld, MicroworldVectorEnv, microworld_tasks
from stillknows.envs.stories import TASKS, make_dials, vocabulary, write_story

LIVING = {"carry": 0.4, "lifetime_facts": 20, "lag": 3}
COUNTS = {"people": 3, "places": 4, "objects": 3}

dials_of_all_kinds = st.fixed_dictionaries(
    {
        "task": st.sampled_from(sorted(TASKS)),
        "people": st.integers(2, 6),
        "places": st.integers(2, 7),
        "objects": st.integers(1, 5),
        "sentences": st.integers(12, 24),
        "questions": st.integers(1, 3),
        "distractors": st.floats(0, 1),
        "route_length": st.integers(1, 3),
        "two_way": st.booleans(),
        "life": st.integers(0, 5),
        "carry": st.one_of(st.just(0.0), st.floats(0, 1)),
        "lag": st.integers(0, 5),
        "lifetime_facts": st.integers(7, 30),
        "shortest": st.sampled_from([0, 4, 12]),
    }
)


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


def tells_life(statement):
    return any(word in statement for word in (" lives ", " lived ", " belongs ", " goats "))


def told_before(story, step):
    return [
        sentence
        for sentence, answer in zip(story.sentences[:step], story.answers, strict=False)
        if answer is None
    ]


@pytest.mark.parametrize("name", sorted(MICROWORLD))
def test_the_checker_of_gymnasium_finds_nothing(name):
    assert isinstance(gymnasium.spec(name).entry_point, str)
    check_env(gymnasium.make(name).unwrapped)
    vector = gymnasium.make_vec(name, num_envs=4, vectorization_mode="vector_entry_point")
    assert isinstance(vector, MicroworldVectorEnv)
    observations, infos = vector.reset(seed=1)
    assert observations in vector.observation_space
    for step in range(1, 16):
        assert infos["question"].tolist() == [step in (5, 10, 15)] * 4
        observations, rewards, terminated, truncated, infos = vector.step([""] * 4)
        assert rewards.tolist() == [0.0] * 4
        assert terminated.tolist() == [step == 15] * 4
        assert not truncated.any()
        assert ("target" in infos) == (step in (5, 10, 15))
    assert observations == ("",) * 4


@settings(max_examples=25, deadline=None)
@given(
    values=dials_of_all_kinds,
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 4),
    first=st.integers(0, 100),
    exam=st.booleans(),
)
def test_rows_of_a_batch_are_plain_episodes(values, seed, rows, first, exam):
    values = values | {"split": "exam" if exam else "train", "task_start": min(first, 10)}
    first = 32 * (first // 32)  # in one chapter: rows of different lengths would wait
    options = {"lived": first} if exam else None
    vector = MicroworldVectorEnv(num_envs=rows, first_episode=first, **values)
    plain = [Microworld(first_episode=first + row, stride=rows, **values) for row in range(rows)]
    for start in (seed, None):
        observations, infos = vector.reset(seed=start, options=options)
        starts = [None if start is None else start + row for row in range(rows)]
        pairs = [env.reset(seed=s, options=options) for env, s in zip(plain, starts, strict=True)]
        assert observations == tuple(observation for observation, _ in pairs)
        over = False
        while not over:
            actions = tuple(str(info["tree"])[1:4] for _, info in pairs)
            observations, rewards, ended, _, infos = vector.step(actions)
            for row, env in enumerate(plain):
                observation, reward, over, _, info = env.step(actions[row])
                assert (observation, reward, over) == (observations[row], rewards[row], ended[row])
                assert info.keys() == {key for key in infos if key[0] != "_"}
                assert all(infos[key][row] == value for key, value in info.items())


def check_answers(story, removable):
    """Each answer follows from the whole story, from its supports, and from nothing less."""
    Witness(told_before(story, len(story.sentences))).check_map()
    for step, question, answer in asked(story):
        if asks_life(question):
            continue
        assert not answer.carried
        assert Reader(told_before(story, step)).answer(question) == answer.target
        where = [at for number, at in answer.supports if number == story.episode]
        assert len(where) == len(set(where)) == len(answer.supports) > 0
        assert max(where) < step
        supports = [story.sentences[at] for at in sorted(where)]
        assert Reader(supports).answer(question) == answer.target
        for left_out in supports if removable else ():
            rest = [sentence for sentence in supports if sentence != left_out]
            assert Reader(rest).answer(question) != answer.target


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_answer_follows_from_the_story_and_from_its_supports(task):
    for story in stories(100, task=task):
        check_answers(story, removable=task != "count_objects")


@pytest.mark.parametrize("longest", [1, 2, 4])
def test_routes_are_shortest_paths_of_up_to_the_length_asked_for(longest):
    lengths = set()
    for story in stories(60, task="route", route_length=longest, sentences=24):
        check_answers(story, removable=True)
        lengths |= {len(answer.target.split()) for _, _, answer in asked(story)}
    assert lengths == set(range(1, longest + 1))


@settings(max_examples=40, deadline=None)
@given(values=dials_of_all_kinds, key=st.integers(0, 2**63 - 1), episode=st.integers(0, 60))
def test_answers_follow_whatever_the_dials(values, key, episode):
    story = write_story(key, episode, make_dials(values))
    check_answers(story, removable=values["task"] != "count_objects")


def test_supports_come_in_the_order_of_reasoning():
    for story in stories(100, task="where_object"):
        for _, question, answer in asked(story):
            (_, handled), (_, moved) = answer.supports
            assert question.split()[3] in story.sentences[handled].split()
            assert story.sentences[moved].split()[4] == answer.target
    for task, count in (("where_person", 1), ("where_object_before", 3)):
        for story in stories(100, task=task):
            for _, _, answer in asked(story):
                assert len(answer.supports) == count
                assert list(answer.supports) == sorted(answer.supports)
    lengths = set()
    for story in stories(100, task="route"):
        for _, question, answer in asked(story):
            assert len(answer.supports) == len(answer.target.split())
            lengths.add(len(answer.supports))
            place = question.split()[6]
            for _, at in answer.supports:  # the walk is told passage by passage
                words = story.sentences[at].split()
                assert place in (words[1], words[6])
                place = words[6] if place == words[1] else words[1]
            assert place == question.split()[9]
    assert lengths == {1, 2}


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("carry", [0.0, 0.3])
def test_no_answer_is_a_good_guess(task, carry):
    answers = Counter(
        answer.target
        for story in stories(400, task=task, carry=carry, lifetime_facts=100)
        for _, _, answer in asked(story)
    )
    assert max(answers.values()) < 0.4 * sum(answers.values())
    if task != "route":
        assert min(answers.values()) > 0.03 * sum(answers.values())


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize(("sentences", "distractors"), [(12, 0.25), (24, 0.75), (20, 0.0)])
def test_the_share_of_distractors_is_exact(task, sentences, distractors):
    patterns = [re.sub(r"[()]", "", aside) for aside in world.ASIDES]
    patterns = [re.sub(r"\{\w+\}", r"\\w+", pattern) for pattern in patterns]
    for life in ({}, LIVING):
        events = sentences - bool(life)
        for story in stories(20, task=task, sentences=sentences, distractors=distractors, **life):
            found = [s for s in story.sentences if any(re.fullmatch(p, s) for p in patterns)]
            assert len(found) == round(events * distractors)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_training_stories_may_be_shorter_a_chapter_at_a_time(task):
    values = {"task": task, "sentences": 20, "questions": 5, "shortest": 8, **LIVING}
    dials = make_dials(values)
    chapters = []
    for chapter in range(60):
        stories = [write_story(7, 32 * chapter + at, dials) for at in (0, 9, 31)]
        patterns = {tuple(a is not None for a in story.answers) for story in stories}
        assert len(patterns) == 1  # rows side by side ask together
        asked = sum(next(iter(patterns)))
        told = len(stories[0].sentences) - asked
        assert asked == 5 * told // 20
        chapters.append(told)
    assert set(chapters) == set(range(8, 21))
    soon = make_dials({**values, "short_episodes": 64, "task_start": 320})
    lengths = [len(write_story(7, 320 + at, soon).sentences) for at in range(0, 640, 32)]
    assert lengths[2:] == [25] * 18
    assert min(lengths[:2]) < 25
    exam = write_story(7, 0, make_dials({**values, "split": "exam"}), lived=100)
    assert len(exam.sentences) == 25


def test_one_task_may_have_dials_of_its_own():
    own = {"route": {"sentences": 30, "route_length": 3}}
    tasks = microworld_tasks(["where_person", "route"], exam={"sentences": 40}, own=own, places=4)
    assert tasks[0].train == {"places": 4, "begins": 4}
    assert tasks[1].train == {"places": 4, "sentences": 30, "route_length": 3, "begins": 10}
    assert tasks[1].exam == {**tasks[1].train, "sentences": 40, "split": "exam"}
    with pytest.raises(ValueError, match="no task 'rout'"):
        microworld_tasks(["route"], own={"rout": {}})
    with pytest.raises(ValueError, match="exam=5 should be dials"):
        microworld_tasks(["route"], exam=5)


@pytest.mark.parametrize("fixed", [{"split": "exam"}, {"task": "where_person"}])
def test_a_stream_never_trains_on_its_examination_or_on_another_task(fixed):
    (name,) = fixed
    for options in (fixed, {"exam": fixed}, {"own": {"route": fixed}}):
        with pytest.raises(ValueError, match=f"leave {name} out"):
            microworld_tasks(["route"], **options)


@pytest.mark.parametrize("dials", [{}, {"shortest": 4}, {"carry": 0.5, "lifetime_facts": 70}])
@pytest.mark.parametrize("task", sorted(TASKS))
def test_no_question_of_the_exam_is_asked_in_training_after_the_same_statements(task, dials):
    few = {"task": task, "people": 2, "places": 2, "objects": 1, "sentences": 8, "questions": 2}
    asked_after = {"train": set(), "exam": set()}
    for split, factor in (("train", 1.0), ("exam", 1.0), ("exam", 1.5)):
        for story in stories(500, split=split, length_factor=factor, **few, **dials):
            for step, question, _ in asked(story):
                told = (each for each in told_before(story, step) if not tells_life(each))
                asked_after[split].add((*told, question))
    assert not asked_after["train"] & asked_after["exam"]
    assert all(asked_after.values())


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_exam_may_be_longer_and_about_others(task):
    values = {"task": task, "split": "exam", "names": "unseen", "length_factor": 1.5, **COUNTS}
    seen = {"people": world.PEOPLE, "objects": world.OBJECTS}
    if task == "route":
        seen["places"] = world.PLACES
    for story in stories(30, **values):
        assert len(story.sentences) == 18 + 3
        assert [step for step, _, _ in asked(story)] == [6, 13, 20]
        used = set(" ".join(story.sentences).split())
        assert not used & {name for names in seen.values() for name in names}
    values["split"] = "train"
    for story in stories(30, **values):
        assert len(story.sentences) == 12 + 3
        used = set(" ".join(story.sentences).split())
        unseen = {*world.UNSEEN_PEOPLE, *world.UNSEEN_PLACES, *world.UNSEEN_OBJECTS}
        assert not used & unseen


@settings(max_examples=30, deadline=None)
@given(values=dials_of_all_kinds, key=st.integers(0, 2**63 - 1), unseen=st.booleans())
def test_sentences_are_clean_declared_and_have_trees(values, key, unseen):
    if unseen:
        values = {**values, "split": "exam", "names": "unseen"}
    dials = make_dials(values)
    story = write_story(key, 40, dials, lived=40)
    known = set(vocabulary(dials))
    for step, (sentence, tree) in enumerate(zip(story.sentences, story.trees, strict=True)):
        words = sentence.split()
        assert " ".join(words) == sentence == sentence.lower()
        assert words[-1] == ("." if story.answers[step] is None else "?")
        assert set(words) <= known
        depth = np.cumsum([(c == "(") - (c == ")") for c in tree])
        assert depth[-1] == 0
        assert (depth[:-1] > 0).all()
        assert re.findall(r"[^() ]+", tree) == words
    for _, _, answer in asked(story):
        assert set(answer.target.split()) <= known


def test_the_vocabulary_does_not_depend_on_task_split_or_names():
    def words(**values):
        return vocabulary(make_dials({"task": "route", **values}))

    assert words() == words(split="exam", names="unseen") == words(task="count_objects")
    assert list(words()) == sorted(set(words()))
    assert set(words(**LIVING)) > set(words())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "fly"}, "task='fly' is not one of where_person"),
        ({"split": "test"}, "split='test' is not one of train, exam"),
        ({"names": "new"}, "names='new' is not one of seen, unseen"),
        ({"people": 13}, "people=13 is out of range: it goes from 1 to 12"),
        ({"carry": 1.5}, "carry=1.5 is out of range"),
        (
            {"shortest": 1},
            "shortest=1 is out of range: for where_object_before it is 0, or goes from 3",
        ),
        ({"shortest": 99}, "or goes from 3 to sentences=12"),
        ({"peopel": 3}, "no dial 'peopel': did you mean 'people'"),
        ({"xyzzy": 3}, "no dial 'xyzzy': there are task, people"),
        ({"people": "many"}, "people='many' is not a whole number"),
        ({"sentences": 12.0}, "sentences=12.0 is not a whole number"),
        ({"objects": True}, "objects=True is not a whole number"),
        ({"carry": None}, "carry=None is not a number"),
        ({"two_way": "no"}, "two_way='no' is not true or false"),
        ({"sentences": 10**20}, "it goes from 1 to 1000000"),
        ({"sentences": 8}, "raise sentences from 8 to at least 9"),
        ({"sentences": 9, **LIVING}, "raise sentences from 9 to at least 12"),
        ({"carry": 0.3, "lifetime_facts": 65}, "raise lifetime_facts to at least 66 or lower lag"),
        ({"carry": 0.3}, "lifetime_facts=0 every fact .* raise lifetime_facts to at least 66"),
        ({"task_start": -7}, "task_start=-7 is out of range: it goes from 0"),
        ({"first_episode": -1}, "task_start=-1 is out of range: it goes from 0"),
        ({"begins": 5}, "begins=5: stories tell 4 statements before the first question"),
    ],
)
def test_wrong_dials_are_told(values, message):
    with pytest.raises(ValueError, match=message):
        Microworld(**{"task": "where_object_before", **values})


def test_a_split_without_stories_is_told():
    with pytest.raises(ValueError, match="too few different stories"):
        stories(60, task="where_person", people=1, places=2, sentences=1, questions=1, split="exam")
