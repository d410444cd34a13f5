"""Which lifetimes of an arm may be averaged: those with the same options; the others get names.

The options of an agent are what its log's configuration holds beside the stream, which the setting
tells (see `protocol.py`), and beside what changes nothing that is lived.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf

from stillknows.agents.choices import choices, groups
from stillknows.agents.persistence.moved import as_now
from stillknows.agents.reports.protocol import Setting, flat

_NO_OPTIONS = (  # of the setting, of one life or run, and of examinations
    *("stream", "protocol", "rows", "name", "arm", "arms", "seed", "seeds", "order", "orders"),
    *("streams", "command", "run", "workers", "device", "keep", "checkpoint", "on_trouble", "log"),
    *("operations", "operations_keep", "exam_arms", "anatomy", "generalisation"),
)
_OF_A_PLACE = ("device", "seed", "store", "place", "past")  # of a part: where it is, not what
_NO_PARTS = ("debug", "experiment", "stream")


def options_of(config: Any) -> Setting:
    """Return the options of an agent by their dotted names, from the configuration in a log."""
    if not isinstance(config, Mapping):
        return {}
    found = _leaves({name: part for name, part in config.items() if name not in _NO_OPTIONS})
    return {name: found[name] for name in found if name.split(".")[-1] not in _OF_A_PLACE}


def distinct(options: Setting, others: list[Setting]) -> str:
    """Return the options in which an agent differs from any other, such as `learner.clip=2.0`.

    What follows another one of them (`${…}` in the files of `configs/`) is not named.
    """
    names = [name for name in options if any(_differ(name, options, other) for other in others)]
    leads = {f"${{{name}}}": options[name] for name in names}
    told = [n for n in names if all(leads.get(w, ...) != options[n] for w in _written(n))]
    return ", ".join(f"{name}={options[name]}" for name in told)


def _differ(name: str, own: Setting, other: Setting) -> bool:
    """Return whether an option that one agent has is not the other's; unknown ones are no others.

    A part of another kind has options of its own: its kind tells them apart. What an older log
    lacks is as the files of `configs/` have it.
    """
    if name in other:
        return bool(own[name] != other[name])
    if f"{name}._target_" in other:  # where this one has no such part
        return True
    if not other or any(own.get(kind) != other.get(kind) for kind in _kinds(name)):
        return False
    return name.endswith("_target_") or not _is_usual(name, own[name])


def _kinds(name: str) -> list[str]:
    """Return the names of what says of which kind the parts are that an option is of."""
    path = name.split(".")[:-1]
    kinds = (".".join([*path[:depth], "_target_"]) for depth in range(1, len(path) + 1))
    return [kind for kind in kinds if kind != name]


def _is_usual(name: str, value: Any) -> bool:
    """Return whether an option has the value of `train.yaml`, or the one that all files give it."""
    usual = _files()[0]
    written = [usual[name]] if name in usual else _written(name)
    return bool(written) and all(w == value or str(w).startswith("${") for w in written)


def _written(name: str) -> list[Any]:
    """Return what the files of `configs/` give an option, without repeats."""
    found: list[Any] = []
    for tree in _files():
        if name in tree and tree[name] not in found:
            found.append(tree[name])
    return found


@cache
def _files() -> list[Setting]:
    """Return the options in every file of `configs/` that a part of an agent may come from."""
    folder = files("stillknows.configs")
    trees = [_read(folder / "train.yaml", "")]
    for group in (group for group in groups() if group not in _NO_PARTS):
        trees += [_read(folder / group / f"{name}.yaml", group) for name in choices(group)]
    return trees


def _read(file: Any, group: str) -> Setting:
    """Return the options in a file, whose place is its group's if it does not say another."""
    text = file.read_text(encoding="utf-8")
    tree: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    return _leaves({group: tree} if group and "@package _global_" not in text else tree)


def _leaves(tree: Mapping[str, Any]) -> Setting:
    """Return the leaves of a configuration by their names; plugins are parts with numbers."""
    parts: dict[str, Any] = as_now(dict(tree))
    if isinstance(parts.get("plugins"), list):
        parts["plugins"] = dict(enumerate(parts["plugins"]))
    return flat(parts)
