"""Action values: the equations of Neural Episodic Control, recomputed in plain numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.memory.action_values import ActionValues, n_step_returns
from stillknows.memory.policies.rules import EvictOldest

pytestmark = pytest.mark.usefixtures("either")
D = 3


def whole(*numbers):
    return torch.tensor(numbers, dtype=torch.int64)


def filled(seed=0, entries=12, capacity=12, **options):
    """Return action values of two actions with `entries` states each, and what was written."""
    source = torch.Generator().manual_seed(seed)
    options = {"neighbours": 4, "delta": 0.01, **options}
    memory = ActionValues(2, capacity, D, **options)
    written = []
    for action in (0, 1):
        keys = torch.randn(entries, D, generator=source)
        returns = torch.randn(entries, generator=source)
        names = torch.arange(entries) + 100 * action
        memory.write(torch.full((entries,), action), keys, names, returns)
        written.append((keys.double().numpy(), returns.double().numpy(), names.tolist()))
    return memory, written


def by_hand(keys, returns, query, neighbours=4, delta=0.01):
    """Return equation 1 for one query, with the distances in the same order."""
    distance = np.array([((query - key) ** 2).sum() for key in keys])
    near = np.argsort(distance, kind="stable")[:neighbours]
    kernel = 1 / (distance[near] + delta)
    return float((kernel * returns[near]).sum() / kernel.sum())


def test_a_value_is_the_mean_of_its_neighbours_by_the_kernel():
    memory, written = filled()
    queries = torch.randn(5, D, generator=torch.Generator().manual_seed(9))
    values = memory.values(queries, whole(-2, -3, -4, -5, -6))
    for row, query in enumerate(queries.double().numpy()):
        for action, (keys, returns, _) in enumerate(written):
            assert values[row, action].item() == pytest.approx(
                by_hand(keys, returns, query), abs=1e-5
            )


def test_what_was_never_written_has_the_stated_value():
    memory = ActionValues(2, 4, D, empty=-1.5)
    assert memory.values(torch.zeros(3, D), whole(1, 2, 3)).tolist() == [[-1.5, -1.5]] * 3
    memory.write(whole(1), torch.zeros(1, D), whole(7), torch.tensor([2.0]))
    assert memory.values(torch.zeros(3, D), whole(7, 8, 9)).tolist() == [[-1.5, 2.0]] * 3
    alone = memory.replay(whole(1), torch.zeros(1, D), whole(7))
    assert alone.tolist() == [-1.5]  # nobody else is there


def test_a_known_state_moves_towards_its_return_and_an_unknown_one_is_appended():
    memory = ActionValues(1, 4, D, update_rate=0.25)
    memory.write(whole(0), torch.zeros(1, D), whole(7), torch.tensor([2.0]))
    memory.write(whole(0, 0), torch.zeros(2, D), whole(7, 8), torch.tensor([4.0, 5.0]))
    store = memory.stores[0]
    assert len(store) == 2
    held = dict(
        zip(store.provenance("hash").tolist(), store.columns["vectors_NV"].tolist(), strict=True)
    )
    assert held[7] == [2.0 + 0.25 * (4.0 - 2.0)]
    assert held[8] == [5.0]


def test_a_state_that_comes_again_within_an_episode_is_known():
    states, keys = whole(7, 8, 7, 7), torch.arange(12.0).view(4, D)
    memory = ActionValues(2, 8, D, update_rate=0.5)
    memory.write(whole(0, 1, 0, 0), keys, states, torch.tensor([8.0, 3.0, 4.0, 2.0]))
    assert [len(store) for store in memory.stores] == [1, 1]
    assert memory.stores[0].columns["vectors_NV"][0].item() == (8 + 4) / 4 + 2 / 2  # (4)
    assert torch.equal(memory.stores[0].columns["keys_ND"][0], keys[3])
    best = ActionValues(1, 8, D, kernel="mean", update="max")
    for _ in range(2):  # unknown, then known
        best.write(whole(0, 0, 0, 0), keys, states, torch.tensor([1.0, 3.0, 9.0, 2.0]))
        assert len(best) == 2
        assert best.values(keys[:2], states[:2]).flatten().tolist() == [9.0, 3.0]


def test_rows_beyond_the_capacity_or_with_repeats_are_written_as_one_after_the_other():
    source = torch.Generator().manual_seed(2)
    names = torch.randint(9, (40,), generator=source)
    actions, returns = names % 2, torch.rand(40, generator=source)
    keys = torch.rand(9, D, generator=source)[names]
    at_once, one_by_one = (ActionValues(2, 3, D, policy=EvictOldest) for _ in range(2))
    at_once.write(actions, keys, names, returns)
    for row in range(40):
        rows = slice(row, row + 1)
        one_by_one.write(actions[rows], keys[rows], names[rows], returns[rows])
    for ours, theirs in zip(at_once.stores, one_by_one.stores, strict=True):
        for name in ("keys_ND", "vectors_NV", "filled_N"):
            assert torch.equal(ours.columns[name], theirs.columns[name])
        assert ours.next_id == theirs.next_id


def test_who_was_no_neighbour_for_longest_leaves():
    memory = ActionValues(1, 3, 1, neighbours=1)
    for name in range(3):
        memory.write(whole(0), torch.tensor([[float(name)]]), whole(name), torch.tensor([1.0]))
    memory.values(torch.tensor([[0.1]]), whole(-9))  # entry 0 is a neighbour now
    memory.write(whole(0), torch.tensor([[9.0]]), whole(9), torch.tensor([1.0]))
    assert sorted(memory.stores[0].provenance("hash").tolist()) == [0, 2, 9]


def test_replay_leaves_out_the_state_itself():
    memory, written = filled()
    keys, returns, names = written[0]
    query = torch.tensor(keys[3:4], dtype=torch.float32)
    others = [i for i in range(12) if i != 3]
    value = memory.replay(whole(0), query, whole(names[3])).item()
    assert value == pytest.approx(by_hand(keys[others], returns[others], keys[3]), abs=1e-5)
    stranger = memory.replay(whole(0), query, whole(-7)).item()
    assert stranger == pytest.approx(by_hand(keys, returns, keys[3]), abs=1e-5)


def test_the_gradient_reaches_query_keys_and_values_summed_over_duplicates():
    memory, _ = filled(learning_rate=0.1)
    query = torch.randn(2, D, generator=torch.Generator().manual_seed(4))
    query = torch.cat([query, query]).requires_grad_()  # every neighbour is gathered twice
    names = whole(-2, -3, -2, -3)

    def loss():
        return memory.replay(whole(0, 1, 0, 0), query, names).square().sum()

    loss().backward()
    gathered = memory._gathered[0]
    keys, values = memory.stores[0].columns["keys_ND"], memory.stores[0].columns["vectors_NV"]
    step = 1e-2
    for row, slot in enumerate(gathered.slots_U.tolist()):
        for column, place, gradient in (
            (keys, (slot, 1), gathered.keys_UD.grad[row, 1]),
            (values, (slot, 0), gathered.values_U.grad[row]),
        ):
            before = column[place].item()
            column[place] = before + step
            above = loss().item()
            column[place] = before - step
            below = loss().item()
            column[place] = before
            slope = (above - below) / (2 * step)
            assert gradient.item() == pytest.approx(slope, rel=0.05, abs=0.02)
    assert query.grad.abs().sum() > 0


def test_steps_are_rmsprop_for_each_row_and_a_new_entry_begins_anew():
    memory, _ = filled(entries=4, capacity=4, learning_rate=0.01)  # all four are always gathered
    store = memory.stores[0]
    table = torch.cat([store.columns["keys_ND"], store.columns["vectors_NV"]], dim=1)
    dense = torch.nn.Parameter(table.clone())
    optimiser = torch.optim.RMSprop([dense], lr=0.01, alpha=0.95, eps=0.01)
    query = torch.tensor([[0.3, -0.2, 0.5]])
    for _ in range(5):
        memory.replay(whole(0), query, whole(-2)).square().sum().backward()
        memory.descend()
        distance = (query - dense[:, :D]).square().sum(1)
        kernel = 1 / (distance + 0.01)
        optimiser.zero_grad()
        ((kernel * dense[:, D]).sum() / kernel.sum()).square().backward()
        optimiser.step()
    now = torch.cat([store.columns["keys_ND"], store.columns["vectors_NV"]], dim=1)
    torch.testing.assert_close(now, dense.detach(), atol=1e-5, rtol=1e-4)
    memory.write(whole(0), torch.zeros(1, D), whole(50), torch.tensor([3.0]))  # someone leaves
    slot = store.find(whole(50)).item()
    memory.replay(whole(0), query, whole(-2)).square().sum().backward()
    (gathered,) = memory._gathered
    gradient = gathered.values_U.grad[(gathered.slots_U == slot).nonzero()[0, 0]].item()
    memory.descend()
    root = math.sqrt(0.05 * gradient**2)
    moved = store.columns["vectors_NV"][slot, 0].item() - 3.0
    assert moved == pytest.approx(-0.01 * gradient / (root + 0.01), rel=1e-4)


def test_model_free_episodic_control_is_a_configuration():
    memory = ActionValues(1, 8, 1, neighbours=2, kernel="mean", update="max")
    keys = torch.tensor([[0.0], [1.0], [5.0]])
    memory.write(whole(0, 0, 0), keys, whole(1, 2, 3), torch.tensor([1.0, 2.0, 9.0]))
    memory.write(whole(0, 0), keys[:2], whole(1, 2), torch.tensor([4.0, 0.5]))
    assert memory.values(torch.tensor([[0.4]]), whole(-2)).item() == pytest.approx((4 + 2) / 2)
    assert memory.values(torch.tensor([[0.4]]), whole(3)).item() == pytest.approx(9.0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=12),
    st.integers(1, 14),
    st.floats(0, 1),
    st.floats(-3, 3),
)
def test_returns_by_hand(rewards, steps, discount, last):
    bootstrap = [0.5 * i - 1 for i in range(len(rewards))]
    returns = n_step_returns(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(bootstrap, dtype=torch.float64),
        steps,
        discount,
        last,
    )
    values = [*bootstrap, last]
    for t in range(len(rewards)):
        end = min(t + steps, len(rewards))
        total = sum(discount ** (i - t) * rewards[i] for i in range(t, end))
        assert returns[t].item() == pytest.approx(total + discount ** (end - t) * values[end])


def test_whole_rewards_are_worth_no_less():
    returns = n_step_returns(whole(1, 1, 1), torch.zeros(3), 3, 0.9)
    assert returns.tolist() == pytest.approx([2.71, 1.9, 1.0])


def test_an_unknown_kernel_is_one_sentence():
    with pytest.raises(ValueError, match="kernel='gauss': choose inverse_distance or mean"):
        ActionValues(1, 4, D, kernel="gauss")
    with pytest.raises(ValueError, match="update='last': choose average or max"):
        ActionValues(1, 4, D, update="last")


@pytest.mark.parametrize("action", [-1, 2])
def test_an_action_that_is_not_there_is_one_sentence_and_writes_nothing(action: int) -> None:
    memory, whole = ActionValues(2, 10, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=f"There is no action {action}: choose 0 to 1."):
        memory.write(torch.tensor([0, action]), torch.randn(2, 3), whole, torch.ones(2))
    assert [store.size for store in memory.stores] == [0, 0]


def test_values_learn_under_the_mean_as_well() -> None:
    """This kernel has no gradient to keys; what neighbours are worth moves all the same."""
    memory = ActionValues(1, 8, 1, neighbours=2, kernel="mean", learning_rate=0.5)
    keys = torch.tensor([[0.0], [1.0]])
    memory.write(whole(0, 0), keys, whole(1, 2), torch.ones(2))
    held = {name: part.clone() for name, part in memory.stores[0].columns.items()}
    memory.replay(whole(0), torch.tensor([[0.4]]), whole(3)).sum().backward()
    memory.descend()
    columns = memory.stores[0].columns
    assert torch.equal(columns["keys_ND"], held["keys_ND"])
    assert (columns["vectors_NV"][:2] < held["vectors_NV"][:2]).all()


def test_who_left_before_the_descent_moves_nobody_and_a_frozen_store_moves_nothing() -> None:
    memory = ActionValues(1, 2, 1, neighbours=2, learning_rate=0.5)
    memory.write(whole(0, 0), torch.tensor([[0.0], [1.0]]), whole(1, 2), torch.ones(2))
    memory.replay(whole(0), torch.tensor([[0.4]]), whole(3)).sum().backward()
    memory.write(whole(0), torch.tensor([[5.0]]), whole(4), torch.tensor([7.0]))
    slot = memory.stores[0].find(whole(4)).item()
    before = memory.snapshot()
    with memory.frozen(), pytest.raises(RuntimeError, match="frozen: an examination moves nothing"):
        memory.descend()
    columns = memory.stores[0].columns
    assert torch.equal(columns["vectors_NV"], before["stores"][0]["columns"]["vectors_NV"])
    memory.descend()
    assert columns["vectors_NV"][slot].item() == 7.0
    assert columns["keys_ND"][slot].item() == 5.0
    assert columns["vectors_NV"][1 - slot].item() < 1
    assert memory._owners[0][slot] == -1
    memory.replay(whole(0), torch.tensor([[0.4]]), whole(3)).sum().backward()
    memory.restore(before)
    memory.descend()
    assert torch.equal(columns["vectors_NV"][slot], torch.tensor([7.0]))


def test_who_leaves_was_no_neighbour_for_longest_though_nothing_was_written_since():
    """Reads of an episode come before its writes, and each has a time of its own."""
    memory = ActionValues(1, 8, D, neighbours=2)
    keys = torch.arange(8.0).div(2, rounding_mode="floor")[:, None].expand(8, D).contiguous()
    memory.write(whole(*[0] * 8), keys, torch.arange(8), torch.zeros(8))
    for pair in (3, 1, 0, 2):
        memory.values(torch.full((1, D), float(pair)), whole(-1))
    with memory.frozen():
        memory.values(torch.full((1, D), 3.0), whole(-1))
    for new, gone in ((10, {6, 7}), (20, {6, 7, 2, 3})):
        memory.write(whole(0, 0), torch.full((2, D), 50.0), whole(new, new + 1), torch.zeros(2))
        held = set(memory.stores[0].provenance("hash").tolist())
        assert set(range(8)) - held == gone


@pytest.mark.parametrize(("actions", "names"), [((0, 1), (1, 2)), ((0, 0, 0), (1, 2, 1))])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_of_a_write_that_is_refused_nothing_is_kept(actions, names, wrong):
    memory = ActionValues(2, 8, D)
    returns = torch.tensor([1.0] * (len(names) - 1) + [wrong])
    with pytest.raises(ValueError, match="NaN or infinite, and the store is left as it is"):
        memory.write(whole(*actions), torch.zeros(len(names), D), whole(*names), returns)
    assert len(memory) == 0


@pytest.mark.parametrize(
    "options",
    [{"epsilon": 0.0}, {"decay": 2.0}, {"decay": "a"}, {"empty": math.nan},
     {"update": "max", "update_rate": 5}],
)  # fmt: skip
def test_options_that_would_put_no_numbers_into_the_store_are_refused(options):
    with pytest.raises(ValueError, match=f"{list(options)[-1]}=.* should be a number"):
        ActionValues(2, 8, D, **options)
