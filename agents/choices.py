"""What there is to choose from: the files of `configs/`, a folder a group."""

import shutil
import textwrap
from importlib.resources import files

from omegaconf import DictConfig, OmegaConf

_OF_SOLVE = ("working_memory", "experiment", "debug")  # where nothing is lived
_SOLVERS = ("dnc", "ntm")  # with a recurrence of their own
_COLUMN = 20  # where the choices of a group begin


def groups() -> list[str]:
    """Return the names of all groups."""
    folders = (f.name for f in files("stillknows.configs").iterdir() if f.is_dir())
    return sorted(name for name in folders if not name.startswith("_"))


def choices(group: str) -> list[str]:
    """Return the names that a group has; a group within another has a slash in its name."""
    folder = files("stillknows.configs")
    for part in group.split("/"):
        folder = folder / part
    return sorted(
        f.name.removesuffix(".yaml")
        for f in folder.iterdir()
        if f.name.endswith(".yaml") and not f.name.startswith("for_")  # these choose for a memory
    )


def command_of(group: str, name: str) -> str:
    """Return which command a choice is for: `train`, if it does not say."""
    return str(_written(group, name).get("command", "train"))


def arms_with(option: str) -> list[str]:
    """Return the arms that have an option of their own, such as `si_c`."""
    return [arm for arm in choices("arm") if option in _own_options(arm)]


def options_of_arms() -> list[str]:
    """Return the names of all options that only some arms have."""
    return sorted({str(option) for arm in choices("arm") for option in _own_options(arm)})


def _own_options(arm: str) -> set[str]:
    """Return the options of an arm that are not of the parts that every life has."""
    everywhere = {"defaults", *groups(), *map(str, _read("train.yaml"))}
    return {str(name) for name in _written("arm", arm)} - everywhere


def _written(group: str, name: str) -> DictConfig:
    return _read(f"{group}/{name}.yaml")


def _read(path: str) -> DictConfig:
    """Return a file of `configs/` as it is written."""
    file = files("stillknows.configs") / path
    return DictConfig(OmegaConf.create(file.read_text(encoding="utf-8")))


def told(command: str) -> str:
    """Return a text with a paragraph a group: what can be chosen in it for `train` or `solve`."""
    lines = ["what there is to choose from:"]
    for group in groups():
        if command == "solve" and group not in _OF_SOLVE:
            continue
        names = choices(group)
        if group in ("experiment", "debug"):
            names = [name for name in names if command_of(group, name) == command]
        elif command == "solve":
            names = [name for name in names if name in _SOLVERS]
        option = "  arms=[...]" if group == "arm" else f"  {group}="
        lines.append(_paragraph(option, ", ".join(names)))
    return "\n".join(lines) + "\n"


def _paragraph(option: str, names: str) -> str:
    width = max(40, shutil.get_terminal_size().columns - 2)
    return textwrap.fill(
        f"{option:{_COLUMN}}{names}",
        width,
        subsequent_indent=" " * _COLUMN,
        break_on_hyphens=False,
    )
