"""Every benchmark can be loaded and says how it is called; what it measures is its own affair."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_is_loaded_and_helps(
    name: str,
    load_benchmark: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    try:
        module = load_benchmark(name)
    except ModuleNotFoundError as missing:
        if str(missing.name).partition(".")[0] in {"stillknows", *NAMES}:
            raise
        pytest.skip(f"needs {missing.name}, which only benchmarks need")
    if not hasattr(module, "main"):
        return
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")
