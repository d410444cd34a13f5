"""Any causal language model of Hugging Face is a controller: numbers, training, keeping, faults.

The models are tiny, random, and built here; they are saved and loaded as a real one is.
"""

import hydra.utils
import numpy as np
import pytest
import torch
from torch import Tensor

from stillknows.agents.controllers.tokenizer import END, PAD, pad
from stillknows.agents.episode import live
from stillknows.envs.tasks import make

pytest.importorskip("transformers")
pytest.importorskip("peft")

from tiny_models import agent_of, config_of, controller_of, learned

from stillknows.agents.controllers.cross_attention import GatedCrossAttention
from stillknows.agents.controllers.huggingface import HuggingFace
from stillknows.agents.controllers.model_tokenizer import SHIFT, ModelTokenizer

TEXTS = ("mary went to the garden .", "where is mary ?", "john took the ball .", "Zürich, 7%!")


# --- Tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_and_no_word_is_unknown(llama: str, text: str) -> None:
    tokenizer = ModelTokenizer.of(llama)
    tokens = tokenizer.encode(text)
    assert min(tokens) >= SHIFT
    assert tokenizer.decode([*tokens, END, 7]) == text
    assert tokenizer.decode([*tokenizer.answer(text), END]) == text
    twin = ModelTokenizer.restored(tokenizer.kept())
    assert twin.encode(text) == tokens
    assert twin.prompt(["mary left .", text]) == tokenizer.prompt(["mary left .", text])


def test_a_question_stands_in_the_chat_template(llama: str) -> None:
    tokenizer = ModelTokenizer.of(llama)
    tokens, own = tokenizer.prompt(["mary went to the garden .", "where is mary ?"])
    ids = [token - SHIFT for token in tokens]
    told = tokenizer.tokenizer.decode(ids)
    assert told == "<|user|>mary went to the garden .\nwhere is mary ?<|end|><|assistant|>"
    mine = [token for token, is_own in zip(tokens, own, strict=True) if is_own]
    assert tokenizer.decode(mine) == "where is mary ?"


# --- Numbers -----------------------------------------------------------------------------------


def expected_logits(
    controller: HuggingFace, fused_D: Tensor, text: list[int], answer: list[int]
) -> Tensor:
    """Read beginning, text, soft tokens and answer in one piece, without padding or cache."""
    words = controller.model.get_input_embeddings()
    before = [0, *(token - SHIFT for token in text)]
    parts = [words(torch.tensor(before))]
    if controller.memory == "soft_tokens":
        assert controller.up is not None
        parts.append(controller.up(fused_D).view(controller.items, -1))
    parts.append(words(torch.tensor([token - SHIFT for token in answer], dtype=torch.int64)))
    with controller._met(fused_D[None], len(answer) + 1):
        logits = controller.model(inputs_embeds=torch.cat(parts)[None]).logits[0]
    return logits[-len(answer) - 1 :]


@pytest.mark.parametrize("memory", ["soft_tokens", "cross_attention", "none"])
def test_an_answer_is_scored_as_one_reading_would(model: str, memory: str) -> None:
    controller, tokenizer = controller_of(model, trained="frozen", memory=memory, every=2)
    for cross in controller.cross:
        torch.nn.init.constant_(cross.gate, 0.7)
    texts = [tokenizer.encode(text) for text in TEXTS[:3]]
    answers = [tokenizer.answer("garden"), tokenizer.answer("ball"), tokenizer.answer("7")]
    length = min(map(len, answers))
    answers = [answer[:length] for answer in answers]
    fused = torch.randn(3, 16)
    tokens = pad(texts)
    with torch.no_grad():
        _, cache = controller.encode(tokens)
        kept = [keys.clone() for keys, _ in cache]
        logits = controller.answer_logits(fused, tokens, cache, torch.tensor(answers))
        for row in range(3):
            theirs = expected_logits(controller, fused[row], texts[row], answers[row])
            theirs = theirs[:, : controller.vocabulary - SHIFT]
            torch.testing.assert_close(logits[row, :, END], theirs[:, 1])
            shifted = logits[row, :, SHIFT:].clone()
            assert (shifted[:, 1] < -1e3).all()  # its own end is spoken as ours only
            shifted[:, 1] = theirs[:, 1]
            torch.testing.assert_close(shifted, theirs, rtol=1e-4, atol=1e-5)
    assert (logits[..., PAD] < -1e3).all()
    for before, (after, _) in zip(kept, cache, strict=True):
        assert torch.equal(before, after)  # a cache serves many answers


@pytest.mark.parametrize("memory", ["soft_tokens", "cross_attention", "none"])
def test_an_answer_grows_token_by_token_and_each_is_read_once(model: str, memory: str) -> None:
    controller, tokenizer = controller_of(model, trained="frozen", memory=memory, every=2)
    for cross in controller.cross:
        torch.nn.init.constant_(cross.gate, 0.7)
    tokens, fused = pad([tokenizer.encode(text) for text in TEXTS[:3]]), torch.randn(3, 16)
    answer = torch.tensor([[9, 5, 12, 7], [6, 6, 8, 3], [11, 4, 4, 9]])
    read: list[int] = []
    controller.model.base_model.register_forward_pre_hook(
        lambda _, args, options: read.append(options["inputs_embeds"].shape[1]), with_kwargs=True
    )
    with torch.no_grad():
        _, cache = controller.encode(tokens)
        whole = controller.answer_logits(fused, tokens, cache, answer)
        read.clear()
        spoken = None
        for length in range(5):
            heard = fused, tokens, cache, answer[:, :length]
            logits, spoken = controller.next_logits(*heard, spoken)
            torch.testing.assert_close(logits, whole[:, length], rtol=1e-4, atol=1e-5)
    assert read == [controller.items if memory == "soft_tokens" else 1, 1, 1, 1, 1]


def test_a_sentence_is_the_mean_of_its_last_hidden_states(model: str) -> None:
    controller, tokenizer = controller_of(model, trained="frozen")
    texts = [tokenizer.encode(text) for text in TEXTS[:2]]
    with torch.no_grad():
        vectors, _ = controller.encode(pad(texts))
        for row, text in enumerate(texts):
            ids = torch.tensor([[0, *(token - SHIFT for token in text)]])
            hidden = controller.model.base_model(input_ids=ids).last_hidden_state[0, 1:]
            mean = hidden.mean(0).numpy() @ controller.down.weight.numpy().T
            expected = mean / np.sqrt(np.square(mean).mean() + np.finfo(np.float32).eps)
            np.testing.assert_allclose(vectors[row].numpy(), expected, rtol=1e-3, atol=1e-4)


def test_a_closed_gate_leaves_the_model_alone_and_the_equation_holds() -> None:
    torch.manual_seed(0)
    cross = GatedCrossAttention(8, 6, heads=2).double()
    x, items = torch.randn(1, 3, 8).double(), torch.randn(1, 4, 6).double()
    assert torch.equal(cross(x, items), x)
    torch.nn.init.constant_(cross.gate, 0.3)
    w = {name: value.detach().numpy() for name, value in cross.named_parameters()}
    keys, values = np.split(items[0].numpy() @ w["key_value.weight"].T, 2, axis=1)
    rows = x[0].numpy()
    scale = np.sqrt(np.square(rows).mean(1, keepdims=True) + np.finfo(np.float64).eps)
    queries = (rows / scale * w["norm.weight"]) @ w["query.weight"].T
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = np.exp(queries[:, part] @ keys[:, part].T / 2)
        heads.append(scores / scores.sum(1, keepdims=True) @ values[:, part])
    met = np.concatenate(heads, axis=1) @ w["out.weight"].T
    expected = rows + np.tanh(0.3) * met
    np.testing.assert_allclose(cross(x, items)[0].detach().numpy(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(cross, (x.requires_grad_(), items.requires_grad_()))


def test_any_of_several_ends_ends_an_answer(llama: str) -> None:
    controller, _ = controller_of(llama)
    controller.ends = [controller.end, controller.end + 1]
    logits = torch.randn(2, 3, controller.model.config.vocab_size)
    ours = controller._as_ours(logits)
    both = logits[..., controller.ends].logsumexp(dim=-1)
    torch.testing.assert_close(ours[..., END], both)
    assert (ours[..., [end + SHIFT for end in controller.ends]] == -1e4).all()


def test_checkpointing_changes_no_gradient(model: str) -> None:
    grads = []
    for checkpointing in (False, True):
        controller, tokenizer = controller_of(model, trained="lora", checkpointing=checkpointing)
        controller.train()
        for part in controller.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        tokens = pad([tokenizer.encode(text) for text in TEXTS[:2]])
        vectors, cache = controller.encode(tokens)
        assert bool(cache) != checkpointing
        answer = torch.tensor([tokenizer.answer("garden")[:1], tokenizer.answer("ball")[:1]])
        controller.answer_logits(vectors, tokens, cache, answer)[..., SHIFT:].sum().backward()
        grads.append(
            {n: p.grad.clone() for n, p in controller.named_parameters() if p.grad is not None}
        )
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "moved"),
    [
        (("controller.trained=frozen",), ("down", "up")),
        (("controller.trained=lora",), ("down", "up", "lora_B")),
        (("controller.trained=full",), ("down", "up", "embed")),
        (("controller.trained=lora", "controller.memory=cross_attention"), ("gate", "lora_B")),
        (
            ("controller.trained=lora", "controller.memory=none", "agent.retrieve=2"),
            ("lora_B",),
        ),
        (("controller.trained=lora", "controller.dtype=bfloat16"), ("down", "up", "lora_B")),
    ],
)
def test_what_is_to_learn_learns_and_nothing_else(
    llama: str, options: tuple[str, ...], moved: tuple[str, ...]
) -> None:
    before, agent = learned(llama, *options)
    old = dict(before.controller.named_parameters())
    changed = [n for n, p in agent.controller.named_parameters() if not torch.equal(p, old[n])]
    for part in moved:
        assert any(part in name for name in changed), part
    if "controller.trained=full" not in options:
        assert not [n for n in changed if n.startswith("model.") and "lora" not in n]
        frozen = {id(p) for p in agent.controller.parameters() if not p.requires_grad}
        assert {id(p) for p in agent.key_encoder.parameters()} >= frozen  # one copy of them


def test_a_tiny_model_learns_to_answer_from_its_memory(llama: str) -> None:
    """After some updates of full training the loss of the first task has fallen by a third."""
    config = config_of(llama, "controller.trained=full", "learner.learning_rate=0.003")
    agent, tasks = agent_of(config)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(60)
    envs = make(tasks[0], 16, tasks[0].train)
    losses = []
    for batch in range(60):
        live(agent, envs, learner, task=0, seed=batch, options={"episode": 16 * batch})
        losses.append(learner.update().loss)
    assert np.mean(losses[-5:]) < 0.67 * np.mean(losses[:5])
