"""What a life in control tasks asks of whoever learns there, and what one update told.

PPO (`recurrent_ppo.py`) and episodic control (`episodic_learner.py`) are two of them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from gymnasium import spaces
from torch import Tensor, nn

from stillknows.agents.acting.players import Player
from stillknows.agents.acting.rollout import Stage
from stillknows.envs.control import Ended, Fault
from stillknows.memory.episodic import Written


class Lived(NamedTuple):
    """What one update lived through and did.

    Attributes:
        steps: of all rows together.
        ended: the episodes that came to their end.
        faults: the episodes that broke.
        numbers: what learning tells of itself, by name; `loss` among them.
        written: what became of what asked to be remembered.
    """

    steps: int
    ended: list[Ended]
    faults: list[Fault]
    numbers: dict[str, float]
    written: Sequence[Written] = ()


class Hooks(NamedTuple):
    """Who hears of every move of the weights, as Avalanche's plugins do.

    Attributes:
        before_backward: takes the loss, and may add to it.
        after_backward: hears that there are gradients.
        after_step: hears that the weights have moved.
    """

    before_backward: Callable[[Tensor], Tensor] = lambda loss: loss
    after_backward: Callable[[], None] = lambda: None
    after_step: Callable[[], None] = lambda: None


NO_HOOKS = Hooks()


class ControlLearner(Protocol):
    """Lives in control tasks and learns. It is not told which task it is in.

    Attributes:
        agent: whose weights learn.
        optimizer: that moves them; None where each body has its own.
        told_boundaries: whether it is told where experiences begin.
    """

    agent: nn.Module
    optimizer: Any
    told_boundaries: bool

    def meet(self, observations: spaces.Space[Any], actions: spaces.Space[Any]) -> str:
        """Prepare for a pair of spaces; return its name."""
        ...

    def begin(self) -> None:
        """Hear that an experience begins; who is not told boundaries makes nothing of it."""
        ...

    def update(
        self,
        signature: str,
        stage: Stage,
        share: float = 0.0,
        hooks: Hooks = NO_HOOKS,
    ) -> Lived:
        """Live some steps in every row of a stage and learn from them."""
        ...

    def player(self, signature: str, sampled: bool = False, seed: int = 0) -> Player:
        """Return who acts in examinations, and leaves no trace."""
        ...

    @property
    def entries(self) -> int:
        """How many memories are kept beyond an episode."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of them."""
        ...

    def state(self) -> dict[str, Any]:
        """Return all that another update depends on, as a tree of tensors and numbers."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; the same spaces were met, in the same order."""
        ...

    def pack(self, carried: Any) -> Any:
        """Return what a stage carries from step to step as a tree."""
        ...

    def unpack(self, tree: Any, rows: int) -> Any:
        """Return what `pack` made a tree of."""
        ...
