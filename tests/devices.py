"""Memories on two devices, and whether the host is made to wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise where the host waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def expect_near(mine: Any, theirs: Any, bound: float, what: str) -> None:
    if mine is None or theirs is None:
        zero = [each for each in (mine, theirs) if each is not None and each.any()]
        assert not zero, what
        return
    mine, theirs = mine.detach().cpu().double(), theirs.detach().cpu().double()
    assert mine.shape == theirs.shape, what
    assert mine.isfinite().equal(theirs.isfinite()), what
    difference, norm = (mine - theirs).nan_to_num().norm(), theirs.nan_to_num().norm()
    assert difference <= bound * norm + 1e-6, f"{what}: {difference:.2g} of {norm:.2g}"
