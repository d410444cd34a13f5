"""A memory as lines of JSON, for other programs: a line about the whole, then one an entry.

Numbers come back exactly. Texts are there for people; tokens, key and vector are what is read.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from stillknows.agents.persistence.memory_places import memory_like
from stillknows.memory.episodic import PROVENANCE
from stillknows.memory.nec import NEC
from stillknows.memory.stores.store import COUNTERS, Rows, accounts_of, describe, put

SCHEMA = "stillknows memory 1"
Decode = Callable[[Sequence[int]], str]
_WHOLE = range(-(2**63), 2**63)  # numbers that a memory can hold
_LARGEST = torch.finfo(torch.float32).max


def entry_lines(memory: NEC, decode: Decode | None) -> Iterator[dict[str, Any]]:
    """Yield what each entry holds and where it came from, in the order of ids.

    Args:
        memory: whose entries.
        decode: tokens to text; None: none is known, and there is no text.
    """
    columns = memory.columns
    ids = memory.provenance("id").tolist()
    slots = [slot for slot in range(memory.size) if slot not in memory.holes]
    for slot in sorted(slots, key=ids.__getitem__):
        whole = dict(zip(PROVENANCE, columns["provenance_NC"][slot].tolist(), strict=True))
        story = [line for line in columns["story_NTL"][slot].tolist() if any(line)]
        answer = columns["answers_NA"][slot].tolist()
        texts = {}
        if decode is not None:
            told = [decode(line) for line in story]
            texts = {"question": told[-1] if told else "", "answer": decode(answer), "story": told}
        yield {
            **whole,
            "uses": columns["uses_N"][slot].item(),
            "text": texts,
            "tokens": {"answer": answer, "story": story},
            "key": columns["keys_ND"][slot].tolist(),
            "vector": columns["vectors_NV"][slot].tolist(),
            "accounts": {name: one[slot].item() for name, one in accounts_of(memory).items()},
        }


def export(memory: NEC, decode: Decode | None) -> Iterator[str]:
    """Yield the lines of a memory."""
    counters = {name: getattr(memory, name) for name in COUNTERS}
    whole = {"schema": SCHEMA, **describe(memory), **counters, "entries": len(memory)}
    yield json.dumps(whole)
    for line in entry_lines(memory, decode):
        yield json.dumps(line)


def read_lines(lines: Iterable[str], name: str) -> NEC:
    """Return the memory in lines, with nobody who decides.

    Args:
        lines: that `export` wrote.
        name: what sentences call them.

    Raises:
        ValueError: with one sentence, and the number of a line that is broken.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    _, first = next(numbered, (0, ""))
    head = _object(first, f"{name}, line 1")
    if head.get("schema") != SCHEMA:
        raise ValueError(f"{name} does not begin with {SCHEMA!r}: it is no exported memory.")
    memory = memory_like(head, name)
    entries = [
        _entry(memory, _object(line, where), where)
        for number, line in numbered
        for where in (f"{name}, line {number}",)
    ]
    _expect_all(head.get("entries", len(entries)), len(entries), name)
    if len(entries) > memory.capacity:
        raise ValueError(f"{name} holds {len(entries)} entries for {memory.capacity} places.")
    if entries:
        put(memory, _stacked(memory, entries))
    counters = {counter: head.get(counter) for counter in COUNTERS}
    if not all(type(value) is int and 0 <= value < 2**63 for value in counters.values()):
        raise ValueError(f"{name}, line 1 is broken: look at {', '.join(COUNTERS)}.")
    ids = {entry["provenance_NC"][0] for entry in entries}
    if len(ids) < len(entries) or not all(0 <= each < head["next_id"] for each in ids):
        raise ValueError(
            f"{name} is broken: each entry has an id of its own, from 0 and below the next_id of "
            "line 1."
        )
    for counter, value in {**counters, "size": len(entries)}.items():
        setattr(memory, counter, value)
    return memory


def _expect_all(told: Any, found: int, name: str) -> None:
    """Raise a ValueError if there are not as many entries as line 1 tells of."""
    if told != found:
        raise ValueError(
            f"{name} holds {found} entries, and line 1 tells of {told}: it was cut; export it "
            "again, or correct 'entries' in line 1 if that is meant."
        )


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{where} is no JSON object: it is broken or foreign.")
    return found


def _entry(memory: NEC, line: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the columns of one entry as lists.

    Raises:
        ValueError: if anything is missing, or of another length than the memory's.
    """
    columns = memory.columns
    steps, length = memory.story_shape
    tokens = range(torch.iinfo(columns["story_NTL"].dtype).max + 1)
    try:
        story = [[*row, *[0] * (length - len(row))] for row in line["tokens"]["story"]]
        entry = {
            "keys_ND": _numbers(line["key"], columns["keys_ND"].shape[1]),
            "vectors_NV": _numbers(line["vector"], columns["vectors_NV"].shape[1]),
            "answers_NA": _numbers(line["tokens"]["answer"], memory.answer_length, range(2**31)),
            "story_NTL": [
                _numbers(row, length, tokens)
                for row in [*story, *[[0] * length] * (steps - len(story))]
            ],
            "provenance_NC": _numbers([line[name] for name in PROVENANCE], len(PROVENANCE), _WHOLE),
            "uses_N": _numbers([line["uses"]], 1)[0],
        }
        accounts = [line["accounts"][name] for name in accounts_of(memory)]
        entry["accounts"] = _numbers(accounts, len(accounts))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where} is broken: it does not fit the sizes in line 1.") from error
    if len(entry["story_NTL"]) != steps:
        raise ValueError(f"{where} is broken: it does not fit the sizes in line 1.")
    return entry


def _numbers(numbers: list[Any], length: int, among: range | None = None) -> list[Any]:
    """Return numbers that are as many as they should be: whole ones among some, or real ones."""
    kinds = (int, float) if among is None else (int,)
    if len(numbers) != length or not all(type(one) in kinds for one in numbers):
        raise ValueError
    if not all(abs(one) <= _LARGEST if among is None else one in among for one in numbers):
        raise ValueError
    return list(map(float, numbers)) if among is None else numbers


def _stacked(memory: NEC, entries: list[dict[str, Any]]) -> Rows:
    """Return entries as rows of the first slots."""
    columns = {
        name: torch.tensor([entry[name] for entry in entries])
        .to(column)
        .view(len(entries), *column.shape[1:])
        for name, column in memory.columns.items()
        if name != "filled_N"
    }
    columns["filled_N"] = torch.ones(len(entries), dtype=torch.bool)
    accounts_FS = torch.tensor([entry["accounts"] for entry in entries]).T
    accounts = dict(zip(accounts_of(memory), accounts_FS, strict=True))
    return Rows(torch.arange(len(entries)), columns, accounts, {"size": len(entries)})
