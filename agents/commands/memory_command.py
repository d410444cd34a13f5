"""What `stillknows memory` does; its command line is in `memory_arguments.py`."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stillknows.agents.persistence.keeping import tokenizer_of
from stillknows.agents.persistence.memory_erasing import erase, report_of
from stillknows.agents.persistence.memory_files import AGENT, SUFFIX, memory_in
from stillknows.agents.persistence.memory_lines import Decode, entry_lines, export, read_lines
from stillknows.agents.persistence.memory_places import FILE, POSTGRES, live_in, memory_at
from stillknows.memory import expect
from stillknows.memory.nec import NEC
from stillknows.memory.stores.database import Database
from stillknows.memory.stores.merging import merge

_COLUMNS = ("task", "episode", "step", "birth", "last_use")


class Opened(NamedTuple):
    """A memory that is looked at: where it is, how its tokens read, and what is missing in it."""

    memory: NEC
    place: str
    decode: Decode | None
    written: dict[int, str]  # when each entry was first written, where that is known
    gaps: list[int]


def run(options: argparse.Namespace) -> None:
    """Do what is asked.

    Raises:
        ValueError: with one sentence, if the memory is not there, broken or foreign.
        OSError: if it cannot be read or written.
    """
    actions: dict[str, Callable[[argparse.Namespace], None]] = {
        "ls": _list,
        "show": _show,
        "export": _export,
        "import": _import,
        "diff": _diff,
        "delete": _delete,
    }
    actions[options.action](options)


def _list(options: argparse.Namespace) -> None:
    expect.whole(0, limit=options.limit)
    with _opened(options.memory, options.agent) as opened:
        lines = [
            line
            for line in entry_lines(opened.memory, opened.decode)
            if options.task in (None, line["task"]) and options.episode in (None, line["episode"])
        ]
        rows = [["id", *_COLUMNS, "uses", "written", "question", "answer"]]
        for line in lines[-options.limit :]:
            question, answer = _said(line)
            rows.append(
                [
                    str(line["id"]),
                    *(str(line[name]) for name in _COLUMNS),
                    f"{line['uses']:.2f}",
                    opened.written.get(line["id"], ""),
                    question,
                    answer,
                ]
            )
        print("\n".join(_aligned(rows)))
        print(_summary(opened, len(lines)))


def _show(options: argparse.Namespace) -> None:
    with _opened(options.memory, options.agent) as opened:
        found = {line["id"]: line for line in entry_lines(opened.memory, opened.decode)}
        for entry in options.ids:
            if entry in opened.gaps:
                print(f"entry {entry} was deleted; nothing of it is left.")
                continue
            if entry not in found:
                raise ValueError(f"{opened.place} holds no entry {entry}.")
            print("\n".join(_told(found[entry], opened.written.get(entry, ""))))


def _export(options: argparse.Namespace) -> None:
    with _opened(options.memory, options.agent) as opened:
        for line in export(opened.memory, opened.decode):
            print(line)


def _import(options: argparse.Namespace) -> None:
    if str(options.lines) == "-":
        other = read_lines(sys.stdin, "the input")
    else:
        if not options.lines.is_file():
            raise ValueError(f"There is no file {options.lines}: give one that `export` wrote.")
        with options.lines.open(encoding="utf-8") as lines:
            other = read_lines(lines, str(options.lines))
    place = _place(options.memory)
    if place.endswith(SUFFIX):
        raise ValueError(f"{place} is a kept agent, which is left as it is: name a database.")
    if not place.startswith(POSTGRES) and not Path(place).exists():
        memory = live_in(other, place)
        print(f"{len(memory)} entries in {place}, which is new.")
        memory.store.close()
        return
    with memory_at(place) as memory:
        done = merge(memory, other, options.keep)
        print(
            f"{len(done.added)} added, {len(done.joined)} joined with what was known, "
            f"{len(done.dropped)} dropped and {len(done.refused)} refused for want of room; "
            f"{len(memory)} entries at operation {memory.operation}."
        )


def _diff(options: argparse.Namespace) -> None:
    sides: list[list[tuple[str, dict[str, Any]]]] = []
    for place in (options.memory, options.second):
        with _opened(place, options.agent) as opened:
            lines = list(entry_lines(opened.memory, opened.decode))
            sides.append([(str(line["tokens"]), line) for line in lines])
    for mark, here, there in (("-", sides[0], sides[1]), ("+", sides[1], sides[0])):
        left = Counter(content for content, _ in there)
        for content, line in here:
            left[content] -= 1
            if left[content] < 0:
                print(mark, line["id"], *_said(line), sep="  ")
    same = sum((Counter(c for c, _ in sides[0]) & Counter(c for c, _ in sides[1])).values())
    print(f"{same} entries are in both.")


def _delete(options: argparse.Namespace) -> None:
    if options.episode is None and not options.entry:
        raise ValueError("Nothing is named: delete --entry ID … or --episode N.")
    name, operation = _at(options.memory)
    if operation is not None:
        raise ValueError("The past cannot be deleted alone: leave the @ away.")
    place = _place(name)
    done = erase(place, options.entry, options.episode, options.task, options.also)
    print(report_of(done))


@contextmanager
def _opened(named: str, agent: Path | None) -> Iterator[Opened]:
    """Open a memory to look at it."""
    name, operation = _at(named)
    place = _place(name)
    if place.endswith(SUFFIX) and operation is not None:
        raise ValueError(_without_past(Path(place), operation))
    decode = _decoder(place, agent)
    if place.endswith(SUFFIX):
        yield Opened(memory_in(Path(place)), place, decode, {}, [])
        return
    with memory_at(place, read_only=True) as memory:
        store = memory.store
        assert isinstance(store, Database)
        written = {
            entry: f"{born.operation} ({time.strftime('%Y-%m-%d %H:%M', time.gmtime(born.time))})"
            for entry, born in store.births().items()
        }
        at = memory.operation if operation is None else operation
        seen = memory if operation is None else memory.at(operation)
        yield Opened(seen, place, decode, written, store.gaps(at))


def _without_past(agent: Path, operation: int) -> str:
    """Return what there is to look at instead of the past of a kept agent."""
    told, database = f"{agent} holds a memory as it was once, without its past", agent.parent / FILE
    if database.is_file():
        return f"{told}, which is in {database}@{operation}."
    return (
        f"{told}: leave @{operation} away, or live with episodic_memory.store=sqlite, which keeps "
        "the past."
    )


def _at(named: str) -> tuple[str, int | None]:
    """Return a name and the operation behind its @, if there is one."""
    name, _, number = named.rpartition("@")
    if name and number.isdigit() and not Path(named).exists():
        return name, int(number)
    return named, None


def _place(named: str) -> str:
    """Return the place of the memory that a name stands for.

    Raises:
        ValueError: if there is none, or more than one.
    """
    name, _ = _at(named)
    path = Path(name)
    if name.startswith(POSTGRES) or not path.is_dir():
        return name
    found = sorted(path.rglob(FILE))
    bare = [file for file in sorted(path.rglob(AGENT)) if not (file.parent / FILE).exists()]
    places = [*found, *bare]
    if len(places) != 1:
        those = f"several memories: name one of {', '.join(map(str, places))}" if places else "none"
        raise ValueError(f"{path} should hold a memory, and holds {those}.")
    return str(places[0])


def _decoder(place: str, agent: Path | None) -> Decode | None:
    """Return how tokens read, if an agent is named, or kept beside the memory."""
    path = agent or (Path(place) if place.endswith(SUFFIX) else Path(place).parent / AGENT)
    if agent is None and (place.startswith(POSTGRES) or not path.is_file()):
        return None
    tokenizer = tokenizer_of(path)

    def decode(tokens: Sequence[int]) -> str:
        try:
            return tokenizer.decode(tokens)
        except (IndexError, KeyError, OverflowError) as error:
            raise ValueError(f"{place} has tokens that {path} does not know.") from error

    return decode


def _said(line: dict[str, Any]) -> tuple[str, str]:
    """Return question and answer, as tokens where there is no text."""
    if line["text"]:
        return line["text"]["question"], line["text"]["answer"]
    story = line["tokens"]["story"]
    bare = [[token for token in part if token] for part in (story[-1:] or [[]])]
    return str(bare[0]), str([token for token in line["tokens"]["answer"] if token])


def _told(line: dict[str, Any], written: str) -> list[str]:
    """Return all about an entry, a line a thing."""
    question, answer = _said(line)
    heard = line["text"]["story"][:-1] if line["text"] else line["tokens"]["story"][:-1]
    return [
        f"entry {line['id']}: {question} {answer}",
        f"  from task {line['task']}, episode {line['episode']}, step {line['step']}",
        f"  written when {line['birth']} candidates had been seen"
        + (f", at operation {written} UTC" if written else ""),
        f"  used with a weight of {line['uses']:.3f}, last at time {line['last_use']}",
        *(f"  {name}: {value:.4g}" for name, value in line["accounts"].items()),
        *(f"  heard: {sentence}" for sentence in heard),
    ]


def _summary(opened: Opened, shown: int) -> str:
    memory = opened.memory
    gaps = ", ".join(map(str, opened.gaps))
    return (
        f"{shown} of {len(memory)} entries, room for {memory.capacity}; operation "
        f"{memory.operation}, {memory.seen} candidates seen."
        + (f" Deleted since: {gaps}." if gaps else "")
    )


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return rows as lines with columns of one width each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
