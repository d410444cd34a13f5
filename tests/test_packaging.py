"""What is installed is what is here, under one name, and it runs from anywhere."""

import importlib
import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import get_method
from omegaconf import DictConfig, ListConfig

ROOT = Path(__file__).parents[1]
FOLDERS = ("agents", "memory", "envs", "configs")


def test_the_wheel_lists_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {
        "stillknows." + str(file.parent.relative_to(ROOT)).replace("/", ".")
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found


@contextmanager
def avalanche_warns() -> Iterator[None]:
    """Let the warnings of Avalanche's imports pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_no_module_is_imported_under_a_bare_name() -> None:
    for folder in ("agents", "memory", "envs"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.stem != "__init__":
                name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                with avalanche_warns():
                    importlib.import_module(f"stillknows.{name}")
    assert not {name.split(".")[0] for name in sys.modules} & set(FOLDERS)


def test_memory_knows_neither_agents_nor_environments() -> None:
    code = "import sys, stillknows.memory.nec, stillknows.memory.slots;"
    code += "import stillknows.memory.policies.learned;"
    code += (
        "print([m for m in sys.modules if m.split('.')[0] in ('gymnasium', 'avalanche', 'hydra')"
    )
    code += " or m.startswith(('stillknows.agents', 'stillknows.envs'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_command_line_knows_its_commands() -> None:
    mention = "stillknows.agents.commands"
    elsewhere = [
        str(file.relative_to(ROOT))
        for folder in ("agents", "memory", "envs")
        for file in (ROOT / folder).rglob("*.py")
        if mention in file.read_text() and file.parent != ROOT / "agents" / "commands"
    ]
    assert not elsewhere


def targets(config: object) -> list[str]:
    if isinstance(config, DictConfig):
        inner = [config._get_node(key) for key in config]
        own = [str(config["_target_"])] if "_target_" in config else []
        return own + [target for node in inner for target in targets(node)]
    if isinstance(config, ListConfig):
        return [target for number in range(len(config)) for target in targets(config[number])]
    return []


def test_every_configuration_composes_and_names_what_exists() -> None:
    groups = [
        path for path in (ROOT / "configs").iterdir() if path.is_dir() and path.name[0] != "_"
    ]
    checked = set()
    with initialize_config_module("stillknows.configs", version_base="1.3"):
        for group in groups:
            for file in group.glob("*.yaml"):
                config = compose("train", [f"{group.name}={file.stem}"])
                checked.update(targets(config))
    for target in checked:
        with avalanche_warns():
            assert callable(get_method(target)), target
    assert len(checked) > 12


@pytest.mark.slow
def test_the_wheel_from_the_sdist_runs_the_main_job_from_anywhere(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, env=clean)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*install, str(wheel)], check=True, env=clean)
    (tmp_path / "elsewhere").mkdir()
    command = [str(python.parent / "stillknows"), "train", "debug=tiny"]
    done = subprocess.run(
        command, cwd=tmp_path / "elsewhere", env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / "runs" / "microworld-1" / "report.md").exists()
