"""The agent: its words, its controller, how it answers, and that examinations leave no trace."""

from collections.abc import Callable, Sequence
from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch
from agents_of import TINY, warmed
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.controllers.controller import Controller
from stillknows.agents.controllers.longformer import Longformer
from stillknows.agents.controllers.lstm import LSTM
from stillknows.agents.controllers.tokenizer import PAD, WordTokenizer
from stillknows.agents.controllers.transformer import Transformer
from stillknows.agents.controllers.transformer_xl import TransformerXL
from stillknows.agents.episode import live
from stillknows.agents.examinations.examine import Examiner, examine
from stillknows.agents.fuse import Concatenation, CrossAttention, Gate
from stillknows.agents.thought import floored_log
from stillknows.envs.microworld import microworld_tasks
from stillknows.envs.tasks import Task, make

# --- Words -------------------------------------------------------------------------------------


@given(st.lists(st.text("abcdefghij0189", min_size=1, max_size=6), max_size=8))
def test_every_text_comes_back(words: list[str]) -> None:
    tokenizer = WordTokenizer(["abc", "hij", "."])
    text = " ".join(words)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_known_words_are_one_token_and_padding_is_behind() -> None:
    tokenizer = WordTokenizer(["mary", "went", "."])
    batch = tokenizer.batch(["mary went .", "mary"])
    assert batch.shape == (2, 3)
    assert batch[1].tolist() == [tokenizer.ids["mary"], PAD, PAD]


# --- Probabilities ---------------------------------------------------------------------------


def test_what_was_thought_impossible_is_told_by_the_floor_and_learned() -> None:
    logits_3 = torch.tensor([0.0, -30.0, -60.0], requires_grad=True)
    trust = torch.tensor(0.5, requires_grad=True)
    mixture_3 = (1 - trust) * logits_3.softmax(dim=0) + trust * torch.tensor([1.0, 0.0, 0.0])
    logs_3 = floored_log(mixture_3)
    assert logs_3.tolist() == pytest.approx([0.0, np.log(1e-9), np.log(1e-9)], abs=1e-5)
    for wanted in (1, 2):
        pull_3, doubt = torch.autograd.grad(-logs_3[wanted], (logits_3, trust), retain_graph=True)
        assert pull_3.tolist() == pytest.approx([1.0, *(-1.0 * (i == wanted) for i in (1, 2))])
        assert doubt.item() == pytest.approx(2.0)  # -d log(1 - trust)
    assert floored_log(torch.zeros(2, requires_grad=True)).tolist() == [logs_3[1].item()] * 2


# --- Controller --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Transformer, LSTM, TransformerXL, Longformer])
def test_a_sentence_reads_the_same_in_any_company(kind: Callable[..., Controller]) -> None:
    torch.manual_seed(0)
    controller = kind(20, width=16, layers=2)
    short = torch.tensor([[5, 6, 7]])
    padded = torch.tensor([[5, 6, 7, 0, 0], [8, 9, 10, 11, 12]])
    torch.testing.assert_close(controller.encode(short)[0][0], controller.encode(padded)[0][0])


@pytest.mark.parametrize("kind", [Transformer, LSTM, TransformerXL, Longformer])
def test_an_answer_is_scored_the_same_token_by_token_and_at_once(
    kind: Callable[..., Controller],
) -> None:
    torch.manual_seed(0)
    controller = kind(20, width=16, layers=2)
    question = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]])
    answer, fused = torch.tensor([[4, 9, 3], [7, 7, 2]]), torch.randn(2, 16)
    _, cache = controller.encode(question)
    whole = controller.answer_logits(fused, question, cache, answer)
    for length in range(4):
        part = controller.answer_logits(fused, question, cache, answer[:, :length])
        torch.testing.assert_close(part, whole[:, : length + 1], rtol=1e-4, atol=1e-5)
        last, _ = controller.next_logits(fused, question, cache, answer[:, :length], None)
        assert torch.equal(last, part[:, -1])


@pytest.mark.parametrize("kind", [Transformer, LSTM, TransformerXL, Longformer])
def test_the_soft_token_reaches_the_answer(kind: Callable[..., Controller]) -> None:
    torch.manual_seed(0)
    controller = kind(20, width=16)
    question = torch.tensor([[5, 6, 7]])
    fused = torch.randn(1, 16, requires_grad=True)
    _, cache = controller.encode(question)
    controller.answer_logits(fused, question, cache, question[:, :0])[0, 0, 3].backward()
    assert fused.grad is not None
    assert fused.grad.abs().max() > 1e-4


def test_an_lstm_is_its_equations_word_by_word() -> None:
    torch.manual_seed(0)
    controller = LSTM(20, width=8)
    tokens = torch.tensor([[5, 6, 7, PAD]])
    vector, cache = controller.encode(tokens)
    weights = [getattr(controller.lstm, f"{name}_l0") for name in
               ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]  # fmt: skip
    hidden, cell, seen = torch.zeros(8), torch.zeros(8), []
    for token in (5, 6, 7):
        word = controller.embedding.weight[token]
        gates = weights[0] @ word + weights[2] + weights[1] @ hidden + weights[3]
        enter, forget, new, out = gates.chunk(4)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = out.sigmoid() * cell.tanh()
        seen.append(hidden)
    torch.testing.assert_close(cache[0][0][0], hidden)
    torch.testing.assert_close(cache[0][1][0], cell)
    mean = torch.stack(seen).mean(0)
    torch.testing.assert_close(vector[0], mean / mean.square().mean().sqrt(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fuse", [Gate, Concatenation, CrossAttention])
def test_fusing_nothing_is_what_was_seen(fuse: type) -> None:
    seen = torch.randn(3, 8)
    assert torch.equal(fuse(8, 0, 0, 0)(seen, None, None), seen)
    fused = fuse(8, 2, 3, 4)(seen, torch.randn(3, 2, 3), torch.randn(3, 4))
    assert fused.shape == (3, 8)
    assert not torch.equal(fused, seen)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def test_cross_attention_is_its_equation() -> None:
    torch.manual_seed(0)
    fuse = CrossAttention(8, 2, 3, 4, heads=2).double()
    torch.nn.init.normal_(fuse.recalled.weight)
    seen, read, recalled = (torch.randn(1, *size).double() for size in ((8,), (2, 3), (4,)))
    w = {name: value.detach().numpy() for name, value in fuse.named_parameters()}
    items = [w["seen.weight"] @ seen[0].numpy()]
    items += [w["read.weight"] @ one for one in read[0].numpy()]
    items += [w["recalled.weight"] @ recalled[0].numpy()]
    keys, values = np.split(np.stack(items), 2, axis=1)
    query = w["query.weight"] @ seen[0].numpy()
    heads = [
        softmax(keys[:, part] @ query[part] / np.sqrt(4)) @ values[:, part]
        for part in (slice(0, 4), slice(4, 8))
    ]
    expected = seen[0].numpy() + w["out.weight"] @ np.concatenate(heads)
    fused = fuse(seen, read, recalled)[0].detach().numpy()
    np.testing.assert_allclose(fused, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="no multiple of heads=3"):
        CrossAttention(8, 1, 3, 0, heads=3)


# --- Agent -------------------------------------------------------------------------------------


def test_statements_wait_and_an_answer_needs_its_story(tiny: DictConfig) -> None:
    agent, _ = warmed(tiny)
    state = agent.initial_state(2)
    for text in ("mary went to the garden .", "john took the ball ."):
        answers, state, thought = agent.step((text, text), (False, False), state)
        assert answers == ("", "")
        assert thought is None
    assert state.written == (0, 0)
    question = "where is mary ?"
    answers, after, thought = agent.step((question, ""), (True, False), state)
    assert thought is not None
    assert thought.rows == (0,)
    assert answers[1] == ""
    assert after.written == (3, 2)  # what the other row heard is written with it
    assert after.items[1] == ("mary went to the garden .", "john took the ball .")
    assert after.working.step_B.tolist() == [2, 2]


@pytest.mark.parametrize("memory", ["slots", "dnc"])
def test_a_question_right_after_another_is_answered(memory: str) -> None:
    agent, _ = warmed(compose_config([*TINY, f"working_memory={memory}"]))
    state = agent.initial_state(1)
    for text in ("where is john ?", "where is mary ?"):
        _, state, thought = agent.step((text,), (True,), state)
        assert thought is not None
        assert thought.fused_BD.isfinite().all()
    assert state.written == (2,)


def test_rows_answer_together_as_they_do_alone(tiny: DictConfig) -> None:
    agent, _ = warmed(tiny)
    stories = [
        ("mary went to the garden .", "mary took the ball .", "where is the ball ?"),
        ("john went to the hall .", "where is john ?"),
    ]
    together = agent.rehearse(stories)
    target = agent.answer_tokens(["garden", "hall"])
    for row, story in enumerate(stories):
        alone = agent.surprise(agent.rehearse([story]), target[row : row + 1])[0]
        torch.testing.assert_close(alone[0], agent.surprise(together, target)[0][row])


TALES = (  # who asks when: each row at its own times
    ("mary went to the hall .", "where is mary ?", "john went to the attic .", "where is john ?"),
    (
        "john took the ball .",
        "mary went to the attic .",
        "john went to the hall .",
        "where is ball ?",
    ),
    ("mary took the ball .", "where is ball ?", "where is mary ?", ""),
)


@pytest.mark.parametrize("policy", ["evict_oldest", "reservoir", "evict_uniformly"])
@pytest.mark.parametrize("memory", ["slots", "memory_network", "ntm", "dnc", "associative_dnc"])
def test_rows_that_ask_at_their_own_times_live_as_they_do_alone(memory: str, policy: str) -> None:
    told = [f"working_memory={memory}", f"working_policy={policy}", "working_memory.slots=2"]
    agent, _ = warmed(compose_config([*TINY, *told]))
    agent.episodic_memory = None
    keys = torch.tensor([5, 6, 7])

    def fused(tales: Sequence[Sequence[str]], keys_B: torch.Tensor) -> dict[tuple[int, int], Any]:
        state, seen = agent.initial_state(len(tales), keys_B), {}
        for turn, texts in enumerate(zip(*tales, strict=True)):
            _, state, thought = agent.step(texts, ["?" in text for text in texts], state)
            for number, row in enumerate(thought.rows if thought else ()):
                seen[row, turn] = thought.fused_BD[number]
        return seen

    together = fused(TALES, keys)
    assert len(together) == 5
    for row, tale in enumerate(TALES):
        for (_, turn), alone_D in fused([tale], keys[row : row + 1]).items():
            torch.testing.assert_close(together[row, turn], alone_D, rtol=1e-4, atol=1e-5)


def test_the_mixture_of_controller_and_store_is_a_distribution(tiny: DictConfig) -> None:
    agent, tasks = warmed(tiny)
    envs = make(tasks[0], 4, tasks[0].train)
    agent.trust.bias.data.fill_(0.5)

    class Checks:
        marks = 0

        def mark(self, thought, marked) -> None:
            target = agent.answer_tokens(marked.targets)
            mixture, controller = agent.log_probabilities(thought, target[:, :-1])
            torch.testing.assert_close(mixture.exp().sum(-1), torch.ones(mixture.shape[:2]))
            assert (mixture - controller).abs().max() > 1e-3
            self.marks += 1

    checks = Checks()
    live(agent, envs, checks, task=0, seed=99, options={"episode": 64})
    assert checks.marks == 3


def fingerprint(agent: MemoryAgent) -> list[torch.Tensor]:
    store = agent.episodic_memory
    columns = [] if store is None else [c.clone() for c in store.columns.values()]
    return [*(p.detach().clone() for p in agent.state_dict().values()), *columns]


@pytest.mark.parametrize("policy", ["evict_oldest", "reservoir", "evict_uniformly"])
def test_examinations_leave_no_trace_and_their_order_does_not_matter(policy: str) -> None:
    config = compose_config([*TINY, f"working_policy={policy}", "working_memory.slots=4"])
    agent, tasks = warmed(config)
    before, random = fingerprint(agent), torch.get_rng_state()
    ask = {"number": 0, "episodes": 16, "seed": 3, "options": {"lived": 24}}
    first = examine(agent, tasks[0], rows=8, **ask)
    other = examine(agent, tasks[1], rows=8, **ask)
    again = examine(agent, tasks[0], rows=5, **ask)
    assert all(torch.equal(a, b) for a, b in zip(before, fingerprint(agent), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert agent.training
    assert first.loss == pytest.approx(again.loss, rel=1e-4)
    assert sorted(zip(first.episodes, first.steps, first.correct, strict=True)) == sorted(
        zip(again.episodes, again.steps, again.correct, strict=True)
    )
    assert other.episodes


def test_questions_are_learned(tiny: DictConfig) -> None:
    """One fact, nobody else: after some updates the agent answers what it was told."""
    config = compose_config(
        [*TINY, "controller.width=32", "episodic_memory=none", "rows=32", "stream.tasks.carry=0"]
    )
    torch.manual_seed(0)
    dials = {"people": 1, "places": 3, "objects": 1, "sentences": 1, "questions": 1}
    task = Task("one", "stillknows/WherePerson-v0", {**dials, "distractors": 0.0}, {})
    agent = build_agent(config, [task._replace(exam=task.train)])
    learner = hydra.utils.instantiate(config.learner, agent, seed=0, matrix_rate=0.02)
    learner.begin(60)
    envs = make(task, 32, task.train)
    for batch in range(60):
        live(agent, envs, learner, task=0, seed=32 * batch)
        report = learner.update()
    assert report.accuracy > 0.9


def test_what_is_rehearsed_is_older_than_the_experience(
    tiny: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, tasks = warmed(tiny, batches=2)
    store = agent.episodic_memory
    assert store is not None
    learner = hydra.utils.instantiate(tiny.learner, agent, seed=0)
    lived, drawn = store.seen, []
    sample = store.sample
    monkeypatch.setattr(store, "sample", lambda *a, **b: drawn.append(sample(*a, **b)) or drawn[-1])
    learner.begin(2)
    envs = make(tasks[1], 8, tasks[1].train)
    for batch in range(2):
        live(agent, envs, learner, task=1, seed=8 * batch, options={"episode": 64 + 8 * batch})
        assert learner.update().rehearsed_loss > 0
        assert (store.provenance("birth")[drawn[-1]] < lived).all()
    assert store.seen > lived
    assert len(drawn) == 2


def test_answers_are_counted_by_token_as_well(tiny: DictConfig) -> None:
    agent, tasks = warmed(tiny)
    examiner = Examiner(agent)
    pairs = [
        ("north east", "north east", 1.0),
        ("north", "north east", 0.5),
        ("east north west", "north north", 1 / 3),
        ("", "two", 0.0),
    ]
    assert [examiner._share(said, right) for said, right, _ in pairs] == pytest.approx(
        [share for _, _, share in pairs], abs=1e-4
    )
    result = examine(agent, tasks[0], number=0, episodes=8, rows=4, seed=0)
    assert len(result.by_token) == len(result.correct)
    for share, right in zip(result.by_token, result.correct, strict=True):
        assert (share == 1.0) == bool(right)

    class Lenient(Examiner):  # as where other answers than the target are right
        def mark(self, thought: Any, marked: Any) -> None:
            super().mark(thought, marked._replace(rewards=(1.0,) * len(marked.rewards)))

    lenient = Lenient(agent)
    result = examine(agent, tasks[0], number=0, episodes=8, rows=4, seed=0, examiner=lenient)
    assert set(result.by_token) == {1.0}


def test_a_question_has_one_key_in_training_too() -> None:
    agent = build_agent(compose_config(["debug=tiny"]), microworld_tasks(["where_person"]))
    agent.train()
    assert agent.controller.training
    assert not any(part.training for part in agent.key_encoder.modules())
