"""Avalanche's plugins of a life, from its configuration: whatever `plugins=[…]` names.

This module does not import Avalanche: that takes seconds, and is done by what is named.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra.utils


def expect_classes(named: Sequence[Any]) -> None:
    """Raise a ValueError if a plugin is named by no class."""
    for each in named:
        if not hasattr(each, "keys") or "_target_" not in each:
            raise ValueError(f"plugins=[{each}] should be classes: plugins=[{{_target_: …}}].")


def plugins_of(named: Sequence[Any]) -> list[Any]:
    """Return the plugins that a configuration names."""
    plugins: list[Any] = hydra.utils.instantiate(named, _convert_="all")
    return plugins


@contextmanager
def opened(named: Sequence[Any], folder: Path) -> Iterator[list[Any]]:
    """Give a life the plugins of its configuration, for as long as it lasts.

    Args:
        named: by the configuration.
        folder: of the life; a plugin that has `write_into` is told it; all are closed in the end.
    """
    plugins = plugins_of(named)
    try:
        for plugin in plugins:
            if hasattr(plugin, "write_into"):
                plugin.write_into(folder)
        yield plugins
    finally:
        for plugin in plugins:
            _close(plugin)


def _close(plugin: Any) -> None:
    """Close a plugin, or what it logs into: nobody else holds it."""
    open_ones = [plugin] if hasattr(plugin, "close") else getattr(plugin, "loggers", [])
    for each in open_ones:
        if hasattr(each, "close"):
            each.close()


def keepable(plugin: Any) -> Any:
    """Return what a checkpoint asks for the state of a plugin: the plugin, or who knows its."""
    if not any(kind.__name__ == "EvaluationPlugin" for kind in type(plugin).__mro__):
        return plugin
    from stillknows.agents.evaluation import KeptEvaluation

    return KeptEvaluation(plugin)
