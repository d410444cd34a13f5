"""Compiles C++ once, into a folder of the user's own, where there is a compiler.

It knows nothing of what is compiled: that is what a store does (`native.py`), and what the
microworld tells (`stillknows.envs.native_stories`). The folder is `$XDG_CACHE_HOME/stillknows` or
`~/.cache/stillknows`; the compiler is `CXX`, or c++, g++ or clang++.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno",
         "-fno-trapping-math", "-w", "-shared", "-fPIC", "-pthread")  # fmt: skip
_SECONDS = 120  # that a compiler may take


def load(
    name: str,
    sources: Sequence[Path],
    headers: Sequence[Path],
    signatures: Mapping[str, Sequence[Any]],
) -> ctypes.CDLL | None:
    """Return the sources as one library, compiled if they are not yet; None where that fails.

    Args:
        name: begins the name of the file, which changes with the sources and the processor.
        sources: what is compiled.
        headers: what the sources include.
        signatures: of each function the types of its arguments; all return whole numbers.
    """
    if os.environ.get("STILLKNOWS_NATIVE", "1") == "0" or os.name != "posix":
        return None
    try:
        path = _folder() / f"{name}-{_key([*sources, *headers])}.so"
        if not path.exists():
            _compile(sources, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # the second: nobody has a home
        return None
    for function, types in signatures.items():
        getattr(loaded, function).argtypes = types
        getattr(loaded, function).restype = ctypes.c_int64
    return loaded


def pointers(names: str) -> tuple[tuple[str, Any], ...]:
    """Return fields of a structure that are addresses."""
    return tuple((name, ctypes.c_void_p) for name in names.split())


def wholes(names: str) -> tuple[tuple[str, Any], ...]:
    """Return fields of a structure that are whole numbers of 64 bits."""
    return tuple((name, ctypes.c_int64) for name in names.split())


def _folder() -> Path:
    """Return the folder of compiled files; nobody else may write there.

    Raises:
        OSError: if somebody else might, or there is none.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "stillknows"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise OSError(f"{folder} can be written by others.")
    return folder


def _key(files: Sequence[Path]) -> str:
    """Return a name for some files on this processor."""
    parts = (*(path.read_text() for path in files), " ".join(FLAGS), *_processor())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


@functools.cache
def _processor() -> tuple[str, str]:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else [platform.processor()]
    abilities = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    return platform.platform(), abilities


def _compile(sources: Sequence[Path], path: Path) -> None:
    """Compile the sources to a path, whole or not at all: others may do the same meanwhile.

    Raises:
        OSError: if there is no compiler, or no room.
        subprocess.SubprocessError: if it fails.
    """
    wanted = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next((found for name in wanted if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError("There is no C++ compiler.")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *FLAGS, *map(str, sources), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
        made.replace(path)
