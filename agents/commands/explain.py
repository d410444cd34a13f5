"""`stillknows explain`: what was read for an answer, and what became of what it stands on.

The agent of a life is examined again, as at the end, and one question is watched: which sentences
of its episode and which entries of the store were read, with which weight, from when. Sentences
and answers are shown and drawn; the log keeps ids only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examinations.anatomy import CAUSES, Dissector, Finding, columns, dissect
from stillknows.agents.examinations.trace import (
    EVICTED,
    HELD,
    NEVER,
    OVERWRITTEN,
    UNKNOWN,
    Ledger,
    read_of,
)
from stillknows.agents.lifetime import (
    episodes_of,
    exam_episodes_of,
    tasks_of,
    whole_batches,
)
from stillknows.agents.persistence.keeping import load_agent
from stillknows.agents.persistence.memory_files import AGENT
from stillknows.agents.persistence.moved import as_now
from stillknows.agents.persistence.trust import refuse_foreign
from stillknows.agents.remembering import Marked
from stillknows.agents.reports.log import Event, read
from stillknows.agents.reports.log_parts import FILE
from stillknows.agents.retrieve import recalled_sentences
from stillknows.agents.thought import Thought
from stillknows.envs.tasks import Task, suggest

FATES = {
    HELD: "held",
    NEVER: "never written",
    EVICTED: "evicted",
    OVERWRITTEN: "overwritten",
    UNKNOWN: "not known",
}


class Wrong(NamedTuple):
    """A wrong answer: where it was given, why it is wrong, and whether it was right once."""

    task: int
    episode: int
    step: int
    cause: str
    forgotten: bool


class Row(NamedTuple):
    """One line of a table: something that was read, or could have been.

    Attributes:
        support: whether the question stands on it.
        since: when it was told (episode:step), or remembered.
        text: of it.
        fate: what became of it.
        weights: its share of each read, and last of the recall.
    """

    support: bool
    since: str
    text: str
    fate: str
    weights: tuple[float, ...]


class Seen(NamedTuple):
    """One question, as it was answered."""

    finding: Finding
    question: str
    said: str
    target: str
    trust: float
    rows: tuple[Row, ...]


class Witness(Dissector):
    """A dissector that looks at one question and keeps what was read for it.

    Args:
        agent: who is examined.
        ledger: what became of the questions offered to its store.
        episode: of the question.
        step: of the question.
    """

    def __init__(self, agent: MemoryAgent, ledger: Ledger, episode: int, step: int) -> None:
        super().__init__(agent, ledger)
        self.wanted = episode, step
        self.seen: Seen | None = None

    def looks_at(self, marked: Marked, number: int) -> bool:
        """Return whether it is that question."""
        return (marked.episodes[number], marked.steps[number]) == self.wanted

    def mark(self, thought: Thought, marked: Marked) -> None:
        """Count the marks of one step, and keep the question if it is there."""
        super().mark(thought, marked)
        for number in range(len(thought.rows)):
            if self.looks_at(marked, number):
                self.seen = Seen(
                    self.findings[-1],
                    thought.stories[number][-1],
                    marked.answers[number],
                    marked.targets[number],
                    float(thought.trust_B[number]),
                    (*self._heard(thought, number), *self._recalled(thought, number)),
                )

    def _heard(self, thought: Thought, number: int) -> list[Row]:
        """Return the sentences of the episode, in their order."""
        episode, trail = self.wanted[0], self.tracer.trail(self.wanted[0])
        if thought.read is None or trail is None:
            return []
        shares_RT = trail.shares(*read_of(thought, number))
        supports = {step for told_in, step in self.findings[-1].supports if told_in == episode}
        rows = []
        for step, text in enumerate(thought.stories[number][:-1]):
            item = self.tracer.item(episode, step)
            if item is not None:
                weights = (*map(float, shares_RT[:, item]), 0.0)
                fate = FATES[trail.fate(item)]
                rows.append(Row(step in supports, f"{episode}:{step}", text, fate, weights))
        return rows

    def _recalled(self, thought: Thought, number: int) -> list[Row]:
        """Return the neighbours in the store, the nearest first."""
        recall, store = thought.recall, self.agent.episodic_memory
        if recall is None or store is None:
            return []
        reads = 0 if thought.read is None else thought.read.weights_BRK.shape[1]
        most = recall.slots_BK.shape[1]
        texts = recalled_sentences(recall, store, self.agent.tokenizer.decode, most)[number]
        present_K = recall.present_BK[number]
        slots = recall.slots_BK[number][present_K].tolist()
        weights = recall.weights_BK[number][present_K].tolist()
        target, question = self.agent.tokenizer.plain, thought.stories[number][-1]
        columns = {name: store.provenance(name) for name in ("id", "episode", "step")}
        rows = []
        for slot, weight, text in zip(slots, weights, reversed(texts), strict=True):
            entry, episode, step = (int(column[slot]) for column in columns.values())
            about = target(text).startswith(target(question))
            support = self.findings[-1].carried and about
            fate, since = f"entry {entry}", f"{episode}:{step}"
            rows.append(Row(support, since, text, fate, (*[0.0] * reads, weight)))
        return rows


def explain(life: Path, question: str | None = None, allow: Sequence[str] = ()) -> str:
    """Return what there is to say about an answer, or a list of what was forgotten.

    Args:
        life: the folder of a lifetime, with its log and its agent, or of a run of one.
        question: `question=TASK:EPISODE:STEP`, or `question=N` for the wrong answer numbered N.
        allow: modules besides this project's whose classes and tasks the life may name.

    Raises:
        ValueError: if there is no such life or question, or it names what is not allowed.
    """
    lives = sorted(path.parent for path in life.glob(f"*/{FILE}"))
    if lives and not (life / FILE).is_file():
        if len(lives) > 1:
            raise ValueError(f"{life} holds several lives: give one of them, such as {lives[0]}.")
        life = lives[0]
    events = read(life)
    if not (life / AGENT).is_file():
        raise ValueError(f"{life} holds no {AGENT}: explain a life that was lived with keep=true.")
    told = as_now(events[0]["config"])
    refuse_foreign(told, allow, run=True)
    config: Any = OmegaConf.create(told)
    tasks = tasks_of(config)
    agent = load_agent(life / AGENT, allow=allow)
    wrong = wrong_answers(events) or _found_again(agent, events, config, tasks)
    if question is None:
        return _list(wrong, tasks)
    number, episode, step = _asked(question, wrong, tasks)
    witness = Witness(agent, Ledger(events), episode, step)
    dissect(witness, tasks[number], **settings_of(config, tasks, number))
    if witness.seen is None:
        raise ValueError(
            f"{tasks[number].name} asks no question at step {step} of episode {episode} of its "
            "examination: see the columns of the log, or `stillknows explain` without a question."
        )
    name = f"explain-{tasks[number].name}-{episode}-{step}.png".replace("/", "-")
    draw(witness.seen, life / name)
    verdict = next((w for w in wrong if w[:3] == (number, episode, step)), None)
    return f"{_table(witness.seen, tasks[number], verdict)}\n\nDrawn in {life / name}."


def settings_of(config: DictConfig, tasks: Sequence[Task], number: int) -> dict[str, Any]:
    """Return how a task is examined at the end of a life of this configuration."""
    budgets = episodes_of(config)
    start = sum(budgets[:number])
    return {
        "number": number,
        "episodes": exam_episodes_of(config, tasks)[number],
        "rows": config.rows,
        "seed": config.seed,
        "options": {"lived": start + whole_batches(budgets[number], config), "task_start": start},
    }


def wrong_answers(events: Sequence[Event]) -> list[Wrong]:
    """Return the wrong answers of the last examination, in the order of the log."""
    from stillknows.agents.reports.anatomy_report import right_then

    right = right_then(events)
    return [
        Wrong(event["task"], episode, step, cause, (episode, step) in right[event["task"]])
        for event in events
        if event["event"] == "anatomy"
        for episode, step, cause in zip(
            event["episodes"], event["steps"], event["causes"], strict=True
        )
    ]


def draw(seen: Seen, path: Path) -> None:
    """Draw what was read: a row an item, a column a read, supports marked."""
    from matplotlib.figure import Figure  # takes a second to import

    rows = seen.rows
    weights = np.array([row.weights for row in rows] or [(0.0,)])
    reads = weights.shape[1]
    figure = Figure(figsize=(4.2 + 0.7 * reads, 1.8 + 0.28 * len(weights)), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(weights, vmin=0, vmax=1, cmap="Purples", aspect="auto")
    labels = [f"{'▶ ' if row.support else ''}{row.text}  [{row.since}]" for row in rows]
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    for label, row in zip(axis.get_yticklabels(), rows, strict=False):
        label.set_fontweight("bold" if row.support else "normal")
    axis.set_xticks(range(reads), _reads(reads), fontsize=8)
    for (place, column), weight in np.ndenumerate(weights):
        if weight >= 0.005:
            colour = "white" if weight > 0.5 else "black"
            axis.text(
                column, place, f"{weight:.2f}", ha="center", va="center", size=7, color=colour
            )
    axis.set_title(
        f"{seen.question}  said: {seen.said or 'nothing'}, right: {seen.target}", fontsize=9
    )
    figure.colorbar(image, ax=axis, label="share of the read", shrink=0.8)
    figure.savefig(path, dpi=120)


def _reads(count: int) -> list[str]:
    return [*(f"read {number + 1}" for number in range(count - 1)), "recall"]


def _table(seen: Seen, task: Task, verdict: Wrong | None) -> str:
    finding = seen.finding
    lines = [
        f"{task.name}:{finding.episode}:{finding.step}  {seen.question}",
        f"said: {seen.said or 'nothing'}   right: {seen.target}   {_verdict(finding, verdict)}",
        f"{_stands(finding)}; the store is trusted {seen.trust:.2f}",
        "",
    ]
    reads = len(seen.rows[0].weights) if seen.rows else 1
    head = ("", "from", "what", "", *_reads(reads))
    table = [head] + [
        (
            "*" if row.support else "",
            row.since,
            row.text,
            row.fate,
            *(f"{weight:.2f}" for weight in row.weights),
        )
        for row in seen.rows
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    lines += [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    return "\n".join(lines)


def _verdict(finding: Finding, verdict: Wrong | None) -> str:
    if finding.right:
        return "right"
    if verdict is not None and not verdict.forgotten:
        return f"never learned ({CAUSES[finding.cause]})"
    return f"forgotten: {CAUSES[finding.cause]}"


def _stands(finding: Finding) -> str:
    if not finding.supports:
        return "its environment names nothing that it stands on (supports)"
    forced = f"it is answered {'right' if finding.mended else 'wrong'}"
    return (
        f"stands on {_supports(finding)}{_share(finding)}; with its supports forced into the read "
        f"{forced}"
    )


def _share(finding: Finding) -> str:
    if set(finding.fates) != {HELD}:
        return ""
    share = finding.share
    return f"; {share.got:.2f} of a read fell on it, {share.even:.2f} would be an even share"


def _supports(finding: Finding) -> str:
    own = sorted({step for told_in, step in finding.supports if told_in == finding.episode})
    named = [f"{finding.episode}:{step}" for step in own]
    others = [f"{e}:{s}" for e, s in finding.supports if e != finding.episode]
    fates = [FATES[fate] for fate in finding.fates]
    earlier = f"earlier {' '.join(others)}" if others else None
    parts = [*named, *([earlier] if earlier else [])]
    if len(parts) != len(fates):
        return f"{', '.join(parts)} ({fates[0]})"
    return ", ".join(f"{part} ({fate})" for part, fate in zip(parts, fates, strict=True))


def _list(wrong: Sequence[Wrong], tasks: Sequence[Task]) -> str:
    forgotten = [(number, each) for number, each in enumerate(wrong, start=1) if each.forgotten]
    lines = [
        f"{number:>5}  {tasks[each.task].name}:{each.episode}:{each.step}  {CAUSES[each.cause]}"
        for number, each in forgotten
    ]
    never = len(wrong) - len(forgotten)
    tail = f"{len(forgotten)} forgotten, {never} never learned."
    number = f"question=NUMBER (1 to {len(wrong)}) or " if wrong else ""
    return "\n".join([*lines, tail, f"Show one with {number}question=TASK:EPISODE:STEP."])


def _asked(question: str, wrong: Sequence[Wrong], tasks: Sequence[Task]) -> tuple[int, int, int]:
    """Return task, episode and step of what was asked for."""
    given = question.removeprefix("question=")
    if given.isdecimal():
        if not 1 <= int(given) <= len(wrong):
            raise ValueError(f"question={given}: there are {len(wrong)} wrong answers.")
        return wrong[int(given) - 1][:3]
    name, *place = given.rsplit(":", 2)
    if len(place) != 2 or not all(part.isdecimal() for part in place):
        raise ValueError(f"question={given}: give TASK:EPISODE:STEP, or the number of an answer.")
    names = [task.name for task in tasks]
    if name not in names:
        raise ValueError(f"The life has no task '{name}'. {suggest(name, names)}")
    return names.index(name), int(place[0]), int(place[1])


def _found_again(
    agent: MemoryAgent, events: Sequence[Event], config: DictConfig, tasks: Sequence[Task]
) -> list[Wrong]:
    """Return the wrong answers of a life whose log has no findings, by examining it again."""
    after = max((e["after"] for e in events if e["event"] == "examination"), default=0)
    found: list[Event] = []
    for number, task in enumerate(tasks):
        dissector = Dissector(agent, Ledger(events))
        dissect(dissector, task, **settings_of(config, tasks, number))
        found.append({"event": "anatomy", "task": number, "after": after, **columns(dissector)})
    return wrong_answers([*events, *found])
