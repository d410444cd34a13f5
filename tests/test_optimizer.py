"""Optimisers: who takes which weights, how far they move, and that their state is all there is."""

import copy
import math

import pytest
import torch
from torch import nn

from stillknows.agents.optimizer import Optimizers, build_optimizer, height


class Net(nn.Module):
    """Matrices of layers, tables, scales, a single row, and something that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 8)
        self.layer = nn.Linear(8, 16)
        self.cell = nn.LSTMCell(16, 8)
        self.row = nn.Linear(8, 1)
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.cell(torch.relu(self.layer(self.table(index))))
        return self.row(self.frozen(hidden)) * self.scale


def step(net: Net, optimizer: Optimizers, index: int) -> None:
    optimizer.zero_grad()
    net(torch.tensor([index, index + 1])).square().sum().backward()
    optimizer.step()


def names(net: Net, part: torch.optim.Optimizer) -> set[str]:
    taken = {id(p) for group in part.param_groups for p in group["params"]}
    return {name for name, p in net.named_parameters() if id(p) in taken}


def test_matrices_of_layers_go_to_muon_and_all_else_that_learns_to_adamw() -> None:
    net = Net()
    adamw, muon = build_optimizer(net, 1e-3, 0.02, 0.01).parts
    assert names(net, muon) == {"layer.weight", "cell.weight_ih", "cell.weight_hh"}
    learning = {name for name, p in net.named_parameters() if p.requires_grad}
    assert names(net, adamw) == learning - names(net, muon)
    decayed = [group["weight_decay"] for group in adamw.param_groups]
    assert decayed == [0.01, 0.0]
    assert all(p.dim() < 2 for p in adamw.param_groups[1]["params"])


def test_without_a_rate_for_matrices_adamw_takes_them_too() -> None:
    net = Net()
    (adamw,) = build_optimizer(net, 1e-3, 0, 0.01).parts
    assert names(net, adamw) == {name for name, p in net.named_parameters() if p.requires_grad}


def test_muon_moves_a_matrix_as_far_in_every_direction() -> None:
    torch.manual_seed(0)
    net = Net()
    optimizer = build_optimizer(net, 1e-3, 0.5, 0.0)
    before = net.layer.weight.detach().clone()
    optimizer.zero_grad()
    net.layer.weight.grad = torch.randn(16, 8) @ torch.diag(torch.logspace(-1, 1, 8))
    optimizer.step()
    moved = torch.linalg.svdvals((net.layer.weight - before) / 0.5)
    longest = (16 / 8) ** 0.5  # a matrix with more rows than columns moves further
    assert ((moved > 0.6 * longest) & (moved < 1.3 * longest)).all()


def test_every_group_knows_its_highest_rate_and_state_is_all_there_is() -> None:
    torch.manual_seed(0)
    net = Net()
    optimizer = build_optimizer(net, 1e-3, 0.02, 0.01)
    assert [group["highest"] for group in optimizer.param_groups] == [1e-3, 1e-3, 0.02]
    step(net, optimizer, 0)
    twin = copy.deepcopy(net)
    other = build_optimizer(twin, 0.5, 0.5, 0.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for index in (1, 2, 3):
        step(net, optimizer, index)
        step(twin, other, index)
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="should be a number, at least 0"):
        build_optimizer(Net(), -1e-3, 0.02, 0.0)
    with pytest.raises(ValueError, match="should be a number, at least 0"):
        build_optimizer(Net(), 1e-3, -0.02, 0.0)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    rates = [height(done, 20, warmup=4, fall=0.5, rest=0.2) for done in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:11] == [1.0] * 7
    assert rates[15] == pytest.approx(0.2 + 0.8 * 0.5)  # half way down
    assert rates[19] == pytest.approx(0.2 + 0.4 * (1 + math.cos(0.9 * math.pi)))
    optimizer = build_optimizer(Net(), 1e-3, 0.02, 0.0)
    optimizer.set_height(0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [5e-4, 5e-4, 0.01]
