"""NTMs with weights that are no start, and policies that say where."""

import pytest
import torch
from torch import Tensor, nn

from stillknows.memory.interface import (
    ADD,
    MERGE,
    SKIP,
    UPDATE,
    Decision,
    Features,
    map_state,
)
from stillknows.memory.ntm import NTM, NTMState

B, N, W, R, V, S, INPUT, HIDDEN = 2, 5, 3, 2, 2, 3, 4, 6


def build(shifts: int = S, **options: bool) -> NTM:
    torch.manual_seed(0)
    memory = NTM(INPUT, N, W, R, V, shifts=shifts, hidden_size=HIDDEN, **options).double()
    for name, parameter in memory.named_parameters():
        if name == "initial_memory":
            nn.init.normal_(parameter)  # a start of 1e-6 is met in its own tests
        else:
            parameter.data.mul_(3)
    return memory


@pytest.fixture
def ntm() -> NTM:
    return build()


def fresh(ntm: NTM, batch: int = B) -> NTMState:
    state = ntm.initial_state(batch)
    return map_state(lambda z: z.double() if z.is_floating_point() else z, state)


def random_items(steps: int, batch: int = B) -> Tensor:
    return torch.randn(batch, steps, INPUT, dtype=torch.float64)


class Says:
    """Always the same decision about slot 2, as victim or as place."""

    def __init__(self, victim: float = 0.0, **action: float) -> None:
        numbers = {"skip": SKIP, "add": ADD, "update": UPDATE, "merge": MERGE}
        self.action = torch.zeros(4, dtype=torch.float64)
        for name, probability in action.items():
            self.action[numbers[name]] = probability
        self.victim = victim
        self.seen: list[Features] = []

    def decide(self, features: Features) -> Decision:
        self.seen.append(features)
        rows, slots = features.filled_BN.shape
        place = torch.zeros(rows, slots, dtype=torch.float64)
        place[:, 2] = 1
        return Decision(self.action.expand(rows, 4), place, self.victim * place, torch.zeros(rows))
