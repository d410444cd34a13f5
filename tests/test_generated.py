"""Generated problems: readers that know the words alone find every answer, also in its supports."""

import re
import subprocess
import sys
from collections import Counter
from itertools import product
from random import Random

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from solvers import (
    HARD,
    MANY,
    NEEDED,
    SOLVERS,
    asked,
    fitting,
    likeliest,
    traversal,
)

from stillknows.envs import GENERATED
from stillknows.envs.generated import PROBLEMS, Generated, generated_tasks, make_problems
from stillknows.envs.kinds.forecast import forecast
from stillknows.envs.kinds.kinship import Kinship, _named
from stillknows.envs.kinds.writing import Page, Problems
from stillknows.envs.measures.floors import hear, last_mentioned_answer, majority_answer
from stillknows.envs.text import StoryVectorEnv


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("task", sorted(SOLVERS))
def test_a_reader_finds_every_answer_and_finds_it_in_the_supports(task, hard):
    dials = HARD[task] if hard else {}
    words = {"words": dials["words"]} if task in ("induction", "code") and hard else {}
    count = 0
    for told, question, answer, supports in asked(task, 60 if hard else 250, **dials):
        count += 1
        for known in (told, supports):
            found = SOLVERS[task](known, question, **words)
            assert answer.mark(found)[0] == 1.0, (known, question, answer.target, found)
            assert found == answer.target or task in MANY
        for left_out in supports if task in NEEDED else ():
            rest = [sentence for sentence in supports if sentence != left_out]
            assert SOLVERS[task](rest, question, **words) != answer.target if rest else True
    assert count >= 60


@pytest.mark.parametrize("task", sorted(PROBLEMS))
def test_no_answer_is_a_good_guess(task):
    answers = Counter(answer.target for _, _, answer, _ in asked(task, 500))
    assert max(answers.values()) < 0.25 * sum(answers.values())


def test_other_answers_are_right_only_if_they_do_what_is_asked():
    counts = Counter()
    for told, _, answer, _ in asked("code", 200, words=2, examples=1):
        right = {" ".join(program) for program in fitting(told, 2)}
        for program in product(["reverse", "sort", "raise", "sum"], repeat=2):
            assert answer.mark(" ".join(program))[0] == (" ".join(program) in right)
        for wrong in ("", "fly", f"{answer.target} fly", "sort " * 4 + answer.target):
            assert answer.mark(wrong)[0] == 0.0
        counts["code"] += len(right) > 1
    for told, question, answer, _ in asked("shortest_way", 300, rooms=6, doors=2, steps=3):
        length = len(answer.target.split())
        for way in product(["red", "blue", "green", "white", "black"], repeat=length):
            ends = traversal(
                told, f"from the {question.split()[6]} by {' '.join(way)} where are you ?"
            )
            right = ends == question.split()[9]
            assert answer.mark(" ".join(way))[0] == right
            counts["way"] += right and " ".join(way) != answer.target
        longer = [f"{answer.target} {colour}" for colour in ("red", "blue", "green")]
        longer += [f"{colour} {answer.target}" for colour in ("red", "blue", "white")]
        longer += [f"{answer.target} {answer.target}"]
        assert not any(answer.mark(way)[0] for way in longer)
    for _, _, answer, _ in asked("summary", 100, matter=3):
        backwards = " ".join(reversed(answer.target.split()))
        assert answer.mark(backwards)[0] == 1.0
        assert answer.mark(f"{answer.target} {answer.target}")[0] == 0.0
    assert min(counts["code"], counts["way"]) > 10


def test_plans_are_carried_out():
    """Every plan of two moves is right exactly if a simulation of its own says so."""
    shorter = 0
    for told, question, answer, _ in asked("planning", 60, blocks=3, moved=2, fewest=1):
        towers = {}
        for words in map(str.split, told):
            towers[words[2] if words[0] == "then" else words[1]] = words[-2]
        goal = question.split()[5], question.split()[8]
        right = set()
        ends = [*towers, "table"]
        for length in (1, 2):
            for plan in product(product(towers, ends), repeat=length):
                state, legal = dict(towers), True
                for block, below in plan:
                    legal &= block != below and block not in state.values()
                    legal &= below == "table" or below not in state.values()
                    legal &= state[block] != below
                    state[block] = below
                words = " ".join(word for move in plan for word in move)
                if legal and state[goal[0]] == goal[1]:
                    right.add(words)
                assert answer.mark(words)[0] == (words in right)
        least = min((len(plan.split()) for plan in right), default=6)
        assert len(answer.target.split()) == least
        shorter += len(right) > 1
    assert shorter > 10


def test_the_move_that_the_question_names_is_no_plan():
    """Unless `fewest` is 1; but two moves of the blocks named are right in more than a third."""
    for _, question, answer, _ in asked("planning", 200):
        named = question.split()[5], question.split()[8]
        assert answer.mark(" ".join(named))[0] == 0.0
    blind = [
        answer.mark(" ".join((question.split()[5], question.split()[8])))[0]
        for _, question, answer, _ in asked("planning", 200, fewest=1)
    ]
    assert np.mean(blind) == pytest.approx(0.5, abs=0.1)
    two_moves = [
        answer.mark(f"{words[8]} table {words[5]} {words[8]}")[0]
        for _, question, answer, _ in asked("planning", 1000)
        for words in [question.split()]
    ]
    assert np.mean(two_moves) == pytest.approx(0.36, abs=0.04)


def test_a_forecast_is_the_best_there_is():
    hits, sure, last, count = 0, 0.0, 0, 0
    for told, question, answer, supports in asked("forecast", 1500):
        assert supports == told
        best, chance = likeliest(told, question)
        readings = [int(text.split()[3]) for text in told]
        value, probability = forecast(readings, 0.1)
        assert probability == pytest.approx(chance)
        assert str(value) == best
        hits += best == answer.target
        sure += chance
        last += str((2 * readings[-1] - readings[-2]) % 10) == answer.target
        count += 1
    assert hits / count == pytest.approx(sure / count, abs=0.02)
    assert 0.85 < hits / count < 0.92
    assert hits > last + 0.05 * count
    assert forecast([3], 0.1)[1] == pytest.approx(0.9 / 5)


@pytest.mark.parametrize("task", sorted(PROBLEMS))
def test_what_is_said_is_clean_and_declared(task):
    for dials in ({}, HARD[task]):
        problems = make_problems(task, **dials)
        known = set(problems.vocabulary)
        heard = set()
        for key in range(60):
            story = problems.story(key, key, exam=False)
            for sentence, tree, answer in zip(
                story.sentences, story.trees, story.answers, strict=True
            ):
                words = sentence.split()
                assert " ".join(words) == sentence
                assert words[-1] == ("." if answer is None else "?")
                assert re.findall(r"[^() ]+", tree) == words
                depth = np.cumsum([(c == "(") - (c == ")") for c in tree])
                assert depth[-1] == 0
                assert (depth[:-1] > 0).all()
                heard.update(words)
                heard.update(answer.target.split() if answer else ())
        assert heard <= known
    assert list(problems.vocabulary) == sorted(known)


@pytest.mark.parametrize("task", sorted(PROBLEMS))
def test_no_story_of_the_exam_is_told_in_training(task):
    few = {
        "kinship": {"relations": 2, "distractors": 0},
        "traversal": {"rooms": 3, "doors": 1},
        "succession": {"items": 2, "questions": 1},
        "programs": {"variables": 1, "lines": 0, "questions": 1},
        "induction": {"length": 2, "examples": 1, "questions": 1},
        "code": {"length": 2, "examples": 1},
        "forecast": {"readings": 2, "questions": 1},
        "planning": {"blocks": 3, "moved": 0},
    }.get(task, {})
    problems = make_problems(task, **few)
    splits = [
        {
            tuple(sorted(s for s, a in zip(story.sentences, story.answers, strict=True) if not a))
            for story in (problems.story(key, 0, exam) for key in range(300))
        }
        for exam in (False, True)
    ]
    assert not splits[0] & splits[1]
    assert all(splits)


@pytest.mark.parametrize("id", sorted(GENERATED))
def test_the_checker_of_gymnasium_finds_nothing_and_rows_tell_the_same(id):
    check_env(gymnasium.make(id).unwrapped)
    rows = gymnasium.make_vec(id, num_envs=3, vectorization_mode="vector_entry_point")
    assert isinstance(rows.unwrapped, StoryVectorEnv)
    observations, _ = rows.reset(seed=7)
    heard, rewards, ended = [[] for _ in range(3)], np.zeros(3), np.zeros(3, dtype=bool)
    plain = [Generated(GENERATED[id], first_episode=row, stride=3) for row in range(3)]
    for row, env in enumerate(plain):
        env.reset(seed=7 + row)
    targets = [[a.target for a in env._story.answers if a] for env in plain]
    asks = np.zeros(3, dtype=int)
    info = {"question": [False] * 3}
    while not ended.all():
        for row, text in enumerate(observations):
            heard[row] += [text] if text else []
        answers = [targets[row][asks[row]] if info["question"][row] else "x" for row in range(3)]
        asks += np.array(info["question"])
        observations, gained, ended, _, info = rows.step(answers)
        rewards += gained
    assert heard == [list(env._story.sentences) for env in plain]
    assert rewards.tolist() == [float(len(each)) for each in targets]


def test_rows_are_rewarded_for_other_right_answers():
    rows = gymnasium.make_vec("stillknows/Summary-v0", num_envs=32, matter=3)
    _, info = rows.reset(seed=1)
    while not info["question"].all():
        _, _, _, _, info = rows.step([""] * 32)
    targets = rows.unwrapped._turns._sheet.targets_BQ[:, 0].tolist()
    answers = [" ".join(reversed(target.split())) for target in targets]
    assert any(target != answer for target, answer in zip(targets, answers, strict=True))
    answers[0] = "nowhere"
    _, rewards, _, _, info = rows.step(answers)
    assert rewards.tolist() == [0.0] + [1.0] * 31
    assert info["target"].tolist() == targets


def test_stories_do_not_depend_on_the_order_of_sets():
    script = (
        "from hashlib import blake2b\n"
        "from stillknows.envs.generated import PROBLEMS, make_problems\n"
        "told = [make_problems(t).story(k, 0, False)[1:3] for t in PROBLEMS for k in range(20)]\n"
        "print(blake2b(repr(told).encode()).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_floors_are_far_below_the_readers():
    for task in generated_tasks(sorted(PROBLEMS)):
        heard = [hear(task, arguments, 200, seed=1) for arguments in (task.train, task.exam)]
        answers = [question.target for question in heard[0]]
        assert majority_answer(answers, heard[1]) < 0.3
        assert last_mentioned_answer(answers, heard[1]) < 0.6


@pytest.mark.parametrize(
    ("task", "dials", "words"),
    [
        ("kinshp", {}, "Did you mean 'kinship'"),
        ("kinship", {"relation": 3}, "no dial 'relation'. Did you mean 'relations'"),
        ("kinship", {"relations": 7}, "relations=7: give a whole number from 2 to 6"),
        ("kinship", {"shortest": 4}, "shortest=4 is above relations=3"),
        ("traversal", {"rooms": 3, "doors": 3}, "doors=3: there are rooms=3"),
        ("succession", {"items": 3, "questions": 3}, "items=3 have fewer successors"),
        ("succession", {"items": 64}, "items=64: give a whole number from 2 to 62"),
        ("programs", {"loops": 2}, "loops=2: give a number from 0 to 1"),
        ("programs", {"lines": 2.0}, "lines=2.0: give a whole number"),
        ("programs", {"variables": 1}, "there are variables=1"),
        ("dialogue_state", {"exchanges": 1}, "exchanges=1 speak of fewer slots"),
        ("summary", {"events": 2, "matter": 2}, "of events=2, some have to stay"),
        ("planning", {"fewest": 2, "moves": 1}, "fewest is at most moves"),
        ("planning", {"split": "test"}, "split='test': choose train or exam"),
        ("planning", {"beginning": 0}, "beginning=0: give a whole number from 1 on"),
    ],
)
def test_a_wrong_dial_is_one_sentence(task, dials, words):
    with pytest.raises(ValueError, match=words):
        Generated(task, **dials)


class Same(Problems):
    """Always tells the same."""

    def write(self, draw, page):
        page.ask("what ?", "one", [page.tell("one .")])


@pytest.mark.parametrize("kind", sorted(HARD))
def test_no_question_of_the_exam_is_asked_in_training_after_the_same_statements(kind):
    problems, asked_after = make_problems(kind), [set(), set()]
    for exam, questions in enumerate(asked_after):
        for key in range(400):
            story = problems.story(key, 0, bool(exam))
            for step, answer in enumerate(story.answers):
                if answer is not None:
                    questions.add(story.sentences[: step + 1])
    assert not asked_after[0] & asked_after[1]
    assert all(asked_after)


@pytest.mark.parametrize(
    ("kind", "exam"), [("forecast", {"readings": 8}), ("topics", {"topics": 4})]
)
def test_so_it_is_where_examinations_tell_more_before_they_ask(kind, exam):
    (task,) = generated_tasks([kind], exam=exam, own={kind: {"questions": 6}})
    asked_after = []
    for dials in (task.train, task.exam):
        env, questions = Generated(**{"task": kind, **dials}), set()
        for key in range(1500):
            story = env.tell(key, 0, {})
            told = []
            for sentence, answer in zip(story.sentences, story.answers, strict=True):
                if answer is None:
                    told.append(sentence)
                else:
                    questions.add((*told, sentence))
        asked_after.append(questions)
    assert not asked_after[0] & asked_after[1]


def test_no_way_is_asked_for_twice():
    problems = make_problems("traversal", rooms=3, doors=1, steps=1, questions=3)
    for key in range(50):
        story = problems.story(key, 0, False)
        asked = [s for s, answer in zip(story.sentences, story.answers, strict=True) if answer]
        assert len(set(asked)) == len(asked) == 3


def test_there_are_names_for_all_relatives_even_of_one_sex():
    most = 1 + Kinship.ranges["relations"][1] + Kinship.ranges["distractors"][1]
    assert len(set(_named(Random(0), [True] * int(most)))) == most


def test_a_split_without_stories_is_told():
    page = Page(0)
    Same().write(None, page)
    assert Same().story(1, 0, page.in_exam()).sentences == ("one .", "what ?")
    with pytest.raises(ValueError, match="too few different stories"):
        Same().story(1, 0, not page.in_exam())


def test_tasks_may_have_dials_of_their_own_and_longer_examinations():
    own = {"kinship": {"relations": 3}}
    (task,) = generated_tasks(["kinship"], exam={"relations": 6}, own=own)
    assert (task.name, task.train) == ("kinship", {"relations": 3})
    assert task.exam == {"relations": 6, "split": "exam"}
    assert generated_tasks(["kinship"], own={"kinship": None})[0].train == {}
    for wrong, words in (
        ({"own": {"codes": {}}}, "no generated task 'codes'"),
        ({"own": {"code": 5}}, "own.code=5 should be dials"),
        ({"own": {"planning": {"blocks": 77}}}, "blocks=77: give a whole number from 3 to 6"),
        ({"exam": 5}, "exam=5 should be dials"),
    ):
        with pytest.raises(ValueError, match=words):
            generated_tasks(["code"], **wrong)
