"""Any causal language model of Hugging Face as the controller (extra `hf`).

The model reads texts with its own tokenizer; the mean of its last hidden states over a sentence,
made `width` wide, is the sentence's vector. What was read and recalled (the fused vector) enters as
soft tokens between the text and the answer, by gated cross-attention in some of its blocks, or not
at all, where it is retrieved as text (`agent.retrieve`).

Letters: B rows, L tokens of a text, A tokens of an answer, D width, M hidden size of the model,
I soft tokens or items, V tokens of the vocabulary.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stillknows.agents.controllers.controller import Cache, Controller
from stillknows.agents.controllers.cross_attention import GatedCrossAttention
from stillknows.agents.controllers.model_tokenizer import SHIFT, ModelTokenizer, hub
from stillknows.agents.controllers.tokenizer import END, PAD
from stillknows.memory import expect

TRAINED = ("frozen", "lora", "full")
MEMORIES = ("soft_tokens", "cross_attention", "none")
_OTHERWISE = (AttributeError, LookupError, TypeError, RuntimeError, ValueError, AssertionError)
_NEVER = -1e4  # a logit: finite, so that what is masked later stays a number


class HuggingFace(Controller):
    """A causal language model by its name or folder.

    Args:
        vocabulary: number of tokens (V): those of the model's tokenizer and two more.
        model: a name on the hub, or a folder that `save_pretrained` wrote; safetensors only, and
            no code from there is run.
        width: of vectors of sentences and of what is remembered (D).
        trained: `frozen` trains only what joins model and memory; `lora` adds low-rank adapters
            (Hu et al. 2022) to all linear layers; `full` trains all.
        rank: of the adapters; their scale is 2.
        memory: how what is remembered enters: `soft_tokens`, `cross_attention` or `none`.
        items: how many soft tokens, or items that are attended to (I).
        every: a gated cross-attention after each of so many blocks.
        dtype: of the model's weights, `float32` or `bfloat16`; what is new stays float32.
        checkpointing: compute activations again in the backward pass, and keep no cache then.

    Raises:
        ValueError: with one sentence, if the model is not there, does not fit its tokenizer or
            keeps no keys and values to read on from, or an option is none of its choices.
    """

    def __init__(
        self,
        vocabulary: int,
        model: str,
        width: int = 256,
        trained: str = "lora",
        rank: int = 16,
        memory: str = "soft_tokens",
        items: int = 4,
        every: int = 4,
        dtype: str = "float32",
        checkpointing: bool = False,
    ) -> None:
        super().__init__(width)
        _expect("trained", trained, TRAINED)
        _expect("memory", memory, MEMORIES)
        _expect("dtype", dtype, ("float32", "bfloat16"))
        expect.whole(1, items=items, every=every, rank=rank)
        self.memory, self.items, self.checkpointing = memory, items, checkpointing
        self.fixed = trained == "frozen" and memory == "none"
        self.model = _load(model, getattr(torch, dtype))
        self._check(model, vocabulary)
        read = self._try(model)
        _let_learn(self.model, trained, rank)
        if checkpointing:
            self.model.activation_checkpointing_enable()
        self.down = nn.Linear(read, width, bias=False)
        self.norm_sentence = nn.RMSNorm(width)
        embedded = self.model.get_input_embeddings().weight.shape[1]
        met = embedded if memory == "soft_tokens" else width
        self.up = nn.Linear(width, items * met, bias=False) if memory != "none" else None
        self.cross: Any = nn.ModuleList()
        if memory == "soft_tokens":  # as large as the tokens beside it
            spread = self.model.get_input_embeddings().weight.float().std().item()
            nn.init.normal_(self.up.weight, std=spread / width**0.5)  # type: ignore[union-attr]
        elif memory == "cross_attention":
            blocks = _blocks(self.model)
            if every > len(blocks):
                raise ValueError(f"every={every}: the model has {len(blocks)} blocks, give fewer.")
            for block in blocks[every - 1 :: every]:
                self.cross.append(GatedCrossAttention(self.model.config.hidden_size, width))
                cross: Any = self.cross[-1]
                block.register_forward_hook(cross.hook)

    @classmethod
    def tokenizer(cls, vocabulary: Iterable[str], **settings: Any) -> ModelTokenizer:
        """Return the model's own tokenizer; the stream's words are in it, whatever they are."""
        if "model" not in settings:
            raise ValueError("Which model? Give controller.model=NAME_OR_FOLDER.")
        return ModelTokenizer.of(settings["model"])

    def encode(self, tokens_BL: Tensor, own_BL: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Read texts, each after the model's token of beginning; see `Controller.encode`."""
        own_BL = tokens_BL != PAD if own_BL is None else own_BL
        keeps = self._keeps_cache()
        out = self._read(tokens_BL, keeps)
        weight_BL = own_BL / own_BL.sum(1, keepdim=True).clamp(min=1)
        mean_BM = (out.last_hidden_state[:, 1:].float() * weight_BL[..., None]).sum(1)
        vector_BD: Tensor = self.norm_sentence(self.down(mean_BM).float())
        return vector_BD, _kept(out) if keeps else []

    def answer_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor
    ) -> Tensor:
        """Score the next tokens, `[B, A + 1, V]`; see `Controller.answer_logits`."""
        new_BSM, seen_BC, position_BS = self._begin(fused_BD, text_BL, cache)
        steps = answer_BA.shape[1]
        answer_BAM = self.model.get_input_embeddings()(self._ids(answer_BA))
        new_BSM = torch.cat([new_BSM, answer_BAM.to(new_BSM.dtype)], dim=1)
        after_A = torch.arange(1, steps + 1, device=text_BL.device)
        position_BS = torch.cat([position_BS, position_BS[:, -1:] + after_A], dim=1)
        seen_BC = torch.cat([seen_BC, torch.ones_like(answer_BA, dtype=torch.bool)], dim=1)
        return self._speak(fused_BD, new_BSM, seen_BC, position_BS, _as_cache(cache), steps + 1)

    def next_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor, spoken: Any
    ) -> tuple[Tensor, Any]:
        """Score what follows an answer so far, `[B, V]`, reading its last token alone."""
        if not cache:
            return super().next_logits(fused_BD, text_BL, cache, answer_BA, spoken)
        if spoken is None:
            new_BSM, seen_BC, position_BS = self._begin(fused_BD, text_BL, cache)
            kept = _as_cache(cache)
        else:
            kept, seen_BC, position_BS = spoken
            new_BSM = self.model.get_input_embeddings()(self._ids(answer_BA[:, -1:]))
            seen_BC = nn.functional.pad(seen_BC, (0, 1), value=True)
            position_BS = position_BS[:, -1:] + 1
        logits_B1V = self._speak(fused_BD, new_BSM, seen_BC, position_BS, kept, 1)
        return logits_B1V[:, -1], (kept, seen_BC, position_BS)

    def _read(self, tokens_BL: Tensor, keeps: bool) -> Any:
        """Return what the model without its head makes of texts, each after the beginning."""
        present_BC = self._present(tokens_BL)
        return self.model.base_model(
            inputs_embeds=self._embed(tokens_BL),
            attention_mask=present_BC.long(),
            position_ids=_positions(present_BC),
            use_cache=keeps,
        )

    def _speak(
        self,
        fused_BD: Tensor,
        new_BSM: Tensor,
        seen_BC: Tensor,
        position_BS: Tensor,
        kept: Any,
        scored: int,
    ) -> Tensor:
        """Read what is new after what is kept; score what follows its last, `[B, scored, V]`."""
        self._expect_room(int(position_BS.max()) + 1)
        with self._met(fused_BD, scored):
            out = self.model(
                inputs_embeds=new_BSM,
                attention_mask=seen_BC.long(),
                position_ids=position_BS,
                cache=kept,
                use_cache=kept is not None,
                logits_to_keep=scored,
            )
        return self._as_ours(out.logits.float())

    def _begin(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what stands before the answer and is not cached, what is seen, and positions.

        Soft tokens follow the text. Without any, its last token is read once more, in its place.
        """
        present_BC = self._present(text_BL)
        length_B1 = present_BC.sum(dim=1, keepdim=True)
        if self.memory == "soft_tokens":
            assert self.up is not None
            new_BSM = self.up(fused_BD).unflatten(1, (self.items, -1)).to(self.model.dtype)
            position_BS = length_B1 + torch.arange(self.items, device=text_BL.device)
            seen_BC = present_BC
        else:
            position_BS = length_B1 - 1
            ids_B1 = self._with_beginning(text_BL).gather(1, position_BS)
            new_BSM = self.model.get_input_embeddings()(ids_B1)
            unseen_B1 = torch.zeros_like(position_BS, dtype=torch.bool)
            seen_BC = present_BC.scatter(1, position_BS, unseen_B1)
        seen_BC = torch.cat([seen_BC, seen_BC.new_ones(new_BSM.shape[:2])], dim=1)
        if not cache:
            new_BSM = torch.cat([self._embed(text_BL), new_BSM], dim=1)
            position_BS = torch.cat([_positions(present_BC), position_BS], dim=1)
        return new_BSM, seen_BC, position_BS

    @contextmanager
    def _met(self, fused_BD: Tensor, last: int) -> Iterator[None]:
        """Let the last positions meet what is remembered, in the blocks, for as long as this lasts.

        The text was read before anything was remembered for it.
        """
        if self.cross and self.up is not None:
            items_BID = self.up(fused_BD).unflatten(1, (self.items, -1))
            for cross in self.cross:
                cross.items_BID, cross.last = items_BID, last
        try:
            yield
        finally:
            for cross in self.cross:
                cross.items_BID = None

    def _as_ours(self, logits_BSV: Tensor) -> Tensor:
        """Return the model's logits in the order of our tokens: none, the end, then its own."""
        first_BS2 = logits_BSV.new_full((*logits_BSV.shape[:2], SHIFT), _NEVER)
        ends = torch.tensor(self.ends, device=logits_BSV.device)
        first_BS2[..., END] = logits_BSV[..., ends].logsumexp(dim=-1)
        known = ends[ends < self.vocabulary - SHIFT]
        rest_BSV = logits_BSV[..., : self.vocabulary - SHIFT].index_fill(2, known, _NEVER)
        return torch.cat([first_BS2, rest_BSV], dim=2)

    def _ids(self, tokens_BL: Tensor) -> Tensor:
        """Return the model's ids of our tokens; of padding any, of the end its own."""
        return (tokens_BL - SHIFT).clamp(min=0).masked_fill(tokens_BL == END, self.end)

    def _with_beginning(self, tokens_BL: Tensor) -> Tensor:
        return nn.functional.pad(self._ids(tokens_BL), (1, 0), value=self.beginning)

    def _present(self, tokens_BL: Tensor) -> Tensor:
        return nn.functional.pad(tokens_BL != PAD, (1, 0), value=True)

    def _embed(self, tokens_BL: Tensor) -> Tensor:
        self._expect_room(tokens_BL.shape[1] + 1)
        embedded: Tensor = self.model.get_input_embeddings()(self._with_beginning(tokens_BL))
        return embedded

    def _keeps_cache(self) -> bool:
        return not (self.checkpointing and self.training)

    def _expect_room(self, length: int) -> None:
        longest = getattr(self.model.config, "max_position_embeddings", length)
        if getattr(self.model.config, "use_sliding_window", True):
            window = getattr(self.model.config, "sliding_window", None)
            longest = min(longest, longest if window is None else window)
        if length > longest:
            raise ValueError(
                f"A text has {length} tokens with its answer, and this model reads {longest}: "
                "lower agent.context or agent.retrieve, or agent.answer_length."
            )

    def _check(self, model: str, vocabulary: int) -> None:
        """Take note of the tokens of beginning and end; raise a ValueError where they misfit."""
        self.vocabulary = vocabulary
        rows = self.model.get_input_embeddings().weight.shape[0]
        if vocabulary - SHIFT > rows:
            raise ValueError(
                f"The tokenizer has {vocabulary - SHIFT} tokens and the model {model} knows "
                f"{rows}: they do not belong together."
            )
        config = self.model.config
        ends = config.eos_token_id
        if ends is None:
            raise ValueError(f"The model {model} has no token that ends a text (eos_token_id).")
        self.ends = list(ends) if isinstance(ends, list) else [ends]  # any of them ends an answer
        self.end = self.ends[0]
        self.beginning = self.end if config.bos_token_id is None else config.bos_token_id

    @torch.no_grad()
    def _try(self, model: str) -> int:
        """Read a token, and another after it; return how many numbers a last hidden state has.

        Raises:
            ValueError: if the model does not read on from keys and values that it kept.
        """
        token_11 = torch.full((1, 1), SHIFT)
        try:
            out = self._read(token_11, keeps=True)
            self.model(
                inputs_embeds=self._embed(token_11)[:, 1:],
                attention_mask=torch.ones(1, 3, dtype=torch.int64),
                position_ids=torch.full((1, 1), 2),
                cache=_as_cache(_kept(out)),
                use_cache=True,
                logits_to_keep=1,
            )
        except _OTHERWISE as error:
            raise ValueError(
                f"The model {model} ({self.model.config.model_type}) does not read on from keys "
                "and values kept by all its blocks: choose one with attention in every block, as "
                "those of the families of Llama, Qwen2, GPT-2 and OPT."
            ) from error
        size: int = out.last_hidden_state.shape[2]
        return size


def _expect(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"controller.{name}={value}: choose one of {', '.join(choices)}.")


def _load(name: str, dtype: torch.dtype) -> Any:
    transformers = hub(name)
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(
            f"There is no causal language model {name} with safetensors: give a name on the hub "
            "or a folder that save_pretrained wrote."
        ) from error


def _let_learn(model: Any, trained: str, rank: int) -> None:
    """Let ask for a gradient what learns, and nothing else."""
    if trained != "full":
        model.requires_grad_(False)
    if trained == "lora":
        from peft import LoraConfig, inject_adapter_in_model
        from transformers.pytorch_utils import Conv1D

        turned = any(isinstance(part, Conv1D) for part in model.modules())  # GPT-2's layers
        lora = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=turned
        )
        inject_adapter_in_model(lora, model)
        for part in model.parameters():
            if part.requires_grad:
                part.data = part.data.float()  # what is new is small, and learns in small steps


def _blocks(model: Any) -> nn.ModuleList:
    """Return the model's blocks: the list of as many modules as it has layers."""
    layers = model.config.num_hidden_layers
    for part in model.modules():
        if isinstance(part, nn.ModuleList) and len(part) == layers:
            return part
    raise ValueError("This model's blocks are not found: give controller.memory=soft_tokens.")


def _positions(present_BC: Tensor) -> Tensor:
    return (present_BC.cumsum(dim=1) - 1).clamp(min=0)


def _kept(out: Any) -> Cache:
    """Return the keys and values of each block."""
    return [(layer.keys, layer.values) for layer in out.cache.layers]


def _as_cache(cache: Cache) -> Any:
    if not cache:
        return None
    from transformers import DynamicCache

    return DynamicCache(cache)
