"""bAbI from small invented files in its format, and from the real ones where they are."""

import os
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import stillknows.envs
from stillknows.envs.babi import BabiTask, BabiVectorEnv, babi_tasks
from stillknows.envs.text import StoryTask, balanced_tree

assert stillknows.envs

ONE = (
    "1 Ann ran to the shed.\n2 Bob ran to the barn.\n3 Where is Ann? \tShed\t1\n"
    "4 Ann ran to the well.\n5 Where is Ann? \twell\t4 2\n"
)
TWO = "1 Bob has an axe, a rope.\n2 What has Bob? \taxe,rope\t1\n"
REAL = "STILLKNOWS_BABI"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    things = [TWO.replace("rope", thing) for thing in ("hat", "pen", "cup")]
    files = {
        "en-10k/qa1_places_train.txt": ONE + TWO + "".join(things),
        "en-10k/qa1_places_test.txt": TWO + ONE.replace("Ann", "Eve") + TWO.replace("Bob", "Tom"),
        "en-10k/qa3_facts_test.txt": TWO,
        "en/qa3_facts_train.txt": ONE,
        "en-valid-10k/qa3_valid.txt": TWO.replace("axe", "saw"),
    }
    return write(tmp_path_factory.mktemp("tasks"), files)


def told(env: StoryTask | gymnasium.Env[str, str], answer: str = "", **reset: Any) -> list[Any]:
    """Return everything that one story says when each question gets this answer."""
    heard: list[Any] = [env.reset(**reset)]
    ended = False
    while not ended:
        heard.append(env.step(answer))
        ended = heard[-1][2]
    return heard


def test_a_story_is_told_asked_and_marked(folder: Path) -> None:
    env = BabiTask("qa1", str(folder))
    env.stories = env.stories[:1]
    (first, about), *rest = told(env, "shed", seed=0, options={"episode": 7})
    observations = [first, *(step[0] for step in rest)]
    infos = [about, *(step[4] for step in rest)]
    assert observations == [
        "ann ran to the shed .",
        "bob ran to the barn .",
        "where is ann ?",
        "ann ran to the well .",
        "where is ann ?",
        "",
    ]
    assert infos[0]["tree"] == "(((ann ran) to) ((the shed) .))"
    assert [info["question"] for info in infos] == [False, False, True, False, True, False]
    assert [(info["episode"], info["step"]) for info in infos] == [(7, step) for step in range(6)]
    assert [step[1] for step in rest] == [0, 0, 1, 0, 0]
    assert [step[2] for step in rest] == [False] * 4 + [True]
    marked = [(i["target"], i["supports"], i["carried"]) for i in infos if "target" in i]
    assert marked == [("shed", ((7, 0),), False), ("well", ((7, 3), (7, 1)), False)]


def test_gymnasium_finds_nothing_wrong(folder: Path) -> None:
    check_env(BabiTask("qa1", str(folder)), skip_render_check=True)


def test_a_story_of_the_exam_is_left_out_of_training(folder: Path) -> None:
    train, exam = (BabiTask("qa1", str(folder), split=split) for split in ("train", "exam"))
    assert [story[0][0] for story in train.stories] == [
        "ann ran to the shed .",
        "bob has an axe , a hat .",
        "bob has an axe , a pen .",
        "bob has an axe , a cup .",
    ]
    assert not {story[0] for story in train.stories} & {story[0] for story in exam.stories}


def test_an_answer_with_a_comma_is_words(folder: Path) -> None:
    env = gymnasium.make("stillknows/Babi-v0", task="qa1", directory=str(folder), split="exam")
    _, _, (_, reward, ended, _, info) = told(env, "axe rope", seed=3)
    assert (reward, ended, info["target"]) == (1.0, True, "axe rope")
    assert told(env, "rope axe", seed=3)[-1][1] == 0.0


def test_the_exam_walks_its_stories_in_order_in_any_batch(folder: Path) -> None:
    settings_ = {"task": "qa1", "directory": str(folder), "split": "exam"}
    plain, vector = BabiTask(**settings_), BabiVectorEnv(2, **settings_)
    in_order = [story[0][0] for story in plain.stories]
    assert [told(plain)[0][0] for _ in range(4)] == [*in_order, in_order[0]]
    pairs = [vector.reset(seed=1)[0], vector.reset()[0]]
    assert [sentence for pair in pairs for sentence in pair] == [*in_order, in_order[0]]
    assert vector.reset(options={"episode": 2})[0] == (in_order[2], in_order[0])


def test_the_missing_training_file_is_made_up_for_and_said(folder: Path) -> None:
    env = BabiTask("qa3", str(folder))
    assert [path.parent.name for path in env.source] == ["en", "en-valid-10k"]
    assert [story[0][0] for story in env.stories] == [
        "ann ran to the shed .",
        "bob has an saw , a rope .",
    ]


def test_only_the_larger_size_is_made_up_for(tmp_path: Path) -> None:
    write(tmp_path, {"en/qa3_facts_test.txt": TWO, "en-valid-10k/qa3_valid.txt": ONE})
    with pytest.raises(ValueError, match=r"no train file of bAbI qa3 in .*/en: unpack"):
        BabiTask("qa3", str(tmp_path), size="en")


def test_the_vocabulary_is_every_word_of_both_files(folder: Path) -> None:
    words = "bob ran to the barn where is shed well ann eve tom has an axe a hat rope pen cup what"
    for split in ("train", "exam"):
        env = BabiTask("qa1", str(folder), split=split)
        assert env.vocabulary == tuple(sorted([*words.split(), ",", ".", "?"]))


@settings(max_examples=30)
@given(
    rows=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    first=st.integers(0, 9),
    split=st.sampled_from(("train", "exam")),
)
def test_vector_rows_tell_what_plain_environments_tell(
    folder: Path, rows: int, seed: int, first: int, split: str
) -> None:
    settings_ = {"task": "qa1", "directory": str(folder), "split": split}
    vector = gymnasium.make_vec(
        "stillknows/Babi-v0",
        rows,
        vectorization_mode="vector_entry_point",
        first_episode=first,
        **settings_,
    )
    plain = [BabiTask(**settings_, first_episode=first + row, stride=rows) for row in range(rows)]
    for reset in ({"seed": seed}, {}):
        alone = [
            told(env, "axe hat", **({"seed": seed + row} if reset else {}))
            for row, env in enumerate(plain)
        ]
        observations, _ = vector.reset(**reset)
        heard: list[list[str]] = [[] for _ in alone]
        marks: list[list[tuple[float, str]]] = [[] for _ in alone]
        ended = [False]
        while not all(ended):
            for row in range(rows):
                heard[row] += [observations[row]] if observations[row] else []
            observations, rewards, ended, _, infos = vector.step(("axe hat",) * rows)
            for row in range(rows):
                if infos.get("_target", [False] * rows)[row]:
                    marks[row].append((rewards[row], infos["target"][row]))
        for row, story in enumerate(alone):
            assert heard[row] == [event[0] for event in story[:-1]]
            marked = [event for event in story[1:] if "target" in event[4]]
            assert marks[row] == [(event[1], event[4]["target"]) for event in marked]


def test_training_draws_every_story(folder: Path) -> None:
    env = BabiTask("qa1", str(folder))
    drawn = {env.reset(seed=seed)[0] for seed in range(40)}
    assert drawn == {story[0][0] for story in env.stories}


def test_tasks_go_by_number_too(folder: Path) -> None:
    assert BabiTask(1, str(folder)).stories == BabiTask("qa1", str(folder)).stories
    tasks = babi_tasks(str(folder), ["qa3", 1])
    assert [(task.name, task.train["task"]) for task in tasks] == [("qa3", "qa3"), ("qa1", "qa1")]
    assert [task.exam.get("split") for task in tasks] == ["exam", "exam"]
    assert [task.exam_stories for task in tasks] == [1, 3]
    read = "en/qa3_facts_train.txt and en-valid-10k/qa3_valid.txt"
    assert tasks[0].source == f"trained on {read}, examined on qa3_facts_test.txt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "qa2"}, r"no train file of bAbI qa2 .*tasks_1-20_v1-2.tar.gz.*stream.directory="),
        ({"directory": ""}, r"^stream.directory is not given.*tasks_1-20_v1-2.tar.gz"),
        ({"directory": "/nowhere"}, r"tasks_1-20_v1-2.tar.gz.*stream.directory="),
        ({"task": "qa01"}, "no task 'qa01'. Did you mean 'qa1'"),
        ({"task": 21}, "no task '21'. Did you mean 'qa2"),
        ({"split": "test"}, "split='test': choose train or exam"),
        ({"size": "en10k"}, "size='en10k': choose en-10k or en"),
        ({"size": "en"}, "no train file of bAbI qa1"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        BabiTask(**{"task": "qa1", "directory": str(folder), **arguments})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("Ann ran.\n", "'Ann ran.' is out of number"),
        ("2 Ann ran.\n", "'2 Ann ran.' is out of number"),
        ("1 Ann ran.\n3 Who ran?\tAnn\t1\n", "'3 Who ran?.*' is out of number"),
        ("1 Ann ran.\n2 Who ran?\tAnn\t1\n3 Bob ran.\n", "ends with 'Bob ran.', which asks"),
        ("1 Ann ran.\n2 Who ran?\tAnn\t2\n", "a support of 'Who ran.' does not come before it"),
        ("1 Ann ran.\n2 Who ran?\tAnn\tone\n", "one"),
        (TWO, "Every story of .*qa1_x_train.txt is in the test file too"),
    ],
)
def test_a_file_that_is_not_of_babi_is_one_sentence(
    tmp_path: Path, text: str, message: str
) -> None:
    write(tmp_path, {"en-10k/qa1_x_train.txt": text, "en-10k/qa1_x_test.txt": TWO})
    with pytest.raises(ValueError, match=message) as error:
        BabiTask("qa1", str(tmp_path))
    assert "qa1_x_train.txt" in str(error.value)
    assert "unpack tasks_1-20_v1-2.tar.gz" in str(error.value)


def test_empty_lines_do_not_matter(tmp_path: Path) -> None:
    loose = ONE.replace("\n", "\r\n\r\n") + "\n \n"
    write(tmp_path, {"en-10k/qa1_x_train.txt": loose, "en-10k/qa1_x_test.txt": TWO})
    write(tmp_path, {"en-10k/qa2_x_train.txt": ONE, "en-10k/qa2_x_test.txt": TWO})
    assert BabiTask(1, str(tmp_path)).stories == BabiTask(2, str(tmp_path)).stories


@given(st.lists(st.sampled_from(["ann", "ran", "to", "."]), min_size=1, max_size=20))
def test_trees_are_balanced_and_hold_the_sentence(words: list[str]) -> None:
    tree = balanced_tree(" ".join(words))
    assert tree.replace("(", "").replace(")", "") == " ".join(words)
    deepest = max(tree[:place].count("(") - tree[:place].count(")") for place in range(len(tree)))
    assert deepest == (len(words) - 1).bit_length()
    assert balanced_tree("a b c d .") == "(((a b) c) (d .))"


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no folder")
def test_the_real_files() -> None:
    for number in range(1, 21):
        train, exam = (BabiTask(number, os.environ[REAL], split=each) for each in ("train", "exam"))
        assert sum(answer is not None for _, answers in exam.stories for answer in answers) == 1000
        assert not {story[0] for story in train.stories} & {story[0] for story in exam.stories}
        for sentences, answers in train.stories + exam.stories:
            assert len(sentences) == len(answers)
            assert all(train.observation_space.contains(sentence) for sentence in sentences)
            assert all(sentences[s][-1] == "." for a in answers if a is not None for s in a[1])
