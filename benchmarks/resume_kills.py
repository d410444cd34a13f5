"""Whether lives that are killed end as those that are not: kill -9 at random moments.

    nice python benchmarks/resume_kills.py --kills 200
    python benchmarks/resume_kills.py --kills 4 --cuts 2         # seconds

Several tiny configurations; each is lived straight once. Then lives are killed some times each, at
random moments (in updates, examinations, between tasks, while a checkpoint is written), and go on
in new processes; what they leave is compared with the straight life, bit for bit: log, weights,
store, optimisers, policies, plugins and random states. Processes are forked from one that has
imported everything, so that most of the time is lived.
"""

import argparse
import multiprocessing
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch

from stillknows.agents.commands.verify import Cut, differences, live_straight, live_with_cuts
from stillknows.agents.configuration import compose_config
from stillknows.agents.reports import log as logs

SMALL = (
    "debug=tiny",
    "rows=4",
    "stream.episodes=32",
    "stream.exam_episodes=4",
    "stream.tasks.tasks=[where_person,where_object]",
    "stream.tasks.sentences=6",
    "stream.tasks.questions=2",
    "stream.tasks.lag=0",
    "checkpoint.every=4",
)
STORE = "episodic_memory.bytes=200000"
_EWC = "stillknows.agents.baselines.penalties.EWC"
EWC = f"plugins=[{{_target_: {_EWC}, ewc_lambda: 100.0, batches: 2}}]"
OTHERS = (
    "plugins=[{_target_: stillknows.agents.baselines.penalties.SI, c: 1.0},"
    "{_target_: stillknows.agents.baselines.penalties.LwF},"
    "{_target_: stillknows.agents.baselines.gradient_memory.AGEM, patterns: 6, sample: 3}]"
)
COSINE = "{_target_: torch.optim.lr_scheduler.CosineAnnealingLR, _partial_: true}"
CONFIGURATIONS = {
    "recall and rehearsal, retention, utility": (STORE, "learner.accumulate=2"),
    "EWC, cosine schedule": ("arm=none", EWC, f"learner.schedule={COSINE}"),
    "actor, operations": (
        STORE,
        "working_policy=actor",
        "working_memory.slots=3",
        "operations=2",
    ),
    "critic, horizon": (
        "arm=none",
        "working_policy=critic",
        "working_memory.slots=3",
        "learner.horizon=4",
    ),
    "DNC, LSTM": (STORE, "working_memory=dnc", "working_policy=evict_idle", "controller=lstm"),
    "SI, LwF, A-GEM": ("arm=none", OTHERS),
    "replay, joint": ("arm=replay", STORE, "stream.joint=true"),
}


def lived_again(folder: Path) -> int:
    """Return how many events were lived twice."""
    path = folder / logs.CUT
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main() -> None:
    """Kill, go on, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=8, help="of one life")
    parser.add_argument("--minutes", type=float, default=1e9, help="no life begins after so many")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    import stillknows.agents.baselines.gradient_memory
    import stillknows.agents.baselines.penalties
    import stillknows.agents.lifetime
    import stillknows.agents.strategy  # noqa: F401 (before processes are forked)

    torch.set_num_threads(1)
    context, draw, begun = (
        multiprocessing.get_context("fork"),
        random.Random(given.seed),
        time.time(),
    )
    configs = {name: compose_config([*SMALL, *options]) for name, options in CONFIGURATIONS.items()}
    rows: dict[str, list[tuple[int, int, bool]]] = {name: [] for name in configs}
    killed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for name, config in configs.items():
            live_straight(config, Path(temporary) / name, context)
        while killed < given.kills and time.time() - begun < 60 * given.minutes:
            for name, config in configs.items():
                if killed >= given.kills or time.time() - begun >= 60 * given.minutes:
                    break
                cuts = [Cut(draw.random(), draw.random()) for _ in range(given.cuts)]
                with tempfile.TemporaryDirectory() as folder:
                    life = Path(folder) / "life"
                    done = live_with_cuts(config, life, Path(temporary) / name, cuts, context)
                    found = list(differences(Path(temporary) / name, life))
                    rows[name].append((done, lived_again(life), not found))
                killed += done
                print(f"{killed} kills, {name}: {'; '.join(found) or 'equal'}", flush=True)
    print(f"\n{killed} kills in {(time.time() - begun) / 60:.0f} minutes\n")
    print("| configuration | lives | kills | events lived again a kill | ended equal |")
    print("|---|---|---|---|---|")
    for name, lives in rows.items():
        kills = sum(done for done, _, _ in lives)
        again = statistics.mean([more / max(1, done) for done, more, _ in lives]) if lives else 0
        equal = sum(same for *_, same in lives)
        print(f"| {name} | {len(lives)} | {kills} | {again:.1f} | {equal} of {len(lives)} |")


if __name__ == "__main__":
    main()
