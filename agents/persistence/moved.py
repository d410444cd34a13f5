"""Where modules went: files of before name classes by modules that stand in rooms of their own now.

What was `stillknows.memory.rules.EvictOldest` is `stillknows.memory.policies.rules.EvictOldest`.
"""

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any


def as_now(config: Any) -> Any:
    """Return a configuration from a file with every class of this project by its present name.

    Args:
        config: dictionaries, lists and plain values; it stays as it is.
    """
    return _renamed(config, _present)


def as_before(config: Any) -> Any:
    """Return a configuration with every class by its name of before: equal whenever it was written.

    Args:
        config: dictionaries, lists and plain values; it stays as it is.
    """
    return _renamed(config, _past)


def _renamed(config: Any, name: Callable[[str], str]) -> Any:
    if isinstance(config, dict):
        named = {k: name(v) for k, v in config.items() if k == "_target_" and isinstance(v, str)}
        return {key: _renamed(value, name) for key, value in config.items()} | named
    return [_renamed(each, name) for each in config] if isinstance(config, list) else config


@cache
def _rooms(folder: str) -> dict[str, str]:
    """Return in which room of a folder of this project its modules are."""
    rooms = [each for each in files(f"stillknows.{folder}").iterdir() if each.is_dir()]
    inside = [(file.name, room.name) for room in rooms for file in room.iterdir()]
    return {name[:-3]: room for name, room in inside if name.endswith(".py") and name[0] != "_"}


def _present(target: str) -> str:
    match target.split("."):
        case ["stillknows", "agents" | "memory" | "envs" as folder, module, *rest]:
            room = _rooms(folder).get(module)
            return ".".join(["stillknows", folder, *([room] if room else []), module, *rest])
    return target


def _past(target: str) -> str:
    match target.split("."):
        case ["stillknows", "agents" | "memory" | "envs" as folder, room, module, *rest]:
            if _rooms(folder).get(module) == room:
                return ".".join(["stillknows", folder, module, *rest])
    return target
