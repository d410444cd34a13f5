"""The memory agent: encode, decide, read and write, fuse, generate.

An agent is a controller with a working memory for the episode and an episodic memory for its
whole life. It knows sentences and answers; it does not know tasks, environments or marks.

Letters: B rows, L tokens of a sentence, A tokens of an answer, D hidden size, T items, V tokens
of the vocabulary.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from stillknows.agents.adaptation import LocalAdaptation, expect_movable
from stillknows.agents.controllers.controller import Cache, Controller, follow, follower
from stillknows.agents.controllers.tokenizer import END, PAD, Tokenizer, pad
from stillknows.agents.retrieve import read_sentences, recalled_sentences
from stillknows.agents.thought import (
    AgentState,
    Thought,
    floored_log,
    kept_of_a_question,
    put_rows,
    score,
    share_of_writes,
    told_again,
)
from stillknows.memory import expect
from stillknows.memory.episodic import Recall, p_store
from stillknows.memory.interface import Policy, Read, WorkingMemory, map_state
from stillknows.memory.nec import NEC


class MemoryAgent(nn.Module):
    """A controller, a working memory, an episodic memory, and how they are joined.

    Args:
        tokenizer: of the controller.
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
        retrieve: how many sentences of the working memory, and as many of the episodic memory,
            go into the text that the answer is read from.
        precision: of the controller: float32, or bfloat16 (mixed: its weights and what it returns
            stay float32, memories compute in float32).
        adaptation: moves the weights towards what was recalled for as long as one answer takes,
            when nothing is to be learned from it (without gradients); None: they stay.
        slowness: how slowly the key encoder follows the controller, per update.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        controller: Controller,
        working_memory: WorkingMemory | None,
        working_policy: Policy,
        episodic_memory: NEC | None,
        fuse: nn.Module,
        *,
        recall: bool = True,
        answer_length: int = 4,
        context: int = 1,
        retrieve: int = 0,
        precision: str = "float32",
        adaptation: LocalAdaptation | None = None,
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
        self.retrieve, self.precision, self.adaptation = retrieve, precision, adaptation
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"agent.precision={precision}: choose float32 or bfloat16.")
        if retrieve and not getattr(working_memory, "holds_items", working_memory is None):
            raise ValueError(
                f"agent.retrieve={retrieve} wants a working memory of sentences: "
                "working_memory=slots, sparse_slots, memory_network or none."
            )
        expect.whole(1, context=context, answer_length=answer_length)
        expect.whole(0, retrieve=retrieve)
        expect.number(0, 1, slowness=slowness)
        expect_movable(adaptation, controller)
        if (context > 1 or retrieve) and controller.hears_trees:
            raise ValueError("This controller reads one tree: give agent.context=1 and retrieve=0.")
        self.key_encoder = follower(controller)
        self.trust = nn.Linear(4, 1) if self.recall else None
        if self.trust is not None:
            nn.init.zeros_(self.trust.weight)
            nn.init.constant_(self.trust.bias, -4.0)  # at first the store is hardly believed

    def train(self, mode: bool = True) -> "MemoryAgent":
        """Let all but the key encoder be in training: a question has one key, without dropout."""
        super().train(mode)
        self.key_encoder.eval()
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a policy that is a module may give way to a rule, which is none."""
        if name == "working_policy" and not isinstance(value, nn.Module):
            self._modules.pop(name, None)
        super().__setattr__(name, value)

    @property
    def device(self) -> torch.device:
        """Where the agent computes."""
        return next(self.controller.parameters()).device

    def initial_state(self, batch: int, key_B: Tensor | None = None) -> AgentState:
        """Return the state before the first sentence; `key_B` (int64) names the episodes."""
        memory = self.working_memory
        working = None if memory is None else memory.initial_state(batch, self.device, key_B)
        return AgentState(working, ((),) * batch, (0,) * batch, ((),) * batch)

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
        for row, answer in zip(rows, self._answers(thought, state), strict=True):
            answers[row] = answer
        return tuple(answers), state, thought

    def _answers(self, thought: Thought, state: AgentState) -> list[str]:
        """Speak; where weights adapt, each row thinks again with its own."""
        if self.adaptation is None or thought.recall is None or torch.is_grad_enabled():
            return self.generate(thought)
        answers, keys_B = [], getattr(state.working, "key_B", torch.arange(len(state.story)))
        for number, story in enumerate(told_again(self, thought)):
            with self.adaptation.adapted(self, thought.recall, number):
                again = self.initial_state(1, keys_B[[thought.rows[number]]])
                again = again._replace(story=(story,))
                answers.extend(self.generate(self._think((0,), again)[1]))
        return answers

    def forward(
        self, story_BTL: Tensor, key_B: Tensor | None = None, recall: bool = False
    ) -> Thought:
        """Think again of questions told as tokens, each the last line of its story, `[B, T, L]`."""
        stories = [
            tuple(self.tokenizer.decode(line) for line in story if line[0] != PAD)
            for story in story_BTL.tolist()
        ]
        return self.rehearse(stories, key_B, recall)

    def rehearse(
        self, stories: Sequence[tuple[str, ...]], key_B: Tensor | None = None, recall: bool = False
    ) -> Thought:
        """Think again of questions, each the last of its story, with the noise of its episode."""
        state = self.initial_state(len(stories), key_B)._replace(story=tuple(stories))
        return self._think(tuple(range(len(stories))), state, recall)[1]

    def again(self, thought: Thought, numbers: Sequence[int]) -> tuple[list[str], Thought]:
        """Answer some questions of a thought again, from where the agent stood, as it is now.

        Args:
            thought: with what the agent carried before it.
            numbers: places in `thought.rows`.

        Returns:
            The answers, and how they came about.
        """
        assert thought.before is not None
        rows = tuple(thought.rows[number] for number in numbers)
        state, thought = self._think(rows, thought.before)
        return self._answers(thought, state), thought

    def _think(
        self, rows: tuple[int, ...], state: AgentState, recall: bool = True
    ) -> tuple[AgentState, Thought]:
        """Encode, decide, read and write, and fuse, for the rows that were asked."""
        stories, before = tuple(state.story[row] for row in rows), state
        texts = [story[-self.context :] for story in stories]
        text_BL, cache, query_BD = self._encode_questions(texts)
        read, state = self._work(rows, query_BD, state)
        key_BD = query_BD.new_zeros(len(rows), 0)
        if self.episodic_memory is not None:
            asked_BL = self.tokenizer.batch([story[-1] for story in stories], self.device)
            key_BD = self.key(asked_BL[:, : kept_of_a_question(self)])
        found, trust_B = self._recall(key_BD) if recall else (None, query_BD.new_zeros(len(rows)))
        recalled_BV = None if found is None else found.mean()
        fused_BD = self.fuse(query_BD, None if read is None else read.values_BRW, recalled_BV)
        if self.retrieve:
            told = self._retrieve(rows, state, read, found)
            both = [(*lines, *text) for lines, text in zip(told, texts, strict=True)]
            text_BL, cache, _ = self._encode_questions(both)
        writes_B = share_of_writes(state.working, rows, trust_B)
        thought = Thought(rows, stories, text_BL, cache, fused_BD, found, trust_B, key_BD, writes_B)
        return state, thought._replace(read=read, before=before)

    def _retrieve(
        self, rows: tuple[int, ...], state: AgentState, read: Read | None, recall: Recall | None
    ) -> list[tuple[str, ...]]:
        """Return what goes into the prompt: of the life, then of the episode, for each row."""
        told: list[tuple[str, ...]] = [()] * len(rows)
        if recall is not None and self.episodic_memory is not None:
            decode = self.tokenizer.decode
            told = recalled_sentences(recall, self.episodic_memory, decode, self.retrieve)
        if read is None:
            return told
        birth_BN = state.working.birth_BN[list(rows)]
        heard = read_sentences(read, birth_BN, [state.items[row] for row in rows], self.retrieve)
        return [(*life, *episode) for life, episode in zip(told, heard, strict=True)]

    def _work(
        self, rows: tuple[int, ...], query_BD: Tensor, state: AgentState
    ) -> tuple[Read | None, AgentState]:
        """Write what waits, and read with the query on these rows of the working memory.

        A memory that can `write` takes what all rows heard together: rows that ask at different
        times need not each be told their story by themselves.
        """
        memory, working, policy = self.working_memory, state.working, self.working_policy
        together = hasattr(memory, "write")
        waiting = state.waiting(rows, everyone=together)
        state = state.heard(rows, waiting)
        if memory is None:
            return None, state
        items_BTD, present_BT = self._encode_statements(waiting)
        if together and items_BTD.shape[1]:
            working = memory.write(working, items_BTD, present_BT, policy)
            items_BTD, present_BT = items_BTD[:, :0], present_BT[:, :0]
        index_B = torch.tensor(rows, device=self.device)
        items_BTD = torch.cat([items_BTD[index_B], query_BD[:, None]], dim=1)
        present_BT = torch.cat([present_BT[index_B], present_BT.new_ones(len(rows), 1)], dim=1)
        every = len(rows) == len(state.story)
        some = working if every else map_state(lambda part: part[index_B], working)
        some, read = memory.sequence(some, items_BTD, present_BT, policy)
        return read, state._replace(working=some if every else put_rows(working, some, index_B))

    def _encode_questions(self, texts: Sequence[tuple[str, ...]]) -> tuple[Tensor, Cache, Tensor]:
        """Return tokens `[B, L]`, cache and vectors `[B, D]`; each distinct text is read once."""
        distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        index_B = torch.tensor([distinct[text] for text in texts], device=self.device)
        prompts = [self.tokenizer.prompt(text) for text in distinct]
        tokens_UL = pad([tokens for tokens, _ in prompts], self.device)
        own_UL = pad([own for _, own in prompts], self.device).bool()
        with self._mixed():
            vectors_UD, cache = self.controller.encode(tokens_UL, own_UL)
        taken = [(keys[index_B], values[index_B]) for keys, values in cache]
        return tokens_UL[index_B], taken, vectors_UD[index_B].float()

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
        with self._mixed():
            tokens_UL = self.tokenizer.batch(list(distinct), self.device)
            vectors_UD, _ = self.controller.encode(tokens_UL)
        return vectors_UD[index_BT.clamp(min=0)].float(), index_BT >= 0

    def _mixed(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

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
        with self._mixed():
            logits_BSV = self.controller.answer_logits(*thought.heard, answer_BA)
        return self._with_store(thought, logits_BSV, answer_BA, range(logits_BSV.shape[1]))

    def _with_store(
        self, thought: Thought, logits_BSV: Tensor, answer_BA: Tensor, positions: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities at some positions of an answer, of mixture and controller."""
        controller_BSV = logits_BSV.float().log_softmax(dim=-1)
        if thought.recall is None:
            return controller_BSV, controller_BSV
        store = [
            p_store(thought.recall, answer_BA[:, :position], position, logits_BSV.shape[2])
            for position in positions
        ]
        store_BSV = torch.stack([probabilities for probabilities, _ in store], dim=1)
        supported_BS = torch.stack([supported for _, supported in store], dim=1)
        trust_BS1 = (thought.trust_B[:, None] * supported_BS)[..., None]
        mixture_BSV = (1 - trust_BS1) * controller_BSV.exp() + trust_BS1 * store_BSV
        return floored_log(mixture_BSV), controller_BSV

    @torch.no_grad()
    def generate(self, thought: Thought) -> list[str]:
        """Speak the most probable answers, token by token, greedily."""
        answer_BA = thought.text_BL[:, :0]
        ended_B = torch.zeros(len(thought.rows), dtype=torch.bool, device=self.device)
        spoken = None
        for position in range(self.answer_length):
            with self._mixed():
                logits_BV, spoken = self.controller.next_logits(*thought.heard, answer_BA, spoken)
            mixture_B1V, _ = self._with_store(thought, logits_BV[:, None], answer_BA, [position])
            token_B = mixture_B1V[:, 0].argmax(dim=1).masked_fill(ended_B, END)
            answer_BA = torch.cat([answer_BA, token_B[:, None]], dim=1)
            ended_B = ended_B | (token_B == END)
            if ended_B.all():
                break
        return [self.tokenizer.decode(row) for row in answer_BA.tolist()]

    def answer_tokens(self, targets: Sequence[str]) -> Tensor:
        """Return the tokens of answers with their end, `[B, A]`, `PAD` behind."""
        rows = [[*self.tokenizer.answer(target), END][: self.answer_length] for target in targets]
        return pad(rows, self.device)

    def surprise(self, thought: Thought, target_BA: Tensor) -> tuple[Tensor, Tensor]:
        """Return -log p of the whole target answer, `[B]`: of the mixture, of the controller."""
        mixture_BSV, controller_BSV = self.log_probabilities(thought, target_BA[:, :-1])
        return score(mixture_BSV, target_BA), score(controller_BSV, target_BA)

    @torch.no_grad()
    def key(self, question_BL: Tensor) -> Tensor:
        """Return the keys of questions, unit vectors `[B, D]`, the same for the same tokens."""
        distinct_UL, row_B = torch.unique(question_BL, dim=0, return_inverse=True)
        with self._mixed():
            vectors_UD, _ = self.key_encoder.encode(distinct_UL)
        return nn.functional.normalize(vectors_UD.float(), dim=1)[row_B]

    def follow(self) -> None:
        """Move the key encoder a little towards the controller (once an update)."""
        follow(self.key_encoder, self.controller, 1 - self.slowness)
