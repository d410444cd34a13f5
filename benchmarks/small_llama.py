"""Write a small Llama that knows nothing yet, with a tokenizer of a stream's words.

    python benchmarks/small_llama.py small_llama
    stillknows train experiment=controllers_huggingface

A folder as `save_pretrained` writes it: a model and tokenizer like any other of Hugging Face, for
trying `controller=huggingface` where no model can be fetched. Needs the extra `hf`.
"""

import argparse
from pathlib import Path

import torch
from hydra.utils import instantiate
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stillknows.agents.configuration import compose_config
from stillknows.envs.tasks import vocabulary


def tokenizer_of(words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer to which each of the words is a token."""
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([f"{word} " * 9 for word in words], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--spread", type=float, default=0.1, help="of its weights")
    parser.add_argument("--stream", default="microworld")
    given = parser.parse_args()
    config = compose_config([f"stream={given.stream}"])
    words = vocabulary(instantiate(config.stream.tasks, _convert_="all"))
    tokenizer = tokenizer_of(words)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=given.width,
            intermediate_size=2 * given.width,
            num_hidden_layers=given.layers,
            num_attention_heads=given.heads,
            num_key_value_heads=given.heads,
            max_position_embeddings=512,
            initializer_range=given.spread,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    tokenizer.save_pretrained(given.folder)
    model.save_pretrained(given.folder)
    print(f"{given.folder}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
