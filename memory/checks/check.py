"""Whether a memory keeps its contract: small checks, each with a name, for anybody's memory.

`check_memory(memory)` runs those of a working memory (`check_working.py`) or of a lifelong store
(`check_store.py`); from the command line it is `stillknows check working_memory=NAME` or
`stillknows check episodic_memory=NAME`. This file knows nothing of what is checked.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from stillknows.memory.checks import check_store, check_working
from stillknows.memory.checks.check_bench import Bench, MemoryFault

__all__ = ["Check", "MemoryFault", "bench_of", "check_memory", "checks_of", "run_check"]

Check = Callable[[Bench], None]


def check_memory(
    memory: Any,
    item_size: int | None = None,
    steps: int = 10_000,
    report: Callable[[str], object] | None = None,
) -> list[str]:
    """Run every check on a working memory or a lifelong store, which stays as it was.

    Each check has a copy of the memory to itself, in the mode in which it is, training or not.
    What does not apply is left out: `weights` in a linear start, `save` for what is no module,
    `feedback` where the state has no `reads_BRW`, what reads a store without keys, and `gpu`
    where there is none.

    Args:
        memory: a working memory, or a store (it has `remember`) that holds nothing yet.
        item_size: width of an item; if None, `memory.input_size` or else `memory.word_size`.
        steps: items of the long run.
        report: is called with the name of each check at once when it was passed.

    Returns:
        The names of the checks that were passed, in their order.

    Raises:
        MemoryFault: at the first check that was not: its name, what is wrong, where to look.
        ValueError: if the store holds something or `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: the long run needs at least one.")
    if _is_store(memory) and len(memory):
        raise ValueError(f"The store holds {len(memory)} entries: give check_memory an empty one.")
    passed = []
    for name, check in checks_of(memory):
        run_check(name, check, bench_of(memory, item_size, steps))
        passed.append(name)
        if report is not None:
            report(name)
    return passed


def checks_of(memory: Any) -> Iterator[tuple[str, Check]]:
    """Yield the names and checks that apply; whether one does is asked when its turn comes."""
    module = check_store if _is_store(memory) else check_working
    for name, check in module.CHECKS.items():
        if torch.cuda.is_available() if name == "gpu" else module.applies(name, memory):
            yield name, check


def bench_of(memory: Any, item_size: int | None = None, steps: int = 10_000) -> Bench:
    """Return a bench with a copy of a memory; arguments as in `check_memory`."""
    if item_size is None:
        item_size = getattr(memory, "input_size", getattr(memory, "word_size", 0))
    tensors, floats = getattr(memory, "columns", {}), []
    if isinstance(memory, nn.Module):
        tensors = dict(memory.named_parameters()) | dict(memory.named_buffers())
        floats = [part.dtype for part in tensors.values() if part.is_floating_point()]
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    dtype = floats[0] if floats else torch.float32
    return Bench(copy.deepcopy(memory), item_size, steps, device, dtype)


def run_check(name: str, check: Callable[[Any], None], bench: Any, of: str = "memory") -> None:
    """Run one check, without gradients unless it asks for them.

    Args:
        name: of the check.
        check: what it does.
        bench: what it works with.
        of: what is checked, for the sentence.

    Raises:
        MemoryFault: if it fails, or what is checked raises anything; it begins with the name.
    """
    try:
        with torch.no_grad():
            check(bench)
    except MemoryFault as fault:
        raise MemoryFault(f"{name}: {fault}") from None
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        said = f"{type(error).__name__}: {lines[0].rstrip('.')}"
        raise MemoryFault(f"{name}: the {of} raised {said}.") from error


def _is_store(memory: Any) -> bool:
    return hasattr(memory, "remember")
