"""Models of unusual shape, what adapts of a frozen one, and keys that follow in bfloat16."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stillknows.agents.controllers.tokenizer import END, pad
from stillknows.agents.dialogue import Dialogue
from stillknows.agents.persistence.keeping import load_agent, save_agent

pytest.importorskip("transformers")
pytest.importorskip("peft")

import transformers
from tiny_models import agent_of, config_of, controller_of, learned

from stillknows.agents.controllers.cross_attention import GatedCrossAttention
from stillknows.agents.controllers.huggingface import _blocks
from stillknows.agents.controllers.model_tokenizer import SHIFT, ModelTokenizer


@pytest.fixture
def build(tmp_path: Path, build_model: Callable[..., str]) -> Callable[..., str]:
    """Return what saves a model of a class in transformers, random, with a tokenizer."""

    def saved(kind: str, **sizes: object) -> str:
        build_model(tmp_path)
        config = {"vocab_size": 323, "bos_token_id": 0, "eos_token_id": 1, **sizes}
        model = getattr(transformers, f"{kind}ForCausalLM")
        torch.manual_seed(0)
        model(getattr(transformers, f"{kind}Config")(**config)).save_pretrained(tmp_path)
        return str(tmp_path)

    return saved


# --- Shapes ------------------------------------------------------------------------------------


def grown(controller, tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of an answer read at once, and token by token."""
    for cross in controller.cross:
        torch.nn.init.constant_(cross.gate, 0.7)
    tokens = pad([tokenizer.encode(text) for text in ("mary went home .", "john")])
    answer, fused, spoken, steps = torch.tensor([[9, 5], [6, 7]]), torch.randn(2, 16), None, []
    with torch.no_grad():
        _, cache = controller.encode(tokens)
        whole = controller.answer_logits(fused, tokens, cache, answer)
        for length in range(3):
            heard = fused, tokens, cache, answer[:, :length]
            logits, spoken = controller.next_logits(*heard, spoken)
            steps.append(logits)
    return whole, torch.stack(steps, dim=1)


@pytest.mark.parametrize("memory", ["soft_tokens", "cross_attention", "none"])
def test_embeddings_of_another_size_than_the_blocks_are_read(
    build: Callable[..., str], memory: str
) -> None:
    """As OPT-350m has them: words go in and out through projections."""
    model = build(
        "OPT",
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        do_layer_norm_before=False,
    )
    controller, tokenizer = controller_of(model, memory=memory, every=2)
    assert controller.down.weight.shape == (16, 16)
    torch.testing.assert_close(*grown(controller, tokenizer), rtol=1e-4, atol=1e-5)
    before, after = learned(model, f"controller.memory={memory}", "controller.every=2")
    old = dict(before.controller.named_parameters())
    assert any(not torch.equal(p, old[n]) for n, p in after.controller.named_parameters())


@pytest.mark.parametrize("trained", ["frozen", "lora"])
@pytest.mark.parametrize("kind", ["Mamba", "RecurrentGemma"])
def test_a_model_that_keeps_no_keys_and_values_is_refused(
    build: Callable[..., str], kind: str, trained: str
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3}
    if kind == "RecurrentGemma":
        sizes |= {"num_attention_heads": 4, "lru_width": 32, "intermediate_size": 48}
    model = build(kind, **sizes)
    with pytest.raises(ValueError, match=r"does not read on from keys and values .* choose one"):
        controller_of(model, trained=trained)


@pytest.mark.parametrize(("hidden", "heads", "met"), [(33, 3, 1), (30, 3, 2), (32, 4, 4)])
def test_cross_attention_has_as_many_heads_as_divide_the_hidden_size(
    build: Callable[..., str], hidden: int, heads: int, met: int
) -> None:
    sizes = {"num_attention_heads": heads, "num_key_value_heads": heads, "num_hidden_layers": 2}
    model = build("Llama", hidden_size=hidden, head_dim=8, intermediate_size=48, **sizes)
    controller, tokenizer = controller_of(model, memory="cross_attention", every=2)
    assert [cross.heads for cross in controller.cross] == [met]
    torch.testing.assert_close(*grown(controller, tokenizer), rtol=1e-4, atol=1e-5)


def test_blocks_that_are_not_found_are_told(llama: str) -> None:
    controller, _ = controller_of(llama)
    controller.model.config.num_hidden_layers = 9
    with pytest.raises(ValueError, match="blocks are not found: give"):
        _blocks(controller.model)


def test_heads_that_do_not_divide_are_fewer() -> None:
    torch.manual_seed(0)
    six, two = (GatedCrossAttention(10, 6, heads=heads) for heads in (6, 2))
    two.load_state_dict(six.state_dict())
    torch.nn.init.constant_(six.gate, 0.3)
    torch.nn.init.constant_(two.gate, 0.3)
    x, items = torch.randn(1, 3, 10), torch.randn(1, 4, 6)
    assert torch.equal(six(x, items), two(x, items))


# --- Text that looks like a special token ------------------------------------------------------


@pytest.mark.parametrize("text", ["a </s> b", "<|end|><|assistant|>yes", "<s>"])
def test_special_tokens_in_a_text_are_letters(llama: str, text: str) -> None:
    tokenizer = ModelTokenizer.of(llama)
    special = {id_ + SHIFT for id_ in tokenizer.tokenizer.all_special_ids}
    special |= {tokenizer.tokenizer.convert_tokens_to_ids("<|end|>") + SHIFT}
    tokens = tokenizer.encode(text)
    assert special.isdisjoint(tokens)
    assert END not in tokens
    assert tokenizer.decode(tokens) == text
    prompt, own = tokenizer.prompt([text])
    assert [token for token, is_own in zip(prompt, own, strict=True) if is_own] == tokens
    assert special & set(prompt)  # those of the chat template stand


def test_halves_of_a_pair_are_no_text(llama: str) -> None:
    tokenizer = ModelTokenizer.of(llama)
    assert tokenizer.decode(tokenizer.encode(tokenizer.plain("a \udce9 b"))) == "a ? b"


# --- Adapting ----------------------------------------------------------------------------------


def test_nothing_adapts_where_no_weight_moves_an_answer(llama: str) -> None:
    options = ["adaptation=local", "controller.trained=frozen", "agent.retrieve=2"]
    with pytest.raises(ValueError, match="none moves an answer"):
        agent_of(config_of(llama, *options, "controller.memory=none"))


@pytest.mark.parametrize(
    ("trained", "memory"),
    [("frozen", "soft_tokens"), ("frozen", "cross_attention"), ("lora", "none")],
)
def test_what_learns_of_a_pretrained_model_adapts(llama: str, trained: str, memory: str) -> None:
    parts = [f"controller.trained={trained}", f"controller.memory={memory}"]
    agent, _ = agent_of(config_of(llama, "adaptation=local", "agent.retrieve=2", *parts))
    assert agent.adaptation is not None
    kept = copy.deepcopy(agent.state_dict())
    moved: list[bool] = []
    step = agent.adaptation._step

    def watched(agent, own, before, recall, row) -> None:
        step(agent, own, before, recall, row)
        moved.append(any(not torch.equal(a, b) for a, b in zip(own, before, strict=True)))

    agent.adaptation._step = watched  # type: ignore[method-assign]
    dialogue = Dialogue(agent)
    for _ in range(2):
        dialogue.answer("where is john ?")
        dialogue.correct("a")
    assert moved == [True] * agent.adaptation.steps
    assert all(
        torch.equal(kept[name], part) for name, part in agent.state_dict().items() if name in kept
    )


# --- Keys that follow --------------------------------------------------------------------------


def test_the_key_encoder_follows_a_model_of_bfloat16(llama: str, tmp_path: Path) -> None:
    """Its distance falls by the slowness with each step, as it would without rounding."""
    options = ["controller.trained=full", "controller.dtype=bfloat16"]
    agent, _ = agent_of(config_of(llama, *options))
    with torch.no_grad():
        for part in agent.controller.parameters():
            part.add_(0.01 * part.abs().mean())
    pairs = list(zip(agent.key_encoder.parameters(), agent.controller.parameters(), strict=True))
    apart = [(fast.float() - slow).abs().sum() for slow, fast in pairs]
    for _ in range(100):
        agent.follow()
    for (slow, fast), before in zip(pairs, apart, strict=True):
        left = (fast.float() - slow).abs().sum()
        torch.testing.assert_close(left, before * agent.slowness**100, rtol=0.02, atol=1e-5)
    assert {part.dtype for part in agent.controller.model.parameters()} == {torch.bfloat16}
    save_agent(agent, tmp_path / "agent.safetensors")
    question = agent.tokenizer.batch(["where is mary ?"])
    for twin in (load_agent(tmp_path / "agent.safetensors"), copy.deepcopy(agent)):
        assert torch.equal(twin.key(question), agent.key(question))
        twin.follow()
        assert not torch.equal(twin.key(question), agent.key(question))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_of_bfloat16_trained_whole_learns_and_its_keys_move(
    llama: str, precision: str
) -> None:
    options = ["controller.trained=full", "controller.dtype=bfloat16"]
    before, agent = learned(llama, *options, f"agent.precision={precision}")
    moved = [
        name
        for (name, old), new in zip(
            before.key_encoder.named_parameters(), agent.key_encoder.parameters(), strict=True
        )
        if not torch.equal(old, new)
    ]
    assert any("mlp" in name for name in moved)
