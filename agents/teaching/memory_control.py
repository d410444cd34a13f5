"""Memory control as an environment: decide about every statement, be paid for the answers.

    gymnasium.make("stillknows.agents:stillknows/MemoryControl-v0", slots=4)
    gymnasium.make("stillknows.agents:stillknows/MemoryControl-v0", reader="agent.safetensors")

One step is one statement of a story, one episode one story. The observation is what a memory
policy sees: the candidate, what each slot holds, ages and use; the action is its decision. The
reward is 1 for each question that is answered rightly before the next statement, less a price for
every write. Without a reader, an answer is right if all that it stands on is held, and vectors of
sentences are weighted sums of fixed random vectors of words.

Letters: N slots, W numbers of a sentence's vector, T statements.
"""

import hashlib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from stillknows.agents.persistence.keeping import load_agent
from stillknows.agents.teaching.clairvoyant import trace_of
from stillknows.agents.teaching.trial import Trial, stories_of
from stillknows.memory import expect
from stillknows.memory.interface import ADD, MERGE, SKIP, UPDATE, Decision, Features, one_hot
from stillknows.memory.memory_network import position_encoding
from stillknows.memory.slots import Slots, SlotsState

_KEYS = 2**31  # a story's key is drawn below this
_MOST = 100.0  # bounds of what is observed


class MemoryControl(gymnasium.Env[NDArray[np.float32], NDArray[np.int64]]):
    """Decide what a memory of a few slots keeps of a story.

    Observation, a vector of `(N + 1) W + 4 N + 1` numbers: what each slot holds, the candidate, and
    of each slot whether it is filled, log(1 + age), log(1 + idle) and log(1 + use); last, how full
    the memory is. Action, `[kind, slot]`: skip, add, update or merge; an add into a full memory
    takes the place of the slot, elsewhere it takes a free one. An update or merge of an empty slot
    is not done, and `info["refused"]` says so.

    Args:
        stories: id of an environment that tells stories.
        slots: N.
        write_cost: price of a write, in answers.
        reader: file of a kept agent with a working memory of slots that answers, or None.
        width: numbers of a sentence's vector (W) without a reader.
        render_mode: as Gymnasium has it; there is nothing to see.
        **dials: of the task.

    Raises:
        ValueError: if the task tells no stories, or there is no slot.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        stories: str = "stillknows/WherePerson-v0",
        slots: int = 4,
        write_cost: float = 0.0,
        reader: str | None = None,
        width: int = 32,
        render_mode: str | None = None,
        **dials: Any,
    ) -> None:
        expect.whole(1, slots=slots)
        self.render_mode = render_mode
        self.told_by, self.slots, self.write_cost, self.dials = stories, slots, write_cost, dials
        self.reader = load_agent(Path(reader)) if reader else None
        self.width = width if self.reader is None else self.reader.controller.width
        size = (slots + 1) * self.width + 4 * slots + 1
        self.observation_space = spaces.Box(-_MOST, _MOST, (size,), np.float32)
        self.action_space = spaces.MultiDiscrete([4, slots])
        stories_of(stories, dials, [0])  # says at once what cannot be told

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin another story."""
        super().reset(seed=seed)
        self._story = stories_of(self.told_by, self.dials, [int(self.np_random.integers(_KEYS))])[0]
        self._trace = trace_of(self._story)
        self._trial = Trial(self.reader, [self._story]) if self.reader else None
        self._items = self._vectors()
        self._memory = self._new_memory()
        self._state: SlotsState = self._memory.initial_state(1)
        self._told, self._asked = 0, 0
        self._rewarded()  # what is asked before anything was told
        return self._observe(), {}

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Do with the statement what is decided, and answer what is asked before the next.

        Raises:
            ValueError: if all statements were told.
        """
        if self._told == self._trace.items:
            raise ValueError("This story is told: reset() begins another.")
        hand = Hand(int(action[0]), int(action[1]))
        here = torch.ones(1, 1, dtype=torch.bool)
        with torch.no_grad():
            item_11W = self._items[None, self._told : self._told + 1]
            self._state = self._memory.write(self._state, item_11W, here, hand)
        self._told += 1
        reward = self._rewarded() - self.write_cost * hand.wrote
        over = self._told == self._trace.items
        return self._observe(), reward, over, False, {"refused": hand.refused}

    def _rewarded(self) -> float:
        """Answer the questions that come before the next statement; return how many rightly."""
        right = 0.0
        if self._trial is None:
            held = set(self._state.birth_BN[0].tolist()) - {-1}
            for need in self._trace.needs:
                right += need.after == self._told and need.items <= held
            return right
        for question in self._trial.questions[self._asked :]:
            if int(question.after_B[0]) > self._told:
                break
            with torch.no_grad():
                self._state, _, right_B = self._trial.answered(self._memory, self._state, question)
            right += float(right_B.nan_to_num()[0])
            self._asked += 1
        return right

    def _observe(self) -> NDArray[np.float32]:
        state = self._state
        filled_N = (state.birth_BN[0] >= 0).float()
        step = int(state.step_B[0])
        ages_3N = torch.stack(
            [
                (step - state.birth_BN[0]) * filled_N,
                (step - state.last_read_BN[0]) * filled_N,
                state.usage_BN[0],
            ]
        ).log1p()
        over = self._told == self._trace.items
        candidate_W = torch.zeros(self.width) if over else self._items[self._told]
        parts = [
            (state.values_BNW[0] * filled_N[:, None]).flatten(),
            candidate_W,
            filled_N,
            ages_3N.flatten(),
            filled_N.mean(dim=0, keepdim=True),
        ]
        seen: NDArray[np.float32] = torch.cat(parts).clamp(-_MOST, _MOST).float().numpy()
        return seen

    def _new_memory(self) -> Slots:
        if self._trial is not None:
            return self._trial.memory(self.slots)
        return Slots(self.slots, self.width, hops=1, heads=1, recency=(0.0,))

    def _vectors(self) -> torch.Tensor:
        """Return the vectors of the statements, `[T, W]`."""
        if self._trial is not None:
            return self._trial.items_BTD[0]
        lines = zip(self._story.sentences, self._story.answers, strict=True)
        return torch.stack([_vector(text, self.width) for text, asked in lines if asked is None])


class Hand:
    """A policy that does what it was told for one statement, where that can be done."""

    needs_similarity = needs_noise = False

    def __init__(self, kind: int, slot: int) -> None:
        self.kind, self.slot = kind, slot
        self.refused = False
        self.wrote = 0.0

    def decide(self, features: Features) -> Decision:
        """Return the decision of the action; a skip where it cannot be."""
        filled_N = features.filled_BN[0]
        kind, where, victim = self.kind, -1, -1
        if kind in (UPDATE, MERGE) and not filled_N[self.slot]:
            kind, self.refused = SKIP, True
        elif kind in (UPDATE, MERGE):
            where = self.slot
        elif kind == ADD and filled_N.all():
            victim = self.slot
        elif kind == ADD:
            where = int((~filled_N).float().argmax())
        self.wrote = float(kind != SKIP)
        index = [torch.tensor([number]) for number in (kind, where, victim)]
        slots = len(filled_N)
        return Decision(
            one_hot(index[0], 4),
            one_hot(index[1], slots),
            one_hot(index[2], slots),
            torch.zeros(1),
        )


def _vector(sentence: str, width: int) -> torch.Tensor:
    """Return a sentence as the sum of its words' vectors, weighed by position, of length 1."""
    words = torch.stack([_word(word, width) for word in sentence.split()])
    total_W = (position_encoding(len(words), width) * words).sum(dim=0)
    return torch.nn.functional.normalize(total_W, dim=0)


def _word(word: str, width: int) -> torch.Tensor:
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    draw = np.random.default_rng(int.from_bytes(digest, "big"))
    return torch.tensor(draw.standard_normal(width), dtype=torch.float32)
