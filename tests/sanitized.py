"""Native code under AddressSanitizer, in a process of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from stillknows.memory import compiled


def expect_sound(driver: str, sources: Iterable[Path], folder: Path) -> None:
    """Compile sources with checks into a folder, and run a program that prints "sound".

    Args:
        driver: the program, in Python; it is given the path of the library.
        sources: what is compiled.
        folder: of the test.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    ask = [compiler, "-print-file-name=libasan.so"]
    runtime = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(runtime).exists():
        pytest.skip("needs AddressSanitizer")
    made = folder / "checked.so"
    checked = "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"
    command = [compiler, *compiled.FLAGS, *checked, *map(str, sources), "-o", str(made)]
    subprocess.run(command, check=True)
    env = {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
    run = [sys.executable, "-c", driver, str(made)]
    done = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "sound\n", done.stderr[-2000:]
