"""`stillknows check`: a line a check; status 1 for a fault, 2 for what cannot be checked."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stillknows.agents.commands.cli import main
from stillknows.memory.checks import check_working
from stillknows.memory.slots import Slots

NO_GPU = set() if torch.cuda.is_available() else {"gpu"}
SHORT = ["controller.width=16", "working_memory.slots=4", "--steps", "20"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    status = main(["check", *arguments])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


def test_the_command_prints_one_line_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in check_working.CHECKS if name not in {"feedback", *NO_GPU}]
    wanted = [f"working_memory: {name} passed" for name in names]
    assert said(capsys, "working_memory=slots", *SHORT) == (0, wanted, [])


def test_the_command_checks_both_memories_unless_told_which(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["debug=tiny", "--steps", "20"]
    for memories, groups in (
        ([], {"working_memory", "episodic_memory"}),
        (["episodic_memory=replay", "episodic_memory.bytes=20000"], {"episodic_memory"}),
    ):
        status, lines, errors = said(capsys, *memories, *small)
        assert (status, errors) == (0, [])
        assert {line.partition(":")[0] for line in lines} == groups


class Loud(Slots):
    """Its weights sum to more than 1."""

    def read(self, state: Any, query_BW: Tensor) -> Any:
        state, read = super().read(state, query_BW)
        return state, read._replace(weights_BRK=read.weights_BRK * 20)


def test_a_fault_is_one_sentence_and_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillknows.memory.slots.Slots", Loud)
    status, lines, (sentence,) = said(capsys, "working_memory=slots", *SHORT)
    assert status == 1
    assert lines == [f"working_memory: {name} passed" for name in ("state", "read")]
    assert sentence.startswith("stillknows: working_memory, weights: weights of a read sum to ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["working_memory=slot"], "There is no working_memory 'slot'. Did you mean 'slots'?"),
        (["episodic_memory=necc"], "There is no episodic_memory 'necc'. Did you mean 'nec'?"),
        (["working_memory=none"], "working_memory=none is no memory to check: name another."),
        (["episodic_memory=none"], "episodic_memory=none is no memory to check: name another."),
        (["working_memory=none", "episodic_memory=none"], "is no memory to check"),
        (["working_memory.slotz=3"], "Did you mean"),
        (["working_memory.heads=3"], "is no multiple of heads=3"),
        (["episodic_memory.bytes=10"], "give the store more."),
        (["working_memory=slots", "--steps", "0"], "steps=0: "),
        (["working_memory._target_=nowhere.Memory"], "nowhere"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    status, lines, (sentence,) = said(capsys, *arguments)
    assert (status, lines) == (2, [])
    assert sentence.startswith("stillknows: ")
    assert words in sentence
