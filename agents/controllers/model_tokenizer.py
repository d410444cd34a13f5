"""The tokenizer that comes with a model, in the terms of `WordTokenizer`.

Its ids are moved up by two, for our padding and end. Text stays as it is: what looks like a special
token in it is read as letters.
"""

import json
from collections.abc import Sequence
from typing import Any

from stillknows.agents.controllers.tokenizer import END, PAD, Tokenizer

SHIFT = 2  # PAD and END come first
_MARK = "\ue000"  # of the private use area: where the question stands in a chat template


class ModelTokenizer(Tokenizer):
    """Turns text into token ids and back with a tokenizer of Hugging Face.

    Args:
        tokenizer: a fast one (of the tokenizers library), so that it can be kept as JSON.

    Raises:
        ValueError: if it is not a fast one.
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("This model's tokenizer is not a fast one (tokenizer.json).")
        self.tokenizer = tokenizer
        self.before, self.after = self._frame()

    @classmethod
    def of(cls, model: str) -> "ModelTokenizer":
        """Return the tokenizer of a model by its name or folder.

        Raises:
            ValueError: with one sentence, if it is not there.
        """
        transformers = hub(model)
        try:
            return cls(transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=False))
        except (OSError, ValueError, LookupError) as error:
            raise ValueError(
                f"There is no tokenizer of the model {model}: give a name on the hub or a folder "
                "that save_pretrained wrote."
            ) from error

    def __len__(self) -> int:
        """Return how many tokens there are."""
        return len(self.tokenizer) + SHIFT

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, up to the first end."""
        upto = list(tokens).index(END) if END in tokens else len(tokens)
        ids = [token - SHIFT for token in tokens[:upto] if token != PAD]
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text.strip()

    def answer(self, text: str) -> list[int]:
        """Return the token ids of an answer: a word goes on after a space, a chat begins anew."""
        return self._tokens(text if self.after else f" {text}")

    def prompt(self, lines: Sequence[str]) -> tuple[list[int], list[bool]]:
        """Return the tokens of lines, the question last, in the chat template where there is one.

        Returns:
            The tokens, and which of them are of the last line.
        """
        told = [token for line in lines[:-1] for token in self._tokens(f"{line}\n")]
        own = self.encode(lines[-1])
        first, last = [*self.before, *told], self.after
        return [*first, *own, *last], [
            *[False] * len(first),
            *[True] * len(own),
            *[False] * len(last),
        ]

    def plain(self, text: str) -> str:
        """Return a text that a person wrote as the model is to read it."""
        text = text.encode(errors="replace").decode()  # halves of a pair are no text
        return " ".join(text.split())

    def kept(self) -> dict[str, Any]:
        """Return what it can be made of again, by `restored`."""
        return {
            "model": json.loads(self.tokenizer.backend_tokenizer.to_str()),
            "chat_template": self.tokenizer.chat_template,
            "special": {
                name: str(token)
                for name, token in self.tokenizer.special_tokens_map.items()
                if not isinstance(token, list | tuple)
            },
        }

    @classmethod
    def restored(cls, kept: dict[str, Any]) -> "ModelTokenizer":
        """Return the tokenizer that `kept` described."""
        from tokenizers import Tokenizer as Fast
        from transformers import PreTrainedTokenizerFast

        fast = PreTrainedTokenizerFast(
            tokenizer_object=Fast.from_str(json.dumps(kept["model"])), **kept.get("special", {})
        )
        fast.chat_template = kept["chat_template"]
        return cls(fast)

    def _encode(self, text: str) -> list[int]:
        return self._tokens(text)

    def _tokens(self, text: str, split: bool = True) -> list[int]:
        """Return our tokens of a text, in which special ones are split into letters or stand."""
        read = self.tokenizer(text, add_special_tokens=False, split_special_tokens=split)
        return [token + SHIFT for token in read["input_ids"]]

    def _frame(self) -> tuple[list[int], list[int]]:
        """Return the tokens of the chat template before and after a question, none without one.

        The token of beginning is left out, since the controller gives it to every text.
        """
        if not self.tokenizer.chat_template:
            return [], []
        asked = [{"role": "user", "content": _MARK}]
        framed = self.tokenizer.apply_chat_template(
            asked, tokenize=False, add_generation_prompt=True
        )
        before, _, after = framed.partition(_MARK)
        before = before.removeprefix(self.tokenizer.bos_token or "")
        return self._tokens(before, split=False), self._tokens(after, split=False)


def hub(name: str) -> Any:
    """Return the transformers library.

    Raises:
        ValueError: with one sentence, if it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"controller.model={name} needs the extra hf: pip install 'stillknows[hf]'."
        ) from error
    return transformers
