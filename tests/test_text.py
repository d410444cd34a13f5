"""The contract of text tasks, held by a small task whose stories differ in length."""

from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.envs.algorithmic import AlgorithmicVectorEnv
from stillknows.envs.side_by_side import TextVectorEnv, gather
from stillknows.envs.text import (
    Answer,
    Story,
    StoryTask,
    StoryVectorEnv,
    asked_of,
)


class Parrot(StoryTask):
    """Says a word, up to thrice, and asks for it; how often depends on the key."""

    vocabulary = ("?", ".", "one", "two", "what")
    most = 1

    def tell(self, key, episode, options):
        word = ("one", "two")[key % 2]
        sentences, answers = [], []
        for turn in range(1 + key // 2 % 3):
            says = 1 + (key // 6 + turn) % self.most
            support = ((episode, len(sentences)),)
            sentences += [f"{word} ."] * says + ["what ?"]
            answers += [None] * says + [Answer(word, support, "carried" in options)]
        trees = tuple(f"({sentence})" for sentence in sentences)
        return Story(episode, tuple(sentences), trees, tuple(answers))


class Chatter(Parrot):
    """Says its word up to three times before it asks, so that rows differ in where they ask."""

    most = 3


MARKS = ("target", "supports", "carried")


def told(env, seed, word="one", **options):
    """Return everything that a plain episode emits."""
    observation, info = env.reset(seed=seed, options=options)
    events = [(observation, 0.0, False, info)]
    while not events[-1][2]:
        observation, reward, ended, truncated, info = env.step(word)
        assert not truncated
        events.append((observation, reward, ended, info))
    return events


def row_info(infos, row):
    return {
        key: value[row].item() if isinstance(value[row], np.generic) else value[row]
        for key, value in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][row]
    }


def test_the_checker_of_gymnasium_finds_nothing():
    gymnasium.register("tests/Parrot-v0", entry_point=Parrot)
    check_env(gymnasium.make("tests/Parrot-v0").unwrapped)
    del gymnasium.registry["tests/Parrot-v0"]


def test_a_story_is_told_and_marked():
    env = Parrot(first_episode=5, stride=3)
    target = env.tell(int(np.random.default_rng(7).integers(2**63)), 5, {}).answers[1].target
    events = told(env, 7, target)
    assert [event[1] for event in events] == [0.0] + [0.0, 1.0] * (len(events) // 2)
    assert [event[3]["question"] for event in events] == [False, True] * (len(events) // 2) + [
        False
    ]
    assert [event[3]["step"] for event in events] == list(range(len(events)))
    assert {event[3]["episode"] for event in events} == {5}
    assert events[-1][0] == events[-1][3]["tree"] == ""
    for before, after in pairwise(events):
        assert ("target" in after[3]) == before[3]["question"]
    assert events[2][3] == {
        "question": False,
        "tree": events[2][3]["tree"],
        "episode": 5,
        "step": 2,
        "target": target,
        "supports": ((5, 0),),
        "carried": False,
    }


@pytest.mark.parametrize("answer", ["", "three", "one two", " one", "one "])
def test_only_the_exact_answer_is_rewarded(answer):
    assert sum(event[1] for event in told(Parrot(), 3, answer)) == 0.0


def test_a_seed_begins_the_numbers_again_and_an_option_sets_them():
    env = Parrot(first_episode=5, stride=3)
    numbers = [env.reset(seed=1), env.reset(), env.reset(), env.reset(options={"episode": 90})]
    numbers += [env.reset(), env.reset(seed=1)]
    assert [info["episode"] for _, info in numbers] == [5, 8, 11, 90, 93, 5]
    rows = StoryVectorEnv(3, Parrot(first_episode=5))
    resets = [rows.reset(seed=1), rows.reset(), rows.reset(options={"episode": 90}), rows.reset()]
    resets += [rows.reset(seed=1)]
    numbers = [info["episode"].tolist() for _, info in resets]
    assert numbers == [[5, 6, 7], [8, 9, 10], [90, 91, 92], [93, 94, 95], [5, 6, 7]]


def test_rows_go_on_as_plain_environments_however_often_they_begin_again():
    class Keys(Parrot):
        def tell(self, key, episode, options):
            said.append((episode, key))
            return super().tell(key, episode, options)

    said = []
    vector = StoryVectorEnv(2, Keys())
    vector.reset(seed=9)
    for _ in range(150):
        vector.reset()
    rows, said = sorted(said), []
    for row in range(2):
        env = Keys(first_episode=row, stride=2)
        env.reset(seed=9 + row)
        for _ in range(150):
            env.reset()
    assert rows == sorted(said)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 5))
def test_rows_wait_for_each_other_before_their_questions(seed, rows):
    plain = [Chatter(first_episode=2 + row, stride=rows) for row in range(rows)]
    vector = StoryVectorEnv(rows, Chatter(first_episode=2))
    for start in (seed, None):
        alone = [told(env, None if start is None else seed + row) for row, env in enumerate(plain)]
        observations, infos = vector.reset(seed=start)
        heard, marks = [[] for _ in alone], [[] for _ in alone]
        rewards, ended = np.zeros(rows), np.zeros(rows, dtype=bool)
        while not ended.all():
            asking = infos["question"]
            assert not asking.any() or (asking | ended).all()
            for row, info in enumerate(row_info(infos, row) for row in range(rows)):
                mark = {key: info.pop(key) for key in MARKS if key in info}
                marks[row] += [(rewards[row], mark)] if mark else []
                if observations[row]:
                    heard[row].append((observations[row], info))
                elif not ended[row]:  # it waits, and its question comes next
                    coming = alone[row][len(heard[row])][3]
                    assert coming["question"]
                    assert info == {k: coming[k] for k in info} | {"question": False, "tree": ""}
            observations, rewards, ended, _, infos = vector.step(["one"] * rows)
        for row, events in enumerate(alone):
            mark = {key: row_info(infos, row).get(key) for key in MARKS}
            marks[row] += [(rewards[row], mark)] if mark["target"] else []
            assert [words for words, _ in heard[row]] == [event[0] for event in events[:-1]]
            bare = [{k: v for k, v in event[3].items() if k not in MARKS} for event in events]
            assert [info for _, info in heard[row]] == bare[:-1]
            given = [(e[1], {key: e[3][key] for key in MARKS}) for e in events if "target" in e[3]]
            assert marks[row] == given


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 5), native=st.booleans())
def test_rows_tell_what_plain_environments_tell(seed, rows, native):
    plain = [Parrot(first_episode=2 + row, stride=rows) for row in range(rows)]
    if native:
        vector = StoryVectorEnv(rows, Parrot(first_episode=2))
    else:
        envs = [Parrot(first_episode=2 + row, stride=rows) for row in range(rows)]
        vector = TextVectorEnv(envs)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    for start in (seed, None):
        episodes = [
            told(env, None if start is None else start + row) for row, env in enumerate(plain)
        ]
        observations, infos = vector.reset(seed=start)
        rewards, ended = np.zeros(rows), np.zeros(rows, dtype=bool)
        for step in range(max(map(len, episodes)) + 1):
            assert isinstance(observations, tuple)
            for row, events in enumerate(episodes):
                if step < len(events):
                    seen = (observations[row], rewards[row], ended[row], row_info(infos, row))
                    assert seen == events[step]
                else:
                    assert (observations[row], rewards[row], ended[row]) == ("", 0.0, True)
                    assert not infos["question"][row]
                    assert infos["episode"][row] == events[-1][3]["episode"]
            observations, rewards, ended, truncated, infos = vector.step(["one"] * rows)
            assert not truncated.any()


def test_a_cut_row_stays_over():
    envs = [gymnasium.wrappers.TimeLimit(Parrot(), 1), Parrot()]
    vector = TextVectorEnv(envs)
    vector.reset(seed=0)
    observations, _, terminated, truncated, infos = vector.step(["", ""])
    assert observations[0] == ""
    assert (terminated | truncated).tolist() == [True, False]
    assert infos["question"].tolist() == [False, True]
    for _ in range(8):
        _, rewards, terminated, truncated, infos = vector.step(["one", "one"])
        assert (terminated[0], truncated[0], rewards[0]) == (False, True, 0.0)
    assert (terminated[1], truncated[1]) == (True, False)
    vector.close()


class Silent(gymnasium.Wrapper):
    """Does not say where a question is."""

    def reset(self, **options):
        observation, info = super().reset(**options)
        return observation, without_question(info)

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, without_question(info)


def without_question(info):
    return {key: value for key, value in info.items() if key != "question"}


def test_a_question_mark_asks_where_nothing_else_says_so():
    vector = TextVectorEnv([Silent(Chatter()) for _ in range(8)])
    observations, infos = vector.reset(seed=0)
    asked = answered = 0
    for _ in range(12):  # rows end one after the other
        now = asked_of(observations, infos)
        assert now.tolist() == [text == "what ?" for text in observations]
        asked += now.sum()
        observations, _, _, _, infos = vector.step(("one",) * 8)
        answered += np.sum(infos.get("_target", 0))
    assert asked == answered > 8
    vector.close()


class Careless(Chatter):
    """Makes the mistakes that are easily made."""

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake

    def reset(self, *, seed=None, options=None):
        begun = super().reset(seed=seed, options=options)
        return begun[0] if self.mistake == "observation alone" else begun

    def step(self, action):
        if self.mistake == "raises":
            return 1 / 0
        told = super().step(action)
        return told[:4] if self.mistake == "four things" else told


class Deaf(Chatter):
    """Takes no options."""

    def reset(self, seed=None):
        return super().reset(seed=seed)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (Careless("observation alone"), r"Careless raised ValueError in reset\(.*an info: .*\."),
        (Careless("raises"), r"Careless raised ZeroDivisionError in step\('one'\).*by zero\."),
        (Careless("four things"), r"Careless raised ValueError in step\(.*an info: .*\."),
        (Deaf(), r"Deaf raised TypeError in reset\(.*'options'\."),
    ],
)
def test_what_an_environment_does_wrong_is_one_sentence_with_its_name(env, says):
    def begin(vector):
        vector.reset(seed=0)
        vector.step(("one",))

    with pytest.raises(ValueError, match=says):
        begin(TextVectorEnv([env]))


def test_infos_are_gathered_as_gymnasium_does():
    infos = [
        {"a": True, "b": 3, "c": ((0, 1),), "e": 0.5},
        {"a": False, "b": 4, "c": ((0, 2),), "d": "word", "g": True},
        {"a": True, "b": 5, "c": ((1, 2),), "e": 1.5, "f": 7},
    ]
    expected = {}
    for row, info in enumerate(infos):
        vector = StoryVectorEnv(3, Parrot())
        expected = vector._add_info(expected, info, row)
    joined = gather(infos)
    assert joined.keys() == expected.keys()
    for key, column in expected.items():
        assert joined[key].dtype == column.dtype
        assert joined[key].tolist() == column.tolist()


def test_infos_of_other_environments_are_gathered_too():
    joined = gather([{"n": np.int64(3), "x": None, "y": 1, "z": 1.5}, {"x": None, "y": "two"}])
    assert joined["n"].dtype == int
    assert joined["n"].tolist() == [3, 0]
    assert joined["x"].tolist() == [None, None]
    assert joined["_x"].tolist() == [True, True]
    assert joined["y"].tolist() == [1, "two"]
    assert joined["z"].tolist() == [1.5, 0.0]
    assert gather([{"seed": 2**70}, {}])["seed"].tolist() == [2**70, None]
    assert joined["_z"].tolist() == [True, False]


def test_mistakes_are_told():
    env, rows = Parrot(), StoryVectorEnv(2, Parrot())
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step("one")
    with pytest.raises(ValueError, match="call reset"):
        rows.step(["one", "one"])
    rows.reset(seed=0)
    with pytest.raises(ValueError, match="3 answers for 2 stories"):
        rows.step(["one"] * 3)
    with pytest.raises(ValueError, match="1 seeds for 2 rows"):
        rows.reset(seed=[0])
    for number in (-1, 0.5, True):
        for told in (env, rows):
            with pytest.raises(ValueError, match=f"episode={number}: give a whole number from 0"):
                told.reset(seed=0, options={"episode": number})
    for vector in (rows, TextVectorEnv([Parrot(), Parrot()]), AlgorithmicVectorEnv("copy", 2)):
        vector.reset(seed=0, options={"reset_mask": np.array([True, True])})
        with pytest.raises(ValueError, match=r"reset together, .* leave out reset_mask"):
            vector.reset(options={"reset_mask": np.array([True, False])})
