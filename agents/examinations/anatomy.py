"""The anatomy of forgetting: where the way from a fact to its answer is broken.

A question that is answered wrong is followed back along that way, and the first link that is broken
is its cause: what it stands on was never written, was evicted, was overwritten, is there and was
not retrieved, or was retrieved and misread. Whether it counts as forgotten (right after its own
task) or as never learned is seen from the log, which knows both examinations.

Facts told in the episode of the question should be in the working memory, facts of earlier
episodes in the lifelong store, as a question that was answered and its answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examinations.examine import Examiner, Result, examine
from stillknows.agents.examinations.forced import Needed, answer_forced, kinds, needed
from stillknows.agents.examinations.trace import (
    EVICTED,
    HELD,
    NEVER,
    OVERWRITTEN,
    UNKNOWN,
    Ledger,
    Share,
    Tracer,
)
from stillknows.agents.remembering import Marked
from stillknows.agents.thought import Thought, identity
from stillknows.envs.tasks import Task

NOT_RETRIEVED, MISREAD = "r", "m"
CAUSES = {
    NEVER: "never written",
    EVICTED: "evicted",
    OVERWRITTEN: "overwritten",
    NOT_RETRIEVED: "not retrieved",
    MISREAD: "misread",
    UNKNOWN: "not placed",
}


class Finding(NamedTuple):
    """What was found about one question.

    Attributes:
        episode: of the question.
        step: of the question.
        right: whether it was answered right.
        carried: whether it stands on earlier episodes.
        supports: pairs of episode and step.
        fates: a letter each: h held, n never written, e evicted, o overwritten, ? not known.
        share: how much of a read the supports got.
        mended: whether it is right when the supports are forced into the read.
        cause: a letter of `CAUSES`.
    """

    episode: int
    step: int
    right: bool
    carried: bool
    supports: tuple[tuple[int, int], ...]
    fates: str
    share: Share
    mended: bool
    cause: str


def cause(fates: str, retrieved: bool, mended: bool) -> str:
    """Return the first link that is broken.

    Args:
        fates: of the supports, a letter each.
        retrieved: whether they got enough weight in a read.
        mended: whether the answer is right when they get all of it. If so, what they got was too
            little.
    """
    for fate in (UNKNOWN, NEVER, EVICTED, OVERWRITTEN):
        if fate in fates or not fates:
            return fate
    return MISREAD if retrieved and not mended else NOT_RETRIEVED


class Dissector(Examiner):
    """Listens to an examination, and finds the cause of every wrong answer.

    Args:
        agent: who is examined.
        ledger: what became of the questions offered to its store.
    """

    def __init__(self, agent: MemoryAgent, ledger: Ledger) -> None:
        super().__init__(agent)
        self.ledger = ledger
        self.tracer = Tracer(agent)
        self.findings: list[Finding] = []

    def mark(self, thought: Thought, marked: Marked) -> None:
        """Count the marks of one step, and look into what was wrong."""
        super().mark(thought, marked)
        self.tracer.follow(thought, marked.episodes)
        wanted = [
            (number, needed(thought, marked, number))
            for number in range(len(marked.rewards))
            if self.looks_at(marked, number)
        ]
        mended = self._mend(thought, marked, [(n, need) for n, need in wanted if need is not None])
        for number, need in wanted:
            self.findings.append(self._find(thought, marked, number, need, number in mended))

    def looks_at(self, marked: Marked, number: int) -> bool:
        """Return whether a question is looked into: those that were wrong are."""
        return marked.rewards[number] != 1.0

    def _mend(
        self, thought: Thought, marked: Marked, wanted: Sequence[tuple[int, Needed]]
    ) -> set[int]:
        """Return which questions are right when their supports are forced into the read."""
        mended: set[int] = set()
        for kind in kinds(thought, marked, wanted):
            possible = self.agent.working_memory is not None or not kind[0][1].here
            if possible and (self.agent.recall or not kind[0][1].earlier):
                answers, _ = answer_forced(self.agent, thought, marked, kind)
                mended.update(
                    number
                    for (number, _), answer in zip(kind, answers, strict=True)
                    if marked.right(number, answer)
                )
        self.tracer.forget()
        return mended

    def _find(
        self, thought: Thought, marked: Marked, number: int, need: Needed | None, mended: bool
    ) -> Finding:
        episode, step = marked.episodes[number], marked.steps[number]
        supports = marked.supports[number] if marked.supports else ()
        fates, share = UNKNOWN, Share(0.0, 1.0)
        if need is not None:
            own = [at for told_in, at in supports if told_in == episode]
            sight = step - self.agent.context  # later steps stand in the text before the answer
            fates = "".join(
                HELD if at > sight else self.tracer.fate(episode, at) for at in sorted(set(own))
            )
            shares = []
            if own and min(own) <= sight:
                shares.append(self.tracer.share(thought, number, episode, set(own)))
            if need.earlier:
                fate, in_recall = self._of_life(thought, marked, number)
                fates, shares = fates + fate, [*shares, in_recall]
            share = min(shares, key=lambda share: share.got - share.even, default=Share(1.0, 1.0))
        return Finding(
            episode=episode,
            step=step,
            right=marked.rewards[number] == 1.0,
            carried=marked.carried[number],
            supports=tuple(supports),
            fates=fates,
            share=share,
            mended=mended,
            cause=cause(fates, share.enough, mended),
        )

    def _of_life(self, thought: Thought, marked: Marked, number: int) -> tuple[str, Share]:
        """Return what became of a question in the store, and what share of the recall it got."""
        store: Any = self.agent.episodic_memory
        if store is None:
            return NEVER, Share(0.0, 1.0)
        if store.identity == "text":  # entries have other names than their questions
            return UNKNOWN, Share(0.0, 1.0)
        question = thought.stories[number][-1]
        fate = self.ledger.fate(question)
        named_N = store.provenance("hash") == identity(question)
        holders = named_N.nonzero()[:, 0]
        if not len(holders):
            return (UNKNOWN if fate == HELD else fate), Share(0.0, 1.0)
        target_A = self.agent.answer_tokens([marked.targets[number]])[0]
        right_S = (_fit(store.entries(holders).answers_BA, target_A)).all(dim=1)
        if not right_S.any():
            return OVERWRITTEN, Share(0.0, 1.0)
        return HELD, _share_of(thought, number, holders[right_S])


def _fit(answers_SA: Tensor, target_A: Tensor) -> Tensor:
    """Return where stored answers agree with a target, as far as answers are stored, `[S, A]`."""
    length = answers_SA.shape[1]
    target_A = torch.nn.functional.pad(target_A, (0, max(0, length - len(target_A))))[:length]
    return answers_SA == target_A.to(answers_SA)


def _share_of(thought: Thought, number: int, holders: Tensor) -> Share:
    """Return how much weight of a recall fell on some entries."""
    if thought.recall is None:
        return Share(0.0, 1.0)
    present_K = thought.recall.present_BK[number]
    among_K = torch.isin(thought.recall.slots_BK[number], holders) & present_K
    got = float((thought.recall.weights_BK[number].detach() * among_K).sum())
    even = max(1, int(among_K.sum())) / max(1, int(present_K.sum()))
    return Share(min(1.0, got), even)


def dissect(dissector: Dissector, task: Task, **settings: Any) -> Result:
    """Examine an agent in one task, and find the cause of every wrong answer.

    Args:
        dissector: listens, and has the findings.
        task: in which.
        **settings: of `examine`.
    """
    with dissector.tracer.watching():
        return examine(dissector.agent, task, examiner=dissector, **settings)


def columns(dissector: Dissector) -> Mapping[str, Any]:
    """Return what a log keeps of the findings: an entry a question that was wrong."""
    findings = [finding for finding in dissector.findings if not finding.right]
    return {
        "exact": bool(dissector.tracer.exact),
        "causes": "".join(finding.cause for finding in findings),
        "episodes": [finding.episode for finding in findings],
        "steps": [finding.step for finding in findings],
        "carried": [int(finding.carried) for finding in findings],
        "fates": [finding.fates for finding in findings],
        "shares": [round(finding.share.got, 4) for finding in findings],
        "even": [round(finding.share.even, 4) for finding in findings],
        "mended": [int(finding.mended) for finding in findings],
    }
