"""Floors worked out by hand, over questions written by hand and over those of an environment."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stillknows.envs
from stillknows.envs.babi import babi_tasks
from stillknows.envs.generated import generated_tasks
from stillknows.envs.measures.floors import Heard, hear, last_mentioned_answer, majority_answer
from stillknows.envs.tasks import make

assert stillknows.envs

EXAM = [
    Heard(("mary is in the hall .", "john is in the park ."), "where is mary ?", "hall"),
    Heard(("go north and then east .",), "how ?", "north east"),
    Heard(("nothing is said .",), "where ?", "park"),
]
TRAIN = ["park", "park", "hall", "north east", "east"]


def test_the_majority_answer_is_that_of_training() -> None:
    assert majority_answer(TRAIN, EXAM) == pytest.approx(1 / 3)
    assert majority_answer(["none", "hall", "hall"], EXAM[:2]) == pytest.approx(1 / 2)
    assert majority_answer(["none"], EXAM) == 0.0
    assert majority_answer(["park", "hall"], EXAM[:1]) == 1.0  # of equals the first by alphabet


def test_the_last_mentioned_answer() -> None:
    assert last_mentioned_answer(TRAIN, EXAM) == pytest.approx(1 / 3)  # park, east, park
    assert last_mentioned_answer(["hall", "east"], EXAM[:1]) == 1.0  # the park was no answer
    again = [EXAM[0]._replace(story=(*EXAM[0].story, "john left the hall ."))]
    assert last_mentioned_answer(TRAIN, again) == 1.0
    assert last_mentioned_answer([*TRAIN, "said", "said", "said"], EXAM[2:]) == 0.0


def test_every_right_answer_counts() -> None:
    either = [EXAM[2]._replace(verify=lambda answer: answer in ("hall", "park"))]
    assert majority_answer(["hall"], either) == 1.0
    assert last_mentioned_answer(["hall"], either) == 1.0
    assert majority_answer(["east"], either) == 0.0


def test_a_floor_is_what_its_answer_scores() -> None:
    task = generated_tasks(["code"])[0]
    answer = "sort"  # what several programs do
    envs = make(task, 128, task.exam)
    envs.reset(seed=0)
    scores, ended = [], np.zeros(128, dtype=bool)
    while not ended.all():
        _, rewards, ended, _, info = envs.step((answer,) * 128)
        scores.extend(rewards[info["_target"]] if "_target" in info else ())
    heard = hear(task, task.exam, 128, seed=0)
    assert majority_answer([answer], heard) == np.mean(scores)
    assert np.mean(scores) > np.mean([question.target == answer for question in heard])


def test_who_waits_for_the_others_is_not_heard() -> None:
    task = generated_tasks(["dialogue_state"])[0]
    assert all("" not in question.story for question in hear(task, task.exam, 64, seed=0))


def test_the_longest_of_the_answers_that_end_together_counts() -> None:
    close = [Heard(("first north east .",), "how ?", "north east")]
    assert last_mentioned_answer(TRAIN, close) == 1.0
    assert last_mentioned_answer(["east"], close) == 0.0
    parts = [Heard(("the northeast is cold .", "go north ."), "how ?", "east")]
    assert last_mentioned_answer(["east"], parts[:1]) == 1.0  # the majority: no word is "east"
    assert last_mentioned_answer(["east", "north"], parts) == 0.0


@given(st.lists(st.sampled_from("abcd"), min_size=1), st.lists(st.sampled_from("abcd"), min_size=1))
def test_one_letter_stories_against_a_plain_loop(train: list[str], story: list[str]) -> None:
    mentioned = [letter for letter in story if letter in train]
    guess = mentioned[-1] if mentioned else max(sorted(set(train)), key=train.count)
    for target in "abcd":
        exam = [Heard((" ".join(story),), "what ?", target)]
        assert last_mentioned_answer(train, exam) == (guess == target)


def test_questions_are_heard_with_the_statements_before_them(tmp_path: Path) -> None:
    ann = "1 Ann ran.\n2 Is Ann here?\tno\t1\n3 Ann hid.\n4 Is Ann there?\tyes\t3\n"
    bob = "1 Bob ran.\n2 Is Bob here?\tno\t1\n"
    (tmp_path / "en-10k").mkdir()
    (tmp_path / "en-10k" / "qa6_x_train.txt").write_text(bob.replace("Bob", "Eve"))
    (tmp_path / "en-10k" / "qa6_x_test.txt").write_text(ann + bob)
    task = babi_tasks(str(tmp_path), ["qa6"])[0]
    assert hear(task, task.exam, 2, seed=0) == [
        Heard(("ann ran .",), "is ann here ?", "no"),
        Heard(("bob ran .",), "is bob here ?", "no"),
        Heard(("ann ran .", "ann hid ."), "is ann there ?", "yes"),
    ]
    assert hear(task, task.exam, 1, seed=0, options={"episode": 1})[0].question == "is bob here ?"
    assert {heard.question for heard in hear(task, task.train, 3, seed=0)} == {"is eve here ?"}
