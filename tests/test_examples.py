"""Examples as questions: nothing is lost on the way from an array to the eye, and lives learn."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from stillknows.agents.commands.train import check_life
from stillknows.agents.configuration import compose_config
from stillknows.agents.controllers.seeing import Seeing
from stillknows.agents.controllers.tokenizer import PAD, pad
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence.keeping import load_agent
from stillknows.agents.persistence.trust import refuse_foreign
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.lives import accuracy_matrix
from stillknows.envs.digits import Digits, digits, permuted, rotated
from stillknows.envs.examples import (
    Examples,
    ExampleTask,
    ExampleVectorEnv,
    Palette,
    avalanche_tasks,
    palette_of,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


def benchmark(*experiences: list[tuple[Any, Any]], tests: int | None = None) -> Any:
    """Return what has streams as Avalanche's benchmarks have."""
    made = [SimpleNamespace(dataset=each) for each in experiences]
    return SimpleNamespace(train_stream=made, test_stream=made[:tests])


def small(shape: tuple[int, ...] = (3,), count: int = 5, label: int = 0) -> list[tuple[Any, Any]]:
    draw = np.random.default_rng(label)
    return [(draw.random(shape), label + number % 2) for number in range(count)]


@given(st.lists(st.integers(0, 16), min_size=6, max_size=6), st.integers(2, 17))
@settings(max_examples=30)
def test_the_eye_sees_the_array_that_was_said(numbers: list[int], levels: int) -> None:
    palette = Palette((2, 3), levels, 0.0, 16.0)
    array = np.array(numbers, dtype=float).reshape(2, 3)
    examples = Examples(palette, palette.quantised(array)[None], ["seven"])
    task = ExampleTask(examples, ["seven", "grey cat"])
    tokenizer = Seeing.tokenizer(task.vocabulary, levels=levels)
    seeing = Seeing(len(tokenizer), (2, 3), levels, width=8, heads=2)
    seen: list[torch.Tensor] = []
    seeing.eye.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    sentence = task.tell(0, 0, {}).sentences[0]
    seeing.encode(tokenizer.batch([sentence]))
    expected = [round(number / 16 * (levels - 1)) for number in numbers]  # to even, as rint
    assert seen[0].tolist() == [expected]
    assert tokenizer.decode(tokenizer.encode(sentence)) == sentence
    assert task.observation_space.contains(sentence)


def controller() -> tuple[Seeing, Any]:
    words = ["?", "a", "b", "is", "what", *Palette((4,), 9, 0, 1).words]
    tokenizer = Seeing.tokenizer(words, levels=9)
    torch.manual_seed(0)
    return Seeing(len(tokenizer), (4,), 9, width=8, heads=2).double(), tokenizer


def test_an_array_is_one_token_among_words_by_hand() -> None:
    seeing, tokenizer = controller()
    text = "what is ~01 ~08 ~00 ~03 ? b ~02 ~02 ~02 ~02"
    vector_1D, _ = seeing.encode(tokenizer.batch([text]))
    eye = seeing.eye(torch.tensor([[1.0, 8, 0, 3], [2, 2, 2, 2]]).double())
    parts = [
        eye[int(word[1:])] if word.startswith("#") else seeing.embedding.weight[tokenizer.ids[word]]
        for word in ("what", "is", "#0", "?", "b", "#1")
    ]
    x_1MD = (torch.stack(parts) + seeing.positions[:6])[None]
    expected, _ = seeing._read(x_1MD, torch.ones(1, 6, dtype=torch.bool))
    assert torch.allclose(vector_1D, expected, atol=1e-12)


def test_neighbours_in_a_batch_change_nothing() -> None:
    seeing, tokenizer = controller()
    texts = [
        "a ?",
        "what is ~01 ~08 ~00 ~03 ?",
        "~05 ~05 ~00 ~00",
        "b ~07 ~01 ~00 ~03 ~02 ~02 ~02 ~02",
    ]
    together_BL = tokenizer.batch(texts)
    own_BL = together_BL != PAD
    own_BL[3, 0] = False  # a word of an earlier sentence
    vectors_BD, cache = seeing.encode(together_BL, own_BL)
    answer_B2 = tokenizer.batch(["a b"]).expand(4, -1)
    logits_BSV = seeing.answer_logits(vectors_BD, together_BL, cache, answer_B2)
    for row, text in enumerate(texts):
        alone_1L = pad([tokenizer.encode(text)])
        own_1L = own_BL[row : row + 1, : alone_1L.shape[1]]
        vector_1D, own_cache = seeing.encode(alone_1L, own_1L)
        assert torch.allclose(vectors_BD[row], vector_1D[0], atol=1e-12)
        logits = seeing.answer_logits(vector_1D, alone_1L, own_cache, answer_B2[:1])
        assert torch.allclose(logits_BSV[row], logits[0], atol=1e-10)


def test_training_takes_each_example_once_an_epoch_and_lives_differ() -> None:
    palette = Palette((2,), 16, 0.0, 1.0)
    levels_EN = np.stack([np.arange(7), np.arange(7)], axis=1).astype(np.uint8)
    examples = Examples(palette, levels_EN, [str(number) for number in range(7)])
    orders = {}
    for life in (0, 1):
        task = ExampleTask(examples, [], per_episode=2, shuffled=True, life=life)
        told = [task.tell(key, 30 + key, {"task_start": 30}) for key in range(7)]
        answers = [answer.target for story in told for answer in story.answers if answer]
        assert sorted(answers[:7]) == sorted(answers[7:]) == list("0123456")
        assert answers[:7] != answers[7:]
        orders[life] = answers
    assert orders[0] != orders[1]
    exam = ExampleTask(examples, [], per_episode=2)
    asked = [a.target for e in range(4) for a in exam.tell(9, e, {"task_start": 2}).answers if a]
    assert asked == list("0123456")
    envs = ExampleVectorEnv(4, examples=examples, together=[], per_episode=2)
    observations, info = envs.reset(seed=0)
    assert observations == tuple(exam.tell(0, e, {}).sentences[0] for e in range(4))
    assert info["question"].all()
    envs.step(("0", "2", "4", "5"))
    assert envs.step(("1", "2", "5", ""))[1].tolist() == [1, 0, 1, 0]


def test_who_hears_a_task_from_the_first_episode_hears_different_examples() -> None:
    palette = Palette((2,), 9, 0.0, 1.0)
    levels = np.arange(10, dtype=np.uint8).reshape(5, 2) % 9
    task = ExampleTask(Examples(palette, levels, ["zero"] * 5), ["zero"], shuffled=True)
    heard = {task.tell(0, episode, {"task_start": 100}).sentences for episode in range(5)}
    assert len(heard) == 5


def test_digits_are_split_permuted_and_turned() -> None:
    parts, whole = digits(), load_digits()
    together = np.concatenate([parts["train"].images, parts["test"].images]).reshape(-1, 64)
    rows = {row.tobytes() for row in together}
    assert rows == {row.astype(np.float32).tobytes() for row in whole.data}
    assert len(together) == len(whole.data) == 1797
    assert [int((parts["test"].labels == each).sum()) for each in (0, 8)] == [60, 58]
    one = Digits(parts["test"].images[:3], parts["test"].labels[:3])
    order = np.random.default_rng(5).permutation(64)
    back = np.empty_like(permuted(one, 5).images.reshape(-1, 64))
    back[:, order] = permuted(one, 5).images.reshape(-1, 64)
    assert np.array_equal(back.reshape(one.images.shape), one.images)
    assert np.allclose(rotated(one, 180.0).images, one.images[:, ::-1, ::-1], atol=1e-3)
    assert np.allclose(rotated(one, 90.0).images, np.rot90(one.images, 1, (1, 2)), atol=1e-3)


def test_benchmarks_of_avalanche_become_tasks_with_all_their_examples() -> None:
    from avalanche.benchmarks import nc_benchmark

    from stillknows.envs.streams import (
        _as_dataset,
        permuted_digits_benchmark,
        rotated_digits_benchmark,
        split_digits_benchmark,
    )

    tasks = avalanche_tasks(split_digits_benchmark(), 5, levels=17)
    assert [task.name for task in tasks] == [f"{2 * n} {2 * n + 1}" for n in range(5)]
    assert palette_of(tasks) == Palette((1, 8, 8), 17, 0.0, 1.0)
    parts = digits()
    for number, task in enumerate(tasks):
        for split, arguments in (("train", task.train), ("test", task.exam)):
            images, labels = parts[split]
            mine = (labels == 2 * number) | (labels == 2 * number + 1)
            examples = arguments["examples"]
            expected = images[mine].reshape(-1, 64).astype(np.uint8)
            assert sorted(map(bytes, examples.levels_EN)) == sorted(map(bytes, expected))
            pairs = dict(zip(map(bytes, expected), labels[mine], strict=True))
            named = zip(map(bytes, examples.levels_EN), examples.names, strict=True)
            assert all(pairs[levels] == int(name) for levels, name in named)
        assert task.exam_stories == int(mine.sum())
    data = [_as_dataset(parts[name]) for name in ("train", "test")]
    stock = nc_benchmark(*data, n_experiences=2, task_labels=False, seed=1)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    named = avalanche_tasks(stock, 2, levels=17, words=words)
    assert [task.name for task in named] == ["experience 0", "experience 1"]
    heard = {name for task in named for name in task.train["examples"].names}
    assert heard == set(words)
    for benchmark_of in (permuted_digits_benchmark, rotated_digits_benchmark):
        with pytest.raises(ValueError, match="experiences=0: give a whole number from 1 on"):
            benchmark_of(0)
    domains = avalanche_tasks(permuted_digits_benchmark(3), 3, levels=17)
    same = [sorted(task.train["examples"].names) for task in domains]
    assert same[0] == same[1] == same[2]
    assert [task.name for task in domains] == ["experience 0", "experience 1", "experience 2"]


SMALL = (
    "stream=split_digits",
    "stream.tasks.count=2",
    "stream.tasks.benchmark.experiences=5",
    "stream.episodes=160",
    "stream.exam_episodes=40",
    "exam_arms=[agent]",
    "checkpoint.every=0",
)


def test_a_life_learns_digits_and_its_store_keeps_them(tmp_path: Path) -> None:
    matrices = {}
    for arm in ("none", "both"):
        live_lifetime(compose_config([*SMALL, f"arm={arm}"]), tmp_path / arm, lambda *_: None)
        exams = [e for e in logs.read(tmp_path / arm) if e.get("arm") == "agent"]
        matrices[arm] = accuracy_matrix(exams, 2)
    assert matrices["none"][1, 0] > 0.9
    assert matrices["none"][2, 0] < 0.3
    assert matrices["both"][2].min() > 0.85
    agent = load_agent(tmp_path / "both" / "agent.safetensors")
    task = avalanche_tasks(_split(), 1, levels=17)[0]
    exam = ExampleTask(**task.exam)
    stories = [exam.tell(0, episode, {}) for episode in range(20)]
    asked = tuple(story.sentences[0] for story in stories)
    answers, _, _ = agent.step(asked, [True] * 20, agent.initial_state(20))
    right = [
        a == s.answers[0].target for a, s in zip(answers, stories, strict=True) if s.answers[0]
    ]
    assert sum(right) > 15


def _split() -> Any:
    from stillknows.envs.streams import split_digits_benchmark

    return split_digits_benchmark()


@pytest.mark.parametrize(
    ("made", "count", "says"),
    [
        (SimpleNamespace(), 1, "has no train_stream"),
        (benchmark(small()), -1, "stream.tasks.count=-1: the train stream of this benchmark has 1"),
        (benchmark(small()), 1.5, "stream.tasks.count=1.5: the train stream"),
        (benchmark([(np.ones(2), 0.5)]), 1, "no array of numbers with a whole number"),
        (benchmark(small()), 2, "the train stream of this benchmark has 1 experiences"),
        (benchmark(small(), small(label=2), tests=1), 2, "the test stream of this benchmark has 1"),
        (benchmark(small(), small((4,))), 2, r"shapes \[\(3,\), \(4,\)\]: resize them to one"),
        (benchmark([("a text", 0)]), 1, "Example 0 of the benchmark is no array of numbers"),
        (benchmark([(np.ones(2), [0.5, 1])]), 1, "no array of numbers with a whole number"),
        (benchmark([(np.array([0, np.nan]), 0)]), 1, "has a number that is not finite"),
        (benchmark([]), 1, "has no examples"),
    ],
)
def test_benchmarks_that_cannot_be_lived_are_one_sentence(made: Any, count: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        avalanche_tasks(made, count)


def test_other_mistakes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="give 2 to 256 levels"):
        avalanche_tasks(benchmark(small()), 1, levels=257)
    for wrong in ({"levels": 2.5}, {"per_episode": 1.5}):
        with pytest.raises(ValueError, match="give 2 to 256 levels"):
            avalanche_tasks(benchmark(small()), 1, **wrong)
    for words in (["grey"], ["grey", " "]):
        with pytest.raises(ValueError, match="no name for class 1"):
            avalanche_tasks(benchmark(small()), 1, words=words)
    for options, says in (
        (["stream=split_digits", "controller=transformer"], "only controller=seeing reads"),
        (["controller=seeing"], "this stream shows none"),
        (["stream=split_digits", "story_shape=[1,60]"], r"give story_shape=\[1,67\]"),
        (["stream=split_digits", "stream.tasks.count=3"], "split into 1, 2, 5 or 10"),
        (["stream=avalanche", "stream.tasks.count=1"], "benchmark"),
    ):
        with pytest.raises(ValueError, match=says):
            check_life(compose_config(options))


def test_a_plan_may_name_our_benchmarks_and_what_is_allowed() -> None:
    whole: Any = OmegaConf.to_container(compose_config(["stream=rotated_digits"]), resolve=True)
    refuse_foreign(whole, run=True)
    theirs = "avalanche.benchmarks.classic.SplitMNIST"
    whole["stream"]["tasks"]["benchmark"]["_target_"] = theirs
    with pytest.raises(ValueError, match="allow its module"):
        refuse_foreign(whole, run=True)
    refuse_foreign(whole, allow=["avalanche"], run=True)
