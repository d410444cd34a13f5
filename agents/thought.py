"""What an agent carries through an episode, and how it came to an answer.

Letters: B rows, L tokens of a text, D hidden size.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from stillknows.agents.controllers.controller import Cache
from stillknows.agents.controllers.tokenizer import PAD
from stillknows.memory.episodic import Recall
from stillknows.memory.interface import Read, map_state


class AgentState(NamedTuple):
    """What an agent carries through an episode: a value, one row an environment.

    Attributes:
        working: the working memory's state, None without one.
        story: every sentence so far, a tuple for each row.
        written: how many of them are in the working memory already, for each row.
        items: what the working memory was given, in its order, a tuple for each row.
    """

    working: Any
    story: tuple[tuple[str, ...], ...]
    written: tuple[int, ...]
    items: tuple[tuple[str, ...], ...]

    def waiting(self, rows: tuple[int, ...], everyone: bool) -> list[tuple[str, ...]]:
        """Return what each row heard and has not written; what `rows` heard last is a question.

        Args:
            rows: which rows are asked.
            everyone: whether the other rows have their say too, or nothing.
        """
        new = [story[first:] for story, first in zip(self.story, self.written, strict=True)]
        return [
            heard[:-1] if row in rows else heard if everyone else ()
            for row, heard in enumerate(new)
        ]

    def heard(self, rows: tuple[int, ...], new: Sequence[tuple[str, ...]]) -> "AgentState":
        """Return the same after each row has written what is new, and `rows` have asked."""
        told = zip(self.written, new, strict=True)
        return self._replace(
            written=tuple(first + len(n) + (row in rows) for row, (first, n) in enumerate(told)),
            items=tuple((*past, *n) for past, n in zip(self.items, new, strict=True)),
        )

    def detach(self) -> "AgentState":
        """Return the same without history: no gradient goes further back."""
        if self.working is None:
            return self
        return self._replace(working=map_state(Tensor.detach, self.working))


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
        key_BD: the question's key in the episodic memory, without numbers where there is none.
        writes_B: share of the items so far that the working policy expected to write, `[B]`.
        read: what the working memory returned, its rows those asked; None without one.
        before: what the agent carried when it was asked, the question in its story, a row an
            environment; None where there is nothing to go back to.
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
    read: Read | None = None
    before: AgentState | None = None

    @property
    def heard(self) -> tuple[Tensor, Tensor, Cache]:
        """What the controller speaks after: the soft token, the text, the cache of the text."""
        return self.fused_BD, self.text_BL, self.cache


def identity(text: str) -> int:
    """Return a 63-bit number that names a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def put_rows(state: Any, some: Any, index_B: Tensor) -> Any:
    """Return a state with some rows, `index_B`, taken from another."""
    if isinstance(state, Tensor):
        return state.index_copy(0, index_B, some.to(state.dtype))
    parts: Callable[..., Any] = type(state)
    return parts(*(put_rows(a, b, index_B) for a, b in zip(state, some, strict=True)))


def share_of_writes(working: Any, rows: tuple[int, ...], like_B: Tensor) -> Tensor:
    """Return the expected share of writes, of memories that count it (soft ones do not)."""
    if not hasattr(working, "writes_B"):
        return like_B.new_zeros(like_B.shape)
    share_B: Tensor = working.writes_B / working.step_B.clamp(min=1)
    return share_B[list(rows)]


def told_again(agent: Any, thought: Thought) -> tuple[tuple[str, ...], ...]:
    """Return what to tell an agent to be asked the questions of a thought again, the question last.

    Slots, and memories whose `query_writes` is False, are asked a question and keep statements; an
    earlier question of the same story would be told them as a statement.
    """
    memory, before = agent.working_memory, thought.before
    asked = getattr(memory, "holds_items", False) or not getattr(memory, "query_writes", True)
    if not asked or agent.context > 1 or before is None:
        return thought.stories
    waited = [before.story[row][before.written[row] :] for row in thought.rows]
    return tuple((*before.items[row], *new) for row, new in zip(thought.rows, waited, strict=True))


def floored_log(probabilities: Tensor, floor: float = 1e-9, least: float = 1e-30) -> Tensor:
    """Return log p, told as that of `floor` where p is less; the gradient is that of p itself.

    An answer that was thought impossible costs no more than so, and is learned all the same.

    Args:
        probabilities: of any shape.
        floor: the least that is told.
        least: the least that has a gradient: below it 1 / p is no number of float32.
    """
    logs = probabilities.clamp(min=least).log()
    return logs + (logs.clamp(min=math.log(floor)) - logs).detach()


def score(logs_BSV: Tensor, target_BA: Tensor) -> Tensor:
    """Return -log p of whole answers, `[B]`, of the log-probabilities of each next token."""
    picked_BA: Tensor = logs_BSV.gather(2, target_BA[..., None])[..., 0]
    return -(picked_BA * (target_BA != PAD)).sum(dim=1)


def kept_of_a_question(agent: Any) -> int | None:
    """Return how many tokens of a question the episodic memory keeps, for new keys; None: all."""
    if agent.controller.hears_trees:
        return None
    return int(agent.episodic_memory.story_shape[1])
