"""Living in environments that say little of themselves."""

from typing import Any

import gymnasium
import hydra.utils
import pytest
import torch
from gymnasium import spaces

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.examinations.examine import examine
from stillknows.agents.learner import QuestionLearner
from stillknows.envs.side_by_side import TextVectorEnv
from stillknows.envs.tasks import Task
from stillknows.envs.text import Answer, Story, StoryTask, StoryVectorEnv


class Keys(gymnasium.Env[str, str]):
    """Tells some keys and asks for the last; of its episodes it says no number."""

    observation_space = action_space = spaces.Text(64)

    def __init__(self, statements: int = 3, asks: bool = True, tells: bool = True) -> None:
        self.statements, self.asks, self.tells = statements, asks, tells

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.clock, self.key = 0, str(self.np_random.integers(4))
        return self._said()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        text, info = self._said()
        if self.tells:
            info["target"] = self.key
        return text, float(action == self.key), self.clock > self.statements, False, info

    def _said(self) -> tuple[str, dict[str, Any]]:
        if self.clock < self.statements:
            return f"key {self.key} at {self.clock} .", {"question": False}
        return "which key ?", {"question": self.asks}


def lived(rows: int, *options: str, **dials: Any) -> tuple[MemoryAgent, QuestionLearner]:
    """Return an agent and its learner, ready to move, after a batch of eight episodes."""
    config = compose_config(["debug=tiny", "arm=none", "working_memory.slots=1", *options])
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(1)
    envs = TextVectorEnv([Keys(**dials) for _ in range(rows)])
    for first in range(0, 8, rows):
        if first:
            learner.part()
        live(agent, envs, learner, task=0, seed=first, options={"episode": 16 + first})
    return agent, learner


@pytest.mark.parametrize("rows", [8, 4])
def test_rows_that_say_no_number_have_that_of_their_episode(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[int] = []
    begin = MemoryAgent.initial_state

    def noting(agent: MemoryAgent, batch: int, key_B: torch.Tensor) -> Any:
        keys.extend(key_B.tolist())
        return begin(agent, batch, key_B)

    monkeypatch.setattr(MemoryAgent, "initial_state", noting)
    _, learner = lived(rows, "working_policy=actor")
    assert keys == list(range(16, 24))  # so that other batches explore otherwise
    assert [story.episode for story in learner._lived.take()] == keys  # and parts are told apart


def test_a_batch_that_asks_nothing_is_one_sentence() -> None:
    _, learner = lived(8, asks=False)
    with pytest.raises(ValueError, match="asked nothing, so that there is nothing to learn from"):
        learner.update()


@pytest.mark.parametrize("policy", ["critic", "actor"])
def test_where_nothing_was_told_a_policy_has_nothing_to_learn(policy: str) -> None:
    saves = {"critic": "+working_policy.threshold=0.0", "actor": "+working_policy.saves=true"}
    _, learner = lived(8, f"working_policy={policy}", saves[policy], statements=0)
    learner.update()
    assert learner.teacher is not None
    assert not learner.teacher.optimizer.state


def test_an_examination_names_the_question_that_has_no_answer() -> None:
    agent, _ = lived(8)
    gymnasium.register("Untold-v0", entry_point=Keys)
    try:
        task = Task("untold", "Untold-v0", {}, {"tells": False})
        with pytest.raises(ValueError, match=r"After 'which key \?' was answered.* no 'target'"):
            examine(agent, task, number=0, episodes=2, rows=2, seed=0)
    finally:
        del gymnasium.registry["Untold-v0"]


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    agent, learner = lived(8)
    before = [p.detach().clone() for p in agent.parameters()]
    with pytest.raises(ValueError, match="gradient is NaN or infinite"):
        learner.update(before_backward=lambda loss: loss * torch.inf)
    for old, new in zip(before, agent.parameters(), strict=True):
        assert torch.equal(old, new)


class Waiting(StoryTask):
    """Every second episode tells a sentence more than the others before it asks."""

    vocabulary = ("one", ".", "which", "?")

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        told = (*["one ."] * (1 + episode % 2), "which ?")
        return Story(episode, told, told, (*[None] * (len(told) - 1), Answer("one", ())))


def test_who_waits_for_the_others_takes_no_step() -> None:
    agent, learner = lived(8)
    plain = TextVectorEnv([Waiting() for _ in range(4)])
    for envs in (plain, StoryVectorEnv(4, Waiting())):
        assert live(agent, envs, learner, task=0, seed=0, options={"episode": 0}) == 2 + 3 + 2 + 3
