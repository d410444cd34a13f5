"""Weights adapt to what is recalled, for one answer, and leave no trace."""

import copy

import pytest
import torch
from omegaconf import DictConfig

from stillknows.agents.adaptation import LocalAdaptation, neighbours_loss
from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.dialogue import Dialogue
from stillknows.agents.remembering import Remembering
from stillknows.agents.thought import Thought
from stillknows.envs.microworld import microworld_tasks

QUESTION = "where is john ?"


@pytest.fixture
def taught(tiny: DictConfig) -> MemoryAgent:
    """Return an agent that was told one answer to a question, three times, and recalls it."""
    return teach(tiny)


def teach(config: DictConfig) -> MemoryAgent:
    torch.manual_seed(0)
    agent = build_agent(config, microworld_tasks(["where_person"]))
    dialogue = Dialogue(agent)
    for place in ("garden", "kitchen", "garden"):
        dialogue.observe(f"john went to the {place} .")
        dialogue.answer(QUESTION)
        dialogue.correct(place)
        dialogue.begin()
    return agent


def recalled(agent: MemoryAgent) -> object:
    with torch.no_grad():
        state = agent.initial_state(1)
        _, _, thought = agent.step((QUESTION,), (True,), state)
    assert thought is not None
    assert thought.recall is not None
    return thought.recall


def test_one_step_is_its_equation(taught: MemoryAgent) -> None:
    recall = recalled(taught)
    own = [p for p in taught.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in own]
    gradients = torch.autograd.grad(neighbours_loss(taught, recall, 0), own, allow_unused=True)
    with LocalAdaptation(steps=1, learning_rate=0.5, pull=7.0).adapted(taught, recall, 0):
        for weight, old, gradient in zip(own, before, gradients, strict=True):
            moved = old if gradient is None else old - 0.5 * gradient
            torch.testing.assert_close(weight.detach(), moved)
    with LocalAdaptation(steps=2, learning_rate=0.1, pull=0.5).adapted(taught, recall, 0):
        second = [p.detach().clone() for p in own]
    with torch.no_grad():
        for weight, old, gradient in zip(own, before, gradients, strict=True):
            weight.copy_(old if gradient is None else old - 0.1 * gradient)
    again = torch.autograd.grad(neighbours_loss(taught, recall, 0), own, allow_unused=True)
    for weight, old, gradient, got in zip(own, before, again, second, strict=True):
        down = 0.5 * (weight.detach() - old) + (0 if gradient is None else gradient)
        torch.testing.assert_close(got, weight.detach() - 0.1 * down, rtol=1e-4, atol=1e-6)


def test_the_loss_of_neighbours_falls_and_nothing_is_kept(taught: MemoryAgent) -> None:
    recall = recalled(taught)
    kept = copy.deepcopy(taught.state_dict())
    store = taught.episodic_memory
    assert store is not None
    columns = {name: column.clone() for name, column in store.columns.items()}
    before = float(neighbours_loss(taught, recall, 0).detach())
    with LocalAdaptation(steps=10, learning_rate=0.05).adapted(taught, recall, 0):
        after = float(neighbours_loss(taught, recall, 0).detach())
    assert after < 0.8 * before
    with (
        pytest.raises(KeyError, match="within"),
        LocalAdaptation().adapted(taught, recall, 0),
    ):
        raise KeyError("within")
    for name, value in kept.items():
        assert torch.equal(value, taught.state_dict()[name]), name
    for name, column in columns.items():
        assert torch.equal(column, store.columns[name]), name
    assert all(p.grad is None for p in taught.parameters())


def test_rows_adapt_each_on_its_own_and_training_does_not(taught: MemoryAgent) -> None:
    story = ("john went to the garden .", "mary went to the kitchen .")
    questions = (QUESTION, "where is mary ?")
    taught.adaptation = LocalAdaptation(steps=3, learning_rate=0.1)
    said = []
    with torch.no_grad():
        state = taught.initial_state(2)
        for text in story:
            _, state, _ = taught.step((text, text), (False, False), state)
        both, _, _ = taught.step(questions, (True, True), state)
        for question in questions:
            state = taught.initial_state(1)
            for text in story:
                _, state, _ = taught.step((text,), (False,), state)
            said.append(taught.step((question,), (True,), state)[0][0])
    assert both == tuple(said)
    kept = copy.deepcopy(taught.state_dict())
    _, _, thought = taught.step((QUESTION,), (True,), taught.initial_state(1))
    assert thought is not None
    assert thought.fused_BD.requires_grad
    assert all(torch.equal(kept[n], v) for n, v in taught.state_dict().items())


@pytest.mark.parametrize(
    "options", [["working_memory=none", "agent.context=6"], ["working_memory=dnc"], []]
)
def test_who_does_not_move_answers_from_all_that_was_told(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = teach(compose_config(["debug=tiny", "arm=both", *options]))
    agent.adaptation = LocalAdaptation(steps=1, learning_rate=0.0, pull=0.0)
    heard: list[Thought] = []
    generate = agent.generate
    monkeypatch.setattr(agent, "generate", lambda t: heard.append(t) or generate(t))
    lines = ("john went to the garden .", QUESTION, "mary went to the hall .", "where is mary ?")
    state = agent.initial_state(1)
    with torch.no_grad():
        for line in lines:
            _, state, thought = agent.step((line,), ("?" in line,), state)
    assert thought is not None
    assert len(heard) == 2  # a question each, after the weights moved nowhere
    torch.testing.assert_close(heard[-1].fused_BD, thought.fused_BD)
    assert torch.equal(heard[-1].text_BL, thought.text_BL)


def test_an_adapting_agent_is_chosen_by_configuration_and_checked() -> None:
    config = compose_config(["debug=tiny", "adaptation=local", "adaptation.steps=2"])
    agent = build_agent(config, microworld_tasks(["where_person"]))
    assert agent.adaptation is not None
    assert agent.adaptation.steps == 2
    with pytest.raises(ValueError, match="steps=0 should be a whole number, at least 1"):
        LocalAdaptation(steps=0)


def test_a_question_is_thought_of_again_with_the_memory_that_was_asked() -> None:
    """What a random policy keeps follows from the episode's key, which the second thought has."""
    options = ["arm=both", "working_policy=reservoir", "working_memory.slots=2"]
    agent = teach(compose_config(["debug=tiny", *options]))
    lines = [f"john went to the {place} ." for place in ("garden", "kitchen", "hall", "office")]
    heard: list[Thought] = []
    agent.generate = lambda thought: heard.append(thought) or [""]
    for key in range(6):
        for adaptation in (None, LocalAdaptation(steps=1, learning_rate=0.0, pull=0.0)):
            agent.adaptation = adaptation
            with torch.no_grad():
                state = agent.initial_state(1, torch.tensor([key]))
                for line in lines:
                    _, state, _ = agent.step((line,), (False,), state)
                agent.step((QUESTION,), (True,), state)
        torch.testing.assert_close(heard[-1].read, heard[-2].read)


def test_a_correction_is_marked_by_the_answer_that_was_given(
    taught: MemoryAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, marked = [], []
    monkeypatch.setattr(Remembering, "mark", lambda self, thought, told: marked.append(told))
    dialogue = Dialogue(taught)
    for answers in (["garden"], ["kitchen"]):
        taught.generate = lambda thought, answers=answers: answers
        said.append(dialogue.answer(QUESTION))
        taught.generate = lambda thought: ["hall"]  # as it would speak without adaptation
        dialogue.correct("garden")
    assert said == ["garden", "kitchen"]
    assert [each.rewards for each in marked] == [(1.0,), (0.0,)]


@pytest.mark.parametrize("target", ["   ", "Москва", "incomprehensibilities"])
def test_what_the_agent_could_not_say_is_not_remembered(taught: MemoryAgent, target: str) -> None:
    dialogue, store = Dialogue(taught), taught.episodic_memory
    assert store is not None
    held = len(store)
    dialogue.answer("where is sandra ?")
    with pytest.raises(ValueError, match="The agent cannot say"):
        dialogue.correct(target)
    assert len(store) == held


def test_a_sentence_that_is_too_long_is_not_heard(taught: MemoryAgent) -> None:
    dialogue = Dialogue(taught)
    dialogue.observe("john went to the garden .")
    with pytest.raises(ValueError, match="this controller reads"):
        dialogue.observe("incomprehensibilities " * 40)
    assert dialogue.answer(QUESTION) is not None


def test_a_long_question_has_the_key_that_is_made_of_what_is_kept_of_it(
    taught: MemoryAgent,
) -> None:
    store = taught.episodic_memory
    assert store is not None
    kept = store.story_shape[1]
    question = "where is john " * kept + "?"
    with torch.no_grad():
        _, _, thought = taught.step((question,), (True,), taught.initial_state(1))
    assert thought is not None
    tokens = taught.tokenizer.batch([question])
    assert tokens.shape[1] > kept
    torch.testing.assert_close(thought.key_BD, taught.key(tokens[:, :kept]))
