"""Stories written many at a time are those of `write_story`, and there is a way without."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sanitized import expect_sound

from stillknows.envs import native_stories, stories
from stillknows.envs.microworld import Microworld, MicroworldVectorEnv
from stillknows.envs.native_stories import writer_of
from stillknows.envs.questions import TASKS
from stillknows.envs.stories import make_dials, write_story
from stillknows.envs.text import story_of

needs_compiler = pytest.mark.skipif(native_stories.library() is None, reason="needs a C++ compiler")
all_dials = st.fixed_dictionaries(
    {
        "task": st.sampled_from(sorted(TASKS)),
        "people": st.integers(1, 12),
        "places": st.integers(2, 12),
        "objects": st.integers(1, 12),
        "sentences": st.integers(16, 60),
        "questions": st.integers(1, 4),
        "distractors": st.floats(0, 1),
        "route_length": st.integers(1, 12),
        "two_way": st.booleans(),
        "life": st.integers(0, 5),
        "carry": st.sampled_from([0.0, 0.4, 1.0]),
        "lag": st.integers(0, 5),
        "lifetime_facts": st.integers(7, 30),
        "shortest": st.sampled_from([0, 4, 12]),
        "short_episodes": st.sampled_from([0, 40]),
        "task_start": st.sampled_from([0, 20, 1000]),
        "split": st.sampled_from(["train", "exam"]),
        "names": st.sampled_from(["seen", "unseen"]),
        "length_factor": st.sampled_from([1.0, 2.5]),
        "begins": st.sampled_from([0, 1, 3]),
    }
)


@needs_compiler
@settings(max_examples=150, deadline=None)
@given(
    all_dials,
    st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 2**33), min_size=1, max_size=12),
    st.integers(0, 3000),
    st.integers(0, 3000),
)
def test_every_story_is_the_one_of_write_story(values, keys, first, lived):
    dials = make_dials(values)
    writer = writer_of(dials)
    if writer is None:  # with these dials a split has no stories
        with pytest.raises(ValueError, match="drafts held no story"):
            [write_story(key, 0, dials) for key in native_stories.TRIED.tolist()]
        return
    episodes = np.arange(len(keys)) + first
    sheet = writer.write(np.array(keys), episodes, lived)
    for row, (key, episode) in enumerate(zip(keys, episodes.tolist(), strict=True)):
        assert story_of(sheet, row) == write_story(key, episode, dials, lived)


@needs_compiler
@pytest.mark.parametrize("task", sorted(TASKS))
def test_more_rows_than_are_seeded_together_and_more_draws_than_a_block(task):
    dials = make_dials({"task": task, "sentences": 300, "places": 12, "objects": 12, "people": 12})
    keys = np.random.default_rng(3).integers(2**63, size=150)
    sheet = writer_of(dials).write(keys, np.arange(150), 0)
    for row in (0, 63, 64, 127, 128, 149):
        assert story_of(sheet, row) == write_story(int(keys[row]), row, dials)


@needs_compiler
def test_an_examination_asks_for_what_an_episode_of_its_own_number_told():
    dials = make_dials({"task": "route", "split": "exam", "carry": 1.0, "lifetime_facts": 70})
    sheet = writer_of(dials).write(np.arange(70), np.arange(70), 70)
    told = [story_of(sheet, row) for row in range(70)]
    assert told == [write_story(row, row, dials, 70) for row in range(70)]
    assert any(
        answer and answer.supports[0][0] == story.episode
        for story in told
        for answer in story.answers
    )


@needs_compiler
def test_rows_without_stories_are_told_as_one_by_one(monkeypatch):
    """Of two places and one person hardly a story begins otherwise: some rows find none."""
    values = {"task": "where_person", "people": 1, "places": 2, "sentences": 1, "questions": 1}
    dials = make_dials({**values, "distractors": 0.0, "split": "exam"})
    with pytest.raises(ValueError, match="1000 drafts held no story of the exam split") as alone:
        write_story(0, 0, dials)
    with pytest.raises(ValueError, match="drafts") as together:
        native_stories.Writer(dials).write(np.arange(3), np.arange(3), 0)
    assert str(together.value) == str(alone.value)
    assert writer_of(dials) is None


@needs_compiler
def test_a_python_that_draws_otherwise_has_no_writer(monkeypatch):
    dials = make_dials({"task": "where_person", "sentences": 13})
    monkeypatch.setattr(
        native_stories, "write_story", lambda key, *rest: stories.write_story(key + 1, *rest)
    )
    writer_of.cache_clear()
    assert writer_of(dials) is None
    writer_of.cache_clear()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_batch_is_the_same_with_and_without_a_compiler(task, monkeypatch):
    def told():
        env = MicroworldVectorEnv(task, num_envs=5, sentences=15, shortest=5)
        turns = [env.reset(seed=4)[0]]
        ended = np.zeros(5, dtype=bool)
        while not ended.all():
            texts, _, ended, _, info = env.step(("garden",) * 5)
            turns.append(
                (texts, info["tree"].tolist(), info.get("supports", np.array([])).tolist())
            )
        return turns

    with_it = told()
    monkeypatch.setattr("stillknows.envs.microworld.writer_of", lambda dials: None)
    assert told() == with_it


def test_without_a_compiler_there_is_no_writer(monkeypatch):
    monkeypatch.setattr(native_stories, "library", lambda: None)
    writer_of.cache_clear()
    assert writer_of(make_dials({"task": "route"})) is None
    writer_of.cache_clear()
    env = Microworld("route")
    assert env.reset(seed=1)[0].endswith(".")


DRIVER = """
import ctypes, sys
import numpy as np
from stillknows.envs import native_stories
from stillknows.envs.questions import TASKS
from stillknows.envs.stories import make_dials

made = ctypes.CDLL(sys.argv[1])
made.write_stories.argtypes = native_stories.SIGNATURES["write_stories"]
made.write_stories.restype = ctypes.c_int64
native_stories.library = lambda: made
keys = np.random.default_rng(0).integers(2**63, size=70)
largest = {"people": 12, "places": 12, "objects": 12, "route_length": 12, "sentences": 90}
for task in TASKS:
    for sizes in ({}, {"people": 1, "places": 2, "objects": 1}, largest):
        for split in ("train", "exam"):
            for carry in (0.0, 0.5):
                for two_way in (False, True):
                    dials = make_dials({"task": task, "carry": carry, "lifetime_facts": 90,
                                        "split": split, "two_way": two_way, **sizes})
                    if (writer := native_stories.writer_of(dials)) is not None:
                        writer.write(keys, np.arange(70), 50)
print("sound")
"""


def test_no_number_is_read_or_written_beyond_an_array(tmp_path: Path) -> None:
    """Under AddressSanitizer, the smallest worlds and the largest."""
    expect_sound(DRIVER, native_stories.SOURCES, tmp_path)
