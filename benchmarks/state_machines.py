"""Whether any life of a memory is that of a plain list: random sequences, on every backend.

    nice python benchmarks/state_machines.py --sequences 10000
    python benchmarks/state_machines.py --sequences 50 --backends sqlite     # seconds

Hypothesis draws sequences of what can happen to a memory: it is written to (updating what is known
and evicting), read, flushed, looked back into, rewound, snapshot and restored, forked, merged,
deleted from, rekeyed, closed and opened again, killed and taken back to a checkpoint (sometimes
with the newest one broken), and shared with a second who reads and writes; its past is bounded or
not, so that it is folded on the way. After every step it must hold what a model in plain Python
holds. PostgreSQL is there if libpq's variables (PGHOST ...) lead to a server.
"""

import argparse
import contextlib
import io
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    get_state_machine_test,
    initialize,
    invariant,
    precondition,
    rule,
)
from omegaconf import OmegaConf
from tqdm import trange

from stillknows.agents.persistence.checkpoint import Checkpoints, numbered
from stillknows.agents.persistence.keeping import KeptMemory
from stillknows.agents.persistence.memory_files import erase_in
from stillknows.agents.persistence.memory_places import store_at
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.reports.log import LifetimeLog, read
from stillknows.agents.reports.report import table
from stillknows.memory.episodic import Candidates
from stillknows.memory.nec import NEC
from stillknows.memory.plain import Model, contents
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.stores.merging import merge

BACKENDS = ("tensor", "sqlite", "postgres")
CAPACITY, KEPT = 3, 2
NAMES, ANSWERS, PLACES = st.integers(0, 4), st.integers(5, 6), st.integers(0, 50)
BLOCK = 250  # sequences of one seed


def new_memory() -> NEC:
    """Return an empty memory of the machine's sizes."""
    sizes = {"answer_length": 2, "story_shape": (2, 3), "neighbours": 1}
    return NEC(CAPACITY, 4, 3, EvictOldest(), **sizes)  # type: ignore[arg-type]


def candidate(name: int, answer: int, episode: int, number: int) -> Candidates:
    """Return one row; its key and vector are those of a number."""
    random = torch.Generator().manual_seed(number)
    whole = torch.tensor([name])
    return Candidates(
        key_BD=torch.randn(1, 4, generator=random),
        vector_BV=torch.randn(1, 3, generator=random),
        answers_BA=torch.tensor([[answer]]),
        story_BTL=torch.tensor([[[0, 0, 0], [name + 1, answer, 0]]]),
        hash_B=whole,
        outcome_BF=torch.zeros(1, 3),
        task_B=whole * 0,
        episode_B=whole * 0 + episode,
        step_B=whole * 0,
    )


def recalled(memory: NEC, slot: int, model: Model) -> int:
    """Recall the entry in a slot by its key; return its slot, or that of one with the same key."""
    key_BD = memory.columns["keys_ND"][slot][None]
    recall = memory.recall(key_BD.clone())
    found = int(recall.slots_BK[0, 0])
    assert recall.answers_BKA[0, 0, 0] == model.at(found).answer
    assert torch.equal(memory.columns["keys_ND"][found], key_BD[0])
    return found


class Machine(RuleBasedStateMachine):
    """A memory, its checkpoints and log, and a second one that shares it, against the model."""

    kind = "tensor"
    folder = Path()  # where sequences leave their files
    place = ""  # of a memory on a server, which every sequence begins anew
    sequences = steps = 0

    @initialize(past=st.sampled_from([None, 1, 3, 6]), saves=st.booleans())
    def begin(self, past: int | None, saves: bool) -> None:
        """Begin with nothing; `saves`: checkpoints are written, which the past is kept for."""
        type(self).sequences += 1
        self.life = self.folder / uuid.uuid4().hex
        self.reach, self.saves, self.number, self.highest = past, saves, 0, 0
        self.model = self.kept = Model.empty(CAPACITY)  # as it is, and as it was kept
        self.past: dict[int, Model] = {0: self.model}
        self.saved: list[tuple[int, Model, int]] = []  # operation, model, events; oldest first
        self.second: NEC | None = None
        self._begin()
        if self.shares:
            self.memory.rewind(0)
            self.memory.store.reach(past)  # type: ignore[attr-defined]
        self.log.append("lifetime", schema=1, tasks=[], name="", seed=0, protocol="")
        self.events = 1

    @property
    def shares(self) -> bool:
        """Whether the memory is in a database."""
        return self.kind != "tensor"

    def _begin(self) -> None:
        """Open memory, log and checkpoints as a process does."""
        self.memory = self._opened()
        self.part, self.log = KeptMemory(self.memory), LifetimeLog(self.life, True, 300)
        if self.saves:
            config = OmegaConf.create({"checkpoint": {"every": 1, "seconds": 0, "keep": KEPT}})
            parts: dict[str, Any] = {"agent": self.part, "log": self.log}
            self.checkpoints = Checkpoints(self.life, config, parts, Stop())

    def _opened(self) -> NEC:
        memory = new_memory()
        if self.shares:
            memory.keep_in(store_at(self.place or str(self.life / "memory.sqlite")))
        return memory

    def _end(self) -> None:
        """Let go of everything as a kill does: nothing is flushed."""
        for memory in (self.memory, self.second):
            if memory is not None:
                memory.store.close()
        self.second = None

    def _kept(self, operation: int) -> None:
        """Note what is kept after an operation."""
        self.past = self.past if self.shares else {}
        self.past[operation], self.highest = self.kept, max(self.highest, operation)

    def _done(self) -> None:
        """Note that an operation has kept all that there is."""
        self.kept = self.model
        self._kept(self.memory.operation)

    def _pick(self, place: int) -> int:
        there = [slot for slot, held in enumerate(self.model.slots) if held is not None]
        return there[place % len(there)]

    def _next(self) -> int:
        self.number += 1
        return self.number

    @rule(name=NAMES, answer=ANSWERS, episode=st.integers(0, 2))
    def write(self, name: int, answer: int, episode: int) -> None:
        """Offer something: it is new, refreshes what is known, or takes the place of the oldest."""
        written = self.memory.remember(candidate(name, answer, episode, self._next()))
        self.model, told = self.model.written(name, answer, episode)
        assert written == [told], (written, told)
        self.log.append("write", name=name)
        self.events += 1
        self._done()

    @precondition(lambda self: any(self.model.slots))
    @rule(place=PLACES, times=st.integers(1, 2))
    def read(self, place: int, times: int) -> None:
        """Recall an entry by its key; that it was used is not kept yet."""
        for _ in range(times):
            self.model = self.model.used(recalled(self.memory, self._pick(place), self.model))

    @rule()
    def flush(self) -> None:
        """Keep what was used."""
        self.memory.flush()
        self._done()

    @precondition(lambda self: any(self.model.slots))
    @rule(place=PLACES)
    def delete(self, place: int) -> None:
        """Delete an entry, out of the past and out of checkpoints too."""
        held = self.model.at(self._pick(place))
        before = [self.model, *self.past.values()]
        named = {h.name for then in before for h in then.slots if h and h.entry == held.entry}
        assert self.memory.delete([held.entry]) == [held.entry]
        for path in numbered(self.life / "checkpoints"):
            erase_in(path, {held.entry: named})
        self.model = self.model.without(held.entry)
        self.past = {number: then.without(held.entry) for number, then in self.past.items()}
        self.saved = [(n, then.without(held.entry, named), e) for n, then, e in self.saved]
        self._done()

    @rule()
    def rekey(self) -> None:
        """Compute all keys anew."""
        keys = torch.randn(CAPACITY, 4, generator=torch.Generator().manual_seed(self._next()))
        self.memory.rekey(lambda story_BTL: keys[: len(story_BTL)])
        self._done()

    @rule(name=NAMES)
    def come_back(self, name: int) -> None:
        """Take a snapshot, live on, and restore it."""
        snapshot = self.memory.snapshot()
        self.memory.remember(candidate(name, 9, 0, self._next()))
        self.memory.restore(snapshot)
        self._done()

    @rule(name=NAMES, answer=ANSWERS, keep=st.sampled_from(["used", "newest"]), fresh=st.booleans())
    def merge(self, name: int, answer: int, keep: str, fresh: bool) -> None:
        """Fork, or begin another memory; let it live by itself, and take it in."""
        other, theirs = (
            (new_memory(), Model.empty(CAPACITY)) if fresh else (self.memory.fork(), self.model)
        )
        for step in range(2):
            other.remember(candidate(name + step, answer, 1, self._next()))
            theirs, _ = theirs.written(name + step, answer, 1)
        assert contents(other) == theirs
        assert contents(self.memory) == self.model
        merge(self.memory, other, keep)
        self.model = self.model.merged(theirs, keep)
        self._done()

    @rule(place=PLACES)
    def look_back(self, place: int) -> None:
        """Look at an operation, or hear that the past does not reach back to it."""
        self.flush()
        number = sorted(self.past, reverse=True)[place % len(self.past)]
        if self._reaches(number):
            assert contents(self.memory.at(number)) == self.past[number]
        else:
            refused(self.memory.at, number)

    @rule(place=PLACES)
    def go_back(self, place: int) -> None:
        """Go back to an operation, or hear that this is out of reach."""
        number = sorted(self.past, reverse=True)[place % len(self.past)]
        if not self._reaches(number):
            refused(self.memory.rewind, number)
            return
        self.memory.rewind(number)
        if self.shares:  # use that was not kept is gone
            self.past = {other: then for other, then in self.past.items() if other <= number}
            self.model = self.kept = self.past[number]

    def _reaches(self, number: int) -> bool:
        return number >= self.memory.store.first or (number == 0 and self.shares)

    @precondition(lambda self: self.shares)
    @rule()
    def open_again(self) -> None:
        """Close the memory and open it; use that was not kept is lost."""
        self._end()
        self.memory = self.part.memory = self._opened()
        self.model = self.kept

    @precondition(lambda self: self.saves)
    @rule()
    def save(self) -> None:
        """Write a checkpoint."""
        self.log.append("saved")
        self.events += 1
        self.checkpoints.save()
        self._done()
        saved = (self.memory.operation, self.model, self.events)
        self.saved = [*self.saved, saved][-KEPT:]

    @precondition(lambda self: self.saved)
    @rule(broken=st.booleans())
    def be_killed(self, broken: bool) -> None:
        """Die and go on from the newest checkpoint that is whole."""
        first, last = self.memory.store.first, self.memory.operation
        if broken and len(self.saved) == KEPT:
            path = numbered(self.life / "checkpoints")[-1]
            path.write_bytes(path.read_bytes()[:-9])
            self.saved = self.saved[:-1]
        self._end()
        self.log.close()
        self._begin()
        with contextlib.redirect_stderr(io.StringIO()):
            assert self.checkpoints.restore_newest()
        for path in self.life.rglob("*.broken"):
            path.unlink()
        operation, self.model, self.events = self.saved[-1]
        assert len(read(self.life)) == self.events
        if operation == 0 or first <= operation <= last:
            self.past = {number: then for number, then in self.past.items() if number <= operation}
        self._done()

    @precondition(lambda self: self.shares)
    @rule(name=NAMES, answer=ANSWERS, reads=st.booleans(), unaware=st.none() | NAMES)
    def share(self, name: int, answer: int, reads: bool, unaware: int | None) -> None:
        """Let a second one read, or write; the first follows, or writes and does not know of it."""
        self.second = self.second or self._opened()
        self.second.follow()
        assert contents(self.second) == self.kept
        slots = self.kept.holding(name)
        if reads and slots:
            slot = recalled(self.second, slots[0], self.kept)
            self.second.flush()
            self.kept, self.model = self.kept.used(slot), self.model.used(slot)
        else:
            (written,) = self.second.remember(candidate(name, answer, 2, self._next()))
            self.kept, told = self.kept.written(name, answer, 2)
            assert written == told, (written, told)
            self.model, _ = self.model.written(name, answer, 2)
        self._kept(self.second.operation)
        if unaware is None:
            self.memory.follow()
        else:
            self.write(unaware, answer, episode=1)

    @invariant()
    def agrees(self) -> None:
        """See that memory and model hold the same, and that the past is as long as it shall be."""
        if not hasattr(self, "memory"):
            return
        type(self).steps += 1
        assert contents(self.memory) == self.model
        assert len(self.memory) == sum(held is not None for held in self.model.slots)
        if self.shares:
            first, last = self.memory.store.first, self.memory.operation
            if self.reach is None:
                assert first == 0
            else:
                assert first <= max(0, self.highest - self.reach)
                assert self.saves or last - first <= self.reach

    def teardown(self) -> None:
        """Leave nothing."""
        if hasattr(self, "memory"):
            self._end()
            self.log.close()
            shutil.rmtree(self.life, ignore_errors=True)


def refused(look: Callable[[int], Any], number: int) -> None:
    """Expect a sentence that says that the past does not reach so far."""
    try:
        look(number)
    except ValueError as error:
        told = str(error)
    else:
        told = "nothing"
    assert "only, and" in told or "keeps no past" in told, (number, told)


def machine(kind: str, folder: Path) -> type[Machine]:
    """Return the machine of a backend, with counts of its own."""
    place = f"postgres:machine-{uuid.uuid4().hex[:8]}" if kind == "postgres" else ""
    return type("Here", (Machine,), {"kind": kind, "folder": folder, "place": place})


def run(here: type[Machine], sequences: int, length: int, number: int = 0) -> None:
    """Live sequences of a length, drawn by a number.

    Raises:
        AssertionError: where memory and model differ, with the shortest sequence that shows it.
    """
    chosen = settings(
        max_examples=sequences,
        stateful_step_count=length,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(get_state_machine_test(here, settings=chosen))()


def main() -> None:
    """Live, compare and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=10_000, help="on each backend")
    parser.add_argument("--length", type=int, default=20, help="steps of a sequence")
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for files of sequences, such as /dev/shm")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for kind in given.backends:
            here, begun = machine(kind, Path(folder)), time.monotonic()
            for block in trange(-(-given.sequences // BLOCK), desc=kind, mininterval=30):
                left = given.sequences - block * BLOCK
                run(here, min(BLOCK, left), given.length, given.seed + block)
            minutes = (time.monotonic() - begun) / 60
            rows.append([kind, f"{here.sequences:,}", f"{here.steps:,}", f"{minutes:.0f}"])
            print(table(["backend", "sequences without a difference", "steps", "minutes"], rows))


if __name__ == "__main__":
    main()
