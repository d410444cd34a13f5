"""bAbI from small invented files in its format, and from the real ones where they are."""

import os
from pathlib import Path

import gymnasium
import pytest

import stillknows.envs
from stillknows.envs.babi import BabiTask, babi_tasks, balanced_tree

assert stillknows.envs

ONE = (
    "1 Ann ran to the shed.\n2 Bob ran to the barn.\n3 Where is Ann? \tshed\t1\n"
    "4 Ann ran to the well.\n5 Where is Ann? \twell\t4\n"
)
TWO = "1 Bob has an axe, a rope.\n2 What has Bob? \taxe,rope\t1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for size in ("en", "en-10k"):
        (tmp_path / size).mkdir()
    (tmp_path / "en-10k" / "qa1_places_train.txt").write_text(ONE + TWO + TWO.replace("axe", "hat"))
    (tmp_path / "en-10k" / "qa1_places_test.txt").write_text(TWO)
    (tmp_path / "en-10k" / "qa3_facts_test.txt").write_text(TWO)
    (tmp_path / "en" / "qa3_facts_train.txt").write_text(ONE)
    return tmp_path


def test_a_story_is_told_asked_and_marked(folder: Path) -> None:
    env = BabiTask("qa1", str(folder))
    assert [story[0][0] for story in env.stories] == [
        "ann ran to the shed .",
        "bob has an hat , a rope .",
    ]  # the story that is in the test file is left out
    env.stories = env.stories[:1]
    heard, rewards = [], []
    observation, info = env.reset(seed=0, options={"episode": 7})
    ended = False
    while not ended:
        heard.append((observation, info["question"]))
        observation, reward, ended, _, info = env.step("shed")
        rewards.append(reward)
        if "target" in info:
            assert info["supports"] == (((7, 0),) if info["target"] == "shed" else ((7, 3),))
    assert [question for _, question in heard] == [False, False, True, False, True]
    assert rewards == [0, 0, 1, 0, 0]


def test_comma_lists_become_words_and_the_exam_walks_its_stories(folder: Path) -> None:
    env = gymnasium.make("stillknows/Babi-v0", task="qa1", directory=str(folder), split="exam")
    env.reset(seed=3)
    env.step("")
    _, reward, ended, _, info = env.step("axe rope")
    assert (reward, ended, info["target"]) == (1.0, True, "axe rope")


def test_the_missing_training_file_is_made_up_for_and_said(folder: Path) -> None:
    assert [path.parent.name for path in BabiTask("qa3", str(folder)).source] == ["en"]


def test_vector_rows_tell_what_plain_environments_tell(folder: Path) -> None:
    kwargs = {"task": "qa1", "directory": str(folder)}
    vector = gymnasium.make_vec(
        "stillknows/Babi-v0", 3, vectorization_mode="vector_entry_point", **kwargs
    )
    observations, _ = vector.reset(seed=5)
    for row in range(3):
        assert BabiTask(**kwargs).reset(seed=5 + row)[0] == observations[row]


def test_mistakes_are_one_sentence(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"tasks_1-20_v1-2.tar.gz.*stream.directory"):
        BabiTask("qa2", str(folder))
    with pytest.raises(ValueError, match="Did you mean 'qa1'"):
        BabiTask("qa01", str(folder))
    assert [task.name for task in babi_tasks(str(folder), ["qa3", "qa1"])] == ["qa3", "qa1"]


def test_trees_are_balanced() -> None:
    assert balanced_tree("a b c d .") == "(((a b) c) (d .))"


@pytest.mark.skipif("STILLKNOWS_BABI" not in os.environ, reason="STILLKNOWS_BABI names no folder")
def test_the_real_files() -> None:
    for number in range(1, 21):
        env = BabiTask(f"qa{number}", os.environ["STILLKNOWS_BABI"], split="exam")
        assert sum(answer is not None for _, answers in env.stories for answer in answers) == 1000
        for sentences, answers in env.stories:
            for step, answer in enumerate(answers):
                assert answer is None or all(0 <= s < step for s in answer[1])
                assert len(sentences) == len(answers)
