"""Memory policies under a budget, before the same readers: accuracy against the number of slots.

    python benchmarks/memory_control.py --seeds 5 --out memory_control.png --save results.json

For each stream and seed a reader learns with room for everything, and then stays as it is. Learned
policies are taught before it, each one for all budgets; then every policy keeps what it will of the
same examination stories. Budgets are multiples of the facts that can be asked for at once. Beside
the accuracy stands the share of the way from random (write everything, evict uniformly) to the best
causal policy, where that is at least 0.1 away; the clairvoyant knows the questions to come. Prints
Markdown tables: means over seeds, 95 % t intervals.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import hydra.utils
import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.clairvoyant import (
    Clairvoyant,
    Expecting,
    best_keeping,
    expected_needs,
    trace_of,
)
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.policy_learning import teach
from stillknows.agents.report import table
from stillknows.agents.trial import Trial, stories_of
from stillknows.envs.intervals import Interval, interval, paired_difference
from stillknows.envs.stories import continuations, make_dials
from stillknows.envs.tasks import Task, make
from stillknows.envs.text import Story
from stillknows.memory.actor import ActorPolicy
from stillknows.memory.critic import CriticPolicy
from stillknows.memory.diversity import EvictAlike, MergeAlike
from stillknows.memory.learned import RetentionPolicy
from stillknows.memory.rules import (
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
    """A task, its dials, updates of its reader, and the facts that can be asked for at once."""

    task: str
    dials: Mapping[str, Any]
    updates: int
    live: int


WORLD = {"people": 3, "places": 5, "objects": 2, "sentences": 24, "questions": 3}
STREAMS = {
    "distractors (75 %)": Stream("where_person", {**WORLD, "distractors": 0.75}, 300, 3),
    "updates": Stream("where_person", {**WORLD, "distractors": 0.0}, 300, 3),
    "chains": Stream("where_object", {**WORLD, "distractors": 0.5}, 700, 4),
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
REFERENCES = ("best causal", "clairvoyant")
Scores = dict[str, dict[str, float]]  # of a policy, by multiple


def reader_of(stream: Stream, seed: int) -> tuple[MemoryAgent, Task]:
    """Return an agent that learned the task with room for everything."""
    config = compose_config(
        [
            *("arm=none", "keep=false", f"seed={seed}"),
            f"stream.tasks.tasks=[{stream.task}]",
            f"working_memory.slots={stream.dials['sentences'] + 1}",
            *[f"stream.tasks.{name}={value}" for name, value in stream.dials.items()],
        ]
    )
    torch.manual_seed(seed)
    task = hydra.utils.instantiate(config.stream.tasks, _convert_="all")[0]
    agent = build_agent(config, [task])
    learner = hydra.utils.instantiate(config.learner, agent, seed=seed)
    learner.begin(stream.updates)
    envs = make(task, config.rows, task.train)
    for update in range(stream.updates):
        options = {"episode": config.rows * update}
        live(agent, envs, learner, task=0, seed=seed * 1_000_003 + update, options=options)
        learner.update()
    return agent.eval(), task


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
    stream = STREAMS[name]
    reader, task = reader_of(stream, seed)
    budgets = {multiple: max(1, math.ceil(multiple * stream.live)) for multiple in MULTIPLES}
    begin = (seed + 1) * 10**6

    @cache
    def lesson(number: int) -> Trial:
        first = begin + 64 * number
        return Trial(reader, stories_of(task.id, task.train, range(first, first + 64), first))

    policies = {name: make_rule() for name, make_rule in RULES.items()}
    for kind, make_policy in LEARNED.items():
        torch.manual_seed(seed)
        policies[kind] = make_policy(reader.controller.width)
        cost = 0.05 if kind == "retention" else 0.0
        small = [slots for slots in budgets.values() if slots < stream.dials["sentences"]]
        teach(policies[kind], lambda n: lesson(n % 80), small, updates=updates, write_cost=cost)
    first = begin * 10
    told = Trial(reader, stories_of(task.id, task.exam, range(first, first + exam), first))
    scores: Scores = {}
    for multiple, slots in budgets.items():
        dials = {**task.exam, "task": stream.task}
        everyone = policies | references(told, dials, slots, ways)
        for who, policy in everyone.items():
            with torch.no_grad():
                scores.setdefault(who, {})[str(multiple)] = told.run(policy, slots).accuracy
    return name, seed, scores


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
        for who in (*REFERENCES, *LEARNED, *RULES):
            cells = []
            for multiple in MULTIPLES:
                mean = interval([each[who][str(multiple)] for each in scores])
                part = share(scores, who, multiple)
                cells.append(f"{mean}" + (f"; {part.mean:.2f}" if part else ""))
            rows.append([who, *cells])
        head = [name, *(f"{multiple:g} ×" for multiple in MULTIPLES)]
        parts.append(table(head, rows) + "\n\n" + _against_rules(scores))
    return "\n\n".join(parts)


def _against_rules(scores: Sequence[Scores]) -> str:
    """Return each learned policy less the best rule at each budget, paired by seed."""
    rows = []
    rules = [rule for rule in RULES if rule != "random"]
    for who in LEARNED:
        cells = []
        for multiple in map(str, MULTIPLES):
            best = max(rules, key=lambda rule: sum(s[rule][multiple] for s in scores))
            pair = [[each[name][multiple] for each in scores] for name in (who, best)]
            cells.append(f"{paired_difference(*pair)} ({best})")
        rows.append([who, *cells])
    return table(["less the best rule", *(f"{m:g} ×" for m in MULTIPLES)], rows)


def draw(found: Mapping[str, Sequence[Scores]], out: Path) -> None:
    """Draw accuracy against the budget, a panel a stream."""
    figure, panels = plt.subplots(
        1, len(found), figsize=(4.6 * len(found), 4.2), layout="constrained", sharey=True
    )
    shown = [*REFERENCES, *LEARNED, "k-centre", "first in, first out", "random", "never write"]
    for panel, (name, scores) in zip(panels, found.items(), strict=True):
        for number, who in enumerate(shown):
            rows = [interval([each[who][str(m)] for each in scores]) for m in MULTIPLES]
            style = {"color": f"C{number % 10}", "marker": "o", "ms": 3}
            style["ls"] = "-" if who in LEARNED else "--" if who in REFERENCES else ":"
            panel.plot(MULTIPLES, [row.mean for row in rows], label=who, **style)
            low, high = [r.low for r in rows], [r.high for r in rows]
            panel.fill_between(MULTIPLES, low, high, color=style["color"], alpha=0.1)
        panel.set(title=name, xscale="log", xlabel="slots, as a multiple of the facts needed")
        panel.set_xticks(MULTIPLES, [f"{multiple:g}" for multiple in MULTIPLES])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of right answers")
    panels[-1].legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(out, dpi=150)


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
    given = parser.parse_args()
    jobs = [(name, seed) for seed in range(given.seeds) for name in STREAMS]
    run = partial(life, updates=given.updates, exam=given.stories, ways=given.ways)
    found: dict[str, list[Scores]] = {name: [] for name in STREAMS}
    with ProcessPoolExecutor(given.workers) as pool:
        results = pool.map(run, *zip(*jobs, strict=True))
        for name, _, scores in tqdm(results, total=len(jobs), disable=None):
            found[name].append(scores)
            given.save.write_text(json.dumps(found), encoding="utf-8")
    print(tables(found))
    draw(found, given.out)


if __name__ == "__main__":
    main()
