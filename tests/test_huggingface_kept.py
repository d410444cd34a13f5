"""Controllers of Hugging Face: keeping, retrieved text, pages, and what is refused."""

import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch

from stillknows.agents.assembly import assemble
from stillknows.agents.configuration import compose_config
from stillknows.agents.controllers.tokenizer import WordTokenizer
from stillknows.agents.dialogue import Dialogue
from stillknows.agents.persistence.container import read_tree
from stillknows.agents.persistence.keeping import SCHEMA, load_agent, save_agent

pytest.importorskip("transformers")
pytest.importorskip("peft")

from tiny_models import agent_of, config_of, controller_of, learned

from stillknows.agents.controllers.huggingface import HuggingFace
from stillknows.agents.controllers.model_tokenizer import ModelTokenizer


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "cross_attention", "every": 99}, "every=99: the model has"),
        ({"memory": "cross_attention", "every": 0}, "every=0 should be a whole number"),
        ({"items": 0}, "items=0 should be a whole number"),
        ({"rank": 0}, "rank=0 should be a whole number"),
    ],
)
def test_what_lets_no_memory_in_is_refused(model: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        controller_of(model, **options)


def test_a_text_beyond_the_window_that_slides_is_refused(llama: str) -> None:
    controller, _ = controller_of(llama)
    controller.model.config.sliding_window = 8
    controller._expect_room(8)
    with pytest.raises(ValueError, match="this model reads 8"):
        controller._expect_room(9)


def test_a_template_that_names_tokens_is_kept_with_them(llama: str) -> None:
    _, tokenizer = controller_of(llama)
    tokenizer.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    )
    whole = ModelTokenizer(tokenizer.tokenizer)
    again = ModelTokenizer.restored(whole.kept())
    assert again.prompt(["where is mary ?"]) == whole.prompt(["where is mary ?"])
    assert again.tokenizer.eos_token == whole.tokenizer.eos_token


# --- Keeping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", ["frozen", "lora", "full"])
def test_a_kept_agent_answers_alike_and_holds_only_what_was_trained(
    llama: str, trained: str, tmp_path: Path
) -> None:
    _, agent = learned(llama, f"controller.trained={trained}")
    save_agent(agent, tmp_path / "agent.safetensors")
    kept = read_tree(tmp_path / "agent.safetensors", SCHEMA)["weights"]
    base = [name for name in kept if "mlp" in name and "lora" not in name]
    assert bool(base) == (trained == "full")
    said = []
    for one in (Dialogue(agent), Dialogue(load_agent(tmp_path / "agent.safetensors"))):
        one.observe("Mary went to the garden.")
        said.append(one.answer("Where is Mary?"))
        assert one._thought is not None
        said.append(one._thought.fused_BD)
    assert said[0] == said[2]
    assert torch.equal(said[1], said[3])


def test_retrieved_text_stands_before_the_question(llama: str) -> None:
    agent, _ = agent_of(config_of(llama, "controller.memory=none", "agent.retrieve=2"))
    agent.eval()
    state = agent.initial_state(1)
    story = ("mary went to the garden .", "john took the ball .", "mary left .")
    for text in story:
        _, state, _ = agent.step((text,), (False,), state)
    _, state, thought = agent.step(("where is mary ?",), (True,), state)
    assert thought is not None
    told = agent.tokenizer.decode(thought.text_BL[0].tolist())
    before = told.removeprefix("<|user|>").split("\n")[:-1]
    assert len(before) == 2
    assert [line for line in story if line in before] == before  # in the order they were heard


# --- Bad input ---------------------------------------------------------------------------------


def faults(llama: str, tmp_path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "no causal language model|no tokenizer", (f"controller.model={tmp_path}/nowhere",)
    yield "controller.trained=halfway: choose one of", ("controller.trained=halfway",)
    yield "controller.memory=cloud: choose one of", ("controller.memory=cloud",)
    yield "controller.dtype=int4: choose one of", ("controller.dtype=int4",)
    yield "wants a working memory of sentences", ("agent.retrieve=2", "working_memory=dnc")


def test_faults_are_told_in_one_sentence(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for words, options in faults(llama, tmp_path):
        with pytest.raises((ValueError, hydra.errors.InstantiationException), match=words):
            agent_of(config_of(llama, *options))
    words = WordTokenizer(f"w{number}" for number in range(40_000))
    with pytest.raises(ValueError, match="too many for the store: token_bytes=4"):
        assemble(compose_config(["debug=tiny"]), words)
    some = WordTokenizer(f"w{number}" for number in range(300))
    with pytest.raises(ValueError, match="too many for the store: token_bytes=2"):
        assemble(compose_config(["debug=tiny", "token_bytes=1"]), some)


def test_a_tokenizer_of_another_model_and_a_text_too_long(
    llama: str, tmp_path: Path, build_model: Callable[..., str]
) -> None:
    small = build_model(tmp_path, rows=40)
    tokenizer = ModelTokenizer.of(llama)
    with pytest.raises(ValueError, match="do not belong together"):
        HuggingFace(len(tokenizer), small, width=16)
    controller, _ = controller_of(llama)
    long = torch.full((1, 256), 9)
    with pytest.raises(ValueError, match="this model reads 256"):
        controller.encode(long)
    fits = long[:, :254]
    _, cache = controller.encode(fits)
    with pytest.raises(ValueError, match=r"lower agent.context or agent.retrieve"):
        controller.answer_logits(torch.zeros(1, 16), fits, cache, fits[:, :0])


# --- The page ----------------------------------------------------------------------------------


def test_the_page_of_pretrained_models(llama: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs/huggingface.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S))
    page = types.ModuleType("huggingface_page")
    exec(compile(code, "docs/huggingface.md", "exec"), page.__dict__)
    for _ in range(2):
        said = page.converse(llama, tmp_path / "memory.safetensors")
        assert isinstance(said, str)
    agent = page.Dialogue.load(tmp_path / "memory.safetensors")
    agent.begin()
    agent.answer("Where is John? Answer with one word.")
    prompt = agent.agent.tokenizer.decode(agent._thought.text_BL[0].tolist())
    assert "Answer with one word. garden" in prompt  # what was corrected is told next time
