"""The agent: its words, its controller, how it answers, and that examinations leave no trace."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

import stillknows.configs
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
from stillknows.envs.tasks import Task, make
from stillknows.memory.policies.learned import RetentionPolicy
from stillknows.memory.policies.rules import EvictOldest

CONTROLLERS = Path(stillknows.configs.__path__[0]) / "controller"
MEMORIES = CONTROLLERS.parent / "working_memory"
READING = sorted(p.stem for p in CONTROLLERS.glob("*.yaml") if p.stem != "seeing")  # no arrays here
TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")


def tasks_of(config: DictConfig) -> list[Task]:
    found: list[Task] = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    return found


def controller(name: str, request: pytest.FixtureRequest) -> list[str]:
    """Return the options that choose a controller; a pretrained one is tiny and random."""
    if name != "huggingface":
        return [f"controller={name}"]
    model = request.getfixturevalue("tiny_model")
    narrow = ["controller.width=16", "controller.trained=full"]
    return ["controller=huggingface", "learner=pretrained", f"controller.model={model}", *narrow]


def warmed(config: DictConfig, batches: int = 3) -> tuple[MemoryAgent, list[Task]]:
    """Return an agent that has learned for some batches, so that its store holds something."""
    torch.manual_seed(0)
    tasks = tasks_of(config)
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(batches)
    envs = make(tasks[0], 8, tasks[0].train)
    for batch in range(batches):
        live(agent, envs, learner, task=0, seed=8 * batch, options={"episode": 8 * batch})
        learner.update()
    return agent, tasks


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


@pytest.mark.parametrize(
    "parts",
    [
        ("working_memory=none",),
        ("episodic_memory=none",),
        ("working_memory=dnc", "working_memory.slots=6"),
        ("working_policy=retention", "learner.write_cost=0.1", "working_memory.slots=4"),
        ("working_memory=dnc", "working_memory.slots=6", "working_policy=evict_uniformly"),
        ("episodic_policy=utility", "episodic_memory.bytes=40000"),
        ("episodic_policy=novelty",),
        ("episodic_memory.vector_size=0",),
        ("episodic_memory.vector_size=0", "fuse=concatenation", "working_memory=none"),
        ("episodic_memory.vector_size=0", "fuse=cross_attention"),
        ("episodic_policy=surprise", "fuse=concatenation"),
        ("arm=replay",),
        ("arm=rehearse",),
        ("arm=recall",),
        ("controller=lstm",),
    ],
)
def test_every_part_can_be_chosen_and_learns(parts: tuple[str, ...]) -> None:
    config = compose_config([*TINY, *parts])
    agent, tasks = warmed(config, batches=2)
    result = examine(agent, tasks[0], number=0, episodes=8, rows=8, seed=0)
    assert 0 < result.loss < 100
    weights = [p for p in agent.parameters() if p.requires_grad]
    learned = sum(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in weights)
    assert learned > 0.7 * len(weights)


def test_vectors_of_another_width_than_the_controllers_are_refused() -> None:
    config = compose_config([*TINY, "episodic_memory.vector_size=3"])
    with pytest.raises(ValueError, match=r"vector_size=3: .* give \d+ or 0"):
        warmed(config, batches=0)


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


@pytest.mark.parametrize("name", READING)
def test_an_agent_learns_and_answers_with_any_controller(
    name: str, request: pytest.FixtureRequest
) -> None:
    config = compose_config([*TINY, *controller(name, request), "fuse=cross_attention"])
    agent, tasks = warmed(config)
    assert agent.episodic_memory is not None
    stories = agent.episodic_memory.entries(torch.arange(4)).story_BTL
    told = [agent.tokenizer.decode(row) for row in stories[0].tolist() if row[0] != PAD]
    thought = agent.rehearse([tuple(told)])
    assert thought.fused_BD.isfinite().all()
    result = examine(agent, tasks[1], number=1, episodes=4, rows=2, seed=0)
    again = examine(agent, tasks[1], number=1, episodes=4, rows=4, seed=0)
    marks = [
        dict(zip(zip(r.episodes, r.steps, strict=True), r.correct, strict=True))
        for r in (result, again)
    ]
    assert marks[0] == marks[1]
    assert result.loss == pytest.approx(again.loss, rel=1e-4)


@pytest.mark.parametrize("memory", sorted(p.stem for p in MEMORIES.glob("*.yaml")))
@pytest.mark.parametrize("name", READING)
def test_any_controller_goes_with_any_memory(
    name: str, memory: str, request: pytest.FixtureRequest
) -> None:
    options = [
        *controller(name, request),
        f"working_memory={memory}",
        "working_policy=evict_oldest",
    ]
    agent, tasks = warmed(compose_config([*TINY, *options]), batches=1)
    result = examine(agent, tasks[0], number=0, episodes=2, rows=2, seed=0)
    assert np.isfinite(result.loss)


CONTEXTUAL = ["transformer", "lstm", "transformer_xl", "longformer"]


@pytest.mark.parametrize("name", CONTEXTUAL)
def test_without_a_memory_an_answer_rests_on_the_context_alone(name: str) -> None:
    alone = ["working_memory=none", "episodic_memory=none", "agent.context=3"]
    config = compose_config([*TINY, f"controller={name}", *alone])
    torch.manual_seed(0)
    agent = build_agent(config, tasks_of(config)).eval()
    told = ["john went to the garden .", "mary took the apple .", "john took the ball ."]
    question = "where is john ?"

    def fused(*lines: str) -> torch.Tensor:
        return agent.rehearse([(*lines, question)]).fused_BD

    other = "sandra went to the kitchen ."
    here = fused(*told)
    torch.testing.assert_close(here, fused(other, *told[1:]), rtol=0, atol=0)
    assert (here - fused(told[0], other, told[2])).abs().max() > 1e-4
    short = (told[2], question)
    both = agent.rehearse([(*told, question), short])
    torch.testing.assert_close(both.fused_BD[0], here[0], rtol=1e-4, atol=1e-5)
    logits, _ = agent.log_probabilities(both, both.text_BL[:, :0])
    single = agent.rehearse([short])
    expected, _ = agent.log_probabilities(single, single.text_BL[:, :0])
    torch.testing.assert_close(logits[1], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.key_BD[0], single.key_BD[0])  # keys are of questions alone


def test_contexts_that_cannot_be_are_told() -> None:
    for options, message in (
        (["agent.context=0"], "context=0 should be a whole number, at least 1"),
        (["controller=tree_lstm", "agent.context=2"], "leave agent.context at 1"),
    ):
        config = compose_config([*TINY, *options])
        with pytest.raises(ValueError, match=message):
            build_agent(config, tasks_of(config))
    with pytest.raises(ValueError, match=r"raise controller\.longest, or lower"):
        Transformer(20, width=16, longest=4).encode(torch.full((1, 5), 7))


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


def test_any_policy_may_take_the_place_of_another() -> None:
    config = compose_config(["debug=tiny", "arm=none", "working_policy=actor"])
    agent = build_agent(config, hydra.utils.instantiate(config.stream.tasks, _convert_="all"))
    for policy in (EvictOldest(), RetentionPolicy(16), EvictOldest()):
        agent.working_policy = policy
        assert agent.working_policy is policy
        names = [name for name, _ in agent.named_parameters() if "working_policy" in name]
        assert bool(names) == isinstance(policy, RetentionPolicy)


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ((), "ActorPolicy"),
        (("working_memory=sparse_slots",), "ActorPolicy"),
        (("working_memory=dnc",), "EvictOldest"),
        (("working_memory=ntm", "working_policy=reservoir"), "Reservoir"),
        (("experiment=babi", "stream.directory=x"), "EvictOldest"),
        (("working_policy._target_=their.Class",), "Class"),
        (("working_memory._target_=their.Memory",), "EvictOldest"),
    ],
)
def test_each_memory_has_a_policy_that_goes_with_it(options: tuple[str, ...], policy: str) -> None:
    chosen = compose_config(options).working_policy
    assert chosen._target_.endswith(f".{policy}")
    if policy != "ActorPolicy":
        assert list(chosen) == ["_target_"]


def test_what_a_policy_draws_changes_nothing_else() -> None:
    agents = []
    for name in ("evict_oldest", "actor", "retention"):
        config = compose_config(["debug=tiny", f"working_policy={name}"])
        torch.manual_seed(0)
        agents.append(
            build_agent(config, hydra.utils.instantiate(config.stream.tasks, _convert_="all"))
        )
    for other in agents[1:]:
        theirs = other.state_dict()
        for name, part in agents[0].state_dict().items():
            assert torch.equal(part, theirs[name]), name
