"""The memory agent: encode, decide, read and write, fuse, generate.

An agent is a controller with a working memory for the episode and an episodic memory for its
whole life. It knows sentences and answers; it does not know tasks, environments or marks.

Letters: B rows, L tokens of a sentence, A tokens of an answer, D hidden size, T items, V tokens
of the vocabulary.
"""

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stillknows.agents.controller import Cache, Controller
from stillknows.agents.tokenizer import END, PAD, WordTokenizer, pad
from stillknows.memory.episodic import Recall, p_store
from stillknows.memory.interface import Policy, WorkingMemory, map_state
from stillknows.memory.nec import NEC


class AgentState(NamedTuple):
    """What an agent carries through an episode: a value, one row an environment.

    Attributes:
        working: the working memory's state, None without one.
        story: every sentence so far, a tuple for each row.
        written: how many of them are in the working memory already, for each row.
    """

    working: Any
    story: tuple[tuple[str, ...], ...]
    written: tuple[int, ...]


class Thought(NamedTuple):
    """How the agent came to its answers, for the rows that were asked; the learner needs it.

    Attributes:
        rows: which rows were asked.
        stories: the sentences each had read, the question last.
        text_BL: the tokens of what the answer is read from, the question last.
        cache: the controller's cache of them.
        fused_BD: what was seen and remembered.
        recall: what the episodic memory returned, None without recall.
        trust_B: weight of the store in the answer (g of DESIGN), `[B]`, 0 without recall.
        key_BD: the question's key in the episodic memory.
        writes_B: share of the items so far that the working policy expected to write, `[B]`.
    """

    rows: tuple[int, ...]
    stories: tuple[tuple[str, ...], ...]
    text_BL: Tensor
    cache: Cache
    fused_BD: Tensor
    recall: Recall | None
    trust_B: Tensor
    key_BD: Tensor
    writes_B: Tensor


class MemoryAgent(nn.Module):
    """A controller, a working memory, an episodic memory, and how they are joined.

    Args:
        tokenizer: the controller's words.
        controller: reads a sentence, speaks an answer.
        working_memory: for the episode, or None.
        working_policy: what it writes and evicts.
        episodic_memory: for the whole life, or None.
        fuse: joins what was read with what was recalled.
        recall: whether answers and vectors are recalled from the episodic memory.
        answer_length: the most tokens of an answer.
        context: how many observations attention may reach when a question is answered, the
            question included. What was heard earlier is reachable only through memory; what is
            written there are sentences as they read alone.
        slowness: how slowly the key encoder follows the controller, per update.
    """

    def __init__(
        self,
        tokenizer: WordTokenizer,
        controller: Controller,
        working_memory: WorkingMemory | None,
        working_policy: Policy,
        episodic_memory: NEC | None,
        fuse: nn.Module,
        *,
        recall: bool = True,
        answer_length: int = 4,
        context: int = 1,
        slowness: float = 0.99,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}  # what it was built from, where that is known
        self.tokenizer, self.controller, self.fuse = tokenizer, controller, fuse
        self.working_memory: Any = working_memory
        self.working_policy: Any = working_policy
        self.episodic_memory = episodic_memory
        self.recall = recall and episodic_memory is not None
        self.answer_length, self.context, self.slowness = answer_length, context, slowness
        if context < 1:
            raise ValueError(f"agent.context={context} leaves no question: give 1 or more.")
        if context > 1 and controller.hears_trees:
            raise ValueError("This controller reads one tree at a time: leave agent.context at 1.")
        self.key_encoder = copy.deepcopy(controller).requires_grad_(False)
        self.trust = nn.Linear(4, 1) if self.recall else None
        if self.trust is not None:
            nn.init.zeros_(self.trust.weight)
            nn.init.constant_(self.trust.bias, -4.0)  # at first the store is hardly believed

    @property
    def device(self) -> torch.device:
        """Where the agent computes."""
        return self.controller.embedding.weight.device

    def initial_state(self, batch: int, key_B: Tensor | None = None) -> AgentState:
        """Return the state before the first sentence; `key_B` (int64) names the episodes."""
        working = None
        if self.working_memory is not None:
            working = self.working_memory.initial_state(batch, self.device, key_B)
        return AgentState(working, ((),) * batch, (0,) * batch)

    def step(
        self, observations: Sequence[str], asked: Sequence[bool], state: AgentState
    ) -> tuple[tuple[str, ...], AgentState, Thought | None]:
        """Take one observation a row; answer where asked.

        Nothing is read at a statement, so statements wait, and are encoded together and written
        in their order when a question comes.

        Args:
            observations: one sentence a row, "" for a row whose episode has ended.
            asked: whether it asks for an answer.
            state: what was carried so far.

        Returns:
            The answers ("" where none was asked), the new state, and how the answers came about.
        """
        story = tuple(
            (*past, now) if now else past
            for past, now in zip(state.story, observations, strict=True)
        )
        state = state._replace(story=story)
        rows = tuple(row for row, ask in enumerate(asked) if ask)
        if not rows:
            return ("",) * len(observations), state, None
        state, thought = self._think(rows, state)
        answers = [""] * len(observations)
        for row, answer in zip(rows, self.generate(thought), strict=True):
            answers[row] = answer
        return tuple(answers), state, thought

    def rehearse(self, stories: Sequence[tuple[str, ...]]) -> Thought:
        """Think again of questions, each the last sentence of its story, without recall."""
        state = self.initial_state(len(stories))._replace(story=tuple(stories))
        return self._think(tuple(range(len(stories))), state, recall=False)[1]

    def _think(
        self, rows: tuple[int, ...], state: AgentState, recall: bool = True
    ) -> tuple[AgentState, Thought]:
        """Encode, decide, read and write, and fuse, for the rows that were asked."""
        stories = tuple(state.story[row] for row in rows)
        waiting = [story[state.written[row] : -1] for row, story in zip(rows, stories, strict=True)]
        text_BL, cache, query_BD = self._encode_questions(stories)
        read_BRW, state = self._work(rows, waiting, query_BD, state)
        written = list(state.written)
        for row, story in zip(rows, stories, strict=True):
            written[row] = len(story)
        key_BD = self.key(self.tokenizer.batch([story[-1] for story in stories], self.device))
        found, trust_B = self._recall(key_BD) if recall else (None, query_BD.new_zeros(len(rows)))
        recalled_BV = None
        if found is not None:
            recalled_BV = (found.weights_BK[..., None] * found.vectors_BKV).sum(1)
        fused_BD = self.fuse(query_BD, read_BRW, recalled_BV)
        writes_B = _writes(state.working, rows, trust_B)
        thought = Thought(rows, stories, text_BL, cache, fused_BD, found, trust_B, key_BD, writes_B)
        return state._replace(written=tuple(written)), thought

    def _work(
        self,
        rows: tuple[int, ...],
        waiting: Sequence[Sequence[str]],
        query_BD: Tensor,
        state: AgentState,
    ) -> tuple[Tensor | None, AgentState]:
        """Write what waits and read with the query, on these rows of the working memory."""
        if self.working_memory is None:
            return None, state
        items_BTD, present_BT = self._encode_statements(waiting)
        items_BTD = torch.cat([items_BTD, query_BD[:, None]], dim=1)
        present_BT = torch.cat([present_BT, present_BT.new_ones(len(rows), 1)], dim=1)
        every = len(rows) == len(state.story)
        index_B = torch.tensor(rows, device=self.device)
        some = state.working if every else map_state(lambda part: part[index_B], state.working)
        some, read = self.working_memory.sequence(some, items_BTD, present_BT, self.working_policy)
        working = some if every else _put_rows(state.working, some, index_B)
        return read.values_BRW, state._replace(working=working)

    def _encode_questions(self, stories: Sequence[tuple[str, ...]]) -> tuple[Tensor, Cache, Tensor]:
        """Return tokens `[B, L]`, cache and vectors `[B, D]`; each distinct text is read once."""
        texts = [story[-self.context :] for story in stories]
        distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        index_B = torch.tensor([distinct[text] for text in texts], device=self.device)
        encode = self.tokenizer.encode
        tokens = [[encode(sentence) for sentence in text] for text in distinct]
        tokens_UL = pad(
            [[token for line in text for token in line] for text in tokens], self.device
        )
        own_UL = None
        if self.context > 1:
            own_UL = pad(
                [[*[0] * sum(map(len, text[:-1])), *[1] * len(text[-1])] for text in tokens],
                self.device,
            ).bool()
        vectors_UD, cache = self.controller.encode(tokens_UL, own_UL)
        taken = [(keys[index_B], values[index_B]) for keys, values in cache]
        return tokens_UL[index_B], taken, vectors_UD[index_B]

    def _encode_statements(self, texts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Return items `[B, T, D]` and which are present `[B, T]`; distinct texts are read once."""
        steps = max(len(row) for row in texts)
        distinct = {
            t: n for n, t in enumerate(dict.fromkeys(text for row in texts for text in row))
        }
        index_BT = torch.tensor(
            [[*(distinct[text] for text in row), *[-1] * (steps - len(row))] for row in texts],
            dtype=torch.int64,
            device=self.device,
        ).reshape(len(texts), steps)
        if not distinct:
            return torch.zeros(
                len(texts), 0, self.controller.width, device=self.device
            ), index_BT >= 0
        vectors_UD, _ = self.controller.encode(self.tokenizer.batch(list(distinct), self.device))
        return vectors_UD[index_BT.clamp(min=0)], index_BT >= 0

    def _recall(self, key_BD: Tensor) -> tuple[Recall | None, Tensor]:
        """Return what the episodic memory knows of the question, and how far to trust it.

        The trust is a learned function of four numbers: the nearest distance (logarithm), how many
        entries hold the nearest's question (logarithm; where its answer depends on the story, they
        are many), the share of the neighbours' weight that agrees on the answer, and whether any
        came back.
        """
        store = self.episodic_memory
        if not self.recall or self.trust is None or store is None or not len(store):
            return None, torch.zeros(len(key_BD), device=self.device)
        recall = store.recall(key_BD)
        nearest_B = recall.distance_BK.masked_fill(~recall.present_BK, torch.inf).amin(dim=1)
        nearest_B = (nearest_B.clamp(max=1e3) + 1e-3).log()
        same_BKK = (recall.answers_BKA[:, :, None] == recall.answers_BKA[:, None]).all(dim=-1)
        agreeing_BK = (same_BKK * recall.weights_BK[:, None]).sum(dim=2)
        agreement_B = (agreeing_BK * recall.present_BK).amax(dim=1)
        present_B = recall.present_BK.any(dim=1)
        namesakes_B = recall.namesakes_BK[:, 0].clamp(min=1).log()
        known = (nearest_B, namesakes_B, agreement_B, present_B.float())
        trust_B1 = torch.sigmoid(self.trust(torch.stack(known, dim=1).detach()))
        return recall, trust_B1[:, 0] * present_B

    def log_probabilities(self, thought: Thought, answer_BA: Tensor) -> tuple[Tensor, Tensor]:
        """Score every next token after each prefix of an answer.

        `p = (1 - g) p_controller + g p_store`; where no neighbour agrees with the prefix, g = 0.

        Args:
            thought: how the question was understood.
            answer_BA: tokens of the answer, `[B, A]`.

        Returns:
            Log-probabilities of the mixture and of the controller alone, `[B, A + 1, V]` each.
        """
        logits_BSV = self.controller.answer_logits(
            thought.fused_BD, thought.text_BL, thought.cache, answer_BA
        )
        controller_BSV = logits_BSV.log_softmax(dim=-1)
        if thought.recall is None:
            return controller_BSV, controller_BSV
        store = [
            p_store(thought.recall, answer_BA[:, :position], position, logits_BSV.shape[2])
            for position in range(logits_BSV.shape[1])
        ]
        store_BSV = torch.stack([probabilities for probabilities, _ in store], dim=1)
        supported_BS = torch.stack([supported for _, supported in store], dim=1)
        trust_BS1 = (thought.trust_B[:, None] * supported_BS)[..., None]
        mixture_BSV = (1 - trust_BS1) * controller_BSV.exp() + trust_BS1 * store_BSV
        return mixture_BSV.clamp(min=1e-9).log(), controller_BSV

    @torch.no_grad()
    def generate(self, thought: Thought) -> list[str]:
        """Speak the most probable answers, token by token, greedily."""
        answer_BA = thought.text_BL[:, :0]
        ended_B = torch.zeros(len(thought.rows), dtype=torch.bool, device=self.device)
        for _ in range(self.answer_length):
            mixture_BSV, _ = self.log_probabilities(thought, answer_BA)
            token_B = mixture_BSV[:, -1].argmax(dim=1).masked_fill(ended_B, END)
            answer_BA = torch.cat([answer_BA, token_B[:, None]], dim=1)
            ended_B = ended_B | (token_B == END)
            if ended_B.all():
                break
        return [self.tokenizer.decode(row) for row in answer_BA.tolist()]

    def answer_tokens(self, targets: Sequence[str]) -> Tensor:
        """Return the tokens of answers with their end, `[B, A]`, `PAD` behind."""
        rows = [[*self.tokenizer.encode(target), END][: self.answer_length] for target in targets]
        return pad(rows, self.device)

    def surprise(self, thought: Thought, target_BA: Tensor) -> tuple[Tensor, Tensor]:
        """Return -log p of the whole target answer, `[B]`: of the mixture, of the controller."""
        both = self.log_probabilities(thought, target_BA[:, :-1])
        picked = (z.gather(2, target_BA[..., None])[..., 0] for z in both)
        present_BA = target_BA != PAD
        mixture_B, controller_B = (-(z * present_BA).sum(dim=1) for z in picked)
        return mixture_B, controller_B

    @torch.no_grad()
    def key(self, question_BL: Tensor) -> Tensor:
        """Return the keys of questions, unit vectors `[B, D]`, the same for the same tokens."""
        distinct_UL, row_B = torch.unique(question_BL, dim=0, return_inverse=True)
        vectors_UD, _ = self.key_encoder.encode(distinct_UL)
        return nn.functional.normalize(vectors_UD, dim=1)[row_B]

    @torch.no_grad()
    def follow(self) -> None:
        """Move the key encoder a little towards the controller (once an update)."""
        slow, fast = self.key_encoder.parameters(), self.controller.parameters()
        for mine, current in zip(slow, fast, strict=True):
            mine.lerp_(current, 1 - self.slowness)


def identity(text: str) -> int:
    """Return a 63-bit number that names a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _writes(working: Any, rows: tuple[int, ...], like_B: Tensor) -> Tensor:
    """Return the expected share of writes, of memories that count it (soft ones do not)."""
    if not hasattr(working, "writes_B"):
        return torch.zeros_like(like_B)
    share_B: Tensor = working.writes_B / working.step_B.clamp(min=1)
    return share_B[list(rows)]


def _put_rows(state: Any, some: Any, index_B: Tensor) -> Any:
    if isinstance(state, Tensor):
        return state.index_copy(0, index_B, some.to(state.dtype))
    parts: Callable[..., Any] = type(state)
    return parts(*(_put_rows(a, b, index_B) for a, b in zip(state, some, strict=True)))
