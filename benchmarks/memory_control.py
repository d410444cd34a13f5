"""Memory policies under a budget, before the same readers: accuracy against the number of slots.

    python benchmarks/memory_control.py --seeds 5 --out memory_control.png --save results.json

For each stream and seed a reader learns with room for everything, and then stays as it is. Learned
policies are taught before it, each one for all budgets; then every policy keeps what it will of the
same examination stories. Budgets are multiples of the facts that can be asked for at once. Beside
the accuracy stands the share of the way from random (write everything, evict uniformly) to the best
causal policy, where that is at least 0.1 away; the clairvoyant knows the questions to come. An
actor that was taught in one budget alone, or on another task, shows what transfers. The lifelong
store of a stream of five tasks comes last (`lifelong_store.py`). Prints Markdown tables: means over
seeds, 95 % t intervals; `--load` prints and draws what was saved.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hydra.utils
import lifelong_store
import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.reports.report import table
from stillknows.agents.teaching.clairvoyant import (
    Clairvoyant,
    Expecting,
    best_keeping,
    expected_needs,
    trace_of,
)
from stillknows.agents.teaching.policy_learning import teach
from stillknows.agents.teaching.trial import Trial, stories_of
from stillknows.envs.measures.intervals import Interval, interval, paired_difference
from stillknows.envs.stories import continuations, make_dials
from stillknows.envs.tasks import Task, make
from stillknows.envs.text import Story
from stillknows.memory.policies.actor import ActorPolicy
from stillknows.memory.policies.critic import CriticPolicy
from stillknows.memory.policies.diversity import EvictAlike, MergeAlike
from stillknows.memory.policies.learned import RetentionPolicy
from stillknows.memory.policies.rules import (
    EvictIdle,
    EvictOldest,
    EvictRare,
    EvictRead,
    EvictUniformly,
    Novelty,
    Reservoir,
    WriteNothing,
)


class Stream(NamedTuple):
    """What its reader learns, one after the other, the last of which is examined.

    Attributes:
        lessons: tasks, each with a number of updates.
        dials: of all of them.
        live: how many facts can be asked for at once.
    """

    lessons: Mapping[str, int]
    dials: Mapping[str, Any]
    live: int


PRACTICE = {"shortest": 5}  # of readers: stories of all lengths, as much as policies may leave
WORLD = {"people": 3, "places": 5, "objects": 2, "sentences": 24, "questions": 3}
STREAMS = {
    "distractors (75 %)": Stream({"where_person": 600}, {**WORLD, "distractors": 0.75}, 3),
    "updates": Stream({"where_person": 600}, {**WORLD, "distractors": 0.0}, 3),
    "chains": Stream(
        {"where_person": 200, "where_object": 1000},
        {**WORLD, "distractors": 0.5},
        4,
    ),
}
MULTIPLES = (0.5, 1, 2, 4, 8)
RULES: dict[str, Callable[[], Any]] = {
    "random": EvictUniformly,
    "first in, first out": EvictOldest,
    "least recently used": EvictIdle,
    "least frequently used": EvictRare,
    "what was read (DNC)": EvictRead,
    "reservoir": Reservoir,
    "novelty": partial(Novelty, 0.9),
    "k-centre": EvictAlike,
    "k-means": MergeAlike,
    "never write": WriteNothing,
}
LEARNED: dict[str, Callable[[int], Any]] = {
    "retention": RetentionPolicy,
    "actor": ActorPolicy,
    "critic": CriticPolicy,
}
STORE = "lifelong store (five tasks)"
MOVED = ("actor, taught at 1 ×", "actor, taught on where_person")
REFERENCES = ("best causal", "clairvoyant")
Scores = dict[str, dict[str, float]]  # of a policy, by multiple


def tasks_of(stream: Stream, seed: int, practice: Mapping[str, Any]) -> tuple[Any, list[Task]]:
    """Return the configuration of a stream with room for everything, and its tasks."""
    config = compose_config(
        [
            *("arm=none", "keep=false", f"seed={seed}"),
            f"stream.tasks.tasks=[{','.join(stream.lessons)}]",
            f"working_memory.slots={stream.dials['sentences'] + 1}",
            *[
                f"stream.tasks.{name}={value}"
                for name, value in {**stream.dials, **practice}.items()
            ],
        ]
    )
    return config, hydra.utils.instantiate(config.stream.tasks, _convert_="all")


def reader_of(stream: Stream, seed: int) -> MemoryAgent:
    """Return an agent that learned the tasks with room for everything."""
    config, tasks = tasks_of(stream, seed, PRACTICE)
    torch.manual_seed(seed)
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=seed)
    learner.begin(sum(stream.lessons.values()))
    update = 0
    for task, updates in zip(tasks, stream.lessons.values(), strict=True):
        envs = make(task, config.rows, task.train)
        for _ in range(updates):
            options = {"episode": config.rows * update}
            live(agent, envs, learner, task=0, seed=seed * 1_000_003 + update, options=options)
            learner.update()
            update += 1
    return agent.eval()


class Lessons:
    """Stories of a task before a reader, 16 an update, each told four times in it."""

    def __init__(self, reader: MemoryAgent, task: Task, begin: int) -> None:
        self.reader, self.task, self.begin = reader, task, begin
        self.made: dict[int, Trial] = {}

    def __call__(self, number: int) -> Trial:
        """Return the stories of an update."""
        number %= 320
        if number not in self.made:
            first = self.begin + 16 * number
            stories = stories_of(self.task.id, self.task.train, range(first, first + 16), first)
            self.made[number] = Trial(self.reader, 4 * stories)
        return self.made[number]


def taught(kind: str, lessons: Lessons, slots: Sequence[int], seed: int, updates: int) -> Any:
    """Return a policy of some kind that learned from lessons."""
    torch.manual_seed(seed)
    policy = LEARNED[kind](lessons.reader.controller.width)
    cost = 0.05 if kind == "retention" else 0.0
    updates //= {"actor": 1, "critic": 2, "retention": 4}[kind]  # to spare time
    teach(policy, lessons, slots, updates=updates, write_cost=cost)
    return policy


def references(trial: Trial, dials: Mapping[str, Any], slots: int, ways: int) -> dict[str, Any]:
    """Return the policies that know more than any may."""
    plans = [best_keeping(trace_of(story), slots) for story in trial.stories]
    return {"clairvoyant": Clairvoyant(plans), "best causal": Expecting(_needs(trial, dials, ways))}


_NEEDS: dict[int, torch.Tensor] = {}


def _needs(trial: Trial, dials: Mapping[str, Any], ways: int) -> torch.Tensor:
    if id(trial) not in _NEEDS:
        made = make_dials(dict(dials))

        def futures(story: Story, told: int) -> Sequence[Story]:
            return continuations(story.episode, story.episode, made, told, range(ways))

        _NEEDS[id(trial)] = expected_needs(trial.stories, futures)
    return _NEEDS[id(trial)]


def life(name: str, seed: int, updates: int, exam: int, ways: int) -> tuple[str, int, Scores]:
    """Return what every policy scores before the reader of one seed."""
    torch.set_num_threads(1)
    if name == STORE:
        return name, seed, lifelong_store.life(seed, MULTIPLES, updates)
    stream = STREAMS[name]
    reader = reader_of(stream, seed)
    tasks = tasks_of(stream, seed, {})[1]
    budgets = {multiple: max(1, math.ceil(multiple * stream.live)) for multiple in MULTIPLES}
    small = [slots for slots in budgets.values() if slots < stream.dials["sentences"]]
    begin = (seed + 1) * 10**6
    lessons = Lessons(reader, tasks[-1], begin)
    policies = {name: make_rule() for name, make_rule in RULES.items()}
    policies |= {kind: taught(kind, lessons, small, seed, updates) for kind in LEARNED}
    if len(tasks) > 1:
        others = Lessons(reader, tasks[0], begin)
        policies[MOVED[0]] = taught("actor", lessons, [budgets[1]], seed, updates)
        policies[MOVED[1]] = taught("actor", others, small, seed, updates)
    task, first = tasks[-1], begin * 10
    told = Trial(reader, stories_of(task.id, task.exam, range(first, first + exam), first))
    scores: Scores = {}
    for multiple, slots in budgets.items():
        dials = {**task.exam, "task": task.name}
        for who, policy in (policies | references(told, dials, slots, ways)).items():
            with torch.no_grad():
                scores.setdefault(who, {})[str(multiple)] = told.run(policy, slots).accuracy
    return name, seed, scores


def _there(scores: Sequence[Scores], *names: str) -> list[str]:
    """Return those of the names that were measured, each once."""
    return [name for name in dict.fromkeys(names) if name in scores[0]]


def _learned(scores: Sequence[Scores]) -> list[str]:
    return _there(scores, *LEARNED, *lifelong_store.LEARNED)


def _rules(scores: Sequence[Scores]) -> list[str]:
    return _there(scores, *RULES, *lifelong_store.RULES)


def share(scores: Sequence[Scores], who: str, multiple: float) -> Interval | None:
    """Return the share of the way from random to the best causal policy, None where it is short."""
    at = str(multiple)
    ways = [each["best causal"][at] - each["random"][at] for each in scores]
    if sum(ways) / len(ways) < 0.1:
        return None
    done = [each[who][at] - each["random"][at] for each in scores]
    return interval([d / w for d, w in zip(done, ways, strict=True)])


def tables(found: Mapping[str, Sequence[Scores]]) -> str:
    """Return a table a stream: accuracy, and the share of the way, for each budget."""
    parts = []
    for name, scores in found.items():
        rows = []
        moved = _there(scores, *MOVED)
        for who in (*REFERENCES, *_learned(scores), *moved, *_rules(scores)):
            cells = []
            for multiple in MULTIPLES:
                mean = interval([each[who][str(multiple)] for each in scores])
                part = share(scores, who, multiple)
                cells.append(f"{mean}" + (f"; {part}" if part else ""))
            rows.append([who, *cells])
        head = [name, *(f"{multiple:g} ×" for multiple in MULTIPLES)]
        parts.append(table(head, rows) + "\n\n" + _against_rules(scores))
    return "\n\n".join(parts)


def _against_rules(scores: Sequence[Scores]) -> str:
    """Return each learned policy less the best rule at each budget, paired by seed."""
    rows = []
    rules = [rule for rule in _rules(scores) if rule != "random"]
    for who in _learned(scores):
        cells = []
        for multiple in map(str, MULTIPLES):
            best = max(rules, key=lambda rule: sum(s[rule][multiple] for s in scores))
            mine, its = ([each[name][multiple] for each in scores] for name in (who, best))
            cells.append(f"{paired_difference(mine, its)} ({best})")
        rows.append([who, *cells])
    return table(["less the best rule", *(f"{m:g} ×" for m in MULTIPLES)], rows)


def draw(found: Mapping[str, Sequence[Scores]], out: Path) -> None:
    """Draw accuracy against the budget, a panel a stream."""
    figure, panels = plt.subplots(
        2, 2, figsize=(9.6, 8.4), layout="constrained", sharex=True, sharey=True
    )
    shown = [*REFERENCES, *LEARNED, *lifelong_store.LEARNED, "k-centre", "facts"]
    shown += ["first in, first out", "random", "never write"]
    learned = (*LEARNED, *lifelong_store.LEARNED)
    for panel, (name, scores) in zip(panels.flat, found.items(), strict=True):
        for number, who in enumerate(shown):
            if who not in scores[0]:
                continue
            rows = [interval([each[who][str(m)] for each in scores]) for m in MULTIPLES]
            style = {"color": f"C{number}" if number < 10 else "black", "marker": "o", "ms": 3}
            style["ls"] = "-" if who in learned else "--" if who in REFERENCES else ":"
            panel.plot(MULTIPLES, [row.mean for row in rows], label=who, **style)
            low, high = [r.low for r in rows], [r.high for r in rows]
            panel.fill_between(MULTIPLES, low, high, color=style["color"], alpha=0.1)
        panel.set(title=_title(name), xscale="log")
        panel.minorticks_off()
        panel.set_xticks(MULTIPLES, [f"{multiple:g}" for multiple in MULTIPLES])
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[1]:
        panel.set_xlabel("room, as a multiple of the facts needed")
    for panel in panels[:, 0]:
        panel.set_ylabel("share of right answers")
    parts = (panel.get_legend_handles_labels() for panel in panels.flat)
    named = {who: line for lines, names in parts for line, who in zip(lines, names, strict=True)}
    figure.legend(
        named.values(), named, fontsize=9, frameon=False, ncols=6, loc="outside lower center"
    )
    figure.savefig(out, dpi=150)


def _title(name: str) -> str:
    """Return the name of a stream with the share of what does not matter in it."""
    if name == STORE:
        other = 1 - 1.5 * lifelong_store.LIFE["carry"]  # half as many ask for what was just told
        return f"lifelong store, five tasks\n{other:.0%} of the questions are not for facts"
    first, dials = name.split(" (")[0], STREAMS[name].dials
    return f"{first}\n{dials['distractors']:.0%} of the sentences change nothing"


def main() -> None:
    """Live all seeds, print tables, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=800, help="of a learned policy")
    parser.add_argument("--stories", type=int, default=256, help="of the examination")
    parser.add_argument("--ways", type=int, default=24, help="futures of the best causal policy")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("memory_control.png"))
    parser.add_argument("--save", type=Path, default=Path("memory_control.json"))
    parser.add_argument("--load", action="store_true", help="only show what --save holds")
    given = parser.parse_args()
    if given.load and not given.save.exists():
        parser.error(f"{given.save} is not there: run this once without --load.")
    if given.load:
        saved = json.loads(given.save.read_text(encoding="utf-8"))
        print(tables(saved))
        draw(saved, given.out)
        return
    names = (*STREAMS, STORE)
    jobs = [(name, seed) for seed in range(given.seeds) for name in names]
    run = partial(life, updates=given.updates, exam=given.stories, ways=given.ways)
    found: dict[str, list[Scores]] = {name: [] for name in names}
    with ProcessPoolExecutor(given.workers) as pool:
        results = pool.map(run, *zip(*jobs, strict=True))
        for name, _, scores in tqdm(results, total=len(jobs), disable=None):
            found[name].append(scores)
            given.save.write_text(json.dumps(found), encoding="utf-8")
    print(tables(found))
    draw(found, given.out)


if __name__ == "__main__":
    main()
