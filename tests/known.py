"""A trial whose reader is a formula, so that what is right is known without one."""

import torch
from torch import Tensor

from stillknows.agents.teaching.trial import Question, Trial
from stillknows.envs.text import Story
from stillknows.memory.slots import Slots, SlotsState


class Known(Trial):
    """A trial whose reader is a formula: the answer's loss is known from what is held.

    A story offers items; item n has the vector `one_hot(n % kinds)`, and the only question, at the
    end, loses `1` nat unless a slot holds an item of kind 0, and `2` unless one holds kind 1.
    """

    def __init__(self, stories: int, items: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.stories = [Story(number, (), (), ()) for number in range(stories)]
        kind_BT = torch.randint(4, (stories, items), generator=draw)
        self.items_BTD = torch.nn.functional.one_hot(kind_BT, 4).float()
        self.present_BT = torch.ones(stories, items, dtype=torch.bool)
        after_B, asked_B = torch.full((stories,), items), torch.ones(stories, dtype=torch.bool)
        thought = _Thought(torch.zeros(stories, 4))
        self.questions = [Question(after_B, thought, torch.zeros(stories, 1), asked_B)]  # type: ignore[arg-type]

    def memory(self, slots: int) -> Slots:
        return Slots(slots, 4, hops=1, heads=1, recency=(0.0,))

    def keys(self) -> Tensor:
        return torch.arange(len(self.stories))

    def answered(
        self, memory: Slots, state: SlotsState, question: Question
    ) -> tuple[SlotsState, Tensor, Tensor]:
        strength_BN = state.strength_BN * (state.birth_BN >= 0)
        held_B4 = (state.values_BNW * strength_BN[..., None]).amax(dim=1)
        loss_B = (1 - held_B4[:, 0]) + 2 * (1 - held_B4[:, 1])
        return state, loss_B, (held_B4[:, 1] > 0).float()


class _Thought:
    def __init__(self, fused_BD: Tensor) -> None:
        self.fused_BD = self.text_BL = fused_BD
        self.cache: list[tuple[Tensor, Tensor]] = []

    def _replace(self, **parts: Tensor) -> "_Thought":
        return _Thought(parts["fused_BD"])
