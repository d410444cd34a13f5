"""Tasks of reasoning-gym: answers are verified again by the package, items never shared."""

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from stillknows.agents.configuration import compose_config
from stillknows.agents.controllers.tokenizer import OPEN, WordTokenizer
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.reports import log as logs
from stillknows.envs.reasoning_gym import (
    FEEDBACK,
    ReasoningGym,
    _examines,
    reasoning_gym_tasks,
    say,
    unsay,
)
from stillknows.envs.tasks import make

reasoning_gym = pytest.importorskip("reasoning_gym", reason="needs the extra `text`")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's and the package's
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]

SETS = ("chain_sum", "letter_counting", "coin_flip", "gcd", "decimal_chain_sum", "syllogism")


@pytest.mark.parametrize("task", SETS)
def test_answers_are_verified_by_the_package(task: str) -> None:
    env = ReasoningGym(task)
    package = reasoning_gym.create_dataset(task, seed=0, size=2**31)
    for seed in range(20):
        asked, info = env.reset(seed=seed)
        number = int(gymnasium.utils.seeding.np_random(seed)[0].integers(2**30))
        item = env.item(number)
        assert item in [package[number + ahead] for ahead in range(20)]
        assert asked == say(item["question"])
        assert info["question"]
        answer = env._answer
        assert answer.target == say(item["answer"])
        assert package.score_answer(item["answer"], item) == 1
        if task != "syllogism":  # which wants a capital
            assert package.score_answer(unsay(answer.target), item) == 1
        _, reward, over, _, told = env.step(answer.target)
        assert (reward, over, told["target"]) == (1.0, True, answer.target)


def test_the_verifier_knows_other_right_answers() -> None:
    env = ReasoningGym("countdown")
    found = 0
    for seed in range(10):
        env.reset(seed=seed)
        numbers = re.findall(r"\d+", unsay(env._question))
        turned = " ".join(reversed(env._answer.target.split()))
        assert env.step("0")[1] == 0
        env.reset(seed=seed)
        swapped = f"( {env._answer.target} )"
        assert numbers
        found += env.step(swapped)[1] == 1
        assert turned
    assert found == 10


def test_a_wrong_answer_is_asked_again() -> None:
    env = ReasoningGym("chain_sum", attempts=3)
    asked, _ = env.reset(seed=4)
    for attempt in (1, 2):
        again, reward, over, _, info = env.step("no idea")
        assert (again, reward, over) == (FEEDBACK + asked, 0.0, False)
        assert info["question"]
        assert info["step"] == attempt
    assert env.step("no idea")[:3] == ("", 0.0, True)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(env._answer.target)
    env.reset(seed=4)
    env.step("no idea")
    assert env.step(env._answer.target)[:3] == ("", 1.0, True)


def test_training_and_examinations_share_no_item_and_seeds_fix_all() -> None:
    asked: dict[str, set[str]] = {}
    for split in ("train", "exam"):
        env = ReasoningGym("letter_counting", split=split)
        asked[split] = {env.reset(seed=seed)[0] for seed in range(200)}
        twin = ReasoningGym("letter_counting", split=split)
        assert asked[split] == {twin.reset(seed=seed)[0] for seed in range(200)}
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        ReasoningGym("letter_counting").step("")
    assert not asked["train"] & asked["exam"]
    assert min(map(len, asked.values())) > 190
    written = [_examines(f"Is {number} PRIME?") for number in range(20)]
    assert written == [_examines(f"is {number} prime ?") for number in range(20)]
    assert len(set(written)) == 2
    check_env(ReasoningGym("coin_flip"), skip_render_check=True)


def test_words_have_tokens_and_come_back() -> None:
    env = ReasoningGym("chain_sum")
    tokenizer = WordTokenizer(env.vocabulary)
    asked, _ = env.reset(seed=1)
    tokens = tokenizer.encode(asked)
    assert OPEN not in tokens
    assert tokenizer.decode(tokens) == asked
    assert say("It's -12.5, (a+b)") == "it ' s - 1 2 . 5 , ( a + b )"
    assert unsay("- 1 2 . 5 , 7 - 3") == "-12.5, 7 - 3"


def test_a_life_in_its_tasks(tmp_path: Path) -> None:
    options = [
        "stream=reasoning_gym",
        "stream.tasks.tasks=[coin_flip,chain_sum]",
        "+stream.tasks.own.chain_sum={max_terms: 2, max_digits: 1}",
        "stream.tasks.attempts=2",
        "stream.episodes=16",
        "stream.exam_episodes=8",
        "controller.width=16",
        "rows=8",
        "arm=none",
    ]
    live_lifetime(compose_config(options), tmp_path, lambda *_: None)
    exams = [e for e in logs.read(tmp_path) if e.get("arm") == "agent"]
    assert len(exams) == 6
    for event in exams:
        firsts = [
            mark for mark, step in zip(event["correct"], event["steps"], strict=True) if not step
        ]
        assert len(firsts) == 8
        assert len(event["correct"]) == 16 - sum(firsts)
    envs = make(reasoning_gym_tasks(["coin_flip"])[0], 3, {"task": "coin_flip"})
    assert envs.num_envs == 3


def test_mistakes_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"task": "chain_summ"}, "Did you mean 'chain_sum'"),
        ({"task": "chain_sum", "settings": {"min_termss": 3}}, "cannot make chain_sum of"),
        ({"task": "chain_sum", "settings": {"min_terms": -3}}, "cannot make chain_sum of"),
        ({"task": "boxnet"}, "has no answers to learn from"),
        ({"task": "chain_sum", "split": "test"}, "is train or exam"),
        ({"task": "chain_sum", "attempts": 0}, "attempts=0 a whole number from 1 on"),
        ({"task": "chain_sum", "attempts": 2.5}, "attempts=2.5 a whole number from 1 on"),
        ({"task": "chain_sum", "attempts": float("nan")}, "attempts=nan a whole number"),
    ]
    for arguments, says in wrong:
        with pytest.raises(ValueError, match=says):
            ReasoningGym(**arguments)
    env = ReasoningGym("chain_sum")
    env.items, held = defaultdict(lambda: {"question": "one and one"}), []
    for split in ("train", "exam"):
        env.split = split
        try:
            env.item(7)
        except ValueError as error:
            held.append(str(error))
    assert len(held) == 1
    assert "too few are different" in held[0]
    with pytest.raises(ValueError, match="own names gcd"):
        reasoning_gym_tasks(["chain_sum"], own={"gcd": {}})
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match=r"pip install 'stillknows\[text\]'"):
        ReasoningGym("chain_sum")
