"""Retrieval as text: sentences from memory go into the prompt, before the question.

What is chosen is what a read weighed most, and the nearest entries of the store; choosing has no
gradient. Letters: B rows, R reads, K slots read or neighbours, N slots.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stillknows.memory.episodic import Recall
from stillknows.memory.interface import Read
from stillknows.memory.nec import NEC


def read_sentences(
    read: Read, birth_BN: Tensor, items: Sequence[Sequence[str]], count: int
) -> list[tuple[str, ...]]:
    """Return, for each row, the sentences that a read weighed most, in the order they were heard.

    Args:
        read: its weights, means over reads, are compared.
        birth_BN: which item each slot holds, -1 where empty.
        items: the items of each row, in the order of writing.
        count: how many, at most.
    """
    weight_BK = read.weights_BRK.detach().mean(dim=1)
    birth_BK = birth_BN.gather(1, read.slots_BRK[:, 0])
    weight_BK = weight_BK.masked_fill(birth_BK < 0, -1.0)
    best_BC = weight_BK.topk(min(count, weight_BK.shape[1]), dim=1).indices
    chosen_BC = birth_BK.gather(1, best_BC).sort(dim=1).values
    return [
        tuple(row[number] for number in numbers if number >= 0)
        for row, numbers in zip(items, chosen_BC.tolist(), strict=True)
    ]


def recalled_sentences(
    recall: Recall, store: NEC, decode: Callable[[Sequence[int]], str], count: int
) -> list[tuple[str, ...]]:
    """Return, for each row, the nearest questions of the store with their answers, nearest last.

    Args:
        recall: what the store returned.
        store: where it came from.
        decode: makes text of tokens.
        count: how many, at most.
    """
    slots_BC = recall.slots_BK[:, :count]
    entries = store.entries(slots_BC.clamp(min=0).flatten())
    lines = (entries.story_BTL != 0).any(dim=2).sum(dim=1) - 1
    questions = entries.story_BTL[torch.arange(len(lines), device=lines.device), lines]
    answers = entries.answers_BA
    told = [
        f"{decode(question)} {decode(answer)}"
        for question, answer in zip(questions.tolist(), answers.tolist(), strict=True)
    ]
    rows = range(len(slots_BC))
    width = slots_BC.shape[1]
    return [
        tuple(told[row * width + n] for n in reversed(range(width)) if slots_BC[row, n] >= 0)
        for row in rows
    ]
