"""The forced read: questions answered again from memories that hold their supports and no more.

All weight of a read is on what the question stands on: supports of its own episode are written
afresh, in their order, into a working memory that has room for them and holds nothing else;
supports of earlier episodes stand as one entry, this question with its right answer, in a store
that holds nothing else and is read with one neighbour. So it can be asked whether an answer is
wrong because memory did not bring what was needed, or although it did.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examinations.arms import set_aside
from stillknows.agents.remembering import Marked, candidates
from stillknows.agents.thought import Thought
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest


class Needed(NamedTuple):
    """What a question stands on.

    Attributes:
        here: the supports of its own episode, as they were heard, in their order.
        earlier: whether it stands on earlier episodes as well.
    """

    here: tuple[str, ...]
    earlier: bool


def needed(thought: Thought, marked: Marked, number: int) -> Needed | None:
    """Return what a question stands on; None where the environment does not tell, or not rightly.

    Args:
        thought: of the question.
        marked: what is known of it.
        number: its place in both.
    """
    story, episode, step = thought.stories[number], marked.episodes[number], marked.steps[number]
    supports = marked.supports[number] if marked.supports else ()
    own = sorted({at for told_in, at in supports if told_in == episode})
    if not supports or (own and (len(story) - 1 != step or own[-1] >= step)):
        return None
    return Needed(tuple(story[at] for at in own), len(own) < len(set(supports)))


@torch.no_grad()
def answer_forced(
    agent: MemoryAgent,
    thought: Thought,
    marked: Marked,
    wanted: Sequence[tuple[int, Needed]],
) -> tuple[list[str], Thought]:
    """Answer some questions again, their supports forced into the read.

    Args:
        agent: who answered.
        thought: how.
        marked: what was right.
        wanted: places in the thought, and what stands there on what; all of one kind (`kinds`):
            only on their own episodes, only on earlier ones, or on both.

    Returns:
        The answers, and how they came about.
    """
    numbers = [number for number, _ in wanted]
    told, earlier = [need.here for _, need in wanted], wanted[0][1].earlier
    with ExitStack() as stack:
        if earlier and agent.recall:
            store = _store_of(agent, thought, marked, numbers)
            stack.enter_context(set_aside(agent, episodic_memory=store))
        if not any(told):
            return agent.again(thought, numbers)
        stack.enter_context(_room(agent, max(map(len, told))))
        questions = [thought.stories[number][-1] for number in numbers]
        state = agent.initial_state(len(numbers))._replace(story=tuple(told))
        answers, _, again = agent.step(questions, [True] * len(numbers), state)
    assert again is not None
    return list(answers), again


def kinds(
    thought: Thought, marked: Marked, wanted: Sequence[tuple[int, Needed]]
) -> list[list[tuple[int, Needed]]]:
    """Return the same in lists of one kind each, as `answer_forced` takes them.

    A question of the life that has several answers stands in as many lists: the store of a list
    holds one for each question.
    """
    apart: dict[tuple[bool, int], list[tuple[int, Needed]]] = {}
    answers: dict[str, list[str]] = {}
    for number, need in wanted:
        known = answers.setdefault(thought.stories[number][-1], [])
        target = marked.targets[number]
        known.extend([target] if target not in known else [])
        which = 1 + known.index(target) if need.earlier else 0
        apart.setdefault((bool(need.here), which), []).append((number, need))
    return list(apart.values())


@contextmanager
def _room(agent: MemoryAgent, items: int) -> Iterator[None]:
    """Let the working memory take everything, and have room for so many items."""
    memory: Any = agent.working_memory
    slots = getattr(memory, "slots", None)
    with set_aside(agent, working_policy=EvictOldest()):
        if slots is not None and getattr(memory, "holds_items", False):
            memory.slots = max(slots, items)
        try:
            yield
        finally:
            if slots is not None:
                memory.slots = slots


def _store_of(agent: MemoryAgent, thought: Thought, marked: Marked, numbers: Sequence[int]) -> NEC:
    """Return a store of these questions alone: the vectors that are held, else fresh ones."""
    store: Any = agent.episodic_memory
    target_BA = agent.answer_tokens(marked.targets)
    nothing_B = thought.trust_B.new_zeros(len(thought.rows))
    offered = candidates(agent, thought, target_BA, nothing_B, marked._replace(task=-1))
    held_B = store.find(offered.hash_B)
    vector_BV = offered.vector_BV.clone()
    there_B = held_B >= 0
    vector_BV[there_B] = store.columns["vectors_NV"][held_B[there_B]].to(vector_BV)
    offered = offered._replace(vector_BV=vector_BV)
    names = dict(zip(offered.hash_B[list(numbers)].tolist(), numbers, strict=True))
    once = torch.tensor(list(names.values()))
    alone = NEC(
        len(once),
        offered.key_BD.shape[1],
        vector_BV.shape[1],
        EvictOldest(),
        answer_length=store.answer_length,
        story_shape=store.story_shape,
        token_bytes=4,
        neighbours=1,
        delta=store.delta,
        identity="none",
        device=agent.device,
    )
    alone.remember(type(offered)(*(part[once.to(part.device)] for part in offered)))
    return alone
