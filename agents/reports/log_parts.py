"""A log in parts: `log.000001.jsonl`, `log.000002.jsonl` ..., and `log.jsonl`, which is written.

Read one after the other they are the log. No part is longer than the configuration says and one
line more; a part that is full is renamed when the next line comes, so the last one is never empty
for long.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FILE = "log.jsonl"
_FULL = "log.[0-9][0-9][0-9][0-9][0-9][0-9].jsonl"
_CHUNK = 1 << 20


def full_part(folder: Path, number: int) -> Path:
    """Return the path of a part that is full; they count from 1."""
    return folder / f"log.{number:06d}.jsonl"


def full_parts(folder: Path) -> list[Path]:
    """Return the parts that are full, in order.

    Raises:
        ValueError: if one is missing.
    """
    numbers = sorted(int(each.suffixes[0][1:]) for each in folder.glob(_FULL))
    missing = set(range(1, len(numbers) + 1)).difference(numbers)
    if missing:
        raise ValueError(
            f"{folder} lacks {full_part(folder, min(missing)).name}, a part of its log."
        )
    return [full_part(folder, number) for number in numbers]


def parts(folder: Path) -> list[Path]:
    """Return the files of a log in order; none where there is none."""
    last = folder / FILE
    return [*full_parts(folder), *([last] if last.is_file() else [])]


def size(folder: Path) -> int:
    """Return the bytes of a log."""
    return sum(path.stat().st_size for path in parts(folder))


def chunks(folder: Path, begin: int = 0) -> Iterator[bytes]:
    """Yield the bytes of a log from a place on."""
    for path in parts(folder):
        try:
            file = path.open("rb")
        except FileNotFoundError:  # it gets its number just now: the next look finds it
            return
        with file:
            length = os.fstat(file.fileno()).st_size
            file.seek(min(begin, length))
            begin = max(0, begin - length)
            while chunk := file.read(_CHUNK):
                yield chunk


def count_lines(folder: Path) -> int:
    """Return how many whole lines a log has."""
    return sum(chunk.count(b"\n") for chunk in chunks(folder))


def checksum(folder: Path, length: int) -> int:
    """Return the CRC-32 of the first bytes of a log, -1 if it has fewer."""
    found, left = 0, length
    for chunk in chunks(folder):
        part = chunk[:left]
        found, left = zlib.crc32(part, found), left - len(part)
        if not left:
            break
    return -1 if left else found


def where(folder: Path, place: int) -> tuple[int, int]:
    """Return in which of the parts a place lies, and where in it: in the first that reaches it."""
    number, lengths = 0, [path.stat().st_size for path in parts(folder)]
    while place > lengths[number]:
        place -= lengths[number]
        number += 1
    return number, place


def copy_from(folder: Path, begin: int, file: BinaryIO) -> None:
    """Write the bytes of a log from a place on into a file."""
    for chunk in chunks(folder, begin):
        file.write(chunk)
