"""What a life does where it cannot write: stop, or wait until it can (`on_trouble`).

A disk is full, a folder is not to be written, a server is away. Such work changes nothing when it
fails, so it can be done again: the life then goes on exactly as if nothing had been.
"""

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from omegaconf import DictConfig
from tqdm import tqdm

from stillknows.agents.persistence.stopping import Stop
from stillknows.memory.stores.store import Through, at_once

CHOICES = ("stop", "wait")
_FIRST, _LONGEST = 1.0, 60.0  # seconds between two tries; each pause is twice the one before
_STEP = 0.5  # seconds after which a signal is heard
T = TypeVar("T")


class Waiting:
    """Does work again and again until it can be done; says once that it waits.

    Args:
        stop: ends the waiting if that is asked.
        sleep: takes seconds.
    """

    def __init__(self, stop: Stop, sleep: Callable[[float], None] | None = None) -> None:
        self.stop, self.sleep = stop, sleep or time.sleep

    def __call__(self, work: Callable[[], T], /) -> T:
        """Return what the work returns.

        Raises:
            Stopped: if the life is asked to stop meanwhile.
        """
        pause = _FIRST
        while True:
            try:
                return work()
            except OSError as error:
                if pause == _FIRST:
                    said = f"stillknows: {error} Waiting until that is mended; Ctrl-C stops."
                    tqdm.write(said, file=sys.stderr)
            self._wait(pause)
            pause = min(2 * pause, _LONGEST)

    def _wait(self, seconds: float) -> None:
        while seconds > 0:
            self.stop.check()
            self.sleep(min(seconds, _STEP))
            seconds -= _STEP


def through_of(config: DictConfig, stop: Stop) -> Through:
    """Return how a life of this configuration does what may fail.

    Raises:
        ValueError: if `on_trouble` is no choice.
    """
    choice = config.get("on_trouble", CHOICES[0])
    if choice not in CHOICES:
        raise ValueError(f"on_trouble={choice}: choose {' or '.join(CHOICES)}.")
    return Waiting(stop) if choice == "wait" else at_once
