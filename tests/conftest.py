"""What all tests share: one thread, so that runs are equal, and properties without a clock."""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from omegaconf import DictConfig

from stillknows.agents.configuration import compose_config
from stillknows.memory import native

torch.set_num_threads(1)
settings.register_profile("stillknows", deadline=None, derandomize=True)
settings.load_profile("stillknows")

TOLD = ("mary went to the garden .", "where is mary ?", "john took the ball .", "Zürich, 7%!")
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")


@pytest.fixture(scope="module", params=["native", "plain"])
def either(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run with the native file of the memory, and without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(native, "library", lambda: None)
        elif native.library() is None:
            pytest.skip("needs a C++ compiler")
        yield


@pytest.fixture
def tiny() -> DictConfig:
    """Return the smallest configuration with everything switched on."""
    return compose_config(TINY)


def _build_tokenizer(folder: Path, chat: bool) -> int:
    """Train a byte-level tokenizer on a few texts and save it; return how many tokens it has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|end|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(TOLD * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if chat:
        tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _build_model(folder: Path, kind: str = "llama", chat: bool = False, rows: int = 0) -> str:
    """Save a tiny random model with its tokenizer, as `save_pretrained` does."""
    import transformers

    size = rows or _build_tokenizer(folder, chat)
    torch.manual_seed(0)
    shared = {"vocab_size": size + 3, "bos_token_id": 0, "eos_token_id": 1}
    if kind == "llama":
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                **shared,
            )
        )
    else:
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=32, n_layer=4, n_head=4, n_positions=256, **shared)
        )
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def build_model() -> Callable[..., str]:
    """Return what saves a tiny random language model; skipped where the extra hf is not there."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    return _build_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, build_model: Callable[..., str]) -> str:
    """Return the folder of a tiny Llama with a chat template."""
    return build_model(tmp_path_factory.mktemp("llama"), chat=True)


@pytest.fixture
def llama(tiny_model: str) -> str:
    """Return the same."""
    return tiny_model


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    build_model: Callable[..., str],
) -> str:
    """Return the folders of a tiny Llama with a chat template and of a tiny GPT-2."""
    folder = tmp_path_factory.mktemp(request.param)
    return build_model(folder, request.param, chat=request.param == "llama")


def benchmark_module(name: str) -> Any:
    """Return a benchmark as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def running_server() -> Iterator[Any]:
    """Run a PostgreSQL server in a temporary folder and tell libpq of it; skip without one."""
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    pytest.importorskip("sqlalchemy", reason="needs the extra `postgres`")
    module = benchmark_module("postgres_server")
    if module.initdb() is None:
        pytest.skip("needs a PostgreSQL server: make test-postgres")
    with tempfile.TemporaryDirectory(prefix="pg") as name, pytest.MonkeyPatch.context() as patch:
        server = module.Server(Path(name), fsync=False)
        server.start()
        for variable in [each for each in os.environ if each.startswith("PG")]:
            patch.delenv(variable)
        for variable, value in server.variables.items():
            patch.setenv(variable, value)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[None]:
    """Run a PostgreSQL server for all tests; skip without one."""
    with running_server():
        yield


@pytest.fixture
def server(postgres: None) -> Iterator[Any]:
    """Run another PostgreSQL server, which may be stopped and killed."""
    with running_server() as own:
        yield own


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], Any]:
    """Return what loads a benchmark as a module."""
    return benchmark_module
