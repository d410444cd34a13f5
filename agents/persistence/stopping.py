"""Being asked to stop: a life that hears SIGTERM or SIGINT ends at its next boundary, saved.

If that takes long (a long examination, a large model), it ends where it is: the checkpoint before
stands.
"""

import signal
import threading
from types import FrameType
from typing import Any

PATIENCE = 10  # seconds until the next boundary
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # noqa: N818 (it is no error)
    """A life was asked to stop, and did.

    Args:
        number: of the signal; a process that ends by it has the status 128 + number.
        told: what the user reads.
    """

    def __init__(self, number: int, told: str = "stopped.") -> None:
        super().__init__(number, told)
        self.number, self.told = number, told

    @property
    def status(self) -> int:
        """The exit status."""
        return 128 + self.number


class Stop:
    """Within this context the first signal is noted and later ones are not heard.

    In another thread than the main one, which cannot hear signals, nothing is ever asked.

    Args:
        patience: seconds after which a life is stopped wherever it is.
    """

    def __init__(self, patience: int = PATIENCE) -> None:
        self.patience = patience
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            heard = {each: self._hear for each in SIGNALS} | {signal.SIGALRM: self._lose_patience}
            self._before = {each: signal.signal(each, heard[each]) for each in heard}
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.alarm(0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """End here if that was asked.

        Raises:
            Stopped: if it was.
        """
        if self.asked:
            signal.alarm(0)
            raise Stopped(self.asked)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = number
            signal.alarm(self.patience)

    def _lose_patience(self, number: int, frame: FrameType | None) -> None:
        raise Stopped(self.asked)
