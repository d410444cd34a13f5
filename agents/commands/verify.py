"""`stillknows verify-resume`: whether lives that are cut end as those that are not.

Each life of the configuration is lived twice: straight through, and with cuts at random moments,
where its process is killed (SIGKILL) and another goes on. Then all that they left is compared, bit
for bit: the log but for its times, weights, store, optimisers, policies and random states.
"""

import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from stillknows.agents.persistence.checkpoint import FOLDER, numbered, read_checkpoint
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.log_parts import count_lines

_PARTS = ("agent", "learner", "control", "strategy", "operations", "random")
_LOOK = 0.002  # seconds between two looks at the log


class Cut(NamedTuple):
    """A moment at which a life is killed: a share of its events, and of the time to the next."""

    event: float
    later: float


def verify_resume(overrides: Sequence[str], cuts: int = 3, seed: int = 0) -> int:
    """Live the lives of a configuration straight and with cuts, and print what was compared.

    Args:
        overrides: Hydra overrides of `stillknows.configs.train`.
        cuts: how often each life is killed.
        seed: of the moments.

    Returns:
        0 if all that the lives left is equal, 1 if not.

    Raises:
        ValueError: with one sentence, for any option that cannot be, or checkpoints switched off.
    """
    from stillknows.agents.commands.train import lives_of

    lives = lives_of(overrides)
    if not all(config.checkpoint.every for config in lives.values()):
        raise ValueError("checkpoint.every=0 writes no checkpoints: give an interval to verify.")
    context, draw, equal = multiprocessing.get_context("spawn"), random.Random(seed), True
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder).name  # which a memory on a server is named after as well
        for name, config in lives.items():
            moments = [Cut(draw.random(), draw.random()) for _ in range(cuts)]
            straight, cut = (Path(f"{folder}/{own}-{each}") / name for each in ("straight", "cut"))
            live_straight(config, straight, context)
            done = live_with_cuts(config, cut, straight, moments, context)
            found = list(differences(straight, cut))
            equal = equal and not found
            print(f"{name}: {_told(straight, cut, done)}: {'; '.join(found) or 'equal'}.")
    print("What was cut ended as what was not." if equal else "The lives differ.")
    return int(not equal)


def live_straight(config: DictConfig, folder: Path, context: BaseContext) -> float:
    """Live in a process of its own; return the seconds that it took.

    Raises:
        ValueError: if the process failed.
    """
    begun = time.monotonic()
    _finish(_begin(config, folder, context), folder)
    return time.monotonic() - begun


def live_with_cuts(
    config: DictConfig, folder: Path, straight: Path, cuts: Sequence[Cut], context: BaseContext
) -> int:
    """Live, killed at some moments, to the end.

    Args:
        config: of the life.
        folder: where it is lived.
        straight: where the same was lived without cuts, to know how many events there are.
        cuts: the moments, in any order.
        context: of the processes.

    Returns:
        How often it was killed; a life may end before a cut.

    Raises:
        ValueError: if a process failed by itself.
    """
    events = logs.read(straight)
    between = (events[-1]["time"] - events[0]["time"]) / len(events)
    killed = 0
    for cut in sorted(cuts):
        process = _begin(config, folder, context)
        while process.is_alive() and count_lines(folder) < cut.event * len(events):
            time.sleep(_LOOK)
        time.sleep(cut.later * between)
        process.kill()
        process.join()
        killed += process.exitcode == -9
        if process.exitcode not in (0, -9):
            raise ValueError(f"The life in {folder} failed by itself, without a cut.")
    if not killed or logs.read(folder)[-1]["event"] != "clock":
        _finish(_begin(config, folder, context), folder)
    return killed


def differences(first: Path, second: Path) -> Iterator[str]:
    """Yield what two lives that have ended left different, in words."""
    for number, (one, other) in enumerate(zip(*map(_events, (first, second)), strict=False)):
        if one != other:
            yield f"the logs differ in event {number} ({one['event']})"
            break
    if len(_events(first)) != len(_events(second)):
        yield "the logs are not of one length"
    one, other = (read_checkpoint(numbered(life / FOLDER)[-1]) for life in (first, second))
    for part in _PARTS:
        if part in one or part in other:  # who acts is no agent, and who answers no control learner
            yield from _differing(one.get(part), other.get(part), part)
    best = [_number_of_best(life) for life in (first, second)]
    if best[0] != best[1]:
        yield f"the best checkpoints are of {best[0]} and {best[1]} events"


def count_tensors(tree: Any) -> int:
    """Return how many tensors a tree holds."""
    if isinstance(tree, dict):
        return sum(map(count_tensors, tree.values()))
    if isinstance(tree, list):
        return sum(map(count_tensors, tree))
    return int(isinstance(tree, Tensor))


def _events(folder: Path) -> list[logs.Event]:
    """Return the events of a log, without times."""
    told = [event for event in logs.read(folder) if event["event"] != "clock"]
    return [{key: value for key, value in event.items() if key != "time"} for event in told]


def _differing(one: Any, other: Any, path: str) -> Iterator[str]:
    """Yield where two trees are not the same, bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = (one.shape, one.dtype) == (other.shape, other.dtype)
        if not (alike and torch.equal(_bits(one), _bits(other))):
            yield f"{path} differs"
    elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _differing(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _differing(a, b, f"{path}.{number}")
    elif repr(one) != repr(other):  # so that NaN equals itself
        yield f"{path} differs"


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _number_of_best(folder: Path) -> int:
    events: int = read_checkpoint(folder / FOLDER / "best.safetensors")["log"]["events"]
    return events


def _told(straight: Path, cut: Path, killed: int) -> str:
    tree = read_checkpoint(numbered(straight / FOLDER)[-1])
    aside = cut / logs.CUT
    again = aside.read_bytes().count(b"\n") if aside.exists() else 0
    agent = tree.get("agent", {"weights": None, "store": None})
    learners = count_tensors([tree[part] for part in ("learner", "control") if part in tree])
    return (
        f"killed {'once' if killed == 1 else f'{killed} times'}, "
        f"{again} of {len(logs.read(straight))} events lived again; compared the log, "
        f"weights ({count_tensors(agent['weights'])} tensors), store "
        f"({count_tensors(agent['store'])}), learner ({learners}), plugins, position and random "
        "states"
    )


def _begin(config: DictConfig, folder: Path, context: Any) -> Any:
    process = context.Process(target=_live, args=(config, folder))
    process.start()
    return process


def _finish(process: Any, folder: Path) -> None:
    process.join()
    if process.exitcode:
        raise ValueError(f"The life in {folder} failed by itself, without a cut.")


def _live(config: DictConfig, folder: Path) -> None:
    """Live on in this process, as far as it goes."""
    from stillknows.agents.lifetime import live_lifetime

    torch.set_num_threads(1)
    try:
        live_lifetime(config, folder, lambda *_: None, resume=True)
    except (ValueError, OSError) as error:
        print(f"stillknows: {error}", file=sys.stderr)
        raise SystemExit(2) from error
