"""The log of memory operations: it replays, and says what was used."""

from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.teaching.operations import (
    Operations,
    find_operations,
    load_operations,
    record,
    replay,
    save_operations,
)
from stillknows.agents.teaching.trial import Trial, stories_of
from stillknows.memory.interface import ADD, MERGE, SKIP, Decision, Features
from stillknows.memory.policies.actor import ActorPolicy
from stillknows.memory.policies.critic import CriticPolicy
from stillknows.memory.policies.diversity import EvictAlike, MergeAlike
from stillknows.memory.policies.rules import (
    EvictIdle,
    EvictOldest,
    EvictRare,
    Reservoir,
    WriteNothing,
)

WHERE = "stillknows/WherePerson-v0"
DIALS = {"sentences": 9, "questions": 3, "people": 2, "places": 3, "distractors": 0.3}
POLICIES = [EvictOldest, EvictIdle, EvictRare, Reservoir, EvictAlike, MergeAlike, WriteNothing]


@pytest.fixture(scope="module")
def trial() -> Trial:
    options = [f"stream.tasks.{name}={value}" for name, value in DIALS.items()]
    config = compose_config(
        ["arm=none", "controller.width=16", "stream.tasks.tasks=[where_person]", *options]
    )
    torch.manual_seed(0)
    reader = build_agent(config, hydra.utils.instantiate(config.stream.tasks, _convert_="all"))
    short = stories_of(WHERE, {**DIALS, "sentences": 5, "questions": 2}, range(3), first=20)
    return Trial(reader, [*stories_of(WHERE, DIALS, range(8), first=4), *short])


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("slots", [2, 4])
def test_who_wrote_the_log_decides_again_as_it_did(trial: Trial, kind: Any, slots: int) -> None:
    operations = record(trial, kind(), slots)
    again = replay(operations, kind())
    assert torch.equal(again.action_BT, operations.action_BT)
    assert torch.equal(again.leaver_BT, operations.leaver_BT)
    assert torch.equal(again.held_BQT, operations.read_BQT >= 0)
    assert operations.policy == kind.__name__


@pytest.mark.parametrize("kind", [ActorPolicy, CriticPolicy])
def test_policies_that_sample_replay_as_well(trial: Trial, kind: Any) -> None:
    torch.manual_seed(1)
    policy = kind(16).train()
    operations = record(trial, policy, 3)
    again = replay(operations, policy)
    assert torch.equal(again.action_BT, operations.action_BT)
    assert torch.equal(again.leaver_BT, operations.leaver_BT)


def held_by_hand(operations: Operations, row: int, question: int) -> set[int]:
    held: set[int] = set()
    for item in range(int(operations.after_BQ[row, question])):
        action = int(operations.action_BT[row, item])
        if action == ADD:
            held.discard(int(operations.leaver_BT[row, item]))
            held.add(item)
    return held


@pytest.mark.parametrize("kind", [EvictOldest, EvictRare, Reservoir, EvictAlike])
def test_actions_and_leavers_tell_what_is_held(trial: Trial, kind: Any) -> None:
    operations = record(trial, kind(), 3)
    for row in range(len(trial.stories)):
        for question in range(3):
            held = (operations.read_BQT[row, question] >= 0).nonzero()[:, 0].tolist()
            assert set(held) == held_by_hand(operations, row, question)


def test_a_log_holds_losses_and_uses_of_the_trial(trial: Trial) -> None:
    operations = record(trial, EvictOldest(), 3)
    torch.testing.assert_close(
        operations.loss_BQ, trial.run(EvictOldest(), 3).loss_BQ.detach(), equal_nan=True
    )
    full = record(trial, EvictOldest(), 9)
    torch.testing.assert_close(full.read_BQT.clamp(min=0), full.use_BQT)
    assert replay(full, EvictOldest()).kept == pytest.approx(1.0)
    assert replay(full, WriteNothing()).kept == 0.0
    part = replay(full, EvictOldest(), slots=2)
    expected = (full.use_BQT * part.held_BQT).sum() / full.use_BQT.sum()
    assert part.kept == pytest.approx(float(expected))
    assert 0 < part.kept < 1


def test_what_was_never_done_is_a_skip(trial: Trial) -> None:
    assert (record(trial, WriteNothing(), 3).action_BT == SKIP).all()
    merged = record(trial, MergeAlike(), 2)
    assert (merged.action_BT == MERGE).any()
    assert (merged.leaver_BT == -1).all()


class NamesNoSlot(EvictOldest):
    """Leaves it to the memory where there is room."""

    leaves_first = None

    def decide(self, features: Features) -> Decision:
        decision = super().decide(features)
        return decision._replace(slot_BN=torch.zeros_like(decision.slot_BN))


def test_an_add_that_names_no_slot_is_an_add(trial: Trial) -> None:
    one, other = (record(trial, policy, 3) for policy in (EvictOldest(), NamesNoSlot()))
    for name in ("action_BT", "leaver_BT", "read_BQT"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_file_holds_it_all(trial: Trial, tmp_path: Path) -> None:
    operations = record(trial, Reservoir(), 3)
    path = tmp_path / "life" / "operations" / "000010.safetensors"
    save_operations(operations, path)
    assert find_operations([tmp_path]) == [path]
    for name, part in load_operations(path)._asdict().items():
        before = getattr(operations, name)
        if isinstance(part, torch.Tensor):
            torch.testing.assert_close(part, before, rtol=0, atol=0, equal_nan=True)
        else:
            assert part == before
    with pytest.raises(ValueError, match="train with operations=N"):
        find_operations([tmp_path / "elsewhere"])


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: {"slots": 0},
        lambda whole: {"slots": 10**13},
        lambda whole: {"slots": "3"},
        lambda whole: {"policy": 3},
        lambda whole: {"after_BQ": whole.after_BQ + 10},
        lambda whole: {"after_BQ": whole.after_BQ.float()},
        lambda whole: {"after_BQ": whole.after_BQ[0]},
        lambda whole: {"leaver_BT": whole.leaver_BT - 1},
        lambda whole: {"action_BT": whole.action_BT + 3},
        lambda whole: {"present_BT": whole.present_BT.float()},
        lambda whole: {"items_BTW": whole.items_BTW.long()},
        lambda whole: {"key_B": whole.key_B.tolist()},
        lambda whole: {
            name: part[:, :0] for name, part in whole._asdict().items() if "_BQ" in name
        },
    ],
)
def test_what_cannot_have_been_written_is_refused(
    change: Any, trial: Trial, tmp_path: Path
) -> None:
    operations = record(trial, Reservoir(), 3)
    path = tmp_path / "0000010.safetensors"
    save_operations(operations._replace(**change(operations)), path)
    with pytest.raises(ValueError, match="holds no operations as they should be"):
        load_operations(path)
