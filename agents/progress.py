"""Progress of a lifetime: one bar with the task, the accuracy of late and the time left.

On anything but a terminal there is no bar.
"""

import sys
from collections.abc import Callable

from tqdm import tqdm

Progress = Callable[[str, int, float], None]


class Bar:
    """A progress bar of one lifetime.

    Args:
        name: of the lifetime.
        updates: how many there will be.
        position: the line of the bar, where several lifetimes run side by side.
    """

    def __init__(self, name: str, updates: int, position: int = 0) -> None:
        self.name = name
        self.bar = tqdm(
            total=updates,
            desc=name,
            position=position,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def __call__(self, task: str, update: int, accuracy: float) -> None:
        """Show that `update` updates are done, the last one in `task`."""
        self.bar.set_description(f"{self.name}: {task}", refresh=False)
        self.bar.set_postfix(accuracy=f"{accuracy:.2f}", refresh=False)
        self.bar.update(update - self.bar.n)

    def close(self) -> None:
        """Leave the line as it is."""
        self.bar.close()
