"""Metrics against matrices worked out by hand, and against their definitions in plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stillknows.envs.measures import metrics

R = np.array(
    [
        [0.10, 0.20, 0.00],
        [0.90, 0.30, 0.10],
        [0.95, 0.80, 0.20],
        [0.60, 0.70, 0.85],
    ]
)
TRAINED = [0, 1, 2]


def test_by_hand() -> None:
    found = metrics.summary(R, TRAINED)
    assert list(found) == list(metrics.METRICS)
    assert found == pytest.approx(
        {
            "average_accuracy": (0.60 + 0.70 + 0.85) / 3,
            "backward_transfer": ((0.60 - 0.90) + (0.70 - 0.80)) / 2,
            "forward_transfer": ((0.30 - 0.20) + (0.20 - 0.00)) / 2,
            "forgetting": ((0.95 - 0.60) + (0.80 - 0.70)) / 2,
            "forgetting_last": ((0.90 - 0.60) + (0.80 - 0.70)) / 2,
            "forgetting_clipped": ((0.95 - 0.60) + (0.80 - 0.70)) / 2,
            "forgetting_all_tasks": ((0.90 - 0.60) + (0.80 - 0.70) + 0.0) / 3,
            "isolated_forgetting": ((0.90 - 0.95) + (0.95 - 0.60) + (0.80 - 0.70)) / 3,
            "zero_shot_transfer": ((0.30 - 0.20) + (0.10 - 0.00) + (0.20 - 0.10)) / 3,
            "negative_backward_transfer": (((0.90 - 0.95) + (0.90 - 0.60)) / 2 + 0.80 - 0.70) / 3,
            "learning_accuracy": (0.90 + 0.80 + 0.85) / 3,
        }
    )
    reference = metrics.intransigence(R, TRAINED, [1.0, 0.9, 0.95])
    assert reference == pytest.approx((0.10 + 0.10 + 0.10) / 3)


def test_changes_are_shares_of_the_scale_of_their_task() -> None:
    returns = R * [100.0, 1.0, 10.0]
    scale = [200.0, 1.0, 20.0]
    lost = ((0.90 - 0.95) / 2 + (0.95 - 0.60) / 2 + (0.80 - 0.70)) / 3
    gained = ((0.30 - 0.20) + (0.10 - 0.00) / 2 + (0.20 - 0.10) / 2) / 3
    assert metrics.isolated_forgetting(returns, TRAINED, scale) == pytest.approx(lost)
    assert metrics.zero_shot_transfer(returns, TRAINED, scale) == pytest.approx(gained)


def test_what_state_adds_by_hand() -> None:
    stateful, stateless = [0.9, 0.4, 1.0], [0.5, 0.6, 1.0]
    assert metrics.gain(stateful, stateless) == pytest.approx((0.4 - 0.2 + 0.0) / 3)
    # the third task is at its best without state: nothing to gain
    found = metrics.normalised_gain(stateful, stateless)
    assert found == pytest.approx((0.4 / 0.5 - 0.2 / 0.4) / 2)
    found = metrics.normalised_gain(stateful, stateless, best=[0.7, 1.1, 2.0])
    assert found == pytest.approx((0.4 / 0.2 - 0.2 / 0.5 + 0.0) / 3)
    assert math.isnan(metrics.normalised_gain([0.5], [1.0]))


def test_returns_between_a_floor_and_a_reference() -> None:
    found = metrics.normalise(np.array([[-200.0, 10.0], [-50.0, 30.0]]), [-200, 10], [-100, 20])
    np.testing.assert_allclose(found, [[0.0, 0.0], [1.5, 2.0]])
    with pytest.raises(ValueError, match="above its floor"):
        metrics.normalise(R, [0, 0, 1], [1, 1, 1])


def test_a_score_before_its_own_training_can_be_the_best() -> None:
    early = R.copy()
    early[1, 1] = 0.85  # task 1 after segment 1, which trained task 0
    assert metrics.forgetting(early, TRAINED) == pytest.approx(((0.95 - 0.60) + 0.15) / 2)
    # Mammoth and PyCIL have not examined it then
    assert metrics.forgetting_clipped(early, TRAINED) == pytest.approx((0.35 + 0.10) / 2)
    early[0, 1] = 1.0  # before any training: not a score after a segment
    assert metrics.forgetting(early, TRAINED) == pytest.approx(((0.95 - 0.60) + 0.15) / 2)


def test_a_task_that_improves_forgets_less_than_nothing_but_not_when_clipped() -> None:
    better = R.copy()
    better[3, 0] = 1.0
    assert metrics.forgetting(better, TRAINED) == pytest.approx(((0.95 - 1.0) + 0.10) / 2)
    assert metrics.forgetting_clipped(better, TRAINED) == pytest.approx((0.0 + 0.10) / 2)


def test_tasks_in_another_order_are_another_naming() -> None:
    order = [2, 0, 1]  # segment t trains task order[t]
    renamed = np.empty_like(R)
    renamed[:, order] = R
    assert metrics.summary(renamed, order) == pytest.approx(metrics.summary(R, TRAINED))


def test_repeats_count_from_the_first_training() -> None:
    matrix = np.vstack([R, [0.9, 0.6, 0.8]])
    found = metrics.summary(matrix, [0, 1, 2, 0])
    assert found["learning_accuracy"] == pytest.approx((0.9 + 0.8 + 0.85) / 3)
    assert found["backward_transfer"] == pytest.approx((0.0 - 0.2 - 0.05) / 3)
    assert found["forgetting"] == pytest.approx((0.05 + 0.2 + 0.05) / 3)
    assert found["forward_transfer"] == pytest.approx((0.1 + 0.2) / 2)
    # what task 0 gained by its own second training is not isolated from it
    assert found["isolated_forgetting"] == pytest.approx((-0.05 + 0.35 + 0.1 + 0.1 + 0.05) / 5)


def test_scores_that_were_not_taken_are_left_out() -> None:
    gaps = R.copy()
    gaps[3, 1] = np.nan
    assert metrics.backward_transfer(gaps, TRAINED) == pytest.approx(-0.30)
    assert metrics.forgetting(gaps, TRAINED) == pytest.approx(0.35)
    gaps[2, 0] = np.nan
    assert metrics.forgetting(gaps, TRAINED) == pytest.approx(0.30)
    assert math.isnan(metrics.average_accuracy(np.full((2, 1), np.nan), [0]))


@pytest.mark.parametrize(
    ("missing", "expected", "of_all_tasks"),
    [
        ((3, 2), (0.2 + 0.2) / 2, (0.3 + 0.2) / 2),  # the last cell: of the last task nothing
        ((3, 1), (0.2 + 0.0) / 2, (0.3 + 0.0) / 2),  # all that came after the second task
        ((3, 0), (0.1 + 0.2 + 0.0) / 3, (0.2 + 0.0) / 2),  # one of two that came after the first
        ((2, 1), (0.2 + 0.0) / 2, (0.3 + 0.0) / 2),  # its own
        ((1, 1), (0.2 + 0.2 + 0.0) / 3, (0.3 + 0.2 + 0.0) / 3),  # one before its own
    ],
)
def test_nbt_leaves_out_what_forgetting_of_all_tasks_does(
    missing: tuple[int, int], expected: float, of_all_tasks: float
) -> None:
    gaps = np.array([[0.1, 0.2, 0.3], [0.9, 0.2, 0.3], [0.8, 0.7, 0.3], [0.6, 0.5, 0.9]])
    gaps[missing] = np.nan
    found = metrics.summary(gaps, [0, 1, 2])
    assert found["negative_backward_transfer"] == pytest.approx(expected)
    assert found["forgetting_all_tasks"] == pytest.approx(of_all_tasks)


def test_one_task_has_nothing_to_forget_or_transfer() -> None:
    found = metrics.summary(np.array([[0.2], [0.7]]), [0])
    defined = {name: value for name, value in found.items() if not math.isnan(value)}
    assert defined == {
        "average_accuracy": 0.7,
        "learning_accuracy": 0.7,
        "forgetting_all_tasks": 0.0,
        "negative_backward_transfer": 0.0,
    }


def test_a_row_for_every_segment_and_one_before() -> None:
    with pytest.raises(ValueError, match="4 rows for 2 training segments"):
        metrics.summary(R, [0, 1])


@settings(max_examples=60)
@given(
    arrays(float, (6, 4), elements=st.floats(0, 1) | st.just(np.nan)),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
)
def test_any_stream_against_the_definitions_in_loops(matrix: np.ndarray, tasks: list[int]) -> None:
    end = len(tasks)
    lists: dict[str, list[float]] = {name: [] for name in metrics.METRICS}
    lists["average_accuracy"] = [matrix[end][j] for j in range(4)]
    for j in set(tasks):
        own = tasks.index(j) + 1
        lists["learning_accuracy"].append(matrix[own][j])
        if own > 1:
            lists["forward_transfer"].append(matrix[own - 1][j] - matrix[0][j])
        if own < end:
            past = [matrix[t][j] for t in range(1, end) if matrix[t][j] == matrix[t][j]]
            best, last = max(past, default=math.nan), matrix[end][j]
            lists["backward_transfer"].append(last - matrix[own][j])
            lists["forgetting_last"].append(matrix[own][j] - last)
            lists["forgetting"].append(best - last)
            since = [s for s in (matrix[t][j] for t in range(own, end + 1)) if s == s]
            lists["forgetting_clipped"].append(max(since, default=math.nan) - last)
        later = [matrix[own][j] - matrix[t][j] for t in range(own + 1, end + 1)]
        later = [value for value in later or [matrix[own][j] * 0] if value == value]
        lists["negative_backward_transfer"].append(sum(later) / len(later) if later else math.nan)
        lists["forgetting_all_tasks"].append(matrix[own][j] - matrix[end][j])
        for t in range(1, end + 1):
            change = matrix[t][j] - matrix[t - 1][j]
            if t < own:
                lists["zero_shot_transfer"].append(change)
            elif t > own and tasks[t - 1] != j:
                lists["isolated_forgetting"].append(-change)
    for name, found in metrics.summary(matrix, tasks).items():
        known = [value for value in lists[name] if value == value]
        expected = sum(known) / len(known) if known else math.nan
        assert found == pytest.approx(expected, nan_ok=True), name


@settings(max_examples=50)
@given(arrays(float, (5, 4), elements=st.floats(0, 1)))
def test_relations_that_always_hold(matrix: np.ndarray) -> None:
    found = metrics.summary(matrix, [0, 1, 2, 3])
    assert found["backward_transfer"] == pytest.approx(-found["forgetting_last"])
    assert found["forgetting_clipped"] >= max(0.0, found["forgetting_last"]) - 1e-12
    assert found["forgetting_all_tasks"] * 4 == pytest.approx(found["forgetting_last"] * 3)
    assert found["forgetting"] >= found["forgetting_last"] - 1e-12
    assert all(-1 <= value <= 1 for value in found.values())
    best = metrics.intransigence(matrix, [0, 1, 2, 3], [1.0] * 4)
    assert best == pytest.approx(1 - found["learning_accuracy"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::SyntaxWarning")
def test_the_library_agrees_where_it_is_right() -> None:
    pytest.importorskip("avalanche")
    from avalanche.evaluation.metrics.forgetting_bwt import BWT, Forgetting
    from avalanche.evaluation.metrics.forward_transfer import ForwardTransfer

    random = np.random.default_rng(0)
    matrix = random.random((6, 5))
    lost, gained, transfer = Forgetting(), BWT(), ForwardTransfer()
    for after, row in enumerate(matrix):
        for task, score in enumerate(row.tolist()):
            for metric in (lost, gained):
                if after > task:
                    metric.update(task, score, initial=after == task + 1)
            if after in (0, task):
                transfer.update(task, score, initial=after == 0)
    found = metrics.summary(matrix, range(5))
    theirs = {task: value for task, value in transfer.result().items() if task > 0}
    assert found["forgetting_last"] == pytest.approx(np.mean(list(lost.result().values())))
    assert found["backward_transfer"] == pytest.approx(np.mean(list(gained.result().values())))
    assert found["forward_transfer"] == pytest.approx(np.mean(list(theirs.values())))
    # but it is not the forgetting of Chaudhry et al., which begins from the best
    assert found["forgetting"] > found["forgetting_last"] + 0.1
