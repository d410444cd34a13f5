"""Two memories become one, under the capacity of the first.

An entry of the other memory that is known here by the rule of remembering (the same question is
held, and always with this answer), or that has the same question, story and answer, is joined with
the one here: the greater use and the younger content stay, and what the policy here keeps of it,
so that the same memory may be merged twice and changes nothing.
Everything else is added. Where there is no room for all, those stay that were used most
(`keep="used"`), the younger among equals, or the youngest (`keep="newest"`).

Ages go by each memory's own clock; what is older than this memory becomes as old as it. Entries
here keep their ids, those of the other get new ones.

Letters: S slots.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from stillknows.memory.episodic import PROVENANCE
from stillknows.memory.stores.store import (
    COUNTERS,
    Rows,
    accounts_of,
    clear,
    describe,
    put,
    rows_of,
)

if TYPE_CHECKING:
    from stillknows.memory.nec import NEC

KEEP = ("used", "newest")
_ALIKE = ("key_size", "vector_size", "answer_length", "story_shape", "token_bytes", "identity")


class Merged(NamedTuple):
    """What became of entries.

    Attributes:
        added: ids in the other memory, and the new ones here.
        joined: ids in the other memory, and of those here that they were joined with.
        dropped: ids here that left for want of room.
        refused: ids in the other memory for which there was none.
    """

    added: dict[int, int]
    joined: dict[int, int]
    dropped: list[int]
    refused: list[int]


class _Plan(NamedTuple):
    """Where rows of the other memory go: rows, slots, and whether they join what is there."""

    rows: list[int]
    slots: list[int]
    joins: list[bool]
    leaving: list[int]
    refused: list[int]


def merge(memory: "NEC", other: "NEC", keep: str = "used") -> Merged:
    """Take the entries of another memory in; that one stays as it is.

    Args:
        memory: grows, at most to its capacity; one operation of its store.
        other: of the same sizes, capacity aside.
        keep: who stays where there is not room for all, `used` or `newest`.

    Raises:
        ValueError: if the sizes differ, or `keep` is neither.
        RuntimeError: if the memory is frozen.
    """
    _expect_alike(memory, other, keep)
    if memory._frozen:
        raise RuntimeError("The store is frozen: an examination writes nothing.")
    theirs = rows_of(other, other.columns["filled_N"].nonzero()[:, 0].cpu())
    while True:
        memory.follow()
        rows = _on_clock(memory, other, theirs)
        plan = _plan(memory, rows, keep)
        ids, next_id = memory.provenance("id").tolist(), memory.next_id
        merged = _do(memory, rows, plan)
        changed = sorted({*plan.slots, *plan.leaving})
        if memory.store.write(memory, "merge", changed):
            break
    numbers = theirs.columns["provenance_NC"][:, 0].tolist()
    new = iter(range(next_id, merged))
    placed = list(zip(plan.rows, plan.slots, plan.joins, strict=True))
    return Merged(
        {numbers[row]: next(new) for row, _, joins in placed if not joins},
        {numbers[row]: ids[slot] for row, slot, joins in placed if joins},
        [ids[slot] for slot in plan.leaving],
        [numbers[row] for row in plan.refused],
    )


def _expect_alike(memory: "NEC", other: "NEC", keep: str) -> None:
    if keep not in KEEP:
        raise ValueError(f"keep={keep!r}: choose {' or '.join(KEEP)}.")
    mine, theirs = describe(memory), describe(other)
    for name in _ALIKE:
        if mine[name] != theirs[name]:
            raise ValueError(
                f"The memories have {name}={mine[name]} and {theirs[name]}: only alike ones merge."
            )


def _on_clock(memory: "NEC", other: "NEC", rows: Rows) -> Rows:
    """Return rows with their ages and idle times kept by the clock of this memory."""
    whole = rows.columns["provenance_NC"].clone()
    for name, mine, theirs in (
        ("birth", memory.seen, other.seen),
        ("last_use", memory.clock, other.clock),
    ):
        column = PROVENANCE.index(name)
        whole[:, column] = (whole[:, column] + mine - theirs).clamp(min=0)
    own = accounts_of(memory)
    blank = torch.zeros(len(whole))
    same = own.keys() == rows.accounts.keys()
    accounts = {name: rows.accounts[name] if same else blank for name in own}
    return Rows(rows.slots_S, {**rows.columns, "provenance_NC": whole}, accounts, {})


def _plan(memory: "NEC", rows: Rows, keep: str) -> _Plan:
    """Say where each row goes, and who leaves."""
    there = _found(memory, rows)
    held = [slot for slot in range(memory.size) if slot not in memory.holes]
    worth = [_rank(rows.columns, row, keep) for row in range(len(there))]
    ranks = {("slot", slot): _rank(memory.columns, slot, keep) for slot in held}
    for row, slot in enumerate(there):
        place = ("row", row) if slot < 0 else ("slot", slot)
        ranks[place] = max(worth[row], ranks.get(place, worth[row]))
    beyond = max(0, len(ranks) - memory.capacity)
    out = sorted(ranks, key=ranks.__getitem__)[:beyond]
    leaving = [number for kind, number in out if kind == "slot"]
    refused = {number for kind, number in out if kind == "row"}
    refused |= {row for row, slot in enumerate(there) if slot in set(leaving)}
    free = iter([*sorted(memory.holes), *sorted(leaving), *range(memory.size, memory.capacity)])
    placed = [
        (row, slot if slot >= 0 else next(free), slot >= 0)
        for row, slot in enumerate(there)
        if row not in refused
    ]
    parts = [list(part) for part in zip(*placed, strict=True)] or [[], [], []]
    return _Plan(parts[0], parts[1], parts[2], leaving, sorted(refused))


def _found(memory: "NEC", rows: Rows) -> list[int]:
    """Return the slot that holds each row already, -1 where none does; no slot twice."""
    hashes = rows.columns["provenance_NC"][:, PROVENANCE.index("hash")].tolist()
    answers = rows.columns["answers_NA"].tolist()
    texts = _texts(memory.columns)
    taken: set[int] = set()
    found = []
    for row, (name, answer) in enumerate(zip(hashes, answers, strict=True)):
        alike: list[int] = []
        if memory.identity != "none":
            text = (name, tuple(answer), rows.columns["story_NTL"][row].numpy().tobytes())
            alike = [*texts.get(text, []), memory.names.known(name, tuple(answer))]
        slot = next((slot for slot in alike if slot not in taken), -1)
        found.append(slot)
        taken.add(slot)
    return found


def _texts(columns: dict[str, Tensor]) -> dict[tuple[int, tuple[int, ...], bytes], list[int]]:
    """Return the slots of every question, answer and story."""
    slots = columns["filled_N"].nonzero()[:, 0]
    hashes = columns["provenance_NC"][slots, PROVENANCE.index("hash")].tolist()
    answers, stories = columns["answers_NA"][slots].tolist(), columns["story_NTL"][slots].cpu()
    found: dict[tuple[int, tuple[int, ...], bytes], list[int]] = {}
    for slot, name, answer, story in zip(slots.tolist(), hashes, answers, stories, strict=True):
        found.setdefault((name, tuple(answer), story.numpy().tobytes()), []).append(slot)
    return found


def _rank(columns: dict[str, Tensor], place: int, keep: str) -> tuple[float, int]:
    """Return how much an entry is worth keeping."""
    birth = int(columns["provenance_NC"][place, PROVENANCE.index("birth")])
    return (float(columns["uses_N"][place]) if keep == "used" else 0.0, birth)


def _do(memory: "NEC", rows: Rows, plan: _Plan) -> int:
    """Change the device copy; return the next id."""
    clear(memory, plan.leaving)
    new = Rows(
        torch.tensor(plan.slots, dtype=torch.int64),
        {name: part[plan.rows].clone() for name, part in rows.columns.items()},
        {name: part[plan.rows].clone() for name, part in rows.accounts.items()},
        {name: getattr(memory, name) for name in COUNTERS},
    )
    at, birth = PROVENANCE.index("last_use"), PROVENANCE.index("birth")
    whole, next_id = new.columns["provenance_NC"], memory.next_id
    for place, (slot, joins) in enumerate(zip(plan.slots, plan.joins, strict=True)):
        if not joins:
            whole[place, 0], next_id = next_id, next_id + 1
            continue
        mine = rows_of(memory, torch.tensor([slot]))
        uses = torch.maximum(new.columns["uses_N"][place], mine.columns["uses_N"][0])
        last = max(int(whole[place, at]), int(mine.columns["provenance_NC"][0, at]))
        if int(mine.columns["provenance_NC"][0, birth]) >= int(whole[place, birth]):
            for name, part in mine.columns.items():
                new.columns[name][place] = part[0]
        whole[place, 0] = mine.columns["provenance_NC"][0, 0]
        whole[place, at], new.columns["uses_N"][place] = last, uses
        for name, account in new.accounts.items():
            account[place] = mine.accounts[name][0]
    new.counters["next_id"] = next_id
    new.counters["size"] = max([memory.size, *(slot + 1 for slot in plan.slots)])
    put(memory, new)
    return next_id
