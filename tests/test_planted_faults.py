"""Each check of memories finds the fault that is planted for it, and no other check does."""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from faulty import STEPS, dnc, nec, slots
from torch import Tensor

from stillknows.memory.checks import check_store, check_working
from stillknows.memory.checks.check import MemoryFault, bench_of, check_memory, checks_of, run_check
from stillknows.memory.dnc import DNC
from stillknows.memory.interface import Read
from stillknows.memory.knn import inverse_distance_weights
from stillknows.memory.nec import NEC
from stillknows.memory.slots import Slots


def many_slots(**changes: Any) -> Slots:
    """Return more slots than the short checks fill."""
    return type("Changed", (Slots,), changes)(80, 8, hops=2, heads=2, recency=(1.0, 0.0))


def after(kind: Any, door: str, change: Callable[..., Any]) -> Any:
    """Return a method that changes what the usual one returns; it is given the first two inputs."""

    def method(self: Any, *inputs: Any) -> Any:
        return change(self, getattr(kind, door)(self, *inputs), *inputs[:2])

    return method


def counts_in_doubles(_self: Any, result: Any, *_: Any) -> Any:
    state, read = result
    return state._replace(writes_B=state.writes_B.double()), read


def with_read(part: str, change: Callable[..., Tensor]) -> Any:
    """Return a change of one part of the read; it gets memory, tensor, state before, and item."""

    def changed(self: Any, result: tuple[Any, Read], state: Any, item: Tensor) -> Any:
        new, read = result
        return new, read._replace(**{part: change(self, getattr(read, part), state, item)})

    return changed


def counts_in_place(self: DNC, state: Any, item: Tensor, policy: Any = None) -> Any:
    state.step_B.add_(1)
    return DNC.step(self, state, item, policy)


def forgets_who_is_absent(self: Slots, state: Any, items: Tensor, here: Tensor, policy: Any) -> Any:
    return Slots.sequence(self, state, items, torch.ones_like(here), policy)


def writes_nothing(_self: DNC, state: Any, *_: Any) -> Any:
    return state


def tells_a_plain_one(self: DNC, *told: Any) -> Any:
    plain = dnc()
    plain.load_state_dict(self.state_dict())
    return plain.sequence(*told)


def reads_are_not_fed_back(self: DNC, state: Any, item: Tensor, policy: Any = None) -> Any:
    return DNC.step(self, state._replace(reads_BRW=torch.zeros_like(state.reads_BRW)), item, policy)


def keeps_what_it_saw(self: Any, x: Tensor, state: Any, item: Tensor) -> Tensor:
    total = x + 0 * getattr(self, "seen", torch.tensor(0.0))
    self.seen = item.sum()
    return total


class LooseScale(Slots):
    """Scales its reads by a tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__(4, 8, hops=2, heads=2, recency=(1.0, 0.0))
        self.scale = torch.rand(8)

    def read(self, state: Any, query_BW: Tensor) -> Any:
        state, read = super().read(state, query_BW)
        return state, read._replace(values_BRW=read.values_BRW * self.scale)


class ListedScale(LooseScale):
    """Keeps parameters in a plain list: in no state_dict, and unknown to an optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = [torch.nn.Parameter(torch.rand(8))]

    def read(self, state: Any, query_BW: Tensor) -> Any:
        state, read = Slots.read(self, state, query_BW)
        return state, read._replace(values_BRW=read.values_BRW * self.scale[0])


class LooseStart(DNC):
    """Begins with numbers that are drawn once and saved nowhere."""

    def __init__(self) -> None:
        super().__init__(8, slots=4, word_size=8, read_heads=2, hidden_size=8)
        self.start = torch.rand(4, 8)

    def initial_state(self, batch: int, device: Any = "cpu", key_B: Any = None) -> Any:
        memory_BNW = self.start.to(device).repeat(batch, 1, 1)
        return super().initial_state(batch, device, key_B)._replace(memory_BNW=memory_BNW)


def writes_in_place(_self: DNC, state: Any, items: Tensor, *_: Any) -> Any:
    state.step_B.add_(items.shape[1])
    return state


def sums_to_five_when_full(self: Slots, x: Tensor, state: Any, _item: Tensor) -> Tensor:
    return x * 5 if (state.birth_BN >= 0).all() else x


def grows(self: Any, result: Any, *_: Any) -> Any:
    state, read = result
    return state._replace(writes_B=state.writes_B * 2 + 1), read


def values(change: Callable[..., Tensor]) -> Any:
    return after(Slots, "read", with_read("values_BRW", change))


WORKING: dict[str, list[Callable[[], Any]]] = {
    "state": [lambda: slots(step=after(Slots, "step", counts_in_doubles))],
    "read": [
        lambda: slots(read=values(lambda _self, x, *_: x[:, :1])),
        lambda: slots(read=values(lambda _self, x, *_: x.double())),
        lambda: slots(
            read=after(Slots, "read", with_read("slots_BRK", lambda _s, x, *_: x + 1000))
        ),
    ],
    "weights": [
        lambda: slots(read=after(Slots, "read", with_read("weights_BRK", lambda _s, x, *_: -x))),
        lambda: slots(
            read=after(Slots, "read", with_read("weights_BRK", lambda _s, x, *_: x * 20))
        ),
    ],
    "input": [lambda: dnc(step=counts_in_place)],
    "repeat": [
        lambda: slots(
            sequence=after(
                Slots,
                "sequence",
                with_read("values_BRW", lambda _self, x, *_: x + 1e-6 * torch.rand_like(x)),
            )
        )
    ],
    "rows": [lambda: slots(read=values(lambda _self, x, *_: x * (1 + 0.01 * len(x))))],
    "sequence": [
        lambda: slots(sequence=forgets_who_is_absent),
        lambda: dnc(sequence=tells_a_plain_one, write=writes_nothing),
    ],
    "reset": [
        lambda: slots(read=values(lambda _self, x, state, _item: x + 0.01 * state.step_B[0]))
    ],
    "detach": [lambda: slots(read=values(keeps_what_it_saw))],
    "save": [LooseScale, ListedScale, LooseStart],
    "feedback": [lambda: dnc(step=reads_are_not_fed_back)],
    "gradient": [
        lambda: slots(
            read=values(
                lambda _self, x, state, _item: (
                    x + 0 * state.values_BNW.square().sum((1, 2)).sqrt()[:, None, None]
                )
            )
        ),
        lambda: slots(read=values(lambda _self, x, *_: x.detach())),
        lambda: slots(read=values(lambda _self, x, _state, item: x.detach() + item[:, None])),
    ],
    "long": [
        lambda: slots(step=after(Slots, "step", grows)),
        lambda: many_slots(
            read=after(Slots, "read", with_read("weights_BRK", sums_to_five_when_full))
        ),
    ],
}


def double_column(self: Any, *inputs: Any, **options: Any) -> None:
    NEC.__init__(self, *inputs, **options)
    self.columns["uses_N"] = self.columns["uses_N"].double()


def recalled(part: str, change: Callable[[Any, Tensor, Any], Tensor]) -> Any:
    return after(
        NEC,
        "recall",
        lambda self, recall, _query: recall._replace(
            **{part: change(self, getattr(recall, part), recall)}
        ),
    )


def forgets_where_from(self: NEC, written: Any, *_: Any) -> Any:
    self.provenance("task").fill_(-1)
    return written


def sample_anew(self: NEC, size: int, *_: Any, **_options: Any) -> Tensor:
    filled = self.columns["filled_N"].nonzero()[:, 0]
    return filled[torch.randperm(len(filled))[:size]]


def no_copy(self: NEC) -> dict[str, Any]:
    return {**NEC.snapshot(self), "columns": dict(self.columns)}


def half_a_snapshot(self: NEC, snapshot: dict[str, Any]) -> None:
    clock = self.clock
    NEC.restore(self, snapshot)
    self.clock = clock


def always_counts(self: NEC, slots: Tensor, weights: Tensor) -> None:
    before, self._frozen = self._frozen, False
    NEC.touch(self, slots, weights)
    self._frozen = before


@contextlib.contextmanager
def unguarded(_self: NEC) -> Any:
    yield


def clock_overflows(self: NEC, x: Tensor, _recall: Any) -> Tensor:
    return x + 0 * torch.tensor(2.0) ** self.seen


def keeps_its_keys(self: NEC, encode: Any, *_: Any) -> float:
    return 1.0


def sample_of_any_age(self: NEC, size: int, key: int, **_: Any) -> Tensor:
    return NEC.sample(self, size, key)


def without_stories(self: NEC, entries: Any, *_: Any) -> Any:
    return entries._replace(story_BTL=torch.zeros_like(entries.story_BTL))


def tells_of_nobody(_self: NEC, written: Any, *_: Any) -> Any:
    return [each._replace(evicted=-1) for each in written]


STORES: dict[str, list[Callable[[], Any]]] = {
    "columns": [lambda: nec(__init__=double_column)],
    "empty": [
        lambda: nec(
            recall=recalled("slots_BK", lambda self, x, _r: x if len(self) else torch.zeros_like(x))
        )
    ],
    "remember": [
        lambda: nec(remember=after(NEC, "remember", forgets_where_from)),
        lambda: nec(entries=after(NEC, "entries", without_stories)),
    ],
    "recall": [lambda: nec(recall=recalled("distance_BK", lambda _self, x, _r: x.sqrt()))],
    "use": [
        lambda: nec(touch=lambda *_: None),
        lambda: nec(touch=lambda self, slots, weights: NEC.touch(self, slots, weights * 100)),
    ],
    "refusal": [lambda: nec(refuse=lambda *_: None, _writes_at_once=lambda *_: False)],
    "weights": [
        lambda: nec(recall=recalled("weights_BK", lambda _self, x, _r: x * 1.5)),
        lambda: nec(recall=recalled("weights_BK", lambda _self, x, _r: -x)),
    ],
    "rows": [lambda: nec(recall=recalled("weights_BK", lambda _self, x, _r: x * x.amax()))],
    "rekey": [lambda: nec(rekey=keeps_its_keys)],
    "sample": [lambda: nec(sample=sample_anew), lambda: nec(sample=sample_of_any_age)],
    "snapshot": [lambda: nec(snapshot=no_copy), lambda: nec(restore=half_a_snapshot)],
    "frozen": [lambda: nec(touch=always_counts), lambda: nec(frozen=unguarded)],
    "capacity": [
        lambda: nec(__len__=lambda self: self.seen),
        lambda: nec(remember=after(NEC, "remember", tells_of_nobody)),
    ],
    "gradient": [
        lambda: nec(
            recall=recalled(
                "weights_BK", lambda _self, _x, r: inverse_distance_weights(r.distance_BK.sqrt())
            )
        )
    ],
    "long": [lambda: nec(recall=recalled("vectors_BKV", clock_overflows))],
}


def failing(build: Callable[[], Any]) -> list[str]:
    """Return what all checks find, each on a new memory."""
    failed = []
    for name, check in checks_of(build()):
        try:
            run_check(name, check, bench_of(build(), steps=STEPS))
        except MemoryFault as fault:
            failed.append(str(fault))
    return failed


@pytest.mark.parametrize(
    ("name", "build"),
    [
        pytest.param(name, build, id=f"{kind}-{name}-{number}")
        for kind, faults in (("working", WORKING), ("store", STORES))
        for name, builds in faults.items()
        for number, build in enumerate(builds)
    ],
)
def test_a_fault_is_found_by_its_check_alone(name: str, build: Callable[[], Any]) -> None:
    (fault,) = failing(build)
    assert re.fullmatch(rf"{name}: [^\n]+\.", fault)
    with pytest.raises(MemoryFault, match=f"^{name}: "):
        check_memory(build(), steps=STEPS)


def test_a_write_in_place_is_found() -> None:
    with pytest.raises(MemoryFault, match=r"^input: .* was changed by write"):
        run_check(
            "input",
            check_working.check_input,
            bench_of(dnc(sequence=tells_a_plain_one, write=writes_in_place)),
        )


def test_each_check_has_a_fault() -> None:
    assert set(WORKING) == set(check_working.CHECKS) - {"gpu"}
    assert set(STORES) == set(check_store.CHECKS) - {"gpu"}


def test_what_a_memory_raises_is_a_fault_of_the_check() -> None:
    def step(*_: Any) -> None:
        raise KeyError("no such slot")

    with pytest.raises(MemoryFault, match=r"^state: the memory raised KeyError: 'no such slot'\.$"):
        check_memory(slots(step=step))
