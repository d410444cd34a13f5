"""A trial of memory policies: one frozen reader answers, and only what is kept differs.

Stories are encoded once. Then any policy may write their sentences into any number of slots, and
the reader answers from what it finds there, so that policies are compared and not readers. Answers
have gradients to what a policy returns, and none to the reader.

Letters: B stories, T statements, Q questions, A tokens of an answer, D width, N slots.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium
import torch
from torch import Tensor

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.controllers.tokenizer import PAD
from stillknows.agents.thought import Thought
from stillknows.envs.text import Story, StoryTask
from stillknows.memory.interface import Decision, Features, Policy
from stillknows.memory.slots import Slots, SlotsState

_AGAIN = 2**40  # above all numbers of episodes


class Question(NamedTuple):
    """One question of each story, as the reader heard it.

    Attributes:
        after_B: how many statements came before it, int64.
        thought: what the answer is spoken from, before anything was read.
        target_BA: the right answer's tokens, `PAD` behind.
        asked_B: False where a story has fewer questions, or this one stands on earlier episodes.
    """

    after_B: Tensor
    thought: Thought
    target_BA: Tensor
    asked_B: Tensor


class Outcome(NamedTuple):
    """How a policy did, one number a question; NaN where none was asked.

    Attributes:
        loss_BQ: -log p of the right answer, in nats.
        right_BQ: 1 where the answer spoken is the right one, else 0.
        writes_B: share of the statements that were expected to be written.
        log_prob_BQ: log-probability of all decisions before each question.
    """

    loss_BQ: Tensor
    right_BQ: Tensor
    writes_B: Tensor
    log_prob_BQ: Tensor

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right_BQ[~self.right_BQ.isnan()].mean())


def stories_of(
    id: str, arguments: Mapping[str, Any], keys: Sequence[int], first: int = 0
) -> list[Story]:
    """Return stories of a task, one a key.

    Args:
        id: of an environment that tells stories (`stillknows.envs.text.StoryTask`).
        arguments: of its constructor.
        keys: each determines a story.
        first: the number of the first episode.

    Raises:
        ValueError: if the environment tells no stories.
    """
    env = gymnasium.make(id, disable_env_checker=True, **arguments).unwrapped
    if not isinstance(env, StoryTask):
        raise ValueError(f"{id} tells no stories with supports: choose a StoryTask.")
    return [env.tell(int(key), first + number, {}) for number, key in enumerate(keys)]


class Trial:
    """Stories as a frozen reader heard them.

    Args:
        reader: an agent whose working memory is `Slots`; its weights and policy stay as they are.
        stories: to be read, all by the same policy.

    Raises:
        ValueError: if the reader has another working memory.
    """

    def __init__(self, reader: MemoryAgent, stories: Sequence[Story]) -> None:
        if not isinstance(reader.working_memory, Slots):
            raise ValueError("A trial needs a reader with working_memory=slots.")
        self.reader, self.stories = reader, stories
        told = [
            [s for s, a in zip(*each, strict=True) if a is None] for each in map(_lines, stories)
        ]
        with _frozen(reader), torch.no_grad():
            self.items_BTD, self.present_BT = reader._encode_statements(told)
            most = max(sum(a is not None for a in story.answers) for story in stories)
            self.questions = [self._question(number) for number in range(most)]

    def run(self, policy: Policy, slots: int) -> Outcome:
        """Let a policy keep what it will in so many slots, and answer from it."""
        memory = self.memory(slots)
        watcher = Watcher(policy)
        state = memory.initial_state(len(self.stories), self.items_BTD.device, self.keys())
        before_B = torch.zeros_like(self.questions[0].after_B)
        log_prob_B = torch.zeros(len(before_B), device=self.items_BTD.device)
        losses, rights, log_probs = [], [], []
        for question in self.questions:
            items_BSD, here_BS = self.between(before_B, question.after_B)
            watcher.decisions.clear()
            state = memory.write(state, items_BSD, here_BS, watcher)
            for each, here_B in zip(watcher.decisions, here_BS.unbind(dim=1), strict=True):
                log_prob_B = log_prob_B + each.log_prob_B * here_B
            state, loss_B, right_B = self.answered(memory, state, question)
            losses.append(loss_B)
            rights.append(right_B)
            log_probs.append(log_prob_B)
            before_B = torch.maximum(before_B, question.after_B)
        columns = (torch.stack(each, dim=1) for each in (losses, rights, log_probs))
        loss_BQ, right_BQ, log_prob_BQ = columns
        writes_B = state.writes_B / state.step_B.clamp(min=1)
        return Outcome(loss_BQ, right_BQ, writes_B, log_prob_BQ)

    def memory(self, slots: int) -> Slots:
        """Return the reader's memory with so many slots, read as in an examination."""
        memory: Slots = copy.copy(self.reader.working_memory)
        memory.slots, memory.training = slots, False
        return memory

    def between(self, before_B: Tensor, after_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the statements from one number up to another, `[B, S, D]`, and which are there."""
        return between(self.items_BTD, before_B, after_B)

    def answered(
        self, memory: Slots, state: SlotsState, question: Question
    ) -> tuple[SlotsState, Tensor, Tensor]:
        """Return the state after a read, -log p of the right answer, and whether it is said."""
        thought, target_BA, reader = question.thought, question.target_BA, self.reader
        with _frozen(reader):
            state, read = memory.read(state, thought.fused_BD)
            fused_BD = reader.fuse(thought.fused_BD, read.values_BRW, None)
            heard = thought._replace(fused_BD=fused_BD)
            scores_BAV, _ = reader.log_probabilities(heard, target_BA[:, :-1])
        said_BA = target_BA != PAD
        of_target_BA = scores_BAV.gather(2, target_BA[..., None])[..., 0]
        loss_B = -(of_target_BA * said_BA).sum(dim=1)
        right_B = ((scores_BAV.argmax(dim=2) == target_BA) | ~said_BA).all(dim=1).float()
        nothing_B = torch.full_like(loss_B, torch.nan)
        asked_B = question.asked_B
        return (
            state,
            torch.where(asked_B, loss_B, nothing_B),
            torch.where(asked_B, right_B, nothing_B),
        )

    def keys(self) -> Tensor:
        """Return what names the rows to random policies, `[B]`: episodes, told once or again."""
        times: Counter[int] = Counter()
        keys = []
        for story in self.stories:
            keys.append(story.episode + times[story.episode] * _AGAIN)
            times[story.episode] += 1
        return torch.tensor(keys)

    def _question(self, number: int) -> Question:
        """Encode the question with this number of each story; of a shorter story, its last."""
        reader = self.reader
        asked = [_asked(story, number) for story in self.stories]
        steps = [step for step, _ in asked]
        texts = [story.sentences[step] for story, step in zip(self.stories, steps, strict=True)]
        text_BL, cache, query_BD = reader._encode_questions([(text,) for text in texts])
        answers = [story.answers[step] for story, step in zip(self.stories, steps, strict=True)]
        targets = [answer.target for answer in answers if answer is not None]
        nothing_B = query_BD.new_zeros(len(steps))
        rows, said = tuple(range(len(steps))), tuple((text,) for text in texts)
        heard = text_BL, cache, query_BD
        after = [_statements(s, step) for s, step in zip(self.stories, steps, strict=True)]
        return Question(
            torch.tensor(after, device=reader.device),
            Thought(rows, said, *heard, None, nothing_B, query_BD, nothing_B),
            reader.answer_tokens(targets),
            torch.tensor([known for _, known in asked], device=reader.device),
        )


def between(items_BTD: Tensor, before_B: Tensor, after_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the items of each row from one number up to another, and which are there."""
    span = int((after_B - before_B).clamp(min=0).max())
    place_BS = before_B[:, None] + torch.arange(span, device=before_B.device)
    here_BS = place_BS < after_B[:, None]
    at_BS = place_BS.clamp(max=max(0, items_BTD.shape[1] - 1))
    rows_B1 = torch.arange(len(before_B), device=before_B.device)[:, None]
    return items_BTD[rows_B1, at_BS], here_BS


class Watcher:
    """A policy that keeps what another one decides, and from what; it is always asked."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.features: list[Features] = []
        self.decisions: list[Decision] = []

    def __getattr__(self, name: str) -> Any:
        """Answer as the other does, to whoever asks what it needs."""
        if name in ("policy", "features", "decisions"):
            raise AttributeError(name)
        return getattr(self.policy, name)

    def decide(self, features: Features) -> Decision:
        """Return the other's decision."""
        decision = self.policy.decide(features)
        self.features.append(features)
        self.decisions.append(decision)
        return decision


@contextmanager
def _frozen(reader: MemoryAgent) -> Iterator[None]:
    """Let no gradient reach the reader's weights, for as long as this lasts."""
    learning = [p for p in reader.parameters() if p.requires_grad]
    training = reader.training
    reader.eval().requires_grad_(False)
    try:
        yield
    finally:
        reader.train(training)
        for parameter in learning:
            parameter.requires_grad_(True)


def _lines(story: Story) -> tuple[Sequence[str], Sequence[Any]]:
    return story.sentences, story.answers


def _asked(story: Story, number: int) -> tuple[int, bool]:
    """Return the step of a question, and whether there is one that stands on this episode."""
    steps = [step for step, answer in enumerate(story.answers) if answer is not None]
    step = steps[min(number, len(steps) - 1)]
    answer = story.answers[step]
    here = answer is not None and all(episode == story.episode for episode, _ in answer.supports)
    return step, number < len(steps) and here


def _statements(story: Story, step: int) -> int:
    return sum(answer is None for answer in story.answers[:step])
