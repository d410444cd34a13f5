"""Work for other processes, which takes time; the first piece of it fails."""

import time
from pathlib import Path


def work(folder: Path, number: int, place: int) -> None:
    """Leave a file, a second later."""
    if number == 0:
        raise ValueError("the first cannot be")
    time.sleep(1)
    (folder / str(number)).touch()
