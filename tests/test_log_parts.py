"""Logs in parts: read as one, cut as one, and the same files whatever was cut."""

import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillknows.agents.persistence.resuming import has_ended
from stillknows.agents.progress import LivesTable
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.log import LifetimeLog
from stillknows.agents.reports.log_parts import chunks, count_lines, full_part, parts, size


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass, so that equal logs have equal bytes."""
    monkeypatch.setattr("stillknows.agents.reports.log.time.time", lambda: 1.5)


def write(log: LifetimeLog, numbers: range) -> None:
    for number in numbers:
        head = {"schema": 1, "tasks": ["a"], "name": "n", "seed": 0, "protocol": "p"}
        if number:
            head = {"number": number, "words": "x" * (number % 7)}
        log.append("update0" if number else "lifetime", **head)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in parts(folder)}


def straight(folder: Path, part: int | None, events: int = 20) -> dict[str, bytes]:
    log = LifetimeLog(folder, part=part)
    write(log, range(events))
    log.close()
    return files(folder)


def test_a_long_log_is_in_files_of_a_bounded_size_and_reads_as_one(tmp_path: Path) -> None:
    one, several = (straight(tmp_path / str(part), part) for part in (None, 200))
    assert list(one) == ["log.jsonl"]
    assert len(several) > 4
    assert b"".join(several.values()) == one["log.jsonl"]
    longest = max(map(len, one["log.jsonl"].splitlines(keepends=True)))
    assert all(200 <= len(part) < 200 + longest for part in list(several.values())[:-1])
    assert list(several) == [*(f"log.{n:06d}.jsonl" for n in range(1, len(several))), "log.jsonl"]
    assert logs.read(tmp_path / "200") == logs.read(tmp_path / "None")
    assert logs.begins_with([tmp_path / "200"]) == "lifetime"
    assert logs.find([tmp_path]) == [tmp_path / "200", tmp_path / "None"]
    assert count_lines(tmp_path / "200") == 20
    assert size(tmp_path / "200") == len(one["log.jsonl"])
    assert b"".join(chunks(tmp_path / "200", 333)) == one["log.jsonl"][333:]


@given(at=st.integers(1, 19), more=st.integers(0, 18), part=st.integers(60, 400))
def test_a_life_that_is_cut_anywhere_leaves_the_same_files(
    tmp_path_factory: pytest.TempPathFactory, at: int, more: int, part: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    wanted = straight(folder / "straight", part)
    cut = folder / "cut"
    log = LifetimeLog(cut, part=part)
    write(log, range(at))
    state = log.state()
    write(log, range(at, min(20, at + more)))
    beyond = b"".join(files(cut).values())[state["bytes"] :]
    log.close()
    again = LifetimeLog(cut, resume=True, part=part)
    again.restore(state)
    assert sum(map(len, files(cut).values())) == state["bytes"]
    write(again, range(at, 20))
    again.close()
    assert files(cut) == wanted
    aside = cut / "cut.jsonl"
    assert (aside.read_bytes() if aside.exists() else b"") == beyond


def test_a_life_killed_right_after_its_log_was_divided_goes_on(tmp_path: Path) -> None:
    wanted = straight(tmp_path / "straight", 200)
    log = LifetimeLog(tmp_path / "cut", part=200)
    while len(parts(tmp_path / "cut")) < 2:
        write(log, range(state_events := log.state()["events"], state_events + 1))
    before = log.state()
    log.close()
    # killed between giving the full file its number and making the next one
    (tmp_path / "cut" / "log.jsonl").unlink()
    assert logs.find([tmp_path / "cut"]) == [tmp_path / "cut"]
    assert not has_ended(tmp_path / "cut")
    first = json.loads(full_part(tmp_path / "cut", 1).read_bytes().splitlines()[-1])
    at = first["number"] + 1
    assert at == before["events"] - 1
    again = LifetimeLog(tmp_path / "cut", resume=True, part=200)
    whole = b"".join(files(tmp_path / "cut").values())
    again.restore(
        {
            "events": at,
            "bytes": len(whole),
            "checksum": logs.checksum(again.path.parent, len(whole)),
        }
    )
    write(again, range(at, 20))
    again.close()
    assert files(tmp_path / "cut") == wanted


def test_a_part_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    straight(tmp_path / "life", 200)
    second = full_part(tmp_path / "life", 2)
    whole = second.read_bytes()
    second.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match=r"log\.000002\.jsonl, line \d+ is not JSON"):
        logs.read(tmp_path / "life")
    second.unlink()
    with pytest.raises(ValueError, match=r"lacks log\.000002\.jsonl, a part of its log"):
        logs.read(tmp_path / "life")
    second.write_bytes(whole)
    last = tmp_path / "life" / "log.jsonl"
    last.write_bytes(last.read_bytes()[:-3])
    assert len(logs.read(tmp_path / "life")) == 19  # cut short by a stop
    with pytest.raises(ValueError, match="already holds a lifetime"):
        LifetimeLog(tmp_path / "life")


def test_a_disk_that_is_full_when_the_log_is_divided_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = straight(tmp_path / "straight", 150)
    log = LifetimeLog(tmp_path / "life", part=150)
    opened, full = logs._claimed, [2]

    def claimed(path: Path) -> object:
        if full[0]:
            full[0] -= 1
            raise OSError(28, "No space left on device")
        return opened(path)

    monkeypatch.setattr("stillknows.agents.reports.log._claimed", claimed)
    said = []
    for number in range(20):
        for _ in range(3):
            try:
                write(log, range(number, number + 1))
                break
            except OSError as error:
                said.append(str(error))
    log.close()
    assert said == [f"{log.path} could not be written (No space left on device)."] * 2
    assert full == [0]
    assert files(tmp_path / "life") == wanted
    assert not (tmp_path / "life" / "cut.jsonl").exists()


def test_how_far_a_life_is_is_counted_over_all_parts(tmp_path: Path) -> None:
    log = LifetimeLog(tmp_path, part=120)
    table = LivesTable({"a": ("s", "arm")}, {"a": (tmp_path, 10)})
    counts = []
    for _ in range(9):
        log.append("update", task=0)
        counts.append(table._updates("a"))
        if len(counts) == 4:
            state = log.state()
    assert counts == list(range(1, 10))
    assert len(parts(tmp_path)) > 2
    log.restore(state)
    assert table._updates("a") == 4
    log.close()


def test_no_bit_of_a_log_can_change_unseen(tmp_path: Path) -> None:
    whole = straight(tmp_path / "life", None, events=4)["log.jsonl"]
    path, expected = tmp_path / "life" / "log.jsonl", logs.read(tmp_path / "life")
    assert [set(event) & {"checksum"} for event in expected] == [set()] * 4
    first = whole.index(b"\n")
    seal = range(whole.index(b', "checksum'), whole.index(b', "checksum') + 15)
    for place in range(len(whole) - 1):  # without its end, a last line was cut short by a stop
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 7]) + whole[place + 1 :]
        )
        try:
            events = logs.read(tmp_path / "life")
        except ValueError:
            continue
        assert place in seal, place
        assert place < first  # so that it begins as logs of before did
        assert expected[0].items() <= events[0].items()
        assert events[1:] == expected[1:]


def test_a_log_of_before_is_read_and_gone_on_with(tmp_path: Path) -> None:
    sealed = straight(tmp_path / "sealed", None, events=6)["log.jsonl"].splitlines()
    before = b"".join(line[: line.index(b', "checksum')] + b"}\n" for line in sealed[:3])
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "log.jsonl").write_bytes(before)
    log = LifetimeLog(tmp_path / "old", resume=True)
    log.restore({"events": 3, "bytes": len(before), "checksum": zlib.crc32(before)})
    write(log, range(3, 6))
    log.close()
    assert logs.read(tmp_path / "old") == logs.read(tmp_path / "sealed")
