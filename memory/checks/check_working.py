"""The checks of working memories, by name. Each is told what to look at when it fails.

They know the doors of `interface.py` (`initial_state`, `step`, `sequence`, `Read`), and of what is
behind them only what is said here: a module has a `state_dict`, and a state with `reads_BRW` is
one whose reads are fed back. Letters as in `interface.py`; I item size.
"""

import copy
import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stillknows.memory.checks.check_bench import (
    Bench,
    expect,
    expect_finite,
    expect_near,
    expect_same,
    expect_weights,
    held_beside,
    kind,
    leaves,
    tensors_in,
)
from stillknows.memory.interface import Policy, Read, detach, map_state, reset_rows
from stillknows.memory.policies.rules import EvictOldest, Reservoir, WriteNothing

_ROWS = 3
_SPARE, _MOST = 4, 64  # items beyond the slots, so that something has to leave; items at most


def applies(name: str, memory: Any) -> bool:
    """Return whether a check of this name says something about a memory."""
    if name == "weights":
        return not getattr(memory, "linear_start", False)
    if name == "save":
        return isinstance(memory, nn.Module)
    if name == "feedback":
        return hasattr(memory.initial_state(1), "reads_BRW")
    return True


def check_state(bench: Bench) -> None:
    """Every tensor of a state has B rows first, and keeps its type and shape."""
    before = leaves(_start(bench))
    for path, part in before.items():
        expect(
            part.dim() > 0 and len(part) == _ROWS,
            f"{path} of initial_state({_ROWS}) is {kind(part)}; every tensor has B rows first.",
        )
    for door, (after, _) in _both(bench, _start(bench), _items(bench)).items():
        kinds = [{path: kind(part) for path, part in x.items()} for x in (before, leaves(after))]
        for path in kinds[0].keys() | kinds[1].keys():
            was, now = (each.get(path, "nothing") for each in kinds)
            expect(was == now, f"{path} is {was} in initial_state, but {now} after {door}.")


def check_read(bench: Bench) -> None:
    """A read has the shapes and types of `Read`, from an empty memory and from a full one."""
    dtype = str(bench.dtype).removeprefix("torch.")
    wanted = f"{dtype} {[_ROWS, bench.memory.reads, bench.memory.word_size]}"
    for steps in (1, _fill(bench)):
        for door, (_, read) in _both(bench, _start(bench), _items(bench, steps)).items():
            values, slots, weights = read
            where = f"after {steps} items by {door}"
            expect(
                kind(values) == wanted,
                f"values_BRW is {kind(values)} {where}, and not {wanted}; look at reads (R) and "
                "word_size (W).",
            )
            expect(
                slots.shape == weights.shape and slots.shape[:2] == values.shape[:2],
                f"slots_BRK is {kind(slots)} and weights_BRK {kind(weights)} {where}; they have "
                "one shape, B and R first.",
            )
            expect(
                slots.dtype == torch.int64 and weights.dtype == bench.dtype,
                f"slots_BRK is {kind(slots)} and weights_BRK {kind(weights)} {where}; make them "
                f"int64 and {dtype}.",
            )
            most = getattr(bench.memory, "slots", int(slots.max()) + 1 if slots.numel() else 1)
            inside = (slots >= 0) & (slots < most)
            expect(
                bool(inside.all()),
                f"slots_BRK names a slot that is not from 0 to {most - 1} {where}.",
            )


def check_weights(bench: Bench) -> None:
    """The weights of a read are not negative and sum to at most 1."""
    for steps in (1, 2, _fill(bench)):
        for door, (_, read) in _both(bench, _start(bench), _items(bench, steps)).items():
            expect_weights(read.weights_BRK, f"after {steps} items by {door}")


def check_input(bench: Bench) -> None:
    """Neither the state nor the items that went in are changed."""
    state, _ = _run(bench, _start(bench), _items(bench, seed=1))
    doors = (_run, _sequence, _write) if hasattr(bench.memory, "write") else (_run, _sequence)
    for door in doors:
        mine, items_BTI = _copied(state), _items(bench)
        door(bench, mine, items_BTI)
        expect_same(
            {**leaves(mine), "the item": items_BTI},
            {**leaves(state), "the item": _items(bench)},
            f"of the input was changed by {_NAMES[door]}; make new tensors, change none in place.",
        )


def check_repeat(bench: Bench) -> None:
    """The same items from the same state give the same, to the bit."""
    state, _ = _run(bench, _start(bench), _items(bench, seed=1))
    for door in (_run, _sequence):
        once, again = (_outcome(door(bench, _copied(state), _items(bench))) for _ in range(2))
        expect_same(
            once,
            again,
            f"differs when {_NAMES[door]} is called again with the same state; keep nothing on "
            "self, and draw from noise.uniform with the keys of the state.",
        )


def check_rows(bench: Bench) -> None:
    """A row does not depend on its place in the batch, nor on the other rows."""
    some_B, items_BTI = torch.tensor([2, 0], device=bench.device), _items(bench)
    part = map_state(lambda x: x[some_B], _start(bench))
    whole, read = _run(bench, _start(bench), items_BTI, Reservoir())
    few, few_read = _run(bench, part, items_BTI[some_B], Reservoir())
    expect_near(
        {"the read": few_read.values_BRW, **leaves(few)},
        {"the read": read.values_BRW[some_B], **leaves(map_state(lambda x: x[some_B], whole))},
        "of a row depends on its place or on other rows; look at what mixes the first dimension.",
    )


def check_sequence(bench: Bench) -> None:
    """The read of `sequence` is that of the last of as many steps; what is absent is no step."""
    items_BTI, policy, state = _items(bench), EvictOldest(), _start(bench)
    present_BT = bench.draw(*items_BTI.shape[:2], seed=1) > 0
    present_BT[0], present_BT[1, :-1], present_BT[:, -1] = True, False, True
    asked = policy if getattr(bench.memory, "query_writes", True) else WriteNothing()
    last = items_BTI.shape[1] - 1
    for t in range(last + 1):
        after, read = bench.memory.step(state, items_BTI[:, t], policy if t < last else asked)
        state = reset_rows(after, state, ~present_BT[:, t])
    for _ in range(getattr(bench.memory, "think", 0)):
        state, read = bench.memory.step(state, torch.zeros_like(items_BTI[:, 0]), asked)
    _, once = bench.memory.sequence(_start(bench), items_BTI, present_BT, policy)
    expect_near(
        _spread(once),
        _spread(read),
        "of sequence is not that of the last of as many steps; look at the order of writing and "
        "reading, and at items that are not present.",
    )
    if hasattr(bench.memory, "write"):
        state = bench.memory.write(_start(bench), items_BTI[:, :-1], present_BT[:, :-1], policy)
        _, after = bench.memory.sequence(state, items_BTI[:, -1:], present_BT[:, -1:], policy)
        expect_near(
            _spread(after),
            _spread(once),
            "after write is not that of one sequence; let write take what is no query as sequence "
            "does.",
        )


def check_reset(bench: Bench) -> None:
    """A row that `reset_rows` made new reads as a new memory does."""
    ended_B = torch.tensor([False, True, False], device=bench.device)
    state, _ = _run(bench, _start(bench), _items(bench, seed=1))
    state = reset_rows(state, _start(bench), ended_B)
    _, read = _run(bench, state, _items(bench, 3))
    _, fresh = _run(bench, _start(bench), _items(bench, 3))
    expect_near(
        {"the read": read.values_BRW[ended_B]},
        {"the read": fresh.values_BRW[ended_B]},
        "of a row after reset_rows is not that of a new memory; look at clocks that rows share.",
    )


def check_detach(bench: Bench) -> None:
    """After `detach` no gradient reaches what came before."""
    with torch.enable_grad():
        old_BTI = _items(bench, 2).requires_grad_()
        state = detach(_run(bench, _start(bench), old_BTI)[0])
        total = torch.zeros((), device=bench.device)
        for item_BI in _items(bench, 2, seed=1).unbind(dim=1):
            state, read = bench.memory.step(state, item_BI, EvictOldest())
            total = total + read.values_BRW.sum()
        reached = None
        if total.requires_grad:
            (reached,) = torch.autograd.grad(total, old_BTI, allow_unused=True)
    expect(
        reached is None,
        "a gradient reaches items from before detach(state); keep no tensor outside the state.",
    )


def check_save(bench: Bench) -> None:
    """A memory with other numbers that loads the `state_dict` takes the same next step."""
    beside = sum(isinstance(x, nn.Parameter) for x in held_beside(bench.memory))
    expect(
        not beside,
        f"{beside} parameters are neither saved nor found by an optimiser: keep lists of them in "
        "nn.ParameterList, and modules in nn.ModuleList.",
    )
    fresh = bench._replace(memory=_redrawn(bench))
    file = io.BytesIO()
    torch.save(bench.memory.state_dict(), file)
    file.seek(0)
    fresh.memory.load_state_dict(torch.load(file, weights_only=True))
    what = (
        "differs in a memory that loaded the state_dict; register every tensor as a parameter or "
        "a buffer."
    )
    expect_same(leaves(_start(fresh)), leaves(_start(bench)), f"of initial_state {what}")
    state, _ = _run(bench, _start(bench), _items(bench))
    item_B1I = _items(bench, 1, seed=1)
    expect_same(
        _outcome(_run(fresh, _copied(state), item_B1I)),
        _outcome(_run(bench, _copied(state), item_B1I)),
        what,
    )


def check_feedback(bench: Bench) -> None:
    """What was read at the last step has its say in the next."""
    state, _ = _run(bench, _start(bench), _items(bench))
    other = state._replace(reads_BRW=state.reads_BRW + bench.draw(*state.reads_BRW.shape))
    item_B1I = _items(bench, 1, seed=1)
    (_, read), (_, changed) = (_run(bench, each, item_B1I) for each in (state, other))
    expect(
        not torch.equal(read.values_BRW, changed.values_BRW),
        "reads_BRW of the state changes nothing in the next step; give it to the controller.",
    )


def check_gradient(bench: Bench) -> None:
    """Gradients from an all-zero memory, one row of items zero too, are finite and arrive."""
    for door in (_run, _sequence):
        start, items_BTI = map_state(_zeros, _start(bench)), _items(bench, 4)
        items_BTI[0] = 0
        wanted = {"the items": items_BTI.requires_grad_(), **leaves(start), **_learned(bench)}
        wanted = {name: x for name, x in wanted.items() if x.requires_grad}
        with torch.enable_grad():
            total = door(bench, start, items_BTI)[1].values_BRW.sum()
            expect(total.requires_grad, f"the read of {_NAMES[door]} carries no gradient.")
            given = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
        expect_finite(
            {f"the gradient of {name}": x for name, x in zip(wanted, given, strict=True)},
            "from an all-zero memory; look at square roots, logarithms and divisions of 0.",
        )
        expect(
            given[0] is not None and bool(given[0][:, :-1].any()),
            f"no gradient of the read of {_NAMES[door]} reaches the items before its last; keep "
            "what is written in the state, and let it carry its gradient.",
        )


def check_long(bench: Bench) -> None:
    """A long run stays finite, and its weights are such as they were."""
    state, policy = _start(bench), EvictOldest()
    for step in range(bench.steps):
        item_BI = bench.draw(_ROWS, bench.item_size, seed=step)
        state, read = bench.memory.step(state, item_BI, policy)
        where = f"after {step + 1} items; look at what only grows."
        expect_finite({"the read": read.values_BRW}, where)
    expect_finite(leaves(state), where)
    many = getattr(bench.memory, "slots", 0) > _MOST - _SPARE  # more than the short checks fill
    if many and applies("weights", bench.memory):
        expect_weights(read.weights_BRK, f"after {bench.steps} items")


def check_gpu(bench: Bench) -> None:
    """A sequence gives the same on the GPU."""
    there = bench._replace(memory=copy.deepcopy(bench.memory), device=torch.device("cuda"))
    if isinstance(bench.memory, nn.Module):
        there.memory.to("cuda")
    _, gpu = _sequence(there, _start(there), _items(there))
    away = [name for name, part in gpu._asdict().items() if not part.is_cuda]
    expect(not away, f"{', '.join(away)} of a read on the GPU stayed on the CPU.")
    # In a fresh memory slots are alike, and which of them is taken may be a matter of rounding.
    used, _ = _sequence(bench, _start(bench), _items(bench))
    starts = (there, map_state(lambda part: part.to("cuda"), used)), (bench, used)
    (_, gpu), (_, here) = (_sequence(x, start, _items(x, 3, seed=1)) for x, start in starts)
    expect_near(
        _spread(gpu), _spread(here), "differs on the GPU; look for tensors that stay on the CPU."
    )


CHECKS: dict[str, Callable[[Bench], None]] = {
    "state": check_state,
    "read": check_read,
    "weights": check_weights,
    "input": check_input,
    "repeat": check_repeat,
    "rows": check_rows,
    "sequence": check_sequence,
    "reset": check_reset,
    "detach": check_detach,
    "save": check_save,
    "feedback": check_feedback,
    "gradient": check_gradient,
    "long": check_long,
    "gpu": check_gpu,
}


def _start(bench: Bench) -> Any:
    """Return the state before the first item; the key of a row is its number."""
    keys_B = torch.arange(_ROWS, device=bench.device)
    state = bench.memory.initial_state(_ROWS, bench.device, keys_B)
    return map_state(lambda x: x.to(bench.dtype) if x.is_floating_point() else x, state)


def _fill(bench: Bench) -> int:
    """Return how many items fill a memory of the usual sizes."""
    return min(getattr(bench.memory, "slots", _MOST) + _SPARE, _MOST)


def _items(bench: Bench, steps: int | None = None, seed: int = 0) -> Tensor:
    return bench.draw(_ROWS, steps or _fill(bench), bench.item_size, seed=seed)


def _run(
    bench: Bench, state: Any, items_BTI: Tensor, policy: Policy | None = None
) -> tuple[Any, Read]:
    """Take items one by one; return the last state and the last read."""
    policy = policy or EvictOldest()
    for t in range(items_BTI.shape[1]):
        state, read = bench.memory.step(state, items_BTI[:, t], policy)
    return state, read


def _sequence(bench: Bench, state: Any, items_BTI: Tensor) -> tuple[Any, Read]:
    """Take items by one call, all of them present."""
    present_BT = torch.ones(items_BTI.shape[:2], dtype=torch.bool, device=bench.device)
    state, read = bench.memory.sequence(state, items_BTI, present_BT, EvictOldest())
    return state, read


def _write(bench: Bench, state: Any, items_BTI: Tensor) -> Any:
    """Take items of which none is a query, all of them present."""
    present_BT = torch.ones(items_BTI.shape[:2], dtype=torch.bool, device=bench.device)
    return bench.memory.write(state, items_BTI, present_BT, EvictOldest())


_NAMES: dict[Any, str] = {_run: "step", _sequence: "sequence", _write: "write"}


def _both(bench: Bench, state: Any, items_BTI: Tensor) -> dict[str, tuple[Any, Read]]:
    return {_NAMES[door]: door(bench, state, items_BTI) for door in (_run, _sequence)}


def _outcome(after: tuple[Any, Read]) -> dict[str, Tensor]:
    state, read = after
    return leaves(state) | leaves(read)


def _spread(read: Read) -> dict[str, Tensor]:
    """Return the values, and the weights by slot, `[B, R, slots]`, as far as one is read."""
    slots_BRK, weights_BRK = read.slots_BRK, read.weights_BRK
    slots_BRK = slots_BRK.masked_fill(weights_BRK == 0, 0)
    reach = int(slots_BRK.max()) + 1 if slots_BRK.numel() else 1
    nothing_BRN = weights_BRK.new_zeros(*weights_BRK.shape[:2], reach)
    return {
        "the read": read.values_BRW,
        "the weight by slot": nothing_BRN.scatter_add(2, slots_BRK, weights_BRK),
    }


def _copied(state: Any) -> Any:
    return map_state(Tensor.clone, state)


def _zeros(part: Tensor) -> Tensor:
    """Return zeros that want a gradient for floats, and whole numbers as they are."""
    if not part.is_floating_point():
        return part
    return torch.zeros_like(part, requires_grad=True)


def _learned(bench: Bench) -> Mapping[str, Tensor]:
    return dict(bench.memory.named_parameters()) if isinstance(bench.memory, nn.Module) else {}


def _redrawn(bench: Bench) -> nn.Module:
    """Return a copy in which every float is another, in the `state_dict` and beside it."""
    fresh: nn.Module = copy.deepcopy(bench.memory)
    for tensor in (*tensors_in(fresh.state_dict()), *held_beside(fresh)):
        if tensor.is_floating_point():
            tensor.copy_(bench.draw(*tensor.shape, seed=1))
    return fresh
